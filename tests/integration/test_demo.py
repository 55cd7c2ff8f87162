"""The demo: its script and verdict as pure logic, its processes for real, and one whole run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from microreg import Node, Service, Status
from microreg.cli import main
from microreg.cli.demo import summary
from microreg.cli.demo.client import keep_calling
from microreg.cli.demo.journal import Journal, Line
from microreg.cli.demo.processes import ChildDied, Processes
from microreg.cli.demo.scenario import DRAINED, FIRST, KILLED, LATE, play
from microreg.cli.demo.verdict import complaints, facts, latencies
from microreg.cli.demo.view import JsonView
from microreg.connect import connect
from microreg.events import Change, Reason, Snapshot
from microreg.selector import Selector
from support import clean_env, run, wait_until

MDNS = "mdns://127.0.0.1"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(node: str, status: Status = Status.PASSING) -> Service:
    return Service("demo", nodes=[Node(f"127.0.0.1:{len(node)}", id=node, status=status)])


class Dry:
    """A stage on which everything happens at once, unless it is among ``broken``."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.clock = Clock()
        self.lines: list[Line] = []
        self.journal = Journal(self.clock, [self.lines.append])
        self.up: list[str] = []
        self.reason = Reason.EXPIRED

    async def start(self, node: str) -> None:
        self.journal.start(node, 1000 + len(self.up))
        self.journal.announce(node)
        self.clock.now += 0.5
        if "hear" not in self.broken:
            self.journal.hear(Change.put(record(node)))
        self.up.append(node)
        self.answer()

    async def kill(self, node: str) -> None:
        self.journal.kill(node)
        self.journal.ended(node, -9)
        self.clock.now += 1.0
        if "retry" not in self.broken:
            self.journal.attempt(node, self.journal.now, "ConnectionRefusedError")
        if "go on" not in self.broken:
            self.journal.attempt("alpha", self.journal.now)
            self.journal.call("" if "fail" not in self.broken else "ConnectionRefusedError: beta")
        self.clock.now += 1.0
        if "expire" not in self.broken:
            self.up.remove(node)
            self.journal.hear(Change.gone(record(node), self.reason))

    async def drain(self, node: str) -> None:
        self.journal.drain(node)
        self.journal.hear(Change.put(record(node, Status.DRAINING), record(node)))
        if "stay" not in self.broken:
            self.up.remove(node)
        self.clock.now += 0.5
        self.journal.hear(Change.gone(record(node), Reason.DEREGISTERED))
        self.journal.ended(node, 1 if "drain" in self.broken else 0)

    async def until(self, happened: Callable[[], bool]) -> bool:
        return happened()

    async def pause(self, seconds: float) -> None:
        self.clock.now += seconds
        self.answer()

    def answer(self) -> None:
        for _ in range(0 if "call" in self.broken else 3):
            for node in self.up:
                self.journal.attempt(node, self.journal.now)
                self.journal.call()

    def play(self, *skip: str) -> list[str]:
        run(play(self, self.journal, frozenset(skip)))
        return complaints(self.journal, tells_reasons=True)


def test_the_script_does_everything_in_order() -> None:
    stage = Dry()
    assert stage.play() == []
    did = [(line.kind, line.node) for line in stage.lines if line.kind in ("started", "killed", "asked")]
    assert did == [*(("started", node) for node in FIRST), ("killed", KILLED), ("asked", DRAINED), ("started", LATE)]
    assert stage.lines[-1].text == "that was all"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("hear", "The service alpha was started, but never heard of."),
        ("call", "The service alpha was heard of, but never answered a call."),
        ("retry", "No call met the dead beta and was retried on another node."),
        ("go on", "No call was answered between the death of beta and the moment that it was heard."),
        ("expire", "beta was killed, and nobody heard that it is gone."),
        ("fail", "calls failed, the first with: ConnectionRefusedError: beta."),
        ("drain", "gamma was asked to leave, and ended with 1 instead of exit code 0."),
        ("stay", "more times after it was heard to leave."),
    ],
)
def test_what_does_not_happen_is_said(broken: str, sentence: str) -> None:
    said = Dry(broken).play()
    assert any(sentence in each for each in said), said


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("kill", "beta was never killed."),
        ("drain", "gamma was never asked to leave."),
        ("late", "The late service delta was never started."),
    ],
)
def test_a_step_left_out_is_said(step: str, sentence: str) -> None:
    assert Dry().play(step) == [sentence]


def test_a_killed_node_must_be_heard_as_expired_where_the_registry_tells() -> None:
    stage = Dry()
    stage.reason = Reason.REMOVED
    assert stage.play() == ["beta was killed, but heard as removed instead of expired."]
    assert complaints(stage.journal, tells_reasons=False) == []


def test_the_script_ends_at_the_first_step_without_effect() -> None:
    stage = Dry("expire")
    assert len(stage.play()) == 3  # the kill, and everything that was then left out
    assert LATE not in stage.journal.stories or stage.journal.story(LATE).started is None


def test_a_node_that_was_there_already_is_heard() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.start("alpha", 1)
    clock.now = 2.0
    journal.hear(Snapshot([record("alpha")]))
    assert latencies(journal) == {"alpha started → heard": 2.0}


