"""Commands can be ended against a backend that hangs, swallows its cancellation or blocks the loop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import ROOT, clean_env

pytest.importorskip("typer")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of Unix")

BACKEND = """
import asyncio, signal, sys, threading, time
from microreg import Watch
from microreg.backends.memory import MemoryRegistry

def note():
    print("hangs now", file=sys.stderr, flush=True)

async def swallow():
    note()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

class Hangs(MemoryRegistry):
    @property
    def how(self):
        return self.url.location

    async def open(self):
        if self.how == "open":
            await asyncio.sleep(3600)
        await super().open()

    async def register(self, service, *, ttl=15.0):
        if self.how == "swallow":
            await swallow()
        if self.how == "block":
            note()
            time.sleep(3600)
        if self.how == "exit":
            raise SystemExit(5)
        await super().register(service, ttl=ttl)

    async def deregister(self, service):
        if self.how == "swallow-late":
            await swallow()
        await super().deregister(service)

    async def get_service(self, name):
        if self.how == "get":
            await asyncio.sleep(3600)
        return await super().get_service(name)

    async def list_services(self):
        if self.how == "thread":
            await asyncio.to_thread(threading.Event().wait)
        if self.how == "swallow":
            await swallow()
        if self.how == "block":
            note()
            time.sleep(3600)
        if self.how == "elsewhere":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
            await swallow()
        return await super().list_services()

    def watch(self, name=None):
        async def silent():
            await asyncio.sleep(3600)
            yield None
        return Watch(silent) if self.how == "watch" else super().watch(name)
