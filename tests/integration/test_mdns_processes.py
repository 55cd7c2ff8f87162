"""mdns://127.0.0.1 between real processes: found, killed, restarted; and other DNS-SD software."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from microreg import connect
from microreg.events import Action, Change, Reason, Snapshot
from microreg.model import Node, Service
from microreg.watch import Watch
from support import clean_env, run

URL = "mdns://127.0.0.1"
TTL = 4
"""Seconds: longer than a busy machine takes from one line of a test to the next."""
pytestmark = pytest.mark.usefixtures("alone")

PROVIDER = """
import asyncio, sys
from microreg import Node, Service, connect

async def main():
    name, count, ttl, port = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    async with connect("mdns://127.0.0.1") as registry:
        nodes = [Node(f"127.0.0.1:{port + n}", id=f"n{n}") for n in range(count)]
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await registry.register(Service(name, nodes=nodes), ttl=ttl)
        while True:
            await asyncio.sleep(ttl / 3)
            await registry.register(Service(name, nodes=nodes), ttl=ttl)

asyncio.run(main())
"""

READER = """
import asyncio, sys
from microreg import connect

async def main():
    async with connect("mdns://127.0.0.1?settle=1s&timeout=30s") as registry:
        begun = asyncio.get_running_loop().time()
        [service] = await registry.get_service(sys.argv[1])
        print(len(service.nodes), asyncio.get_running_loop().time() - begun)

asyncio.run(main())
"""


def unique(name: str = "proc") -> str:
    return f"{name}-{os.urandom(5).hex()}"


@asynccontextmanager
async def process(code: str, *args: object) -> AsyncGenerator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        *map(str, args),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_env(),
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def opened(running: asyncio.subprocess.Process) -> None:
    """Wait until a provider needs no more time to begin."""
    assert running.stdout is not None
    assert await asyncio.wait_for(running.stdout.readline(), 60) == b"open\n"


def begin(running: asyncio.subprocess.Process) -> None:
    """Let a provider register."""
    assert running.stdin is not None
    running.stdin.write(b"\n")


async def change(events: Watch, timeout: float = 30.0) -> Change:
    async with asyncio.timeout(timeout):
        event = await anext(events)
    assert isinstance(event, Change)
    return event


def test_a_killed_process_expires_and_a_restarted_one_is_an_update() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as registry, registry.watch(name) as events:
            assert await anext(events) == Snapshot()
            async with process(PROVIDER, name, 2, TTL, 7000) as first, process(PROVIDER, name, 1, TTL, 8000) as second:
                await opened(second)
                await opened(first)
                begin(first)
                assert {(await change(events)).node.id for _ in range(2)} == {"n0", "n1"}
                first.kill()
                await first.wait()
                begin(second)
                restarted = await change(events)
                assert (restarted.action, restarted.node.address) == (Action.UPDATE, "127.0.0.1:8000")
                loop = asyncio.get_running_loop()
                begun = loop.time()
                gone = await change(events)
                assert (gone.action, gone.node.id, gone.reason) == (Action.DELETE, "n1", Reason.EXPIRED)
                assert loop.time() - begun < TTL + 2
                assert [node.id for node in (await registry.get_service(name))[0].nodes] == ["n0"]

    run(main())


def test_a_fresh_process_finds_many_nodes() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as registry:
            nodes = [Node(f"127.0.0.1:{1000 + n}", id=f"n{n}", metadata={"zone": "eu"}) for n in range(60)]
            await registry.register(Service(name, nodes=nodes), ttl=30)
            async with process(READER, name) as reader:
                output, _ = await asyncio.wait_for(reader.communicate(), 60)
            count, seconds = output.split()
            assert int(count) == 60
            assert float(seconds) < 3

    run(main())


def test_a_frozen_listener_does_not_lose_who_is_there() -> None:
    """While this process did nothing, packets waited; timers that are late give them a chance to be read."""
    name = unique()

    async def main() -> None:
        async with connect(URL) as registry, registry.watch(name) as events:
            await anext(events)
            async with process(PROVIDER, name, 1, TTL, 7000) as provider:
                await opened(provider)
                begin(provider)
                assert (await change(events)).action is Action.CREATE
                import time

                time.sleep(TTL + 1.5)  # noqa: ASYNC251 - the whole process stands still
                with pytest.raises(TimeoutError):
                    await change(events, 0.6)

    run(main())


def test_other_software_sees_us_and_we_see_it() -> None:
    zeroconf = pytest.importorskip("zeroconf")
    aio = pytest.importorskip("zeroconf.asyncio")
    ours, theirs = unique("ours"), unique("theirs")
    kind = "_microreg._tcp.local."

    async def main() -> None:
        stranger = aio.AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only)
        seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def heard(zeroconf: object, service_type: str, name: str, state_change: object) -> None:
            seen.put_nowait((str(getattr(state_change, "name", "")), name))

        async def until(state: str, name: str) -> str:
            async with asyncio.timeout(30):
                while True:
                    word, found = await seen.get()
                    if word == state and found.startswith(name):
                        return found

        browser = aio.AsyncServiceBrowser(stranger.zeroconf, [f"_{ours}._sub.{kind}"], handlers=[heard])
        async with connect(URL) as registry, registry.watch(theirs) as events:
            assert await anext(events) == Snapshot()
            await registry.register(Service(ours, nodes=[Node("127.0.0.1:8080", id="a", metadata={"zone": "eu"})]))
            info = aio.AsyncServiceInfo(kind, await until("Added", ours))
            assert await info.async_request(stranger.zeroconf, 10_000)
            assert (info.port, info.parsed_addresses()) == (8080, ["127.0.0.1"])
            assert info.properties[b"m.zone"] == b"eu" and info.properties[b"n"] == ours.encode()

            text = {"n": theirs, "m.zone": "us"}
            info = aio.AsyncServiceInfo(kind, f"x.{kind}", 99, properties=text, parsed_addresses=["127.0.0.9"])
            info.set_server_if_missing()
            await (await stranger.async_register_service(info, cooperating_responders=True))
            found = await change(events)
            assert found.node == Node("127.0.0.9:99", id="127.0.0.9:99", metadata={"zone": "us"})
            await stranger.async_unregister_service(info)
            assert (await change(events)).reason is Reason.DEREGISTERED

            await registry.deregister(Service(ours, nodes=[Node("127.0.0.1:8080", id="a")]))
            await until("Removed", ours)
        await browser.async_cancel()
        await stranger.async_close()

    run(main())
