"""The processes beside that of the benchmark: ``python benchmarks/nats_bucket_roles.py ROLE PORT``.

Each says 0 when it is ready, works until it is killed, and comes with microreg (``ours``) and with nats-py (``raw``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

import nats
from beside import say, say_shares
from data import records
from nats.js.api import Header

from microreg import Change, announce, connect
from microreg.codec import encode

# nats-py leaves some of its types open.
# pyright: reportUnknownMemberType=false

NODES = 1_000
TTL = 15.0
SECONDS = 10.0


async def listen_ours(port: int) -> None:
    """Say of each change of the name ``seen`` when it came. Clocks agree: CLOCK_MONOTONIC is the machine's."""
    async with connect(f"nats://127.0.0.1:{port}?bucket=ours") as registry, registry.watch("seen") as events:
        async for event in events:
            say(time.monotonic() if isinstance(event, Change) else 0)


async def listen_raw(port: int) -> None:
    """The same of each entry that nats-py's own watch tells."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    bucket = await client.jetstream().key_value("raw")
    watcher = await bucket.watch("seen.*")
    async for entry in watcher:
        say(0 if entry is None else time.monotonic())


async def hold_ours(port: int) -> None:
    """Keep a thousand nodes announced, and say, whenever told to, what share of a core that takes for some seconds."""
    async with connect(f"nats://127.0.0.1:{port}?bucket=held") as registry, AsyncExitStack() as stack:
        for each in records(NODES, endpoints=(), names=10):
            announcement = await stack.enter_async_context(announce(registry, each, ttl=TTL))
            await announcement.wait_live(30)
        await say_shares(SECONDS)


async def hold_raw(port: int) -> None:
    """The same without microreg."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    js = client.jetstream()
    services = [(f"$KV.raw.{each.name}.{each.nodes[0].id}", encode(each)) for each in records(NODES, names=10)]
    revisions = dict.fromkeys((subject for subject, _ in services), 0)

    async def renew() -> None:
        while True:
            for subject, value in services:
                headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revisions[subject])}
                revisions[subject] = (await js.publish(subject, value, headers=headers, msg_ttl=TTL)).seq
                await asyncio.sleep(TTL / 3 / NODES)

    async with asyncio.TaskGroup() as group:
        group.create_task(renew())
        await say_shares(SECONDS)


ROLES = {role.__name__: role for role in (listen_ours, listen_raw, hold_ours, hold_raw)}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](int(sys.argv[2])))
