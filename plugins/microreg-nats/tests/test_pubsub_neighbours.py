"""One fleet with the programs of eddieraa/registry: they see ours, and we see theirs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from following import following, found
from microreg import Change, Node, Registry, Service, ServiceNotFound, Snapshot, Status, announce, connect
from microreg.events import Action, Reason
from microreg.testing import ServerProcess
from pubsub_peers import BARE, MYSERVICE, MYSERVICE_UNREGISTER, MYSERVICE_WARNING, Peer, Theirs, passing
from servers import nats
from strategies import record
from support import run, wait_until

server = nats("pubsub", jetstream=False)


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[ServerProcess]:
    with server:
        yield server


def ours(options: str = "") -> Registry:
    return connect(f"nats-pubsub://127.0.0.1:{server.port}?settle=200ms{options}")


@asynccontextmanager
async def both(options: str = "", *, interval: float = 20.0) -> AsyncGenerator[tuple[Registry, Peer]]:
    """A registry of ours, and a program of theirs."""
    async with ours(options) as registry, Peer(server.port, interval=interval) as peer:
        yield registry, peer


def seen(service: Theirs, status: Status = Status.PASSING) -> Service:
    """What we make of theirs."""
    node = Node(service.address, id=service.address, metadata=service.kv, status=status)
    return Service(service.name, service.version, nodes=[node])


ORDERS = Theirs("orders", "10.0.0.1:80", "1.2.3", {"zone": "a"})


# -- we see theirs -----------------------------------------------------------------------------------------------------


def test_the_golden_messages_are_a_node_that_comes_changes_and_goes() -> None:
    async def main() -> None:
        async with both() as (registry, peer), registry.watch("myservice") as events:
            assert await anext(events) == Snapshot()
            await peer.say("registry.register.myservice", MYSERVICE)
            match await anext(events):
                case Change(Action.CREATE, service, node):
                    assert (service.version, node.address) == ("1.2.3", "127.0.0.1:10000")
                    assert (node.id, node.metadata) == ("127.0.0.1:10000", {"zone": "a"})
                case other:
                    raise AssertionError(other)
            await peer.say("registry.register.myservice", MYSERVICE)  # a renewal
            await peer.say("registry.register.myservice", MYSERVICE_WARNING)
            match await anext(events):
                case Change(Action.UPDATE, _, node):
                    assert node.status is Status.WARNING
                case other:
                    raise AssertionError(other)
            await peer.say("registry.unregister.myservice", MYSERVICE_UNREGISTER)
            match await anext(events):
                case Change(Action.DELETE, _, _, Reason.DEREGISTERED):
                    pass
                case other:
                    raise AssertionError(other)

    run(main())


def test_who_is_there_already_is_asked_and_all_answers_count() -> None:
    async def main() -> None:
        async with both() as (registry, peer), Peer(server.port) as other:
            second = Theirs("orders", "10.0.0.2:80", "1.2.3", {"zone": "b"})
            await peer.register(ORDERS)
            await other.register(second)
            (service,) = await registry.get_service("orders")
            assert [node.address for node in service.nodes] == ["10.0.0.1:80", "10.0.0.2:80"]
            async with registry.watch("orders") as events:
                assert await anext(events) == Snapshot([seen(ORDERS), seen(second)])

    run(main())


def test_every_change_of_a_node_is_heard_not_only_the_first() -> None:
    async def main() -> None:
        async with both() as (registry, peer), following(registry, "orders") as follower:
            await peer.register(ORDERS)
            await follower.hears("create orders/10.0.0.1:80")
            await peer.set_status(ORDERS, "critical")
            await follower.hears("update orders/10.0.0.1:80")
            changed = Theirs("orders", "10.0.0.1:80", "2.0", {"zone": "b"})
            await peer.register(changed)
            await follower.hears("update orders/10.0.0.1:80")
            assert follower.catalog.services("orders") == (seen(changed),)
            await peer.unregister(changed)
            await follower.hears("delete orders/10.0.0.1:80")
            assert await found(registry, "orders") == ()

    run(main())


def test_who_falls_silent_is_gone_after_one_and_a_half_intervals_of_our_clock() -> None:
    """Whatever theirs says: two of these have a clock that is a day wrong."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (registry, peer), registry.watch() as events:
            assert await anext(events) == Snapshot()
            began = loop.time()
            for number, days in enumerate((-1, 0, 1)):
                times = {"Registered": (1795226155 + days * 86_400) * 1000, "Duration": 600}
                message = {"name": "skewed", "add": f"10.0.0.{number}:80", "t": times}
                await peer.say("registry.register.skewed", json.dumps(message).encode())
            for _ in range(3):
                event = await anext(events)
                assert isinstance(event, Change)
                assert event.action is Action.CREATE
            for _ in range(3):
                match await anext(events):
                    case Change(Action.DELETE, _, _, Reason.EXPIRED):
                        assert 0.85 < loop.time() - began < 3.0
                    case other:
                        raise AssertionError(other)

    run(main())


