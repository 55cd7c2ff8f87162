"""What users see while a server fails, and after it. Nobody is told that a node is gone which is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

import microreg
from fleets import BOUND, Fleet, gathered
from following import following
from microreg import Registry
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.testing import Proxy, running
from pubsub_peers import Peer, PubSubFaults, Theirs
from servers import nats
from strategies import record
from support import run, wait_until

server = nats("pubsub", jetstream=False)
proxy = Proxy(server.port)
faults = PubSubFaults(server, proxy)

TIMEOUT = 2.0


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


def connect(port: int, options: str = "") -> Registry:
    return microreg.connect(f"nats-pubsub://127.0.0.1:{port}?timeout={TIMEOUT}s{options}")


@asynccontextmanager
async def fleet(*, nodes: int = 15, ttl: float = 2.0) -> AsyncGenerator[Fleet]:
    """A fleet that has settled; at the end it is taken down, and nothing stays of it in this process."""
    before = len(asyncio.all_tasks())
    async with connect(proxy.port) as registry, connect(proxy.port) as reader:
        patient = partial(connect, server.port, "&settle=1s")  # asked once: answers may come late on a busy machine
        async with gathered(registry, patient, nodes=nodes, ttl=ttl, reader=reader) as one:
            await one.settle(at_once=True)
            yield one
    await wait_until(lambda: (len(asyncio.all_tasks()), proxy.connections) == (before, 0))


async def calm(registry: Registry, seconds: float) -> None:
    """While the server is away: calls fail in time with the error that says so, and next to nothing is computed."""
    loop = asyncio.get_running_loop()
    begun, used = loop.time(), time.process_time()
    async with connect(proxy.port) as fresh:
        while loop.time() - begun < seconds:
            asked = loop.time()
            calls = (registry.get_service("another"), fresh.list_services(), fresh.register(record()))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, RegistryUnavailable) for each in outcomes), outcomes
            assert loop.time() - asked < TIMEOUT + 2
            await asyncio.sleep(0.3)
    spent = (time.process_time() - used) / (loop.time() - begun)
    assert spent < 0.15, f"{spent:.1%} of a core"


async def killed(fleet: Fleet) -> None:
    async with faults.down():
        await calm(fleet.reader, 2.5)


async def frozen(fleet: Fleet) -> None:
    async with faults.frozen():
        await calm(fleet.reader, 2.0)


async def swallowed(fleet: Fleet) -> None:
    async with faults.black_hole():
        await calm(fleet.reader, 2.0)


async def cut_again_and_again(_: Fleet) -> None:
    for _turn in range(10):
        proxy.cut()
        await asyncio.sleep(0.1)


async def slow(fleet: Fleet) -> None:
    async with faults.slow(0.1):
        assert await fleet.registry.get_service("orders")
        patient = f"nats-pubsub://127.0.0.1:{proxy.port}?timeout=10s&settle=100ms"  # connecting alone takes a second
        async with microreg.connect(patient) as far:  # whose answers take longer than it settles
            (service,) = await far.get_service("users")
            assert len(service.nodes) == 5


FAULTS = [killed, frozen, swallowed, cut_again_and_again, slow]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.__name__)
def test_everything_is_well_again_and_nobody_was_said_to_be_gone_after(
    fault: Callable[[Fleet], Awaitable[None]],
) -> None:
    async def main() -> None:
        async with fleet() as one:
            await fault(one)
            await one.settle(at_once=True)
            assert one.deletes() == []

    run(main())


def test_a_node_is_answered_for_a_whole_ttl_from_when_the_register_was_accepted() -> None:
    """The server stood still for longer than the ttl meanwhile."""

    async def main() -> None:
        patient = microreg.connect(f"nats-pubsub://127.0.0.1:{proxy.port}?timeout=30s")
        async with patient as registry, connect(server.port) as reader:
            await registry.register(record("greeter", "before"), ttl=60)
            async with faults.frozen():
                registering = asyncio.create_task(registry.register(record("greeter", "late"), ttl=4))
                await asyncio.sleep(4.5)
                assert not registering.done()
            await registering
            (service,) = await reader.get_service("greeter")
            assert {node.id for node in service.nodes} == {"before", "late"}

    run(main())


def test_two_hundred_nodes_stay_while_the_server_restarts_twice() -> None:
    async def main() -> None:
        async with fleet(nodes=200, ttl=5) as one:
            for _ in range(2):
                await faults.kill()
                await faults.restart()
            await one.settle(40, at_once=True)
            assert one.deletes() == []

    run(main())


def test_a_node_that_leaves_or_dies_while_nobody_hears_it_is_given_up_soon_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("microreg_nats.pubsub.listening._RETURN", (0.5, 1.5))  # instead of 6 and 30 seconds

    async def main() -> None:
        with Proxy(server.port) as line:
            async with connect(line.port) as far, connect(server.port) as writer, following(far, "greeter") as one:
                for id in ("stays", "leaves", "dies"):
                    await writer.register(record("greeter", id), ttl=3 if id == "dies" else 60)
                await one.hears("create greeter/stays", "create greeter/leaves", "create greeter/dies")
                line.refuse = True
                line.cut()
                await one.until(lambda each: each.watch.state == "resyncing")
                await writer.deregister(record("greeter", "leaves"))
                await asyncio.sleep(3.1)
                line.refuse = False
                await one.hears("delete greeter/dies", "delete greeter/leaves")
                (service,) = await far.get_service("greeter")
                assert [node.id for node in service.nodes] == ["stays"]
                assert one.watch.state == "live"

    run(main())


_IMPATIENT = 'max_payload: 64KB, max_pending: 256KB, write_deadline: "200ms"'


def test_who_reads_too_slowly_is_cut_off_by_the_server_and_reads_again() -> None:
    small = nats("pubsub-impatient", jetstream=False, config=_IMPATIENT)
    line = Proxy(small.port)

    async def main() -> None:
        async with (
            connect(line.port) as reader,
            connect(small.port) as writer,
            Peer(small.port) as peer,
            following(reader, "greeter") as one,
        ):
            await writer.register(record("greeter", "stays"), ttl=60)
            await one.hears("create greeter/stays")
            accepted, line.throttle = line.accepted, 20_000
            junk = Theirs("greeter", "10.9.9.9:9", kv={"text": "x" * 1000}).encoded(0.5)
            for _ in range(8000):
                await peer.say("registry.register.greeter", junk)
                if line.accepted > accepted:
                    break
            line.throttle = 0
            await wait_until(lambda: line.accepted > accepted, timeout=BOUND)
            await writer.register(record("greeter", "new", 81), ttl=60)
            ids = {"stays", "new"}
            await one.until(lambda each: {known.nodes[0].id for known in each.catalog.records()} == ids, BOUND)
            assert [change for change in one.changes if "stays" in change] == []

    with running(small, line):
        run(main())


def test_who_may_not_speak_or_not_hear_is_told_and_registers_nothing() -> None:
    users = """authorization { users: [
        { user: mute, password: secret, permissions: { publish: "_INBOX.>", subscribe: ">" } }
        { user: deaf, password: secret, permissions: { publish: ">", subscribe: "_INBOX.>" } }
        { user: free, password: secret } ] }"""
    strict = nats("pubsub-strict", jetstream=False, config=users)

    def user(name: str) -> Registry:
        return microreg.connect(f"nats-pubsub://{name}:secret@127.0.0.1:{strict.port}?settle=100ms&timeout=3s")

    async def main() -> None:
        async with user("mute") as mute, user("deaf") as deaf, user("free") as free, following(free) as one:
            for refused, subject in ((mute, "registry.register.greeter"), (deaf, "registry.ping.greeter")):
                with pytest.raises(PermissionDenied, match=subject):
                    await refused.register(record())
                with pytest.raises(PermissionDenied, match="registry"):
                    await refused.get_service("greeter")
                with pytest.raises(PermissionDenied, match="registry"):
                    await refused.list_services()
                async with refused.watch("greeter") as watch:
                    await wait_until(lambda watch=watch: isinstance(watch.error, PermissionDenied))
            with pytest.raises(PermissionDenied, match="registry.unregister.greeter"):
                await mute.deregister(record())
            await free.register(record("free"))
            await one.hears("create free/a")
            assert await free.list_services() == ("free",)

    with strict:
        run(main())
