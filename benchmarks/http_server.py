"""``microreg serve`` under wrk, beside a bare ASGI function on the same server, which decodes and encodes the same.

``python benchmarks/http_server.py [--rounds 2] [--long SECONDS] [--json FILE]``. Both are one Python process, and take
turns; the median of the rounds counts. Without wrk nothing is measured, and it says so. Memory is the resident size of
the server's process. ``--long 300`` adds five minutes of mixed load, after which the memory should be what it was.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from argparse import ArgumentParser
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median

import msgspec
from beside import process
from data import record
from figures import Aim, Figure, table, write
from http_roles import HEARING, IDLE
from http_wrk import CONNECTIONS, Found, here, wrk

from microreg import Node
from microreg.codec import encode

HERE = Path(__file__).parent
ROLES = "http_roles.py"
SERVE = [
    *("-m", "microreg", "serve", "--registry", "memory://", "--listen", "127.0.0.1:0"),
    *("--max-nodes", "1000000", "--srsr-timeout", "10m"),
]
FLOOR = "bare ASGI"
NODES, NAMES = 1_000, 100
MANY, MANY_NAMES = 100_000, 10_000
SECONDS = 2
PART = {part: Aim(100 / part, f"≥ {part} % of it", ratio=True) for part in (75, 40)}
HOT = (
    ("lookup", "a lookup, 10 nodes", PART[75]),
    ("heartbeat", "a renewal, PUT of the same", PART[75]),
    ("/heartbeat", "a heartbeat of srsr's", PART[75]),
    ("srsr_lookup", "a lookup of srsr's", PART[75]),
    ("register", "a registration, PUT", PART[40]),
    ("srsr_register", "a registration of srsr's", PART[40]),
)
P99 = Aim(5.0, "< 5 ms")
PER_NODE = Aim(2048, "≤ 2 KB")
HEARD = Aim(50.0, "≤ 50 ms")
PER_WATCHER = Aim(500 * 1024**2 / IDLE, "≤ 500 MB for all")
FLAT = Aim(5.0, "≤ 5 %")


@dataclass(frozen=True)
class Server:
    """A process that answers at a port."""

    pid: int
    port: int
    bodies: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    """What to post to a path."""

    def memory(self) -> int:
        """Its resident size in bytes."""
        said = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+) kB", said)[0]) * 1024

    async def ask(self, what: str, nodes: int = NODES, names: int = NAMES, seconds: int = SECONDS) -> Found:
        """wrk asks ``what`` of so many nodes."""
        return await wrk(self.port, what, seconds, nodes, names, self.bodies.get(what, ()))

    async def fill(self, nodes: int, names: int) -> list[tuple[str, str, bytes]]:
        """Register so many nodes; name, id and digest of each."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        filled: list[tuple[str, str, bytes]] = []
        for start in range(0, nodes, 100):
            for number in range(start, min(start + 100, nodes)):
                name, id, body = filling(number, names)
                head = f"PUT /v1/services/{name}/nodes/{id}?ttl=20m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
                writer.write(b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body))
                filled.append((name, id, sha256(body).digest()[:16]))
            for _ in range(start, min(start + 100, nodes)):
                said = await reader.readuntil(b"\r\n\r\n")
                if not said.startswith(b"HTTP/1.1 204"):
                    raise RuntimeError(said.decode())
        writer.close()
        return filled

    async def post(self, path: str, body: bytes) -> bytes:
        """The answer to one POST."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        said = await reader.read()
        writer.close()
        return said.partition(b"\r\n\r\n")[2]


def filling(number: int, names: int) -> tuple[str, str, bytes]:
    """Name, id and record of a node, the same as in ``http_wrk.lua``."""
    name = f"name-{number % names:05d}"
    service = record(number, name=name)
    (node,) = service.nodes
    id = f"node-{number:06d}"
    return name, id, encode(service.with_nodes(Node(node.address, id=id, metadata=node.metadata)))


@asynccontextmanager
async def server(*arguments: str) -> AsyncGenerator[Server]:
    """Python with these arguments, from when it says where it listens; killed at the end."""
    running = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    try:
        assert running.stdout is not None
        said = (await asyncio.wait_for(running.stdout.readline(), 20)).decode()
        yield Server(running.pid, int(said.rpartition(":")[2]))
    finally:
        running.kill()
        await running.communicate()


@asynccontextmanager
async def halves() -> AsyncGenerator[tuple[Server, Server]]:
    """A fresh microreg serve, and a fresh floor."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(server(*SERVE))
        yield ours, await stack.enter_async_context(server(str(HERE / "http_bare.py")))


