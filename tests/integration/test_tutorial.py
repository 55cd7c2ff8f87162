"""The tutorial's programs, run as its reader runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import microreg_server
from support import ROOT, clean_env

PAGE = ROOT / "docs" / "tutorial" / "first-services.md"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the page's programs: each begins with a comment that names it."""
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        here = code.replace('start_server(greet, "", port)', 'start_server(greet, "127.0.0.1", port)')
        (tmp_path / name).write_text(here, encoding="utf-8")  # nobody else is to reach it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.py", "greeter.py"]
    return tmp_path


@contextmanager
def starting(folder: Path, registry: str) -> Generator[Start]:
    """Starts programs of the folder; what still runs in the end is killed."""
    env = clean_env(MICROREG_REGISTRY=registry, MICROREG_ADVERTISE="127.0.0.1")
    running: list[subprocess.Popen[str]] = []

    def start(*command: str | int) -> subprocess.Popen[str]:
        arguments = [sys.executable, *map(str, command)]
        process = subprocess.Popen(arguments, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def walk_through(folder: Path, registry: str, ports: tuple[int, int]) -> None:
    """Two nodes, one is killed while the client calls, the other is asked to leave."""
    with starting(folder, registry) as start:
        first, second = (start("greeter.py", port) for port in ports)
        assert [line(first), line(second)] == [f"announced, port {port}" for port in ports]
        client = start("client.py")
        heard = [line(client)]
        while len(set(heard)) < 2:
            heard.append(line(client))
        first.kill()
        rest = client.communicate(timeout=30)[0].splitlines()
        heard += rest
        assert client.returncode == 0
        assert len(heard) == 20 and set(heard) == {f"Hello Ada, says port {port}" for port in ports}
        assert rest[-1] == f"Hello Ada, says port {ports[1]}"
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0


def test_the_tutorial_over_mdns(programs: Path, new_port: Callable[[], int]) -> None:
    walk_through(programs, "mdns://127.0.0.1", (new_port(), new_port()))


def test_the_tutorial_over_http(programs: Path, new_port: Callable[[], int]) -> None:
    with microreg_server() as server:
        walk_through(programs, f"http://127.0.0.1:{server.port}", (new_port(), new_port()))
