"""tests/debian.py and tests/needs.py: the machine's sources are understood, and what is missing is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

import debian
import needs
from debian import Programs, Unobtainable, entries, mirror_entry, obtain

LIST = """
# deb http://old.example/debian buster main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian/ bookworm main contrib
deb http://mirror.example/debian-security bookworm-security main
"""
SOURCES = """# snapshot
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
"""


@pytest.mark.parametrize("text", [LIST, SOURCES], ids=["list", "deb822"])
def test_another_suite_comes_from_the_mirror_of_the_machine(text: str) -> None:
    found = [stanza for entry in entries(text, deb822=text is SOURCES) if (stanza := mirror_entry(entry, "bullseye"))]
    [stanza] = found
    fields = dict(line.split(": ") for line in stanza.splitlines())
    assert fields.pop("URIs").rstrip("/") == "http://mirror.example/debian"
    assert fields == {
        "Types": "deb",
        "Suites": "bullseye",
        "Components": "main",
        "Check-Valid-Until": "no",
        "Signed-By": "/usr/share/keyrings/x.gpg",
    }


def test_where_there_is_no_mirror_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.example/ubuntu noble main\n")
    monkeypatch.setattr(debian, "_ETC", tmp_path)
    with pytest.raises(Unobtainable, match="no Debian mirror, which could have the suite 'bullseye'"):
        obtain("nothing-that-exists", suite="bullseye")


def test_where_there_is_no_apt_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unobtainable, match="no apt-get on this machine"):
        obtain("nothing-that-exists-either")


def test_programs_are_found_in_the_folder_first(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/deep").mkdir(parents=True)
    (tmp_path / "usr/lib/deep/libx.so.1").touch()
    (tmp_path / "usr/bin/sh").touch(0o755)
    programs = Programs(tmp_path)
    assert programs.find("sh") == str(tmp_path / "usr/bin/sh")
    assert programs.env["LD_LIBRARY_PATH"] == str(tmp_path / "usr/lib/deep")
    with pytest.raises(Unobtainable, match="no program 'shx'"):
        programs.find("shx")


def test_what_is_missing_is_skipped_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match="quux: it is not there"):
        needs.need("quux", "it is not there")
    monkeypatch.setattr(needs, "REQUIRED", frozenset({"quux"}))
    with pytest.raises(pytest.fail.Exception, match="quux is required by MICROREG_REQUIRE, but it is not there"):
        needs.need("quux", "it is not there")
