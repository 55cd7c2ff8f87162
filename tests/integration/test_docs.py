"""What the documents say is so: examples run, links resolve, commands exist, generated pages are fresh."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, clean_env, python

FRAGMENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|fixed|removed|security)\.md")
FOLDERS = (".", "docs/**", "changelog.d", "examples", "plugins/*")
PAGES = sorted({page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md")})
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path) -> list[str]:
    """The fenced blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The fragments that a renderer makes from headings: lower case, no punctuation, blanks to dashes."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@each_page
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page):
        assert compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).body


@each_page
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (fragment and fragment not in anchors(there)):
            broken.append(target)
    assert broken == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(fenced + re.findall(r"`([^`\n]+)`", prose(page)))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) - make_targets() == set()


def test_the_readme_names_the_commands_to_start_with() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def run_programs(page: Path) -> list[str]:
    """What the whole programs of a page print: python blocks with an import. Others are fragments."""
    env = clean_env(MICROREG_REGISTRY="mdns://127.0.0.1", MICROREG_ADVERTISE="127.0.0.1")
    programs = [block for block in blocks(page) if re.search(r"^(import|from) ", block, re.MULTILINE)]
    return [python(program, env=env, timeout=20) for program in programs]


def test_the_readmes_example_runs() -> None:
    outputs = run_programs(ROOT / "README.md")
    assert outputs, "README.md has no python block that is a whole program"
    assert "http://127.0.0.1:8080" in outputs[0]


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        env=clean_env(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_changelog_fragments_are_well_named_and_not_empty() -> None:
    found = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [path.name for path in found if not FRAGMENT.fullmatch(path.name)] == []
    assert [path.name for path in found if not path.read_text(encoding="utf-8").strip()] == []
