"""``consul://`` on a real agent, beside aiohttp, which does the same work in the same run.

``python benchmarks/consul_agent.py [--rounds 200] [--json FILE]``. The halves take turns, so that noise hits both;
times are medians. By how much a program takes longer that decodes by hand what aiohttp has read is taken off where
the aim allows it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Awaitable
from pathlib import Path
from statistics import median

from beside import process, turns
from consul_raw import Raw
from consul_roles import NODES, TTL
from data import record
from figures import Aim, Figure, table, write

from microreg import Registry, connect, merge
from microreg.testing import ServerProcess
from microreg_consul.records import Records
from microreg_consul.standing import Standing

HERE = Path(__file__).parent
SPACING = 0.2
DECODED = Aim(1.15, "≤ 1.15 times", ratio=True)
SEEN = Aim(4.0, "≤ 4 ms")
SHARE = Aim(6.0, "< 6 % of a core")


class Bench:
    """One agent, and clients of it: microreg and aiohttp."""

    def __init__(self, server: ServerProcess, registry: Registry, raw: Raw, rounds: int) -> None:
        self.port = server.port
        self.registry = registry
        self.raw = raw
        self.rounds = rounds

    async def get(self, nodes: int) -> list[Figure]:
        """Read a service, and what of that is decoding."""
        name = f"get-{nodes}"
        await self.raw.fill(record(number, name=name) for number in range(nodes))
        records = Records()

        async def floor() -> None:
            await self.raw.read(name)

        async def dicts() -> None:
            json.loads((await self.raw.read(name)).decode())

        async def services() -> None:
            entries = json.loads((await self.raw.read(name)).decode())
            merge(Standing(name, entries, records).records.values())

        works = (lambda: self.registry.get_service(name)), floor, dicts, services
        ours, least, parsed, decoded = await turns(self.rounds, *works)
        decoding = decoded - least
        return [
            Figure(f"get_service, {nodes:,} nodes", "ms", ours, least, "GET"),
            Figure("  decoding of that", "ms", decoding, parsed - least, "json.loads"),
            Figure("  all but the decoding", "ms", ours - decoding, least, "GET", DECODED),
        ]

    async def seen(self) -> list[Figure]:
        """From the start of a registration until another process has it."""
        samples: dict[str, list[float]] = {"ours": [], "raw": []}
        for name in ("seen", "seen-raw"):  # of a service that is there at all: queries for others end all the time
            await self.raw.fill([record(self.rounds, name=name)])
        async with process("consul_roles.py", "listen_ours", self.port) as ours:
            async with process("consul_roles.py", "listen_raw", self.port) as floor:
                for number in range(self.rounds):
                    node, bare = record(number, name="seen"), record(number, name="seen-raw")
                    for key, lines, write, undo in (
                        ("ours", ours, self.registry.register(node), self.registry.deregister(node)),
                        ("raw", floor, self.raw.register(bare), self.raw.deregister(bare)),
                    ):
                        await asyncio.sleep(SPACING / 2)
                        begun = time.monotonic()
                        await write
                        samples[key].append((await lines.number() - begun) * 1000)
                        await asyncio.sleep(SPACING / 2)
                        await undo
                        await lines.number()
        what = "register until another process has it"
        return [Figure(what, "ms", median(samples["ours"]), median(samples["raw"]), "PUT, blocking query", SEEN)]

    async def renew(self) -> list[Figure]:
        """A renewal, and a change of the record."""
        ours, bare = record(0, name="renewed"), record(0, name="renewed-raw")
        await self.registry.register(ours)
        await self.raw.register(bare)
        ports = iter(range(81, 65536))

        def change() -> Awaitable[None]:
            return self.registry.register(record(0, name="changed", port=next(ports)))

        def write() -> Awaitable[None]:
            return self.raw.register(record(0, name="changed-raw", port=next(ports)))

        taken, least = await turns(self.rounds, lambda: self.registry.register(ours), lambda: self.raw.renew(bare))
        figures = [Figure("a renewal", "ms", taken, least, "PUT check/pass")]
        taken, least = await turns(self.rounds, change, write)
        return [*figures, Figure("a change of the record", "ms", taken, least, "PUT service/register")]

    async def hold(self) -> list[Figure]:
        """The share of a core that a thousand announced nodes take, one client after the other."""
        shares: list[float] = []
        for role in ("hold_ours", "hold_raw"):
            async with process("consul_roles.py", role, self.port) as lines:
                await asyncio.sleep(TTL)  # until each node has seen that nobody registers any more
                lines.begin()
                shares.append(await lines.number())
        what = f"{NODES:,} announced nodes, ttl {TTL:g} s"
        return [Figure(what, "%", shares[0], shares[1], "PUT check/pass", SHARE)]


async def measure(server: ServerProcess, rounds: int) -> list[Figure]:
    raw = Raw(server.port)
    async with connect(f"consul://127.0.0.1:{server.port}") as registry:
        bench = Bench(server, registry, raw, rounds)
        figures = [
            *await bench.get(10),
            *await bench.seen(),
            *await bench.renew(),
            *await bench.get(NODES),
            *await bench.hold(),
        ]
    await raw.close()
    return figures


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each half")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from servers import consul

    with consul(dev=True) as server:
        figures = asyncio.run(measure(server, options.rounds))
    print(table(figures))
    if options.json is not None:
        write(options.json, "consul", figures)


if __name__ == "__main__":
    main()
