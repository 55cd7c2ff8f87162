"""Closing and cancelling, whatever the client library does with a cancellation."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from microreg import Node, Service, connect
from microreg.errors import ServiceNotFound
from microreg.testing import Proxy, ServerProcess, running
from microreg_nats.wire import NatsClient
from servers import nats
from support import run, wait_until

SERVICE = Service("orders", "1", nodes=[Node("10.0.0.7:80", id="a")])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with nats() as server:
        yield server


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    with running(proxy):
        yield proxy


@asynccontextmanager
async def client_of(server: ServerProcess) -> AsyncGenerator[NatsClient]:
    client = NatsClient(tls=False)
    await client.connect(servers=[f"nats://127.0.0.1:{server.port}"], allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()
        await client.join()


def test_a_round_trip_that_is_cancelled_as_the_answer_comes_is_cancelled(server: ServerProcess) -> None:
    """Else the task that watches over the connection would go on for ever, and closing would wait for it."""

    async def main() -> None:
        async with client_of(server) as client:
            trip = asyncio.create_task(client.roundtrip())
            await asyncio.sleep(0)  # its first step
            client._pongs[0].set_result(True)
            trip.cancel()
            await asyncio.wait([trip])
            assert trip.cancelled()
            await client.roundtrip()

    run(main())


def test_a_round_trip_over_a_closed_connection_fails(server: ServerProcess) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            pass
        with pytest.raises(Exception, match="connection closed"):
            await client.roundtrip()

    run(main())


@pytest.mark.parametrize("scheme", ["nats", "nats-pubsub"])
def test_closing_towards_a_black_hole_ends_in_time_and_leaves_nothing(proxy: Proxy, scheme: str) -> None:
    """No task is left, as ``run`` makes sure, and no connection, though there is little time for last words."""

    async def main() -> None:
        async with connect(f"{scheme}://127.0.0.1:{proxy.port}?timeout=3s") as registry:
            await registry.register(SERVICE)
            proxy.black_hole = True

    async def hung_up() -> None:
        await wait_until(lambda: proxy.connections == 0)

    run(main())
    proxy.black_hole = False
    run(hung_up())


def test_a_first_call_that_is_cancelled_leaves_nobody_deaf(server: ServerProcess, proxy: Proxy) -> None:
    """Who asks for all services gets an answer from whoever registers afterwards, over the same connection."""

    def subjects() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[1]}/subsz?subs=1", timeout=5) as answer:
            return json.dumps(json.load(answer))

    async def main() -> None:
        url = f"nats-pubsub://127.0.0.1:{server.port}?topic=deaf"
        async with connect(url.replace(str(server.port), str(proxy.port))) as teller, connect(url) as asker:
            with pytest.raises(ServiceNotFound):
                await teller.get_service("nobody")
            proxy.delay = 0.3
            registering = asyncio.create_task(teller.register(SERVICE))
            await wait_until(lambda: "deaf.ping._all" in subjects())
            registering.cancel()
            await asyncio.wait([registering])
            assert registering.cancelled()
            proxy.delay = 0.0
            await teller.register(SERVICE)
            assert await asker.list_services() == ("orders",)

    run(main())
