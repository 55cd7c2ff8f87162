# pyright: standard
"""``mdns://`` between processes on loopback, beside python-zeroconf, which does the same in the same run.

``python benchmarks/mdns.py [--rounds 100] [--json FILE]``: how long it takes from the call of ``register``, of
``register`` with a change, and of ``deregister`` until a process that watches has the event; what the first
``get_service`` of a fresh process takes, from the call and from the start of the process; what 50 nodes at rest send,
counted for two ttls, where one process watches; and what memory a process needs to watch a thousand.

A zeroconf browser alone sends next to nothing at rest: it tells names only, takes the ttl of a PTR record to be 1,125 s
at least, and so notices a killed program after that time. To do the same it has to ask for each node once a ttl.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Awaitable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

from figures import Aim, Figure, table, write
from mdns_roles import HOST, TTL, URL, info, zeroconf

ROLES = Path(__file__).with_name("mdns_roles.py")
NAME = f"bench-{os.getpid()}"
RAW = f"b{os.getpid()}"
"""zeroconf takes no more than 15 bytes for the name of a service."""
FRESH = 20
RESTING, MANY = 50, 1000
FEWER = Aim(1.0, "≤ 1 times", ratio=True)
LESS = Aim(1.0, "≤ 1 times", ratio=True)
Samples = dict[str, list[float]]
"""Milliseconds of each thing that was measured."""


class Report(NamedTuple):
    """What a process says of itself."""

    known: int
    packets: int
    memory: int


class Role:
    """A process in a role."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        assert running.stdin is not None and running.stdout is not None
        self._stdin, self._stdout = running.stdin, running.stdout

    async def line(self) -> list[str]:
        """The words of the next line."""
        async with asyncio.timeout(30):
            return (await self._stdout.readline()).decode().split()

    async def until(self, action: str, node: str) -> float:
        """When the process had this event."""
        while (words := await self.line())[:2] != [action, node]:
            pass
        return float(words[2])

    async def report(self) -> Report:
        """What it knows, has sent and uses now."""
        self._stdin.write(b"\n")
        return Report(*map(int, await self.line()))

    async def knows(self, nodes: int) -> Report:
        """Wait until it knows so many nodes."""
        async with asyncio.timeout(60):
            while True:
                report = await self.report()
                if report.known >= nodes:
                    return report
                await asyncio.sleep(0.2)


@asynccontextmanager
async def role(what: str, name: str, nodes: int = 0, *, where: Sequence[str] = ()) -> AsyncGenerator[Role]:
    """A process in this role, which is ready; killed at the end. ``where`` are words to begin its command with."""
    command = *where, sys.executable, str(ROLES), what, name, str(nodes)
    running = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    try:
        process = Role(running)
        if (words := await process.line()) != ["ready"]:
            raise RuntimeError(f"{what} said {words}")
        yield process
    finally:
        running.kill()
        await running.communicate()


# -- how long ----------------------------------------------------------------------------------------------


async def timed(samples: list[float], call: Awaitable[object], seen: Awaitable[float]) -> None:
    begun = time.monotonic()
    await call
    samples.append((await seen - begun) * 1000)


async def fresh_processes(what: str, name: str, samples: Samples, times: int) -> None:
    for _ in range(times):
        begun = time.monotonic()
        running = await asyncio.create_subprocess_exec(sys.executable, ROLES, what, name, stdout=PIPE)
        output, _ = await asyncio.wait_for(running.communicate(), 30)
        called, found = map(float, output.split())
        samples["first get"].append((found - called) * 1000)
        samples["start and first get"].append((found - begun) * 1000)


def empty() -> Samples:
    kinds = "register → seen", "update → seen", "goodbye → seen", "first get", "start and first get"
    return {kind: [] for kind in kinds}


async def times_of_ours(rounds: int) -> Samples:
    from microreg import Node, Service, connect

    samples = empty()

    def service(node: str, port: int) -> Service:
        return Service(NAME, nodes=[Node(f"{HOST}:{port}", id=node)])

    async with connect(URL) as registry:
        async with role("listen_ours", NAME) as listener:
            for node in (f"n{number}" for number in range(rounds)):
                first, second = service(node, 8080), service(node, 8081)
                await timed(samples["register → seen"], registry.register(first), listener.until("create", node))
                await timed(samples["update → seen"], registry.register(second), listener.until("update", node))
                await timed(samples["goodbye → seen"], registry.deregister(second), listener.until("delete", node))
        await registry.register(service("stays", 8080), ttl=600)
        await fresh_processes("get_ours", NAME, samples, FRESH)
    return samples


