"""``microreg verify``: what it runs, what it prints for people, pipes and programs, and its exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from commands import Result, run_command
from microreg.backends.memory import MemoryRegistry
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.model import Service

pytest.importorskip("typer")

FAST = ("--check", "get.sorted", "--check", "list.sorted")
SKIPPED = ("--check", "watch.notices-silence")


Verify = Callable[..., Result]


@pytest.fixture(name="verify")
def _verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def run(*arguments: str, url: str = "memory://verified") -> Result:
        return run_command(capsys, "verify", url, "--patience", "1s", *arguments)

    return run


@pytest.fixture(name="broken")
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store keeps what is deregistered, if its name begins as the kit's checks name theirs (not the first try)."""
    deregister = MemoryRegistry.deregister

    async def forgets(self: MemoryRegistry, service: Service) -> None:
        if service.nodes[0].id == "probe":
            await deregister(self, service)

    monkeypatch.setattr(MemoryRegistry, "deregister", forgets)


def test_a_pipe_gets_one_line_for_each_check_as_it_ends(verify: Verify) -> None:
    result = verify(*SKIPPED, "--check", "list.sorted", "--check", "get.sorted")
    cells = sorted((line.split("\t") for line in result.out.splitlines()), key=lambda cells: cells[1])
    assert [(outcome, id) for outcome, id, *_ in cells] == [
        ("passed", "get.sorted"),
        ("passed", "list.sorted"),
        ("skipped", "watch.notices-silence"),
    ]
    assert [len(line) for line in cells] == [4, 4, 4]
    assert cells[0][3] == "One Service per version; versions and nodes are sorted, in whatever order they arrived."
    assert cells[2][3].startswith("needs black_hole, which memory://verified does not offer")
    assert result.code == 0
    assert result.err == 'microreg: verify writes services named "kit-…" to memory://verified, and withdraws them\n'


@pytest.mark.usefixtures("broken")
def test_a_broken_sentence_is_1_and_is_explained(verify: Verify) -> None:
    result = verify("--check", "deregister.removes", "--check", "get.sorted")
    assert result.code == 1
    failed = next(line for line in result.out.splitlines() if line.startswith("failed"))
    assert failed.split("\t")[1] == "deregister.removes"
    assert "expected:" in failed and "within 1 s" in failed and "seen:" in failed
    assert "deregister.removes: A withdrawn node is gone for every client" in result.err
    assert "what happened, in seconds:" in result.err


@pytest.mark.usefixtures("broken")
def test_json_is_the_report(verify: Verify) -> None:
    result = verify("--json", "--check", "deregister.removes", *SKIPPED, "--check", "get.sorted")
    told = json.loads(result.out)
    assert (result.code, result.err) == (1, "")
    assert (told["registry"], told["ok"]) == ("memory://verified", False)
    assert {each["id"]: each["outcome"] for each in told["checks"]} == {
        "deregister.removes": "failed",
        "get.sorted": "passed",
        "watch.notices-silence": "skipped",
    }


@pytest.mark.usefixtures("broken")
def test_a_terminal_gets_a_table_and_what_went_wrong(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.cli.conformance.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    result = verify("--check", "deregister.removes", *FAST, *SKIPPED)
    assert result.code == 1
    rows = [line.split()[:2] for line in result.out.splitlines()]
    for row in (["failed", "deregister.removes"], ["passed", "get.sorted"], ["skipped", "watch.notices-silence"]):
        assert row in rows
    assert "what happened, in seconds:" in result.out
    assert "2 passed, 1 failed, 1 skipped in " in result.out


def test_where_nothing_could_be_checked_nothing_is_proven(verify: Verify) -> None:
    assert verify(*SKIPPED).code == 1


def test_options_reach_the_harness(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    from microreg.testing import Check, Harness, Report
    from microreg.testing import verify as real

    seen: list[Harness] = []

    async def spy(harness: Harness, checks: tuple[Check, ...], **rest: Callable[[object], None]) -> Report:
        seen.append(harness)
        return await real(harness, checks, **rest)

    monkeypatch.setattr("microreg.cli.conformance.run_checks", spy)
    assert verify("--ttl", "2s", "--concurrency", "3", *FAST).code == 0
    assert (seen[0].ttl, seen[0].patience, seen[0].concurrency) == (2.0, 1.0, 3)


@pytest.mark.parametrize(
    ("arguments", "url", "said"),
    [
        (["--check", "get.sortde"], "memory://", "there is no check 'get.sortde'; did you mean 'get.sorted'?"),
        (["--check", "zzz"], "memory://", "there are register.…, deregister.…, "),
        (["--ttl", "soon"], "memory://", "--ttl: expected a duration"),
        (["--concurrency", "0"], "memory://", "--concurrency"),
        ([], "nonsense://", "no backend 'nonsense' is installed"),
        ([], "static://a=h:1", "nothing can be registered"),
    ],
)
def test_wrong_usage_is_2(verify: Verify, arguments: list[str], url: str, said: str) -> None:
    result = verify(*arguments, url=url)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize(("error", "code"), [(RegistryUnavailable("nobody there"), 3), (PermissionDenied("no"), 4)])
def test_a_registry_that_cannot_be_used_is_no_finding(
    verify: Verify, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    async def refuses(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        raise error

    monkeypatch.setattr(MemoryRegistry, "register", refuses)
    result = verify("--json", *FAST)
    assert (result.code, result.out) == (code, "")
    assert json.loads(result.err)["exit"] == code


def test_a_password_is_not_shown(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verify(*FAST, url="memory://root:hunter2@verified")
    assert "hunter2" not in result.out + result.err


def test_when_interrupted_what_was_written_is_withdrawn(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    import os

    left: set[str] = set()
    register, deregister = MemoryRegistry.register, MemoryRegistry.deregister

    async def interrupted(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        await register(self, service, ttl=ttl)
        left.add(service.name)
        if service.nodes[0].id != "probe":
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    async def withdrawn(self: MemoryRegistry, service: Service) -> None:
        await deregister(self, service)
        left.discard(service.name)

    monkeypatch.setattr(MemoryRegistry, "register", interrupted)
    monkeypatch.setattr(MemoryRegistry, "deregister", withdrawn)
    assert verify("--check", "get.sorted").code == 130
    assert left == set()