async def prepare(half: Server) -> None:
    """Register what is looked up and renewed."""
    filled = await half.fill(NODES, NAMES)
    entry = b'{"name":"srsr","address":"http://10.0.0.1","port":"80"}'
    entries = [msgspec.json.decode(await half.post("/register", entry))["id"] for _ in range(100)]
    half.bodies["/heartbeat"] = [b'{"id":"%b"}' % id.encode() for id in entries]
    renewals = [{"name": name, "id": id, "ttl": 600, "digest": digest.hex()} for name, id, digest in filled]
    half.bodies["/v1/renewals"] = [msgspec.json.encode({"renewals": renewals})]


async def rates(rounds: int) -> list[Figure]:
    """What wrk asks of a thousand nodes, ten of each name."""
    figures: list[Figure] = []
    async with halves() as both:
        for half in both:
            await prepare(half)
        for what, said, aim in HOT:
            taken: tuple[list[float], list[float]] = [], []
            for _ in range(rounds):
                for half, seconds in zip(both, taken, strict=True):
                    seconds.append(1 / (await half.ask(what)).rate)
            figures.append(Figure(said, "s", median(taken[0]), median(taken[1]), FLOOR, aim))
        ours, bare = [1 / (await half.ask("/v1/renewals")).rate / NODES for half in both]
        figures.append(Figure(f"a renewal, {NODES:,} in one request", "s", ours, bare, FLOOR))
    return figures


async def many() -> list[Figure]:
    """With 100,000 nodes: what they take, and how long 99 of 100 requests take while both cores are busy."""
    async with halves() as both:
        sizes: list[float] = []
        slow: dict[str, list[float]] = {"lookup": [], "heartbeat": []}
        for half in both:
            before = half.memory()
            await half.fill(MANY, MANY_NAMES)
            sizes.append((half.memory() - before) / MANY)
            await half.ask("heartbeat", MANY, MANY_NAMES, 5)  # the first ones shorten every ttl, to 15 s
            for what, found in slow.items():
                found.append((await half.ask(what, MANY, MANY_NAMES, 5)).p99)
    figures = [Figure(f"memory of a node, of {MANY:,}", "B", sizes[0], sizes[1], f"{FLOOR}, dicts", PER_NODE)]
    for what, found in slow.items():
        figures.append(Figure(f"99 % of {what}s, {MANY:,} nodes", "ms", found[0], found[1], FLOOR, P99))
    return figures


async def watched(changes: int) -> list[Figure]:
    """From the PUT of a change until the last of a thousand watchers has it; and what ten thousand idle ones take."""
    heard: list[float] = []
    sizes: list[float] = []
    async with halves() as both:
        for half in both:
            async with process(ROLES, "hear", half.port) as lines:
                samples: list[float] = []
                for _ in range(changes):
                    lines.begin()
                    samples.append(await lines.number())
                heard.append(median(samples))
    figures = [Figure(f"{HEARING:,} watchers have heard", "ms", heard[0], heard[1], FLOOR, HEARD)]
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < IDLE + 500:
        print(f"skipped: {IDLE:,} idle watchers, which take more open files than this machine allows (ulimit -Hn)")
        return figures
    async with halves() as both:
        for half in both:
            before = half.memory()
            async with process(ROLES, "idle", half.port):
                sizes.append((half.memory() - before) / IDLE)
    return [*figures, Figure(f"an idle watcher, of {IDLE:,}", "B", sizes[0], sizes[1], FLOOR, PER_WATCHER)]


async def mixed(seconds: int) -> list[Figure]:
    """By how much the memory grows under lookups, heartbeats, and nodes that come, change, leave and expire."""
    async with server(*SERVE, "--srsr-timeout", "5s") as ours, process(ROLES, "hear", ours.port):
        await ours.fill(NODES, NAMES)
        await ours.ask("mixed", seconds=130)  # nodes that left are remembered for two minutes
        before = ours.memory()
        await ours.ask("mixed", seconds=seconds)
        grown = (ours.memory() - before) / before * 100
    return [Figure(f"growth of the memory in {seconds} s of mixed load", "%", grown, 0.0, "nothing", FLAT)]


async def measure(rounds: int, seconds: int) -> list[Figure]:
    figures = [*await rates(rounds), *await many(), *await watched(10 * rounds)]
    return [*figures, *await mixed(seconds)] if seconds else figures


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help=f"turns of {SECONDS} s for each half (default: 2)")
    parser.add_argument("--long", type=int, default=0, metavar="SECONDS", help="then a mixed load (default: none)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: list[Figure] = []
    if here():
        print(f"wrk, {CONNECTIONS} connections")
        figures = asyncio.run(measure(options.rounds, options.long))
        print(table(figures))
    else:
        print("skipped: there is no wrk here (Debian: apt-get install wrk)")
    if options.json is not None:
        write(options.json, "http", figures)


if __name__ == "__main__":
    main()
