"""What users see while an agent fails, and after it: errors in time, no storm; then everything as it should be."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

import microreg
from consul_store import ConsulFaults, Raw, record
from microreg import Change, Registry, Service
from microreg.announce.announcement import Announcement, State
from microreg.catalog import Catalog
from microreg.errors import PermissionDenied, RegistryUnavailable, ServiceNotFound
from microreg.testing import Proxy, running
from microreg.watch import Watch
from microreg_consul.transport import Transport
from servers import consul
from support import run, wait_until

MANAGEMENT = "5d0e4a0c-6a52-4c5c-9d0f-2f0f6f3a7c11"
LIFETIMES = dict.fromkeys(("token_ttl", "policy_ttl", "role_ttl"), "0s")
ACLS = {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT, "agent": MANAGEMENT}}
server = consul("consul-faults")
proxy = Proxy(server.port)
faults = ConsulFaults(server, proxy)

NAMES = ("orders", "users", "search")
TTL = 2.0
TIMEOUT = 2.0
BOUND = 20.0
"""Seconds within which everything is well again."""


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


@dataclass
class Requests:
    """How many have been made."""

    count: int = 0


@pytest.fixture(name="requests")
def _requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    requests, request = Requests(), Transport._request

    def counted(self: Transport, *args: object, **options: object) -> Coroutine[object, object, object]:
        requests.count += 1
        return request(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Transport, "_request", counted)
    return requests


@dataclass
class Fleet:
    """Nodes that are announced, and watches of them, over one registry; what is true is asked past it."""

    registry: Registry
    port: int
    token: str
    announcements: list[Announcement]
    watches: list[Watch]
    catalogs: list[Catalog] = field(default_factory=list)
    gone: list[Change] = field(default_factory=list)
    """The deletes that the watches have told."""
    turn: int = 0

    async def fold(self, watch: Watch) -> None:
        catalog = Catalog()
        self.catalogs.append(catalog)
        async for event in watch:
            catalog.apply(event)
            if isinstance(event, Change) and event.action == "delete":
                self.gone.append(event)

    async def settle(self, bound: float = BOUND) -> None:
        """Every announcement is live, and every watch, a new client and the agent itself say the same."""
        await wait_until(self.live, timeout=bound, what=self.describe)
        self.turn += 1  # a change that every watch has to hear of
        await self.announcements[0].update(metadata={"turn": str(self.turn)})
        await wait_until(self.live, timeout=bound, what=self.describe)
        wanted = {name: {a.node.id for a in self.announcements if a.service.name == name} for name in NAMES}
        async with microreg.connect(f"consul://127.0.0.1:{self.port}?token={self.token}") as fresh:

            async def same() -> bool:
                truth = {name: await found(fresh, name) for name in NAMES}
                ids = {name: {node.id for each in services for node in each.nodes} for name, services in truth.items()}
                return ids == wanted and all(
                    catalog.services(name) == truth[name] for catalog in self.catalogs for name in catalog.names()
                    if name in NAMES
                ) and all(watch.state == "live" for watch in self.watches)

            _: bool = await wait_until(same, timeout=bound, step=0.1, what=self.describe)
        async with Raw(self.port, self.token) as raw:
            stored = [id for id, service in (await raw.services()).items() if service["Service"] in NAMES]
        assert len(stored) == len(self.announcements)
        assert self.live()

    async def checked(self, raw: Raw) -> bool:
        """Whether every node has its check, which passes, and none is left of what stood there before."""
        checks = [check for check in (await raw.checks()).values() if check["ServiceName"] in NAMES]
        return [check["Status"] for check in checks] == ["passing"] * len(self.announcements)

    def live(self) -> bool:
        return all(each.state is State.LIVE for each in self.announcements)

    def describe(self) -> str:
        return f"{self.announcements} {[(each.state, each.error) for each in self.watches]}"


async def found(registry: Registry, name: str) -> tuple[Service, ...]:
    try:
        return await registry.get_service(name)
    except ServiceNotFound:
        return ()


@asynccontextmanager
async def fleet(
    *,
    nodes: int = 9,
    ttl: float = TTL,
    through: Proxy = proxy,
    port: int = 0,
    token: str = "",
    timeout: float = TIMEOUT,
) -> AsyncGenerator[Fleet]:
    """A fleet that has settled; at the end it is taken down, and nothing stays of it in this process."""
    tasks_before = len(asyncio.all_tasks())
    seed = random.randrange(10**6)
    sys.stderr.write(f"seed {seed}\n")
    url = f"consul://127.0.0.1:{through.port}?timeout={timeout}s&token={token}"
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(microreg.connect(url))
        readers = await stack.enter_async_context(asyncio.TaskGroup())
        watches = [registry.watch(name) for name in (*NAMES, None)]
        announcements = [
            microreg.announce(
                registry,
                NAMES[number % len(NAMES)],
                address=f"10.0.0.1:{1000 + number}",
                id=f"n{number}",
                ttl=ttl,
                drain_delay=0,
                rng=random.Random(seed + number),
            )
            for number in range(nodes)
        ]
        one = Fleet(registry, port or server.port, token, announcements, watches)
        tasks = [readers.create_task(one.fold(await stack.enter_async_context(watch))) for watch in watches]
        leaving = await stack.enter_async_context(Together())
        await leaving.enter(announcements)
        await one.settle()
        yield one
        await leaving.leave()
        for task in tasks:
            task.cancel()
    await wait_until(
        lambda: (len(asyncio.all_tasks()), through.connections) == (tasks_before, 0),
        timeout=10,
        step=0.05,
        what=lambda: f"{len(asyncio.all_tasks()) - tasks_before} tasks, {through.connections} connections",
    )


class Together(AsyncExitStack):
    """Announcements that come and go all at once."""

    async def enter(self, announcements: list[Announcement]) -> None:
        self._stacks = [await self.enter_async_context(AsyncExitStack()) for _ in announcements]
        pairs = zip(self._stacks, announcements, strict=True)
        await asyncio.gather(*(stack.enter_async_context(each) for stack, each in pairs))

    async def leave(self) -> None:
        await asyncio.gather(*(stack.aclose() for stack in self._stacks))


def run_cleanly(main: Coroutine[object, object, None], timeout: float) -> None:
    """Nothing that ``main`` opened is open when its loop has ended."""
    before = len(os.listdir("/proc/self/fd"))
    run(main, timeout)
    assert len(os.listdir("/proc/self/fd")) <= before


async def calm(registry: Registry, requests: Requests, seconds: float) -> None:
    """While the agent is away: calls fail in time with the error that says so, and few are made."""
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), requests.count
    while loop.time() - begun < seconds:
        asked = loop.time()
        with pytest.raises(RegistryUnavailable):
            await registry.get_service("orders")
        assert loop.time() - asked < TIMEOUT + 1.5
        await asyncio.sleep(0.25)
    # 9 nodes, 4 watches and this: each two or three times in the first second, then ever more rarely.
    assert requests.count - before < 60 + 25 * (loop.time() - begun)


# -- one agent ---------------------------------------------------------------------------------------------------------


async def killed(fleet: Fleet, requests: Requests) -> None:
    """Whose ttl outlasts that is never told gone: a server says that there is nothing until it has read its log."""
    steady = record("steady", "a")
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(microreg.connect(f"consul://127.0.0.1:{server.port}"))
        await direct.register(steady, ttl=60)
        watches = [await stack.enter_async_context(direct.watch(name)) for name in ("steady", None)]
        readers = [asyncio.create_task(fleet.fold(watch)) for watch in watches]
        await wait_until(lambda: all(catalog.names() for catalog in fleet.catalogs[-2:]), BOUND)
        async with faults.down():
            await calm(fleet.registry, requests, 1.0)
            asking = asyncio.create_task(_always_found(direct, "steady"))
        await wait_until(lambda: all(watch.state == "live" for watch in watches), BOUND)
        assert not asking.done(), asking
        for task in (*readers, asking):
            task.cancel()
        await asyncio.wait([*readers, asking])
        assert [each for each in fleet.gone if each.service.name == "steady"] == []
        await direct.deregister(steady)
        del fleet.catalogs[-2:]


async def _always_found(registry: Registry, name: str) -> None:
    while True:
        with suppress(RegistryUnavailable):
            assert await registry.get_service(name)
        await asyncio.sleep(0.01)


async def wiped(fleet: Fleet, requests: Requests) -> None:
    await faults.kill()
    await faults.restart(wipe=True)


async def frozen(fleet: Fleet, requests: Requests) -> None:
    async with faults.frozen():
        await calm(fleet.registry, requests, TTL + 0.5)


async def swallowed(fleet: Fleet, requests: Requests) -> None:
    async with faults.black_hole():
        await calm(fleet.registry, requests, TTL + 0.5)


async def cut_again_and_again(fleet: Fleet, requests: Requests) -> None:
    for _ in range(10):
        proxy.cut()
        await asyncio.sleep(0.1)


async def slow(fleet: Fleet, requests: Requests) -> None:
    """Nothing is lost meanwhile, and nobody is told gone."""
    fleet.gone.clear()
    async with faults.slow(0.2):
        for _ in range(3):
            assert await fleet.registry.get_service("orders")
        await fleet.settle()
        assert fleet.gone == []


async def throttled(fleet: Fleet, requests: Requests) -> None:
    fleet.gone.clear()
    proxy.throttle = 64 * 1024
    try:
        await fleet.settle()
        assert fleet.gone == []
    finally:
        proxy.throttle = 0


async def deregistered(fleet: Fleet, requests: Requests) -> None:
    async with Raw(server.port) as raw:
        for id, service in (await raw.services()).items():
            if service["Service"] in NAMES:
                await raw.deregister(id)


async def unchecked(fleet: Fleet, requests: Requests) -> None:
    """The services stay, and nothing would ever expire."""
    async with Raw(server.port) as raw:
        for id in await raw.checks():
            await raw.put(f"/agent/check/deregister/{id}")


async def failed(fleet: Fleet, requests: Requests) -> None:
    async with Raw(server.port) as raw:
        for id in await raw.checks():
            await raw.put(f"/agent/check/fail/{id}")


@pytest.mark.parametrize(
    "fault",
    [killed, wiped, frozen, swallowed, cut_again_and_again, slow, throttled, deregistered, unchecked, failed],
    ids=lambda each: each.__name__,
)
def test_everything_is_well_again_after(
    fault: Callable[[Fleet, Requests], Awaitable[None]], requests: Requests
) -> None:
    async def main() -> None:
        async with fleet() as one:
            await fault(one, requests)
            await one.settle()
            async with Raw(server.port) as raw:
                _: bool = await wait_until(lambda: one.checked(raw), BOUND, step=0.1)

    run_cleanly(main(), timeout=50)


def test_two_hundred_nodes_are_back_after_an_agent_has_lost_its_memory_twice(requests: Requests) -> None:
    forgetful = consul("consul-forgetful", dev=True)
    gate = Proxy(forgetful.port)
    trouble = ConsulFaults(forgetful, gate)
    ttl = 4.0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with fleet(nodes=200, ttl=ttl, timeout=10, through=gate, port=forgetful.port) as one:
            begun, before, accepted = loop.time(), requests.count, gate.accepted
            for _ in range(2):
                await trouble.kill()
                await trouble.restart()
            await one.settle(bound=30)
            turns = (loop.time() - begun) / (ttl / 3)
            # Each renews or tries about once a turn, and registers anew twice, in two requests; watches read again.
            assert requests.count - before < 200 * (2 * turns + 2 * 2) + 200
            assert gate.accepted - accepted < 200 * turns

    with running(forgetful, gate):
        run_cleanly(main(), timeout=58)


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_and_restored_makes_nobody_gone() -> None:
    guarded = consul("consul-revoked", dev=True, config={"acl": ACLS | LIFETIMES})
    gate = Proxy(guarded.port)

    async def main() -> None:
        async with Raw(guarded.port, MANAGEMENT) as raw:
            _: bool = await wait_until(lambda: _takes_tokens(raw), 15, step=0.1)
            rules = 'service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }'
            policy = await raw.put("/acl/policy", {"Name": "all", "Rules": rules})
            token = await raw.put("/acl/token", {"Policies": [{"ID": policy["ID"]}]})
            # A ttl that outlasts the time without the token: what is gone then has been taken away by nobody.
            async with fleet(ttl=30, through=gate, port=guarded.port, token=token["SecretID"]) as one:
                one.gone.clear()
                await raw.delete(f"/acl/token/{token['AccessorID']}")
                gate.cut()  # those that stand now would hear nothing for some seconds
                await wait_until(lambda: {watch.state for watch in one.watches} == {"resyncing"}, BOUND)
                with pytest.raises(PermissionDenied):
                    await one.registry.get_service("orders")
                with pytest.raises(PermissionDenied):
                    await one.registry.register(record("orders", "n0"))
                restored = {key: token[key] for key in ("AccessorID", "SecretID", "Policies")}
                await raw.put("/acl/token", restored)
                await one.settle()
                assert one.gone == []

    with running(guarded, gate):
        run_cleanly(main(), timeout=50)


async def _takes_tokens(raw: Raw) -> bool:
    """An agent does some time after it has a leader."""
    try:
        return bool(await raw.get("/acl/policies"))
    except Exception:  # whatever the client of the test raises for an answer that is none yet
        return False


# -- connections -------------------------------------------------------------------------------------------------------


def test_programs_that_watch_much_leave_room_for_those_that_register() -> None:
    """An agent turns away who comes when all connections that it allows one address are taken."""
    small = consul("consul-small", dev=True, config={"limits": {"http_max_conns_per_client": 48}})
    names = [f"wide-{number}" for number in range(20)]

    async def main() -> None:
        async with AsyncExitStack() as stack, Raw(small.port) as raw:
            for name in names:
                await raw.register(name, name)
            url = f"consul://127.0.0.1:{small.port}?timeout=5s"
            clients = [await stack.enter_async_context(microreg.connect(url)) for _ in range(3)]
            readers = await stack.enter_async_context(asyncio.TaskGroup())
            watches = [await stack.enter_async_context(each.watch(name)) for each in clients for name in names]
            catalogs = [Catalog() for _ in watches]
            folds = [readers.create_task(fold(*each)) for each in zip(watches, catalogs, strict=True)]
            await wait_until(lambda: all(each.names() for each in catalogs), 40, step=0.1)
            for number, client in enumerate(clients):
                await registered(client, record("narrow", f"n{number}"))
            await wait_until(lambda: all(watch.state == "live" for watch in watches), BOUND, step=0.1)
            for each in folds:
                each.cancel()

    with small:
        run_cleanly(main(), timeout=58)


async def registered(registry: Registry, service: Service) -> None:
    """Wait until it could be registered."""

    async def done() -> bool:
        try:
            await registry.register(service)
        except RegistryUnavailable:
            return False
        return True

    _: bool = await wait_until(done, BOUND, step=0.1)


async def fold(watch: Watch, catalog: Catalog) -> None:
    async for event in watch:
        catalog.apply(event)
