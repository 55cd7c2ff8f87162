"""``nats://`` on a real server, beside nats-py, which does the same work in the same run.

``python benchmarks/nats_bucket.py [--rounds 200] [--json FILE]``. The halves take turns, so that noise hits both;
times are medians.
"""

from __future__ import annotations

import asyncio
import json
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
from nats_bucket_roles import NODES, TTL

from microreg import Registry, connect
from microreg.codec import decode, encode
from microreg.testing import ServerProcess

# nats-py leaves some of its types open.
# pyright: reportUnknownMemberType=false

HERE = Path(__file__).parent
ROLES = "nats_bucket_roles.py"
SEEN = Aim(0.35, "≤ 0.35 ms")
SHARE = Aim(6.0, "< 6 % of a core")


async def seen(port: int, registry: Registry, client: Client, rounds: int) -> list[Figure]:
    """From the start of a registration until another process has it."""
    samples: dict[str, list[float]] = {"ours": [], "raw": []}
    js = client.jetstream()
    async with process(ROLES, "listen_ours", port) as ours, process(ROLES, "listen_raw", port) as floor:
        for number in range(rounds):
            node = record(number, name="seen")
            begun = time.monotonic()
            await registry.register(node)
            samples["ours"].append((await ours.number() - begun) * 1000)
            begun = time.monotonic()
            await js.publish(f"$KV.raw.seen.{node.nodes[0].id}", encode(node), msg_ttl=TTL)
            samples["raw"].append((await floor.number() - begun) * 1000)
    what = "register until another process has it"
    return [Figure(what, "ms", median(samples["ours"]), median(samples["raw"]), "publish, kv.watch", SEEN)]


async def write_calls(registry: Registry, client: Client, rounds: int) -> list[Figure]:
    """A renewal, and a change of the record."""
    node, ports, js = record(0, name="renewed"), count(1), client.jetstream()

    async def floor() -> None:
        await js.publish("$KV.raw.renewed.a", encode(node), msg_ttl=TTL)

    async def change() -> None:
        (one,) = node.nodes
        await registry.register(node.with_nodes(one.replace(metadata={"turn": str(next(ports))})))

    renewed, changed, least = await turns(rounds, lambda: registry.register(node), change, floor)
    return [
        Figure("a renewal", "ms", renewed, least, "publish"),
        Figure("a change of the record", "ms", changed, least, "publish"),
    ]


async def lookups(registry: Registry, client: Client, nodes: int, rounds: int) -> list[Figure]:
    """A lookup, beside the batch get of the same records; decoded one by one, as who wants nodes has to."""
    name = f"of{nodes}"
    for number in range(nodes):
        await registry.register(record(number, name=name), ttl=600)
    question = json.dumps({"multi_last": [f"$KV.ours.{name}.*"]}).encode()

    async def batch() -> list[bytes]:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish("$JS.API.DIRECT.GET.KV_ours", question, reply=inbox)
        found: list[bytes] = []
        async for message in subscription.messages:
            if not message.data:
                break
            found.append(message.data)
        await subscription.unsubscribe()
        return found

    async def decoded() -> None:
        for value in await batch():
            decode(value)

    taken, least, with_decoding = await turns(rounds, lambda: registry.get_service(name), batch, decoded)
    return [
        Figure(f"get_service, {nodes:,} nodes", "ms", taken, least, "batch get", Aim(least * 1.15, "≤ 1.15 × raw")),
        Figure("  beside a batch get, decoded", "ms", taken, with_decoding, "batch get, decode"),
    ]


async def hold(port: int) -> list[Figure]:
    """The share of a core that a thousand announced nodes take."""
    shares: dict[str, float] = {}
    for role in ("hold_ours", "hold_raw"):
        async with process(ROLES, role, port) as lines:
            lines.begin()
            shares[role] = await lines.number()
    what = f"{NODES:,} announced nodes, ttl {TTL:g} s"
    return [Figure(what, "%", shares["hold_ours"], shares["hold_raw"], "publish", SHARE)]


async def measure(server: ServerProcess, rounds: int) -> list[Figure]:
    """All figures, with one server."""
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    await client.jetstream().create_key_value(bucket="raw", direct=True, limit_marker_ttl=30)
    async with connect(f"nats://127.0.0.1:{server.port}?bucket=ours") as registry:
        await registry.list_services()
        figures = [
            *await seen(server.port, registry, client, rounds),
            *await write_calls(registry, client, rounds),
            *await lookups(registry, client, 10, rounds),
            *await lookups(registry, client, 1_000, max(10, rounds // 5)),
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

    with nats_server("bench") as server:
        figures = asyncio.run(measure(server, options.rounds))
    print(table(figures))
    if options.json is not None:
        write(options.json, "nats_bucket", figures)


if __name__ == "__main__":
    main()
