"""``microreg doctor`` as a command, and against real servers of ``microreg serve`` that are broken in some way."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from commands import Cli, run_command
from doctoring import absent, doctor, found, well
from microreg import plugins
from microreg.backends.http import HttpRegistry
from microreg.backends.http import examination as http
from microreg.backends.memory import MemoryRegistry
from microreg.connect import connect
from microreg.findings import Finding, Kind, Severity
from microreg.testing import Proxy, ServerProcess
from servers import microreg_server
from support import run

pytest.importorskip("typer")

SECRET = "correct-horse-battery"


@pytest.fixture(name="cli")
def _cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return partial(run_command, capsys, "doctor")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "write").write_text(SECRET, encoding="utf-8")
    (folder / "read").write_text(f"{SECRET}-read", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o600)
    with microreg_server("--token-file", folder / "write", "--read-token-file", folder / "read") as server:
        yield server


# -- the command -------------------------------------------------------------------------------------


def test_in_a_pipe_a_line_for_each_finding(cli: Cli) -> None:
    result = cli("memory://", "--write")
    assert result.code == 0 and result.err == ""
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert all(len(line) == 4 and line[0] in ("ok", "note") for line in lines)
    assert ["ok", "config.read", "the registry is memory://", "-"] in lines


def test_an_error_is_exit_code_1(cli: Cli) -> None:
    result = cli("memory://?nosuch=1", "--json")
    told = json.loads(result.out)
    assert result.code == 1 and told["error"] == 1 and told["warning"] == 0
    (error,) = [each for each in told["findings"] if each["severity"] == "error"]
    assert error["code"] == "config.invalid" and "nosuch" in error["what"] and error["mend"]


def test_wrong_options_are_2(cli: Cli) -> None:
    assert cli("memory://", "--ttl", "yesterday").code == 2
    assert cli("memory://", "--timeout", "0").code == 2
    assert "--ttl" in cli("memory://", "--ttl", "x").err


def test_the_registry_of_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_REGISTRY", "static://a=127.0.0.1:80")
    assert "the registry is static://a=127.0.0.1:80" in cli().out
    assert "the registry is memory://here" in cli("--registry", "memory://here").out
    assert cli("memory://here", "--registry", "memory://there").code == 2
    monkeypatch.setenv("MICROREG_REGISTRY", "nosuch://")
    assert "cannot be used: $MICROREG_REGISTRY: no backend 'nosuch'" in cli().out


def test_what_others_say_steers_no_terminal_and_tells_no_secret(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("test.hostile", Severity.WARNING, "", "see http://user:hunter2@host")

    async def examine(self: MemoryRegistry) -> tuple[Finding, ...]:
        return (kind("\x1b[31mred?token=hunter2\tnext\nline"),)

    monkeypatch.setattr(MemoryRegistry, "examine", examine)
    for arguments in ((), ("--json",)):
        result = cli("memory://", *arguments)
        assert "hunter2" not in result.out and "\x1b" not in result.out and "test.hostile" in result.out


def test_a_broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plug_sick.py").write_text("raise ImportError('no libsick')", encoding="utf-8")
    info = tmp_path / "plug_sick-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-sick\nVersion: 1.5\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[microreg.backends]\nsick = plug_sick:Sick\n", encoding="utf-8")
    plugins.hooks.cache_clear()
    findings = run(doctor("memory://"))
    assert "no libsick" in found(findings, "plugins.broken").what
    assert "plug-sick 1.5" in found(findings, "plugins.installed").what


# -- microreg serve ----------------------------------------------------------------------------------


def test_a_server_that_is_well(server: ServerProcess) -> None:
    findings = run(doctor(f"http://127.0.0.1:{server.port}?token={SECRET}", write=True))
    well(findings)
    assert "is microreg 0." in found(findings, "server.version").what
    assert str(server.port) in found(findings, "clock.agrees").what
    assert found(findings, "write.works")
    assert SECRET not in str(findings)


def test_tokens_that_may_not(server: ServerProcess) -> None:
    url = f"http://127.0.0.1:{server.port}"
    reading = run(doctor(f"{url}?token={SECRET}-read", write=True))
    assert found(reading, "calls.granted")
    assert found(reading, "calls.denied").what.startswith("register: ")
    stranger = run(doctor(f"{url}?token=wrong"))
    assert "401" in found(stranger, "calls.denied").what or "token" in found(stranger, "calls.denied").what
    absent(stranger, "calls.granted")


def test_a_clock_that_is_wrong(server: ServerProcess) -> None:
    async def main() -> tuple[Finding, ...]:
        async with connect(f"http://127.0.0.1:{server.port}?token={SECRET}") as registry:
            backend = registry.unwrap(HttpRegistry)
            assert backend is not None and backend._opened is not None
            return await http.examine(backend._opened[0], lambda: time.time() + 3600)

    assert re.search(r"is 3\d{3} s ahead of", found(run(main()), "clock.differs").what)


def test_a_network_that_swallows_packets_and_one_that_is_slow(server: ServerProcess) -> None:
    with Proxy(server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}?token={SECRET}"
        proxy.delay = 0.1
        slow = run(doctor(url, ttl=1))
        assert found(slow, "renewals.slow").severity is Severity.WARNING
        proxy.delay = 0.0
        proxy.black_hole = True
        away = run(doctor(url, timeout=0.5))
        assert "did not answer within 0.5 s" in found(away, "calls.away").what
        absent(away, "server.version")


def test_a_server_that_does_not_say_what_it_is(server: ServerProcess) -> None:
    """Whoever has no token may not ask for its version."""
    findings = run(doctor(f"http://127.0.0.1:{server.port}?token=wrong"))
    assert "does not tell its version" in found(findings, "server.hidden").what
