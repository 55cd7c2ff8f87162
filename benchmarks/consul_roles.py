"""The processes beside that of the benchmark: ``python benchmarks/consul_roles.py ROLE PORT``.

Each says 0 when it is ready, works until it is killed, and comes with microreg (``ours``) and with aiohttp (``raw``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

import msgspec
from beside import say, say_shares
from consul_raw import Raw
from data import records

from microreg import Change, announce, connect

NODES = 1_000
TTL = 15.0
SECONDS = 10.0


async def listen_ours(port: int) -> None:
    """Say of each change of the name ``seen`` when it came. Clocks agree: CLOCK_MONOTONIC is the machine's."""
    async with connect(f"consul://127.0.0.1:{port}") as registry, registry.watch("seen") as events:
        async for event in events:
            say(time.monotonic() if isinstance(event, Change) else 0)


async def listen_raw(port: int) -> None:
    """The same of the number of nodes of ``seen-raw``: a query also ends when a check comes after its service."""
    known: int | None = None
    async for body in Raw(port).changes("seen-raw"):
        if (nodes := len(msgspec.json.decode(body))) != known:
            say(0 if known is None else time.monotonic())
            known = nodes


async def hold_ours(port: int) -> None:
    """Keep a thousand nodes announced, and say, whenever told to, what share of a core that takes for some seconds."""
    async with connect(f"consul://127.0.0.1:{port}") as registry, AsyncExitStack() as stack:
        for each in records(NODES, endpoints=(), names=10):
            announcement = await stack.enter_async_context(announce(registry, each, ttl=TTL))
            await announcement.wait_live(30)
        await say_shares(SECONDS)


async def hold_raw(port: int) -> None:
    """The same without microreg."""
    raw = Raw(port)
    services = records(NODES, endpoints=(), names=10)
    for each in services:
        await raw.register(each, TTL)
    async with asyncio.TaskGroup() as group:
        group.create_task(raw.renew_all(services, TTL / 3))
        await say_shares(SECONDS)


ROLES = {role.__name__: role for role in (listen_ours, listen_raw, hold_ours, hold_raw)}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](int(sys.argv[2])))
