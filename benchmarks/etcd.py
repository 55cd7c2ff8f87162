"""``etcd://`` on a real server, beside the raw stubs of its protocol, which do the same work in the same run.

``python benchmarks/etcd.py [--rounds 200] [--json FILE]``. The halves take turns, so that noise hits both; times are
medians. By how much a program takes longer that decodes by hand after the stub is taken off where the aim allows it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import sys
import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from statistics import median
from subprocess import PIPE

import msgspec
from aetcd import rpc
from data import record
from etcd_raw import Raw
from etcd_roles import NODES, SECONDS, TTL
from figures import Aim, Figure, table, write

from microreg import Registry, connect, merge
from microreg.testing import ServerProcess
from microreg_etcd.layouts import Layout
from microreg_etcd.reading import Records

HERE = Path(__file__).parent
BURSTS = 5
PATIENCE = 5.0
WRITES = 20
"""A second, by another client, where the store is not quiet."""
DECODED = Aim(1.15, "≤ 1.15 times", ratio=True)
SEEN = Aim(1.3, "≤ 1.3 times", ratio=True)
CHEAPER = Aim(1.0, "cheaper than a write", ratio=True)
SHARE = Aim(3.0, "≤ 3 % of a core")

SENT = "etcd_network_client_grpc_sent_bytes_total"
WRITTEN = "etcd_disk_wal_write_bytes_total"

Call = Callable[[], Awaitable[object]]


async def turns(rounds: int, *works: Call, calls: int = 1) -> list[float]:
    """Milliseconds that a call of each takes. They take turns, ``calls`` at a time, in any order.

    Who comes after whom matters, and whom the garbage collector strikes: it runs between the rounds.
    """
    rng = random.Random(0)
    samples: list[list[float]] = [[] for _ in works]
    order = list(enumerate(works))
    gc.disable()
    try:
        for _ in range(rounds // calls):
            rng.shuffle(order)
            for index, work in order:
                for _ in range(calls):
                    begun = time.perf_counter()
                    await work()
                    samples[index].append((time.perf_counter() - begun) * 1000)
            gc.collect()
    finally:
        gc.enable()
    return [median(each) for each in samples]


class Decoding:
    """What microreg does with the keys and values that the stubs give."""

    def __init__(self, read: Callable[[], Awaitable[Sequence[rpc.KeyValue]]]) -> None:
        self._read = read
        self._records = Records(Layout("ours"))

    async def nothing(self) -> None:
        """Only read; a call that nobody waits for longer than a while, as every call should be."""
        async with asyncio.timeout(PATIENCE):
            await self._read()

    async def services(self) -> None:
        """Read, and make services of it."""
        async with asyncio.timeout(PATIENCE):
            merge([each for kv in await self._read() for each in self._records.read(kv.key, kv.value)])


class Bench:
    """One server, and clients of it: microreg, the stubs, and the stubs under microreg's prefix."""

    def __init__(self, server: ServerProcess, registry: Registry, raw: Raw, other: Raw, rounds: int) -> None:
        self.server = server
        self.registry = registry
        self.raw = raw
        self.other = other
        self.rounds = rounds

    # -- reading ------------------------------------------------------------------------------------

    async def get(self, nodes: int) -> list[Figure]:
        """Read a service, and what of that is decoding."""
        name = f"get-{nodes}"
        await self.other.fill([record(number, name=name) for number in range(nodes)])
        decoding = Decoding(lambda: self.other.read(name))
        stored = [kv.value for kv in await self.other.read(name)]

        async def dicts() -> None:
            for value in stored:
                msgspec.json.decode(value)

        works = (lambda: self.registry.get_service(name)), decoding.nothing, decoding.services, dicts
        ours, floor, services, parsed = await turns(self.rounds, *works)
        decoded = services - floor
        return [
            Figure(f"get_service, {nodes:,} nodes", "ms", ours, floor, "Range"),
            Figure("  decoding of that", "ms", decoded, parsed, "msgspec to dicts"),
            Figure("  all but the decoding", "ms", ours - decoded, floor, "Range", DECODED),
        ]

    async def names(self) -> list[Figure]:
        """List a thousand names: the time, and the bytes that the server sends for each of them."""
        raw = Raw(self.server.port, "names")
        await raw.fill([record(0, name=f"name-{number}") for number in range(NODES)])

        def floor() -> Awaitable[object]:
            return raw.read(None, keys_only=True)

        async with connect(f"etcd://127.0.0.1:{self.server.port}/names") as registry:
            ours = registry.list_services
            taken, least = await turns(self.rounds, ours, floor)
            sent = [await self.grown(SENT, work) / NODES for work in (ours, floor)]
        await raw.close()
        return [
            Figure(f"list_services, {NODES:,} names", "ms", taken, least, "Range, keys only"),
            Figure("  bytes on the wire, a name", "B", sent[0], sent[1], "Range, keys only"),
        ]

    async def grown(self, metric: str, work: Call) -> float:
        """By how much a counter of the server goes up with a call."""
        before = await asyncio.to_thread(self.counter, metric)
        await work()
        return await asyncio.to_thread(self.counter, metric) - before

    def counter(self, metric: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.ports[2]}/metrics", timeout=5) as answer:
            found = re.search(rf"^{metric} (\S+)$", str(answer.read(), "utf-8"), re.MULTILINE)
        assert found is not None, f"etcd has no metric {metric}"
        return float(found[1])

    # -- watching -----------------------------------------------------------------------------------

    async def watch(self) -> list[Figure]:
        """One change of a thousand nodes, from the start of the write until the watch has it."""
        for client in (self.other, self.raw):
            await client.fill([record(number, name="watched") for number in range(NODES)])
        ports = count(1)
        events = self.raw.events("watched")
        await anext(events)
        async with self.registry.watch("watched") as watch:
            await anext(watch)

            async def ours() -> None:
                await self.other.put(record(0, name="watched", port=next(ports)))
                await anext(watch)

            async def floor() -> None:
                await self.raw.put(record(0, name="watched", port=next(ports)))
                await anext(events)

            taken, least = await turns(self.rounds, ours, floor)
        await events.aclose()
        return [Figure("a write until a watch has it", "ms", taken, least, "Put and Watch", DECODED)]

    async def burst(self) -> list[Figure]:
        """The processor time of a process that hears a thousand changes at once."""
        taken: tuple[list[float], list[float]] = [], []
        clients = self.other, self.raw
        async with process("follow_ours", self.server) as ours, process("follow_raw", self.server) as floor:
            for turn in range(BURSTS):
                for client, lines, samples in zip(clients, (ours, floor), taken, strict=True):
                    await client.fill([record(number, name="many", port=turn + 1) for number in range(NODES)])
                    samples.append(await number_of(lines) * 1000)
        decoding = Decoding(lambda: self.other.read("many"))
        read, services = await turns(BURSTS, decoding.nothing, decoding.services)
        what = f"a change, of {NODES:,} at once"
        return [
            Figure(what, "ms", min(taken[0]), min(taken[1]), "Watch"),
            Figure("  all but the decoding", "ms", min(taken[0]) - (services - read) / NODES, min(taken[1]), "Watch"),
        ]

    # -- writing ------------------------------------------------------------------------------------

    async def seen(self) -> list[Figure]:
        """From the start of a registration until another process has it."""
        ids = count(1)
        samples: dict[str, list[float]] = {"ours": [], "raw": []}
        async with process("listen_ours", self.server) as ours, process("listen_raw", self.server) as floor:
            for number in range(self.rounds):
                node = record(number, name="seen")
                begun = time.monotonic()
                await self.registry.register(node)
                samples["ours"].append((await number_of(ours) - begun) * 1000)
                begun = time.monotonic()
                lease = next(ids) + (1 << 40)
                await self.raw.grant(lease, int(TTL))
                await self.raw.put(node, lease)
                samples["raw"].append((await number_of(floor) - begun) * 1000)
        what = "register until another process has it"
        return [Figure(what, "ms", median(samples["ours"]), median(samples["raw"]), "grant, put, watch", SEEN)]

    async def renew(self) -> list[Figure]:
        """Renewals beside writes of the same record: with nothing else going on, and with a write before each one."""
        node, lease = record(0, name="renewed"), 1 << 41
        await self.raw.grant(lease, 600)

        def ours() -> Awaitable[None]:
            return self.registry.register(node)

        def floor() -> Awaitable[None]:
            return self.raw.put(node, lease)

        await ours()
        figures: list[Figure] = []
        for what, calls in (("in a quiet store", 20), ("after others wrote", 1)):
            taken, least = await turns(self.rounds, ours, floor, calls=calls)
            figures.append(Figure(f"a renewal, {what}", "ms", taken, least, "Put", CHEAPER))
        written = [await self.grown(WRITTEN, work) for work in (ours, floor)]
        return [*figures, Figure("  bytes written to etcd's disk", "B", written[0], written[1], "Put", CHEAPER)]

    async def hold(self) -> list[Figure]:
        """The share of a core that a thousand announced nodes take; both clients at the same time."""
        figures: list[Figure] = []
        async with process("hold_ours", self.server) as ours, process("hold_raw", self.server) as floor:
            await asyncio.sleep(TTL)  # until each node has seen that nobody registers any more
            for what, writes in (("quiet store", 0), (f"{WRITES} writes/s of others", WRITES)):
                writing = asyncio.create_task(self.disturb(writes))
                for each in (ours, floor):
                    each.stdin.write(b"\n")
                taken, least = await number_of(ours), await number_of(floor)
                writing.cancel()
                figures.append(Figure(f"{NODES:,} announced nodes, {what}", "%", taken, least, "renewals", SHARE))
        return figures

    async def disturb(self, writes: int) -> None:
        """Write so many times a second."""
        for number in range(int(writes * SECONDS)):
            await self.raw.put(record(0, name="other", port=number + 1))
            await asyncio.sleep(1 / writes)