"""


@pytest.fixture(name="env")
def _env(tmp_path: Path) -> dict[str, str]:
    """The environment in which ``hangs://`` is installed."""
    (tmp_path / "hangs.py").write_text(BACKEND)
    info = tmp_path / "hangs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hangs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[microreg.backends]\nhangs = hangs:Hangs\n")
    return clean_env(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")


def begun(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """A command that has begun to hang."""
    command = [sys.executable, "-m", "microreg", *arguments]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "hangs now" not in (line := process.stderr.readline()):
        assert line, "it ended"
    return process


def ended(process: subprocess.Popen[str], timeout: float = 30.0) -> tuple[int, str]:
    """Exit code, and what it has printed to stderr since."""
    try:
        _, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    return process.returncode, error


def completed(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "microreg", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


# -- signals -------------------------------------------------------------------------------------------

LIST = ("list", "--timeout", "60s", "--registry")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", [LIST, ("verify",)], ids=["list", "verify"])
def test_one_signal_ends_a_command_whose_loop_is_blocked(
    env: dict[str, str], command: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    process = begun(env, *command, "hangs://block")
    process.send_signal(number)
    result, error = ended(process)
    assert result == code
    why = "ended hard, because this hangs: the event loop, blocked in Hangs."
    assert error.startswith(f"microreg: {number.name}: {why}")
    assert "hangs.py:" in error and error.count("\n") == 1


@pytest.mark.parametrize("command", [LIST, ("verify",)], ids=["list", "verify"])
def test_a_second_signal_ends_a_command_that_swallows_its_cancellation(
    env: dict[str, str], command: tuple[str, ...]
) -> None:
    process = begun(env, *command, "hangs://swallow")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # two of the same that come at once are one
    process.send_signal(signal.SIGINT)
    result, error = ended(process)
    assert result == 128 + signal.SIGTERM, "that of the first"
    assert time.monotonic() - began < 7, "one signal alone takes longer"
    assert "in swallow (hangs.py:" in error and error.count("\n") == 1


def test_one_signal_ends_it_too_within_the_time_that_docker_waits(env: dict[str, str]) -> None:
    process = begun(env, *LIST, "hangs://swallow")
    process.send_signal(signal.SIGTERM)
    result, error = ended(process)
    assert (result, "in swallow (hangs.py:" in error) == (143, True)


def test_a_signal_that_does_not_interrupt_the_wait_of_the_loop_ends_it_too(env: dict[str, str]) -> None:
    """One that comes just before the loop waits does not. Here another thread gets it, which is the same."""
    process = begun(env, *LIST, "hangs://elsewhere")
    process.send_signal(signal.SIGTERM)
    result, error = ended(process)
    assert (result, "in swallow (hangs.py:" in error) == (143, True)


def test_register_is_ended_by_signals_where_its_drain_hangs(env: dict[str, str]) -> None:
    process = begun(env, "register", "x", "--address", "127.0.0.1:1", "--registry", "hangs://swallow?timeout=60s")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    result, error = ended(process)
    assert result == 143 and "ended hard" in error


def test_run_is_ended_by_signals_where_its_drain_hangs(env: dict[str, str], new_port: Callable[[], int]) -> None:
    port = new_port()
    where = ["--name", "x", "--port", str(port), "--address", "127.0.0.1", "--registry", "hangs://swallow?timeout=60s"]
    process = begun(env, "run", *where, "--", sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    for _ in range(20):
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    result, _ = ended(process)
    assert result in (143, -signal.SIGTERM), "in order, or by the signal itself once nobody handles it any more"
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0, "the program has ended too"


# -- without a signal ----------------------------------------------------------------------------------


def test_what_does_not_end_when_cancelled_is_named_and_left_behind(env: dict[str, str]) -> None:
    result = completed(env, "verify", "hangs://swallow?timeout=200ms")
    assert result.returncode == 3
    assert "in swallow (hangs.py:" in result.stderr and "let asyncio.CancelledError through" in result.stderr
    assert "warning: still running, and left behind: microreg verify trial in swallow (" in result.stderr


def test_an_error_is_reported_although_a_thread_is_left_behind(env: dict[str, str]) -> None:
    result = completed(env, "list", "--json", "--registry", "hangs://thread?timeout=200ms")
    assert result.returncode == 3
    first, second = result.stderr.splitlines()
    assert "timeout" in json.loads(first)["code"]
    assert "left behind: thread " in second


def test_open_is_bounded_by_the_option_timeout(env: dict[str, str]) -> None:
    result = completed(env, "list", "--registry", "hangs://open?timeout=200ms")
    assert result.returncode == 3
    assert "open: hangs://open" in result.stderr and "did not answer within 0.2 s (option timeout)" in result.stderr


@pytest.mark.parametrize(
    ("how", "check", "why"),
    [
        ("get", "list.complete", "needs what hangs in get.exact-name"),
        ("watch", "register.visible", "needs a watch, which hangs in watch.snapshot-first"),
        ("watch", "watch.closes", "needs a watch, which hangs in watch.snapshot-first"),
    ],
)
def test_what_needs_what_hangs_is_skipped(env: dict[str, str], how: str, check: str, why: str) -> None:
    basic = ["--check", "get.exact-name", "--check", "watch.snapshot-first"]
    result = completed(env, "verify", f"hangs://{how}?timeout=1500ms", "--patience", "1500ms", *basic, "--check", check)
    assert result.returncode == 1
    last = result.stdout.splitlines()[-1].split("\t")
    assert (last[0], last[1], last[3]) == ("skipped", check, why)


def test_system_exit_is_a_failed_check(env: dict[str, str]) -> None:
    some = ["register.visible", "register.all-nodes", "general.concurrent"]
    checks = [word for id in some for word in ("--check", id)]
    result = completed(env, "verify", "hangs://exit", "--json", *checks)
    told = {each["id"]: each for each in json.loads(result.stdout)["checks"]}
    assert result.returncode == 1
    assert [told[id]["outcome"] for id in some] == ["failed", "failed", "failed"]
    assert "SystemExit: 5" in told["register.visible"]["explanation"]


def test_each_check_is_told_as_it_ends(env: dict[str, str]) -> None:
    checks = ["--check", "get.not-found", "--check", "register.expires"]
    command = [sys.executable, "-m", "microreg", "verify", "memory://x", "--ttl", "3s", *checks]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("passed\tget.not-found\t")
        assert process.poll() is None, "the other one still runs"
        assert process.stdout.readline().startswith("passed\tregister.expires\t")
        assert process.wait(10) == 0
