# pyright: standard
"""The processes beside that of the benchmark: ``python benchmarks/mdns_roles.py ROLE NAME [NODES]``.

Each says when it is ready, and works until it is killed; it comes with microreg (``ours``) and with python-zeroconf
(``raw``). Clocks agree: CLOCK_MONOTONIC is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

HOST = "127.0.0.1"
URL = f"mdns://{HOST}"
TTL = 15
BATCH = 50
sent: Counter[str] = Counter()
"""What this process has sent."""


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def count_packets() -> None:
    """Every UDP packet goes through here, whoever sends it."""
    original = socket.socket.sendto

    def counted(self: socket.socket, data: Any, *rest: Any) -> int:
        sent["packets"] += 1
        return original(self, data, *rest)

    socket.socket.sendto = counted  # type: ignore[assignment, method-assign]


async def report(known: Callable[[], int]) -> None:
    """Whenever told to, say how much is known, what was sent so far, and what memory is used."""
    say("ready")
    while await asyncio.to_thread(sys.stdin.readline):
        gc.collect()
        say(known(), sent["packets"], tracemalloc.get_traced_memory()[0])


@asynccontextmanager
async def zeroconf() -> AsyncGenerator[Any]:
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    aio = AsyncZeroconf(interfaces=[HOST], ip_version=IPVersion.V4Only)
    try:
        yield aio
    finally:
        await aio.async_close()


@asynccontextmanager
async def browser(aio: Any, name: str, heard: Callable[[str, str], None]) -> AsyncGenerator[None]:
    """A ServiceBrowser, which tells names only, and whether they came, changed or left."""
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        heard(state_change.name, name)

    found = AsyncServiceBrowser(aio.zeroconf, [f"_{name}._tcp.local."], handlers=[changed])
    try:
        yield
    finally:
        await found.async_cancel()


def info(name: str, node: str, port: int, **more: Any) -> Any:
    """A node as zeroconf has it."""
    from zeroconf import ServiceInfo

    kind = f"_{name}._tcp.local."
    text = {"v": str(port), "zone": "eu"}
    server = f"{node}.local."
    return ServiceInfo(kind, f"{node}.{kind}", port, properties=text, parsed_addresses=[HOST], server=server, **more)


# -- roles -----------------------------------------------------------------------------------------------


async def listen_ours(name: str, _: int) -> None:
    """Say each event and when it came."""
    from microreg import Change, connect

    async with connect(URL) as registry, registry.watch(name) as events:
        async for event in events:
            if isinstance(event, Change):
                say(event.action, event.node.id, time.monotonic())
            else:
                say("ready")


async def listen_raw(name: str, _: int) -> None:
    words = {"Added": "create", "Updated": "update", "Removed": "delete"}

    def heard(change: str, node: str) -> None:
        say(words[change], node.partition(".")[0], time.monotonic())

    async with zeroconf() as aio, browser(aio, name, heard):
        say("ready")
        await asyncio.Event().wait()


async def get_ours(name: str, _: int) -> None:
    """Say when it asked for a service, and when it had it."""
    from microreg import connect

    async with connect(URL) as registry:
        begun = time.monotonic()
        await registry.get_service(name)
        say(begun, time.monotonic())


async def get_raw(name: str, _: int) -> None:
    from zeroconf.asyncio import AsyncServiceInfo

    async with zeroconf() as aio:
        begun = time.monotonic()
        found: asyncio.Queue[str] = asyncio.Queue()
        async with browser(aio, name, lambda _, node: found.put_nowait(node)):
            service = AsyncServiceInfo(f"_{name}._tcp.local.", await asyncio.wait_for(found.get(), 10))
            await service.async_request(aio.zeroconf, 3000)
            say(begun, time.monotonic())


async def hold_ours(name: str, nodes: int) -> None:
    """Keep nodes announced, and renew them."""
    from microreg import Node, Service, connect

    count_packets()
    each = [Node(f"{HOST}:{1000 + n}", id=f"n{n}", metadata={"zone": "eu"}) for n in range(nodes)]
    service = Service(name, nodes=each)
    async with connect(URL) as registry, asyncio.TaskGroup() as group:
        await registry.register(service, ttl=TTL)
        group.create_task(report(lambda: nodes))
        while True:
            await asyncio.sleep(TTL / 3)
            await registry.register(service, ttl=TTL)


async def hold_raw(name: str, nodes: int) -> None:
    count_packets()
    async with zeroconf() as aio:
        for start in range(0, nodes, BATCH):
            batch = range(start, min(start + BATCH, nodes))
            infos = [info(name, f"n{n}", 1000 + n, host_ttl=TTL, other_ttl=TTL) for n in batch]
            told = [await aio.async_register_service(each, cooperating_responders=True) for each in infos]
            await asyncio.gather(*told)
        await report(lambda: nodes)


async def watch_ours(name: str, _: int) -> None:
    """Know what there is."""
    from microreg import Snapshot, connect

    count_packets()
    tracemalloc.start()
    known: set[str] = set()
    async with connect(URL) as registry, registry.watch(name) as events, asyncio.TaskGroup() as group:
        async for event in events:
            if isinstance(event, Snapshot):
                group.create_task(report(lambda: len(known)))
            else:
                known.add(event.node.id)


async def watch_raw(name: str, _: int) -> None:
    count_packets()
    tracemalloc.start()
    known: set[str] = set()
    async with zeroconf() as aio, browser(aio, name, lambda _, node: known.add(node)):
        await report(lambda: len(known))


async def follow_raw(name: str, _: int) -> None:
    """Know what there is, and what is there no more within a ttl: for that every node is to be asked for."""
    from zeroconf.asyncio import AsyncServiceInfo

    count_packets()
    known: set[str] = set()

    async def ask(aio: Any) -> None:
        while True:
            await asyncio.sleep(TTL)  # what is in the cache would not be asked for
            infos = [AsyncServiceInfo(f"_{name}._tcp.local.", node) for node in known]
            await asyncio.gather(*(each.async_request(aio.zeroconf, 3000) for each in infos))

    async with zeroconf() as aio, browser(aio, name, lambda _, node: known.add(node)), asyncio.TaskGroup() as group:
        group.create_task(ask(aio))
        await report(lambda: len(known))


ROLES = {
    role.__name__: role
    for role in (listen_ours, listen_raw, get_ours, get_raw, hold_ours, hold_raw, watch_ours, watch_raw, follow_raw)
} | {"follow_ours": watch_ours}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