class Lines:
    """A process beside this one, as what it says and is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout


@asynccontextmanager
async def process(role: str, server: ServerProcess) -> AsyncGenerator[Lines]:
    """A process in this role, which is ready; killed at the end."""
    program = sys.executable, HERE / "etcd_roles.py", role, str(server.port)
    running = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE)
    try:
        lines = Lines(running)
        await number_of(lines)
        yield lines
    finally:
        running.kill()
        await running.communicate()


async def number_of(lines: Lines) -> float:
    """The next number that the process says."""
    async with asyncio.timeout(60):
        return float(await lines.stdout.readline())


async def measure(server: ServerProcess, rounds: int) -> list[Figure]:
    raw, other = Raw(server.port, "raw"), Raw(server.port, "ours")
    async with connect(f"etcd://127.0.0.1:{server.port}/ours") as registry:
        bench = Bench(server, registry, raw, other, rounds)
        figures = [
            *await bench.get(10),
            *await bench.get(NODES),
            *await bench.names(),
            *await bench.watch(),
            *await bench.burst(),
            *await bench.seen(),
            *await bench.renew(),
            *await bench.hold(),
        ]
    await raw.close()
    await other.close()
    return figures


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each half")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from servers import etcd

    with etcd() as server:
        figures = asyncio.run(measure(server, options.rounds))
    print(table(figures))
    if options.json is not None:
        write(options.json, "etcd", figures)


if __name__ == "__main__":
    main()
