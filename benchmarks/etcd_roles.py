"""The processes beside that of the benchmark: ``python benchmarks/etcd_roles.py ROLE PORT``.

Each says 0 when it is ready, works until it is killed, and comes with microreg (``ours``) and with the stubs (``raw``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from data import records
from etcd_raw import Raw

from microreg import Change, announce, connect

NODES = 1_000
TTL = 15.0
SECONDS = 10.0


def say(number: float) -> None:
    print(number, flush=True)


async def told() -> None:
    """Return when the benchmark says that it is time."""
    await asyncio.to_thread(sys.stdin.readline)


async def listen_ours(port: int) -> None:
    """Say of each change of the name ``seen`` when it came. Clocks agree: CLOCK_MONOTONIC is the machine's."""
    async with connect(f"etcd://127.0.0.1:{port}/ours") as registry, registry.watch("seen") as events:
        async for event in events:
            say(time.monotonic() if isinstance(event, Change) else 0)


async def listen_raw(port: int) -> None:
    async for events in Raw(port, "raw").events("seen"):
        say(time.monotonic() if events else 0)


async def follow_ours(port: int) -> None:
    """Follow the name ``many``, and say after each thousand changes what processor time one of them took."""
    async with connect(f"etcd://127.0.0.1:{port}/ours") as registry, registry.watch("many") as events:
        await anext(events)
        say(0)
        while True:
            begun = time.process_time()
            for _ in range(NODES):
                await anext(events)
            say((time.process_time() - begun) / NODES)


async def follow_raw(port: int) -> None:
    events = Raw(port, "raw").events("many")
    await anext(events)
    say(0)
    while True:
        begun, heard = time.process_time(), 0
        while heard < NODES:
            heard += await anext(events)
        say((time.process_time() - begun) / NODES)


async def hold_ours(port: int) -> None:
    """Keep a thousand nodes announced, and say, whenever told to, what share of a core that takes for some seconds."""
    async with connect(f"etcd://127.0.0.1:{port}/ours") as registry, AsyncExitStack() as stack:
        for each in records(NODES, endpoints=(), names=10):
            announcement = await stack.enter_async_context(announce(registry, each, ttl=TTL))
            await announcement.wait_live(30)
        await say_shares()


async def hold_raw(port: int) -> None:
    raw = Raw(port, "raw")
    leases = range(1, NODES + 1)
    for lease, each in zip(leases, records(NODES, endpoints=(), names=10), strict=True):
        await raw.grant(lease, int(TTL))
        await raw.put(each, lease)
    async with asyncio.TaskGroup() as group:
        group.create_task(raw.renew_all(leases, TTL / 3))
        await say_shares()


async def say_shares() -> None:
    """Percent of a core."""
    say(0)
    while True:
        await told()
        begun, used = time.monotonic(), time.process_time()
        await asyncio.sleep(SECONDS)
        say((time.process_time() - used) / (time.monotonic() - begun) * 100)


ROLES = {role.__name__: role for role in (listen_ours, listen_raw, follow_ours, follow_raw, hold_ours, hold_raw)}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](int(sys.argv[2])))
