"""mdns://127.0.0.1 under floods: bounded memory, short steps of the loop, one warning, and good nodes still found."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest

from mdns_neighbours import GROUP, URL, Fold, ahead, asker, neighbour, service, station, unique
from microreg import connect
from microreg.backends.mdns import names, nodes, records, wire
from microreg.backends.mdns.own import Own, Parts, Want, packets
from microreg.backends.mdns.wire import ANY, IPV4, PTR, RESPONSE, SRV, TXT, Question, Record
from microreg.model import Node, Service
from microreg.registry import Registry
from support import run, wait_until

pytestmark = pytest.mark.usefixtures("alone")


class Steps:
    """The longest step of the loop, in seconds of its own work: neither other programs count nor garbage collection."""

    worst = 0.0
    what = ""


@contextmanager
def monitored(monkeypatch: pytest.MonkeyPatch) -> Generator[Steps]:
    steps = Steps()
    original = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        original(handle)
        took = time.thread_time() - begun
        if took > steps.worst:
            steps.worst, steps.what = took, repr(handle)

    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", measured)
            yield steps
    finally:
        gc.enable()


def sizes(registry: Registry) -> int:
    """How many things are remembered, in the largest collection there is."""
    known = station(registry).browser._nodes
    collections = (
        known._nodes, known._labels, known._texts, known._counts, known._graves._goodbyes, known._hearsay._heard,
        known._reader._rejected, known._refresh._deadlines._when, known._doubts, known._asking._due,
        station(registry)._desk._ids,
    )  # fmt: skip
    return max(len(each) for each in collections)


def fakes(count: int, ttl: int, *, one_name: str = "") -> list[bytes]:
    """Announcements of nodes that are not there, 10 to a packet."""
    owns = (Own(service(one_name or f"fake{n}", f"fake{n}", 1 + n % 60000), ttl, 1) for n in range(count))
    return list(packets(own.answer(Want.ALL) for own in owns))


@pytest.mark.parametrize("one_name", [True, False])
def test_ten_thousand_fake_nodes(
    one_name: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = unique()
    monkeypatch.setattr(nodes, "MAX_NODES", 2000)
    monkeypatch.setattr(nodes, "MAX_PER_NAME", 1000)  # so few are read before the first expire, on a busy machine too
    flood = fakes(10_000, 2, one_name=name if one_name else "")
    limit = nodes.MAX_PER_NAME if one_name else nodes.MAX_NODES

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other:
            await one.register(service(name), ttl=300)  # nobody renews it
            async with Fold(other.watch(name if one_name else None)) as fold:
                await wait_until(lambda: fold.catalog.get(name, "a"))
                browser = station(other).browser
                with monitored(monkeypatch) as steps, neighbour() as sock:
                    most = 0
                    for packet in flood:
                        sock.sendto(packet, GROUP)
                        await asyncio.sleep(0)
                        most = max(most, len(browser._nodes._nodes))
                        assert sizes(other) <= 2 * limit
                    assert most == limit
                    await one.register(service(name, port=9), ttl=300)
                    await wait_until(lambda: fold.catalog.get(name, "a") == service(name, port=9))
                    await wait_until(lambda: len(browser._nodes._nodes) < 20, 30)
                    assert sizes(other) <= 1024
                assert steps.worst < 0.05, (steps.worst, steps.what)
                assert fold.catalog.get(name, "a") == service(name, port=9)
                ours = [change for change in fold.changes if (change.service.name, change.node.id) == (name, "a")]
                assert [change.action for change in ours] == ["update"]

    run(main())
    assert caplog.text.count("somebody may be flooding this network") == 1


def test_mutated_packets_take_no_long_step(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Also in quantity: 3,000 packets, the largest there are among them."""
    name = unique()
    rng = random.Random(11)
    large = records._pack([(b"n", name.encode()), (b"i", b"x"), *((b"m.k%d" % n, b"v") for n in range(500))])
    largest = wire.encode((), [Record(names.SERVICE_TYPE, TXT, 60, large)], flags=RESPONSE)
    good = [*fakes(20, 60, one_name=name), largest]

    def mutated() -> bytes:
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 5, 50))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            with monitored(monkeypatch) as steps, neighbour() as sock:
                for _ in range(3000):
                    sock.sendto(mutated(), GROUP)
                    await asyncio.sleep(0)
                await wait_until(lambda: fold.catalog.get(name, "a") == service(name))
            assert steps.worst < 0.05, (steps.worst, steps.what)

    run(main())
    assert "a packet could not be handled" not in caplog.text


