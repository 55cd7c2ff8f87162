"""A fleet moves from one store to another while it is called all the time: no lookup fails, and no call.

Real servers, real TCP calls. Every step restarts programs with another config string, as docs/howto/migrate.md tells:
half of the nodes keep their id and port over a restart, the other half get new ones.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

from microreg import Announcement, Node, Selector, announce, connect
from microreg.layers.mirror import MirrorRegistry
from microreg.testing import ServerProcess
from microreg.toolkit import in_thread
from servers import consul, etcd, microreg_server, nats
from support import run, wait_until

SERVICES = [f"service-{number:02}" for number in range(20)]
NODES = 2
"""Of each service: one answers while the other restarts."""
PAUSE = 0.05

_ids = itertools.count()


class Provider:
    """A program that offers one service at a port, and can be restarted with another config string."""

    def __init__(self, service: str, number: int) -> None:
        self.service = service
        self.keeps_its_id = number % 2 == 0
        self.id = f"{service}-{next(_ids)}"
        self.port = 0
        self.announcement: Announcement | None = None
        self._stack = AsyncExitStack()

    async def start(self, url: str) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self._stack.push_async_callback(_stopped, server)
        self.port = server.sockets[0].getsockname()[1]
        registry = await self._stack.enter_async_context(connect(url))
        made = announce(registry, self.service, address=f"127.0.0.1:{self.port}", id=self.id, drain_delay=0.3)
        self.announcement = await self._stack.enter_async_context(made)
        await self.announcement.wait_live(30)

    async def stop(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
        if not self.keeps_its_id:
            self.id, self.port = f"{self.service}-{next(_ids)}", 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(f"{self.service}\n".encode())
        await writer.drain()
        writer.close()


async def _stopped(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


class Reader:
    """A program that looks up and calls every service, again and again, until it is stopped."""

    def __init__(self, failures: Counter[str], calls: Counter[str]) -> None:
        self._failures = failures
        self._calls = calls
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.url = ""
        self.rounds = 0

    async def start(self, url: str) -> None:
        self.url = url
        self._task = asyncio.create_task(self._run(url))
        await wait_until(lambda: self.rounds >= 1, timeout=60, what=f"{url} called nobody")

    async def stop(self) -> None:
        self._stop.set()
        assert self._task is not None
        await self._task

    async def _run(self, url: str) -> None:
        async with connect(url) as registry, Selector(registry) as selector:
            while not self._stop.is_set():
                for name in SERVICES:
                    try:
                        await registry.get_service(name)
                        node = await selector.select(name, timeout=5)
                        assert node.id.startswith(name)
                        assert await selector.call(name, _called) == name
                        self._calls[url] += 1
                    except Exception as error:
                        self._failures[f"{url} {name}: {type(error).__name__}: {error}"] += 1
                self.rounds += 1
                await asyncio.sleep(PAUSE)


async def _called(node: Node) -> str:
    reader, writer = await asyncio.open_connection(node.host, node.port)
    try:
        writer.write(b"who are you?\n")
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


class Fleet:
    """Every program of it, and what went wrong so far."""

    def __init__(self) -> None:
        self.providers = [[Provider(name, number) for name in SERVICES] for number in range(NODES)]
        self.readers: list[Reader] = []
        self.failures: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.seen: set[str] = set()

    async def provide(self, url: str, *, taken_back_to: str = "") -> None:
        """Restart every provider with this config string: of each service one node after the other.

        ``taken_back_to`` is the config string with which the first of them are restarted again in the middle of it.
        """
        first, second = self.providers
        for group, each in ((first, url), (first, taken_back_to), (first, taken_back_to and url), (second, url)):
            if each:
                await asyncio.gather(*(_restarted(provider, each) for provider in group))
                self.seen |= {provider.id for provider in group}
                self.check()

    async def read(self, url: str) -> None:
        """Restart every reader with this config string."""
        for _ in range(max(1, len(self.readers))):
            reader = Reader(self.failures, self.calls)
            await reader.start(url)
            self.readers.append(reader)
            if len(self.readers) > 1:
                await self.readers.pop(0).stop()
        await self.call()

    async def call(self, rounds: int = 3) -> None:
        """Wait until every service was called some more times."""
        for reader in self.readers:
            end = reader.rounds + rounds
            await wait_until(lambda reader=reader, end=end: reader.rounds >= end, timeout=60, what="nobody is called")
        self.check()

    def check(self) -> None:
        assert not self.failures, self.failures.most_common(5)

    async def stop(self) -> None:
        for reader in self.readers:
            await reader.stop()
        await asyncio.gather(*(provider.stop() for providers in self.providers for provider in providers))


async def _restarted(provider: Provider, url: str) -> None:
    await provider.stop()
    await provider.start(url)


@asynccontextmanager
async def fleet(url: str) -> AsyncGenerator[Fleet]:
    """A fleet that is announced at, and read from, this registry."""
    made = Fleet()
    try:
        await made.provide(url)
        await made.read(url)
        yield made
    finally:
        await made.stop()


async def held(url: str) -> set[str]:
    """The ids of all nodes that a store has."""
    async with connect(url) as registry:
        names = {*await registry.list_services()}.intersection(SERVICES)  # Consul lists itself too
        found = [await registry.get_service(name) for name in names]
    return {node.id for services in found for service in services for node in service.nodes}


@contextmanager
def started(*servers: ServerProcess) -> Generator[None]:
    """All at once, since they take their time."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
            server.start(wait=False)
        for server in servers:
            server.wait_ready()
        yield