async def times_of_raw(rounds: int) -> Samples:
    samples = empty()
    async with zeroconf() as aio:
        async with role("listen_raw", RAW) as listener:
            for node in (f"n{number}" for number in range(min(rounds, 20))):  # its calls take half a second each
                first, second = info(RAW, node, 8080), info(RAW, node, 8081)
                telling = aio.async_register_service(first, cooperating_responders=True)
                await timed(samples["register → seen"], telling, listener.until("create", node))
                telling = aio.async_update_service(second)
                await timed(samples["update → seen"], telling, listener.until("update", node))
                telling = aio.async_unregister_service(second)
                await timed(samples["goodbye → seen"], telling, listener.until("delete", node))
        await (await aio.async_register_service(info(RAW, "stays", 8080), cooperating_responders=True))
        await fresh_processes("get_raw", RAW, samples, min(FRESH, 5))
    return samples


def timing(ours: Samples, raw: Samples) -> list[Figure]:
    return [
        Figure(f"{what}, {name}", "ms", quantile(ours[what], part), quantile(raw[what], part), "zeroconf")
        for what in ours
        for name, part in (("p50", 9), ("p95", 18))
    ]


def quantile(samples: list[float], part: int) -> float:
    """Of twenty parts."""
    return statistics.quantiles(samples, n=20, method="inclusive")[part]


# -- how much ----------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Generator[Sequence[str]]:
    """The command that goes where nobody else speaks mDNS. It takes root; else this machine's loopback has to do."""
    sys.path.insert(0, str(ROLES.parent.parent / "tests"))
    from networks import network, unavailable

    if unavailable() or shutil.which("nsenter") is None:
        yield ()
        return
    with network() as net:
        yield "nsenter", f"--net=/proc/{os.getpid()}/fd/{net.host().namespace}"


async def packets(kind: str, name: str, where: Sequence[str]) -> float:
    """Packets that a node at rest costs in a minute: those of who holds it and of one who watches."""
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(role(f"follow_{kind}", name, where=where))
        holding = await stack.enter_async_context(role(f"hold_{kind}", name, RESTING, where=where))
        await watching.knows(RESTING)
        await asyncio.sleep(TTL)  # announcements are repeated for seconds
        before = [await each.report() for each in (watching, holding)]
        await asyncio.sleep(2 * TTL)
        after = [await each.report() for each in (watching, holding)]
    count = sum(each.packets for each in after) - sum(each.packets for each in before)
    return count / RESTING * 60 / (2 * TTL)


async def memory(kind: str, name: str, where: Sequence[str]) -> float:
    """Bytes that a thousand nodes need in a process that watches."""
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(role(f"watch_{kind}", name, where=where))
        before = await watching.report()
        await stack.enter_async_context(role(f"hold_{kind}", name, MANY, where=where))
        after = await watching.knows(MANY)
    return after.memory - before.memory


async def amounts() -> list[Figure]:
    """Both at the same time where it takes long: they have no record in common."""
    with quiet() as where:
        ours, raw = await asyncio.gather(packets("ours", NAME, where), packets("raw", RAW, where))
        needed, cache = await memory("ours", NAME, where), await memory("raw", RAW, where)
    return [
        Figure("packets of a node, at rest and watched", "/min", ours, raw, "zeroconf, asking once a ttl", FEWER),
        Figure("memory of who watches 1,000 nodes", "B", needed, cache, "zeroconf: its cache, and the names", LESS),
    ]


async def measure(rounds: int) -> list[Figure]:
    return [*timing(await times_of_ours(rounds), await times_of_raw(rounds)), *await amounts()]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = asyncio.run(measure(max(2, options.rounds)))
    print(table(figures))
    if options.json is not None:
        write(options.json, "mdns", figures)


if __name__ == "__main__":
    main()
