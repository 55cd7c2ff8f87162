"""`microreg serve --state` as a process: what it keeps when it is killed, and files that it cannot use."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microreg import Node, Registry, Service, connect
from microreg.errors import RegistryError
from microreg.testing import ServerProcess
from microreg.toolkit import in_thread
from servers import microreg_server
from support import clean_env, run, wait_until

pytestmark = pytest.mark.timeout(180)

ROUNDS = 3
SAFE = 1.0
"""Seconds after which what was acknowledged survives."""


class Writer:
    """Registers, changes and withdraws nodes at random, and notes what was acknowledged when."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fresh = 0
        self.log: dict[str, list[tuple[float, str]]] = {}
        """For each node: when a write was acknowledged (infinity: never), and the address written; empty: withdrawn."""

    async def run(self, url: str) -> None:
        """Write until the server is gone."""
        async with connect(url) as registry:
            try:
                while True:
                    await asyncio.gather(*(self._write(registry) for _ in range(8)))
            except RegistryError:
                return

    async def _write(self, registry: Registry) -> None:
        self._fresh += 1
        id = self._rng.choice([f"n{self._fresh}", f"m{self._rng.randrange(40)}"])
        address = "" if self._rng.random() < 0.3 else f"10.0.0.1:{self._rng.randrange(1, 60_000)}"
        history = self.log.setdefault(id, [])
        if history and history[-1][0] == float("inf"):
            return  # somebody is at it
        history.append((float("inf"), address))
        service = Service("many", nodes=[Node(address or "10.0.0.1:1", id=id)])
        await (registry.register(service, ttl=600) if address else registry.deregister(service))
        history[-1] = time.monotonic(), address

    def possible(self, id: str, killed: float) -> set[str]:
        """What the node may be after the server was killed at this moment."""
        history = [(0.0, ""), *self.log[id]]
        last = max(number for number, (when, _) in enumerate(history) if when <= killed - SAFE)
        return {address for _, address in history[last:]}


def test_whenever_it_is_killed_nothing_is_lost_that_was_acknowledged_a_second_before() -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)

    async def main(server: ServerProcess) -> None:
        writer = Writer(rng)
        settled = 0
        for _ in range(ROUNDS):
            writing = asyncio.create_task(writer.run(f"http://127.0.0.1:{server.port}"))
            await asyncio.sleep(rng.uniform(0.1, 1.7))
            killed = time.monotonic()
            await in_thread(server.kill)
            await writing
            await in_thread(server.start)
            async with connect(f"http://127.0.0.1:{server.port}") as registry:
                await registry.register(Service("many", nodes=[Node("10.0.0.9:9", id="other")]))
                services = await registry.get_service("many")
            found = {node.id: node.address for service in services for node in service.nodes}
            for id in writer.log:
                possible = writer.possible(id, killed)
                settled += len(possible) == 1
                assert found.get(id, "") in possible, f"seed {seed}: {id}: {writer.log[id][-3:]}, killed at {killed}"
                # What it is now, it is to stay.
                writer.log[id] = [(0.0, found.get(id, ""))]
        assert settled > 20

    with microreg_server(state=True) as server:
        run(main(server))
        assert "aside" not in server.log.read_text()


def serve(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The end of a server that cannot start."""
    command = [sys.executable, "-m", "microreg", "serve", "--listen", "127.0.0.1:0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=folder, env=clean_env())
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("content", "why"), [(b"rubbish", "it is no state of a microreg server"), (b"microreg state 9 x\n", "version '9'")]
)
def test_a_file_that_is_no_good_is_set_aside_with_a_message_and_the_server_starts(content: bytes, why: str) -> None:
    server = microreg_server(state=True)
    try:
        (server.data / "state").write_bytes(content)
        server.start()
        run(wait_until(lambda: "microreg serves" in server.log.read_text()))
        said = server.log.read_text()
        assert "set a state file aside" in said and why in said and "it is now state.aside-1" in said
        assert (server.data / "state.aside-1").read_bytes() == content
    finally:
        server.close()


def test_two_servers_do_not_share_a_file(tmp_path: Path) -> None:
    with microreg_server(state=True) as server:
        done = serve("--state", server.data / "state", folder=tmp_path)
        assert done.returncode == 2 and "another server uses this file" in done.stderr


def test_for_other_registries_the_option_is_an_error(tmp_path: Path) -> None:
    done = serve("--registry", "mdns://127.0.0.1", "--state", "state", folder=tmp_path)
    assert done.returncode == 2 and "--state is for memory://" in done.stderr
