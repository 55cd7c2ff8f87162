"""What users see while an agent fails, and after it: errors in time, no storm; then everything as it should be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

import microreg
from consul_store import ConsulFaults, Raw, record
from fleets import NAMES, Fleet, gathered
from following import following
from microreg import Registry, Service
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.testing import Proxy, running
from microreg_consul.client import WAIT
from microreg_consul.transport import Transport
from servers import consul
from support import run, wait_until

MANAGEMENT = "5d0e4a0c-6a52-4c5c-9d0f-2f0f6f3a7c11"
LIFETIMES = dict.fromkeys(("token_ttl", "policy_ttl", "role_ttl"), "0s")
ACLS = {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT, "agent": MANAGEMENT}}
server = consul("consul-faults")
proxy = Proxy(server.port)
faults = ConsulFaults(server, proxy)

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
    async with microreg.connect(f"consul://127.0.0.1:{through.port}?timeout={timeout}s&token={token}") as registry:
        past = f"consul://127.0.0.1:{port or server.port}?token={token}"
        async with gathered(registry, lambda: microreg.connect(past), nodes=nodes, ttl=ttl) as one:
            await settle(one, port=port, token=token)
            yield one
    await wait_until(
        lambda: (len(asyncio.all_tasks()), through.connections) == (tasks_before, 0),
        timeout=WAIT + 20,  # so long the agent keeps the queries that were given up
        step=0.05,
        what=lambda: f"{len(asyncio.all_tasks()) - tasks_before} tasks, {through.connections} connections",
    )


async def settle(fleet: Fleet, *, bound: float = BOUND, port: int = 0, token: str = "") -> None:
    """All say the same, and the agent has exactly the fleet's nodes."""
    await fleet.settle(bound)
    async with Raw(port or server.port, token) as raw:
        ids = [id for id, service in (await raw.services()).items() if service["Service"] in NAMES]
    assert len(ids) == len(fleet.announcements)


async def checked(fleet: Fleet, raw: Raw) -> bool:
    """Whether every node has its check, which passes, and none is left of what stood there before."""
    checks = [check for check in (await raw.checks()).values() if check["ServiceName"] in NAMES]
    return [check["Status"] for check in checks] == ["passing"] * len(fleet.announcements)


def run_cleanly(main: Coroutine[object, object, None]) -> None:
    """Nothing that ``main`` opened is open when its loop has ended."""
    before = len(os.listdir("/proc/self/fd"))
    run(main)
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
    async with microreg.connect(f"consul://127.0.0.1:{server.port}") as direct:
        await direct.register(steady, ttl=60)
        async with following(direct, "steady") as one, following(direct) as everything:
            async with faults.down():
                await calm(fleet.registry, requests, 1.0)
                asking = asyncio.create_task(_always_found(direct, "steady"))
            for each in (one, everything):
                await each.until(lambda follower: follower.watch.state == "live", BOUND)
            assert not asking.done(), asking
            asking.cancel()
            await asyncio.wait([asking])
            assert [change for each in (one, everything) for change in each.changes if "delete steady/" in change] == []
        await direct.deregister(steady)


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
    fleet.forget()
    async with faults.slow(0.2):
        for _ in range(3):
            assert await fleet.registry.get_service("orders")
        await settle(fleet)
        assert fleet.deletes() == []


async def throttled(fleet: Fleet, requests: Requests) -> None:
    fleet.forget()
    proxy.throttle = 64 * 1024
    try:
        await settle(fleet)
        assert fleet.deletes() == []
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
            await settle(one)
            async with Raw(server.port) as raw:
                _: bool = await wait_until(lambda: checked(one, raw), BOUND, step=0.1)

    run_cleanly(main())


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
            await settle(one, bound=30, port=forgetful.port)
            turns = (loop.time() - begun) / (ttl / 3)
            # Each renews or tries about once a turn, and registers anew twice, in two requests; watches read again.
            assert requests.count - before < 200 * (2 * turns + 2 * 2) + 200
            assert gate.accepted - accepted < 200 * turns

    with running(forgetful, gate):
        run_cleanly(main())


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_and_restored_makes_nobody_gone() -> None:
    guarded = consul("consul-revoked", dev=True, config={"acl": ACLS | LIFETIMES})
    gate = Proxy(guarded.port)

    async def main() -> None:
        async with Raw(guarded.port, MANAGEMENT) as raw:
            _: bool = await wait_until(lambda: _takes_tokens(raw), 40, step=0.1)
            rules = 'service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }'
            policy = await raw.put("/acl/policy", {"Name": "all", "Rules": rules})
            token = await raw.put("/acl/token", {"Policies": [{"ID": policy["ID"]}]})
            # A ttl that outlasts the time without the token: what is gone then has been taken away by nobody.
            async with fleet(ttl=30, through=gate, port=guarded.port, token=token["SecretID"]) as one:
                one.forget()
                await raw.delete(f"/acl/token/{token['AccessorID']}")
                gate.cut()  # those that stand now would hear nothing for some seconds
                await wait_until(lambda: {each.watch.state for each in one.followers} == {"resyncing"}, BOUND)
                with pytest.raises(PermissionDenied):
                    await one.registry.get_service("orders")
                with pytest.raises(PermissionDenied):
                    await one.registry.register(record("orders", "n0"))
                restored = {key: token[key] for key in ("AccessorID", "SecretID", "Policies")}
                await raw.put("/acl/token", restored)
                await settle(one, port=guarded.port, token=token["SecretID"])
                assert one.deletes() == []

    with running(guarded, gate):
        run_cleanly(main())


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
            followers = await asyncio.gather(
                *(stack.enter_async_context(following(each, name)) for each in clients for name in names)
            )
            await wait_until(lambda: all(each.catalog.names() for each in followers), 40, step=0.1)
            for number, client in enumerate(clients):
                await registered(client, record("narrow", f"n{number}"))
            await wait_until(lambda: all(each.watch.state == "live" for each in followers), BOUND, step=0.1)

    with small:
        run_cleanly(main())


async def registered(registry: Registry, service: Service) -> None:
    """Wait until it could be registered."""

    async def done() -> bool:
        try:
            await registry.register(service)
        except RegistryUnavailable:
            return False
        return True

    _: bool = await wait_until(done, BOUND, step=0.1)
