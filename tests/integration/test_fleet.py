"""examples/fleet: its programs find each other on every registry, outlive a killed one, and leave nobody behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from microreg.testing import ServerProcess, running
from servers import consul, etcd, microreg_server, nats
from support import ROOT, clean_env

pytestmark = pytest.mark.usefixtures("alone")

KINDS = ("mdns", "etcd", "consul", "nats", "nats-pubsub", "http")
AT_ONCE = 3


def server(kind: str) -> ServerProcess | None:
    """What has to run for this registry, not started yet."""
    match kind:
        case "mdns":
            return None
        case "etcd":
            return etcd()
        case "consul":
            return consul(dev=True)
        case "http":
            return microreg_server()
        case _:
            return nats(kind, jetstream=kind == "nats")


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / "fleet"), *arguments]


def play(kind: str) -> tuple[int, str]:
    """Run the fleet for three seconds, from when its clients call; its exit code, and what it printed."""
    store = server(kind)
    with running(*[store] if store else []):
        where = ["--registry", f"{kind}://127.0.0.1:{store.port}"] if store else []
        done = subprocess.run(
            command("--for", "3s", *where),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=clean_env(),
            timeout=150,
            check=False,
        )
    return done.returncode, done.stdout


@pytest.fixture(scope="module", name="plays")
def _plays(alone: None) -> Generator[dict[str, Future[tuple[int, str]]]]:
    """All of them, some at once: most of the time they wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {kind: pool.submit(play, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fleet_runs_on(kind: str, plays: dict[str, Future[tuple[int, str]]]) -> None:
    code, text = plays[kind].result()
    assert code == 0, text
    assert text.endswith("fleet    ended, and no call failed\n"), text
    assert "stock-1  is killed now" in text
    said = re.findall(
        r"^ *[\d.]+ s  (worker|desk) +(?:found (\w+) at|\w+ has found (\w+)|(\d+) calls answered, 0)", text, re.M
    )
    found = {(who, one or other) for who, one, other, _ in said if one or other}
    assert found == {("worker", "stock"), ("worker", "orders"), ("desk", "orders")}
    assert {who: int(number) > 1 for who, *_, number in said if number} == {"worker": True, "desk": True}


# -- the end -------------------------------------------------------------------------------------------


@contextmanager
def started(until: str) -> Generator[tuple[subprocess.Popen[str], list[int]]]:
    """The fleet when it has printed this, and the ids of the processes that it has started."""
    process = subprocess.Popen(
        command(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_env(),
    )
    try:
        assert process.stdout is not None
        text = ""
        while until not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        yield process, [int(number) for number in re.findall(r"started, process (\d+)", text)]
    finally:
        process.kill()
        process.communicate()


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(map(ended, pids)):
        assert time.monotonic() < deadline, f"still there: {[pid for pid in pids if not ended(pid)]}"
        time.sleep(0.02)


def test_interrupted_it_ends_all_in_order() -> None:
    with started("worker   found orders") as (process, pids):
        os.kill(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=100)
        assert process.returncode == 0, text
        assert "ends, as it was told" in text and text.endswith("ended, and no call failed\n"), text
        assert len(pids) == 5 and all(map(ended, pids))


def test_no_program_outlives_a_starter_that_was_killed() -> None:
    with started("orders   started") as (process, pids):
        process.kill()
        assert len(pids) == 3
        wait_ended(pids)
