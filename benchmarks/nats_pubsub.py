"""``nats-pubsub://`` on a real server, beside nats-py, which does the same work in the same run.

``python benchmarks/nats_pubsub.py [--rounds 200] [--json FILE]``. The halves take turns, so that noise hits both;
times are medians.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser
from itertools import count
from pathlib import Path
from statistics import median

import nats
from beside import process, turns
from data import record
from figures import Aim, Figure, table, write
from nats.aio.client import Client
from nats_pubsub_roles import NODES, TTL, message

from microreg import Registry, connect
from microreg.testing import ServerProcess

# nats-py leaves some of its types open.
# pyright: reportUnknownMemberType=false

HERE = Path(__file__).parent
ROLES = "nats_pubsub_roles.py"
SEEN = Aim(0.35, "≤ 0.35 ms")
SHARE = Aim(6.0, "< 6 % of a core")


async def seen(port: int, registry: Registry, client: Client, rounds: int) -> list[Figure]:
    """From the start of a registration until another process has it."""
    samples: dict[str, list[float]] = {"ours": [], "raw": []}
    async with process(ROLES, "listen_ours", port) as ours, process(ROLES, "listen_raw", port) as floor:
        for number in range(rounds):
            node = record(number, name="seen")
            begun = time.monotonic()
            await registry.register(node)
            samples["ours"].append((await ours.number() - begun) * 1000)
            begun = time.monotonic()
            await client.publish("raw.register.seen", message(node))
            await client.flush()
            samples["raw"].append((await floor.number() - begun) * 1000)
    what = "register until another process has it"
    return [Figure(what, "ms", median(samples["ours"]), median(samples["raw"]), "PUB, PING, a subscription", SEEN)]


async def write_calls(registry: Registry, client: Client, rounds: int) -> list[Figure]:
    """A renewal, and a change of the record."""
    node, ports = record(0, name="renewed"), count(1)

    async def floor() -> None:
        await client.publish("raw.register.renewed", message(node))
        await client.flush()

    async def change() -> None:
        (one,) = node.nodes
        await registry.register(node.with_nodes(one.replace(metadata={"turn": str(next(ports))})))

    renewed, changed, least = await turns(rounds, lambda: registry.register(node), change, floor)
    return [
        Figure("a renewal", "ms", renewed, least, "PUB, PING"),
        Figure("a change of the record", "ms", changed, least, "PUB, PING"),
    ]


async def lookups(registry: Registry, rounds: int) -> list[Figure]:
    """A service that is watched; what is not waits until the answers have settled."""
    node = record(0, name="watched")
    await registry.register(node, ttl=600)
    async with registry.watch("watched") as events:
        await anext(events)

        async def floor() -> None:
            await asyncio.sleep(0)

        taken, least = await turns(rounds, lambda: registry.get_service("watched"), floor)
    return [Figure("get_service, of a watched name", "ms", taken, least, "a turn of the loop")]


async def hold(port: int) -> list[Figure]:
    """The share of a core that a thousand announced nodes take, and that who listens to all of them takes."""
    shares: dict[str, float] = {}
    async with process(ROLES, "hold_ours", port) as holding:
        for role in ("hold_ours", "hear_ours", "hear_raw"):
            if role == "hold_ours":
                holding.begin()
                shares[role] = await holding.number()
                continue
            async with process(ROLES, role, port) as lines:
                lines.begin()
                shares[role] = await lines.number()
    async with process(ROLES, "hold_raw", port) as lines:
        lines.begin()
        shares["hold_raw"] = await lines.number()
    what = f"{NODES:,} announced nodes, ttl {TTL:g} s"
    return [
        Figure(what, "%", shares["hold_ours"], shares["hold_raw"], "PUB, PING", SHARE),
        Figure("  listening to all of them", "%", shares["hear_ours"], shares["hear_raw"], "msgspec to dicts"),
    ]


async def measure(server: ServerProcess, rounds: int) -> list[Figure]:
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    async with connect(f"nats-pubsub://127.0.0.1:{server.port}") as registry:
        figures = [
            *await seen(server.port, registry, client, rounds),
            *await write_calls(registry, client, rounds),
            *await lookups(registry, rounds),
            *await hold(server.port),
        ]
    await client.close()
    return figures


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each half (default: 200)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    sys.path.append(str(HERE.parent / "tests"))
    from servers import nats as nats_server  # of the test suite

    with nats_server("bench", jetstream=False) as server:
        figures = asyncio.run(measure(server, options.rounds))
    print(table(figures))
    if options.json is not None:
        write(options.json, "nats_pubsub", figures)


if __name__ == "__main__":
    main()