@pytest.mark.parametrize("sender", [neighbour, asker])
def test_packets_full_of_questions_take_no_long_step(
    sender: Callable[[], AbstractContextManager[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks a thousand times for all that a host with 500 nodes has, to be told to everybody or to one."""
    name = unique()
    record = Service(name, nodes=[Node("127.0.0.1:8080", id=f"n{n}") for n in range(500)])
    target = Own(service(name), 60, 1).on(None).target
    wanted = (names.SERVICE_TYPE, PTR), (names.SERVICE_TYPE, ANY), (names.subtype(name), PTR), (target, IPV4)
    flood = [wire.encode([Question(*each)] * 1000, id=number) for number, each in enumerate(wanted, 1)]

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(record)
            await fold.until(lambda each: len(each.changes) == 500)
            answers = station(one).answers
            seen: list[wire.Message] = []
            answer = answers.asked

            def asked(message: wire.Message, *rest: Any) -> None:
                seen.append(message)
                answer(message, *rest)

            answers.asked = asked  # type: ignore[assignment, method-assign]
            with monitored(monkeypatch) as steps, sender() as sock:
                for packet in flood:
                    sock.sendto(packet, GROUP)
                await wait_until(lambda: sum(len(message.questions) == 1000 for message in seen) == len(flood))
                await wait_until(lambda: not answers._owed)
                await one.register(service(name, "last"))
                await fold.until(lambda each: each.catalog.get(name, "last") is not None)
            assert steps.worst < 0.05, (steps.worst, steps.what)

    run(main())


def test_records_of_other_types_and_under_our_labels_change_nothing() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            own = station(one).responder.table.get((name, "a"))
            assert own is not None
            theirs = records.encode(service(unique(), "z"), ahead(), b"secret")
            target = own.on(None).target
            strange = [
                *(Record(own.label, kind, 60, b"\0" * size) for kind in (2, 13, 41, 47, 65_000) for size in (0, 9)),
                Record(target, IPV4, 60, b"\x0a\0\0\x63"),
                Record(own.label, SRV, 60, b"\0\0\0\0\x27\x0f", names.SERVICE_TYPE),
                Record(names.subtype(name), PTR, 60, b"", names.BROWSE),
                *(Record(own.label, TXT, 60, text) for text in (b"", b"\0", b"\x03a=b", theirs)),
            ]
            with neighbour() as sock:
                for record in strange:
                    sock.sendto(wire.encode((), [record], flags=RESPONSE), GROUP)
            await one.register(service(name, "b", 9))
            await wait_until(lambda: fold.catalog.get(name, "b"))
            assert fold.catalog.get(name, "a") == service(name)
            assert [change.action for change in fold.changes] == ["create", "create"]
            assert station(one).responder.owns((name, "a"))

    run(main())


def test_a_forged_goodbye_of_our_own_node_is_noticed_and_it_is_told_again() -> None:
    name = unique()

    async def told_again(own: Own, parts: Parts) -> None:
        before = own.revision
        with neighbour() as sock:
            for packet in packets([parts]):
                sock.sendto(packet, GROUP)
            await wait_until(lambda: own.revision > before)

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            own = station(one).responder.table.get((name, "a"))
            assert own is not None
            liar = Own(service(name), 15, ahead())
            plain = ((Record(names.SERVICE_TYPE, PTR, 0, b"", own.label),), ())
            for parts in (plain, liar.goodbye(ahead(), expired=False)):
                await told_again(own, parts)
            await one.register(service(name, port=9))
            await wait_until(lambda: fold.catalog.get(name, "a") == service(name, port=9))
            assert [change.action for change in fold.changes] == ["create", "update"]

    run(main())


def knows(record: Service, fold: Fold) -> bool:
    return fold.catalog.get(record.name, record.nodes[0].id) == record


@pytest.mark.parametrize("jump", [-7200.0, 7200.0, -400 * 86_400.0])
def test_a_clock_that_jumps_changes_nothing(jump: float) -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            clock = time.time() + jump
            station(one).responder._clock = station(one).defence._clock = lambda: clock
            station(other).browser._nodes._reader._clock = lambda: clock
            for moved in (service(name, port=1), service(name, port=2)):
                await one.register(moved)
                await fold.until(partial(knows, moved))
            await one.deregister(service(name))
            await wait_until(lambda: not fold.catalog.services(name))
            assert [change.action for change in fold.changes] == ["create", "update", "update", "delete"]

    run(main())


def test_all_that_waits_is_read_in_a_few_turns_of_the_loop() -> None:
    """One packet in a turn is what asyncio alone would read: a program with long turns would hear all too late."""

    async def main() -> None:
        async with connect(URL) as registry:
            heard: list[wire.Message] = []
            station(registry).browser.heard = heard.append  # type: ignore[assignment, method-assign]
            packet = wire.encode((), [Record(names.SERVICE_TYPE, TXT, 60, unique().encode())], flags=RESPONSE)
            ours = wire.parse(packet).texts
            with neighbour() as sock:
                for _ in range(100):
                    sock.sendto(packet, GROUP)
            turns = 0
            while sum(message.texts == ours for message in heard) < 100:
                await asyncio.sleep(0)
                turns += bool(heard)
            assert turns < 50

    run(main())