def test_the_summary_has_the_numbers() -> None:
    stage = Dry()
    wrong = stage.play()
    text = list(summary.lines(stage.journal, wrong))
    told = json.loads(summary.as_json(stage.journal, wrong))
    assert told["ok"] is True and told["wrong"] == [] and told["event"] == "summary"
    assert told["calls"] == facts(stage.journal)["calls"] == stage.journal.calls
    assert told["seconds_until_heard"]["beta killed → expired"] == 2.0
    assert "  beta killed → expired:             2.00 s" in text
    assert "  alpha started → heard:             500 ms" in text
    assert text[-1] == "Everything happened: found, killed, drained, found late, and no call failed."
    assert list(summary.lines(stage.journal, ["No."]))[-1] == "This did not go as it should: No."
    assert json.loads(summary.as_json(stage.journal, ["No."]))["ok"] is False


def test_the_client_writes_down_every_request_and_every_call() -> None:
    async def play_it() -> Journal:
        journal = Journal(asyncio.get_running_loop().time)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            assert request.startswith(b"GET / HTTP/1.1\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"node":"good"}')
            writer.close()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        good = await asyncio.start_server(answer, "127.0.0.1", 0)
        bad = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        ports = [server.sockets[0].getsockname()[1] for server in (good, bad)]
        nodes = [Node(f"127.0.0.1:{port}", id=id) for port, id in zip(ports, ("good", "bad"), strict=True)]
        async with good, bad, connect("memory://") as registry:
            await registry.register(Service("demo", nodes=nodes))
            async with Selector(registry, strategy="round_robin") as selector:
                calling = asyncio.create_task(keep_calling(selector, "demo", journal))
                await wait_until(lambda: journal.calls >= 4)
                calling.cancel()
                await asyncio.wait([calling])
        return journal

    journal = run(play_it())
    assert journal.failed_calls == []
    assert journal.story("good").answered == journal.calls
    assert journal.story("bad").errors == journal.retries >= 1


# -- real processes ------------------------------------------------------------------------------------


def test_a_service_that_cannot_start_is_heard_with_its_reason() -> None:
    async def play_it() -> None:
        journal = Journal(time.monotonic)
        async with Processes("nonsense://", "demo-x", 1.0, journal) as processes:
            await processes.start("alpha")
            with pytest.raises(ChildDied, match="alpha ended with exit code 2: .*no backend 'nonsense'"):
                await asyncio.wait_for(asyncio.shield(processes.died), 60)
        assert journal.story("alpha").exit_code == 2

    run(play_it())


@contextmanager
def demo(*arguments: str) -> Generator[subprocess.Popen[bytes], None, None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "microreg", "demo", *arguments],
        bufsize=0,  # so that select() sees every line that was not read yet
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_env(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_demo_shows_what_it_promises() -> None:
    began = time.monotonic()
    with demo("--pace", "0.05", "--ttl", "2s") as process:
        out, err = process.communicate(timeout=120)
    text = out.decode()
    assert (process.returncode, err) == (0, b""), text
    assert time.monotonic() - began < 100
    assert "\x1b" not in text
    numbers = dict(re.findall(r"^  ([^:\n]+): +(.+)$", text, re.MULTILINE))
    assert int(numbers["calls made"]) >= 20
    assert numbers["failed calls"] == "0"
    assert int(numbers["retries"].split()[0]) >= 1
    assert all(re.search(rf"\b{node} [1-9]", numbers["calls per node"]) for node in (*FIRST, LATE))
    assert {"beta killed → expired", "gamma asked to leave → heard", "delta started late → heard"} <= set(numbers)
    assert re.search(r"^ *\d+\.\d\d s  heard +beta +gone: expired$", text, re.MULTILINE)
    assert text.endswith("and no call failed.\n")


def test_a_sabotaged_demo_is_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--pace", "0", "--json", "--skip", "kill", "--skip", "drain", "--skip", "late"]) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert captured.err == "" and told["ok"] is False
    assert "beta was never killed." in told["wrong"]
    assert "The late service delta was never started." in told["wrong"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        ps = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    except FileNotFoundError:
        return True
    return ps.stdout[:1] != b"Z"


def pids_in(lines: list[str]) -> list[int]:
    """The process ids in the demo's JSON lines."""
    told = [json.loads(line) for line in lines]
    return [int(each["text"].split()[1]) for each in told if each["event"] == "started"]


@pytest.mark.parametrize("impatient", [False, True], ids=["once", "again and again"])
def test_an_interrupted_demo_ends_its_services(
    impatient: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show, started = JsonView.line, 0

    def interrupt(self: JsonView, line: Line) -> None:
        nonlocal started
        show(self, line)
        started += line.kind == "started"
        if started == len(FIRST) and (impatient or line.kind == "started"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JsonView, "line", interrupt)
    assert main(["demo", "--json"]) == 130
    captured = capsys.readouterr()
    pids = pids_in(captured.out.splitlines())
    assert captured.err == "" and len(pids) == 3
    assert not any(map(alive, pids))


def test_no_service_outlives_a_killed_demo() -> None:
    with demo("--json") as process:
        assert process.stdout is not None
        lines, deadline = [""], time.monotonic() + 20
        while '"called"' not in lines[-1]:
            assert select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0], "no line in time"
            lines.append(process.stdout.readline().decode())
        pids = pids_in(lines[1:])
        assert len(pids) == 3 and all(map(alive, pids))
        process.kill()
        deadline = time.monotonic() + 8
        while any(map(alive, pids)):
            assert time.monotonic() < deadline, "a service has outlived the demo"
            select.select([], [], [], 0.02)