async def migrated(old: str, new: str, switch_off: ServerProcess, *, with_rollbacks: bool) -> None:
    """The steps of the guide; with each step taken back once, and made again."""
    both, either = f"mirror:{old}|{new}", f"fallback:{new}|{old}"
    async with fleet(old) as moving:
        await moving.provide(both, taken_back_to=old if with_rollbacks else "")
        assert await held(old) == await held(new) and len(await held(new)) == len(SERVICES) * NODES
        for url in (either, old, either) if with_rollbacks else (either,):
            await moving.read(url)
        for url in (new, either, new) if with_rollbacks else (new,):
            await moving.read(url)
        await moving.provide(new, taken_back_to=both if with_rollbacks else "")
        assert not await held(old) and len(await held(new)) == len(SERVICES) * NODES
        await in_thread(switch_off.kill)
        await moving.call(10)
        states = {each.announcement.state for providers in moving.providers for each in providers if each.announcement}
        assert states == {"live"}
        moving.check()
        restarts = len(moving.seen) / len(SERVICES) - 1
        assert restarts >= 3, "half of the nodes had a new id each time"
        assert all(moving.calls[url] > len(SERVICES) for url in (old, either, new)), moving.calls


def test_from_etcd_to_consul_with_every_step_taken_back_once() -> None:
    old, new = etcd("old"), consul("new")
    with started(old, new):
        urls = f"etcd://127.0.0.1:{old.port}", f"consul://127.0.0.1:{new.port}"
        run(migrated(*urls, old, with_rollbacks=True))


def test_from_the_http_registry_to_nats() -> None:
    old, new = microreg_server(name="old"), nats("new")
    with started(old, new):
        urls = f"http://127.0.0.1:{old.port}", f"nats://127.0.0.1:{new.port}"
        run(migrated(*urls, old, with_rollbacks=False))


def test_while_the_first_store_is_dead_the_fleet_lives_in_the_second() -> None:
    async def main() -> None:
        urls = f"http://127.0.0.1:{old.port}", f"nats://127.0.0.1:{new.port}"
        both, either = f"mirror:{urls[0]}|{urls[1]}", f"fallback:{urls[1]}|{urls[0]}"
        async with connect(both) as registry, connect(either) as reading, Selector(reading) as selector:
            mirror = registry.unwrap(MirrorRegistry)
            assert mirror is not None
            async with announce(registry, "orders", address="127.0.0.1:9", drain_delay=0, ttl=6) as announcement:
                await announcement.wait_live(30)
                node = await selector.select("orders", timeout=30)
                await in_thread(old.kill)
                end = asyncio.get_running_loop().time() + 7
                while asyncio.get_running_loop().time() < end:
                    assert (await reading.get_service("orders"))[0].nodes[0].id == node.id
                    assert selector.pick("orders").id == node.id
                    await asyncio.sleep(0.1)
                assert [part.state for part in mirror.parts] == ["lost", "live"]

    old, new = microreg_server(name="old"), nats("new")
    with started(old, new):
        run(main())
