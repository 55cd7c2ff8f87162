"""The processes beside that of the benchmark: ``python benchmarks/nats_pubsub_roles.py ROLE PORT``.

Each says 0 when it is ready, works until it is killed, and comes with microreg (``ours``) and with nats-py (``raw``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

import msgspec
import nats
from beside import say, say_shares
from data import records
from nats.aio.msg import Msg

from microreg import Change, Service, announce, connect
from microreg_nats.pubsub import messages

# nats-py leaves some of its types open.
# pyright: reportUnknownMemberType=false

NODES = 1_000
TTL = 15.0
SECONDS = 10.0


def message(service: Service) -> bytes:
    """What tells of a node."""
    return messages.register(service, TTL, host="bench", now=time.time())


async def listen_ours(port: int) -> None:
    """Say of each change of the name ``seen`` when it came. Clocks agree: CLOCK_MONOTONIC is the machine's."""
    async with connect(f"nats-pubsub://127.0.0.1:{port}") as registry, registry.watch("seen") as events:
        async for event in events:
            say(time.monotonic() if isinstance(event, Change) else 0)


async def listen_raw(port: int) -> None:
    """The same of each message."""

    async def heard(message: Msg) -> None:
        msgspec.json.decode(message.data)
        say(time.monotonic())

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.subscribe("raw.register.seen", cb=heard)
    await client.flush()
    say(0)
    await asyncio.Event().wait()


async def hold_ours(port: int) -> None:
    """Keep a thousand nodes announced, and say, whenever told to, what share of a core that takes for some seconds."""
    async with connect(f"nats-pubsub://127.0.0.1:{port}") as registry, AsyncExitStack() as stack:
        for each in records(NODES, endpoints=(), names=10):
            announcement = await stack.enter_async_context(announce(registry, each, ttl=TTL))
            await announcement.wait_live(30)
        await say_shares(SECONDS)


async def hold_raw(port: int) -> None:
    """The same without microreg."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    services = records(NODES, endpoints=(), names=10)

    async def renew() -> None:
        while True:
            for each in services:
                await client.publish(f"raw.register.{each.name}", message(each))
                await client.flush()
                await asyncio.sleep(TTL / 3 / NODES)

    async with asyncio.TaskGroup() as group:
        group.create_task(renew())
        await say_shares(SECONDS)


async def hear_ours(port: int) -> None:
    """What share of a core it takes to listen to them."""
    async with connect(f"nats-pubsub://127.0.0.1:{port}") as registry, registry.watch() as events:
        await anext(events)
        await say_shares(SECONDS)


async def hear_raw(port: int) -> None:
    """The same without microreg."""
    known: dict[str, object] = {}

    async def heard(message: Msg) -> None:
        document = msgspec.json.decode(message.data)
        known[document["kv"]["microreg.id"]] = document

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.subscribe("registry.register.*", cb=heard)
    await say_shares(SECONDS)


ROLES = {role.__name__: role for role in (listen_ours, listen_raw, hold_ours, hold_raw, hear_ours, hear_raw)}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](int(sys.argv[2])))