def test_their_renewals_keep_a_node_alive_and_are_no_events() -> None:
    async def main() -> None:
        async with both(interval=1.0) as (registry, peer), following(registry, "orders") as follower:
            await peer.register(ORDERS)
            await follower.hears("create orders/10.0.0.1:80")
            await asyncio.sleep(4)
            assert follower.take() == []
            assert await registry.get_service("orders") == (seen(ORDERS),)

    run(main())


def test_their_names_are_listed_where_they_are_heard_of() -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            await peer.register(ORDERS)
            async with registry.watch() as events:
                await anext(events)
                await peer.say("registry.register.bare", BARE)
                await anext(events)
                async with registry.watch("orders") as about:
                    await anext(about)
                    assert set(await registry.list_services()) == {"bare", "orders"}

    run(main())


# -- they see ours -----------------------------------------------------------------------------------------------------


def test_they_find_what_we_announce_in_time() -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            assert await peer.get_service("greeter") is None
            async with announce(
                registry, "greeter", address="10.0.0.7:80", version="2.1", metadata={"zone": "a"}, id="g1", ttl=4
            ) as announcement:
                await announcement.wait_live(30)
                async with Peer(server.port) as fresh:
                    told = await fresh.get_service("greeter")
                assert told is not None
                assert (told.address, told.version, told.host) == ("10.0.0.7:80", "2.1", socket.gethostname())
                assert told.kv == {"zone": "a", "microreg.id": "g1"}
                await asyncio.sleep(4.5)
                assert [each.address for each in peer.services("greeter")] == ["10.0.0.7:80"]
            assert peer.services("greeter") == []
            assert await peer.get_service("greeter") is None

    run(main())


def test_a_register_is_one_message_and_a_renewal_is_another() -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            await peer.overhear()
            for _ in range(3):
                await registry.register(record("greeter", "g1"))
                await wait_until(lambda: peer.heard)
                assert peer.subjects() == ["registry.register.greeter"]
            await registry.deregister(record("greeter", "g1"))
            await wait_until(lambda: peer.heard)
            assert peer.subjects() == ["registry.unregister.greeter"]

    run(main())


def test_its_ping_is_answered_with_the_time_that_is_left() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with both() as (registry, peer):
            began = loop.time()
            await registry.register(record("greeter", "g1"), ttl=10)
            await peer.overhear()
            await asyncio.sleep(1.0)
            await peer.say("registry.ping.greeter", b"whatever this is")
            await wait_until(lambda: len(peer.heard) == 2)
            left = 10 - (loop.time() - began)
            duration = json.loads(peer.heard[1][1])["t"]["Duration"]
            assert left * 1000 <= duration * 1.5 < 9001 + 2
            assert peer.subjects() == ["registry.ping.greeter", "registry.register.greeter"]

    run(main())


@pytest.mark.parametrize("how", ["deregistered", "expired"])
def test_who_is_gone_answers_no_ping(how: str) -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            await registry.register(record("greeter", "stays", 81), ttl=10)
            await registry.register(record("greeter", "goes", 82), ttl=1)
            if how == "deregistered":
                await registry.deregister(record("greeter", "goes", 82))
            else:
                await asyncio.sleep(1.05)
            await peer.overhear()
            for subject in ("registry.ping.greeter", "registry.ping._all"):
                await peer.say(subject)
                await wait_until(lambda: len(peer.heard) == 2)
                (answer,) = [json.loads(data) for subject, data in peer.heard if "register" in subject]
                assert answer["kv"]["microreg.id"] == "stays"
                peer.heard.clear()
            assert await found(registry, "greeter") == (record("greeter", "stays", 81),)

    run(main())


def test_who_asks_for_all_is_answered_for_every_name() -> None:
    async def main() -> None:
        async with both() as (registry, peer), ours() as other:
            names = ["a", "a.b", "a..b", "z-1"]
            for number, name in enumerate(names):
                await (registry, other)[number % 2].register(record(name, "n"))
            await peer.overhear()
            await peer.say("registry.ping._all")
            await wait_until(lambda: len(peer.heard) == 1 + len(names))
            told = {subject for subject in peer.subjects() if ".register." in subject}
            assert told == {f"registry.register.{name}" for name in ("a", "a.b", "a.%.b", "z-1")}
            assert await other.list_services() == ("a", "a..b", "a.b", "z-1")
            assert await found(registry, "a..b") == (record("a..b", "n"),)

    run(main())


def test_who_asks_again_and_again_is_answered_while_names_come_and_go() -> None:
    async def main() -> None:
        async with both() as (registry, peer):

            async def come_and_go(number: int) -> None:
                for turn in range(30):
                    service = record(f"name-{number}-{turn}", "n")
                    await registry.register(service, ttl=1 if turn % 2 else 15)
                    await peer.say("registry.ping._all")
                    await registry.deregister(service)

            await registry.register(record("stays", "s"))
            await asyncio.gather(*map(come_and_go, range(5)))
            await peer.overhear()
            await peer.say("registry.ping._all")
            await wait_until(lambda: "registry.register.stays" in [subject for subject, _ in peer.heard])
            assert await registry.list_services() == ("stays",)

    run(main())


def test_many_pings_at_once_are_few_answers() -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            await registry.register(record("greeter", "g1"))
            await peer.overhear()
            await asyncio.gather(*(peer.say("registry.ping.greeter") for _ in range(200)))
            await wait_until(lambda: [subject for subject, _ in peer.heard[-1:]] == ["registry.register.greeter"])
            assert 1 <= peer.subjects().count("registry.register.greeter") <= 50

    run(main())


def test_their_filter_takes_nobody_who_starts_or_drains() -> None:
    async def main() -> None:
        async with ours() as registry:
            (node,) = record("greeter", "g1").nodes
            for status, said in (("starting", "critical"), ("draining", "critical"), ("warning", "warning")):
                service = record("greeter", "g1").with_nodes(node.replace(status=Status(status)))
                await registry.register(service)
                async with Peer(server.port) as fresh:
                    assert await fresh.get_service("greeter", passing) is None
                    told = await fresh.get_service("greeter")
                    assert told is not None
                    assert told.status == said
                assert await registry.get_service("greeter") == (service,)

    run(main())


def test_a_node_that_moves_is_not_left_behind_at_its_old_address() -> None:
    async def main() -> None:
        async with both() as (registry, peer), following(registry, "greeter") as follower:
            await peer.observe("greeter")
            await registry.register(record("greeter", "g1", 80))
            await registry.register(record("greeter", "g2", 80))
            await follower.hears("create greeter/g1", "create greeter/g2")
            await registry.register(record("greeter", "g1", 81))
            await follower.hears("update greeter/g1")
            await wait_until(lambda: peer.ports("greeter") == {80, 81})
            await registry.register(record("greeter", "g2", 82))
            await follower.hears("update greeter/g2")
            await wait_until(lambda: peer.ports("greeter") == {81, 82})

    run(main())


def test_two_ids_at_one_address_are_two_nodes_and_for_them_one_until_both_are_gone() -> None:
    async def main() -> None:
        async with both() as (registry, peer), following(registry, "greeter") as follower:
            await peer.observe("greeter")
            both_nodes = [record("greeter", "g1"), record("greeter", "g2")]
            for service in both_nodes:
                await registry.register(service)
            await follower.hears("create greeter/g1", "create greeter/g2")
            await wait_until(lambda: len(peer.services("greeter")) == 1)
            await registry.deregister(both_nodes[0])
            await follower.hears("delete greeter/g1")
            await peer.say("registry.ping.nobody")  # and what was said before has been heard
            await wait_until(lambda: len(peer.services("greeter")) == 1)
            assert await registry.get_service("greeter") == (both_nodes[1],)
            await registry.deregister(both_nodes[1])
            await wait_until(lambda: peer.services("greeter") == [])

    run(main())


def test_a_registry_that_closes_takes_its_nodes_back() -> None:
    async def main() -> None:
        async with both() as (registry, peer), following(registry, "greeter") as follower:
            await peer.observe("greeter")
            async with ours() as other:
                await other.register(record("greeter", "g1"), ttl=60)
                await follower.hears("create greeter/g1")
            await follower.hears("delete greeter/g1")
            await wait_until(lambda: peer.services("greeter") == [])

    run(main())


# -- among ourselves ---------------------------------------------------------------------------------------------------


def test_the_first_who_is_interested_asks_and_the_others_share_the_answers() -> None:
    async def main() -> None:
        async with both() as (registry, peer):
            await peer.overhear()
            async with registry.watch("greeter") as one, registry.watch("greeter") as two:
                await asyncio.gather(anext(one), anext(two))
                assert peer.subjects() == ["registry.ping.greeter"]
                async with registry.watch("greeter") as three, registry.watch() as everything:
                    await anext(three)
                    await anext(everything)
                assert peer.subjects() == ["registry.ping._all"]
                await asyncio.gather(*(found(registry, "greeter") for _ in range(50)))
                assert peer.subjects() == ["registry.ping.greeter"]

    run(main())


def test_tenants_do_not_see_each_other() -> None:
    async def main() -> None:
        async with both("&topic=a.registry") as (registry, _), ours("&topic=b.registry") as other:
            async with Peer(server.port, main="a.registry") as theirs, Peer(server.port) as stranger:
                await registry.register(record("greeter", "g1"))
                await theirs.register(ORDERS)
                assert await other.list_services() == ()
                for name in ("greeter", "orders"):
                    with pytest.raises(ServiceNotFound) as missing:
                        await other.get_service(name)
                    assert missing.value.authoritative is False
                    assert await stranger.get_service(name) is None
                assert await registry.get_service("orders") == (seen(ORDERS),)
                assert await theirs.get_service("greeter") is not None

    run(main())


def test_a_node_of_somebody_else_can_be_forgotten_and_is_back_with_its_next_register() -> None:
    async def main() -> None:
        async with both() as (registry, _), ours() as other, following(registry, "greeter") as follower:
            await other.register(record("greeter", "dead"), ttl=60)
            await follower.hears("create greeter/dead")
            await registry.deregister(record("greeter", "dead"))
            await follower.hears("delete greeter/dead")
            await other.register(record("greeter", "dead"))
            await follower.hears("create greeter/dead")

    run(main())
