"""mdns://127.0.0.1: packets that cost too much to read, clocks that are wrong, goodbyes that come late."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from mdns_neighbours import URL, Fold, ahead, doubts, forged, service, station, unique
from mdns_network import NOON, Network
from microreg import connect
from microreg.backends.mdns import names, reader, records, refresh, wire
from microreg.backends.mdns.own import Own, Want, packets
from microreg.backends.mdns.wire import PTR, RESPONSE, TXT, Record
from microreg.events import Reason
from support import run, wait_until

pytestmark = pytest.mark.usefixtures("alone")


def packet(texts: list[bytes]) -> bytes:
    label = names.instance("any", "x")
    return wire.encode((), [Record(label, TXT, 60, text) for text in texts], flags=RESPONSE)


def inflating(name: str, n: int) -> bytes:
    body = b'{"name":"%s","endpoints":[%s],"nodes":[{"id":"q%d","address":"h:1"}]}' % (
        name.encode(),
        b",".join([b'{"name":"a"}'] * 5000),
        n,
    )
    entries = [(b"n", name.encode()), (b"i", b"q%d" % n), (b"z", zlib.compress(body, 9))]
    return records._pack(entries)


def test_a_packet_costs_a_bounded_number_of_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes: list[bytes] = []

    def counting(txt: bytes, *args: object) -> records.Text:
        decodes.append(txt)
        return records.decode(txt, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "decode", counting)
    name = unique()
    bad = records._pack([(b"n", name.encode())])
    late = records._pack([(b"i", b"1"), (b"n", name.encode())])
    many = [records._pack([(b"n", name.encode()), (b"i", b"%d" % n), (b"r", b"x")]) for n in range(150)]
    packed = [inflating(name, n) for n in range(32)]

    async def main() -> None:
        async with connect(URL) as other, Fold(other.watch(name)):
            heard = station(other).browser._nodes.heard
            for texts, most in (([bad] * 200, 1), ([late] * 200, 1), ([bad] * 200, 0), (many, 64), (packed, 5)):
                data = packet(texts)
                assert len(data) <= wire.MAX_PACKET
                decodes.clear()
                heard(wire.parse(data))
                assert len(decodes) == most

    run(main())


def test_a_revision_days_ahead_is_not_believed_while_the_node_answers() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            own = station(one).responder.table.get((name, "a"))
            assert own is not None
            for revision in (10**15 - 1, ahead(24 * 365)):
                message = wire.parse(forged(service(name, port=6666), revision))
                for each in (one, other):
                    station(each).defence.heard(message, answer=True)
                    station(each).browser.heard(message)
            assert own.rival == 0 and station(one).responder.revision() < ahead()
            await wait_until(lambda: not doubts(other))
            assert fold.catalog.services(name) == (service(name),) and len(fold.changes) == 1
            async with connect(URL) as late:
                assert await late.get_service(name) == (service(name),)

    run(main())


def test_a_machine_whose_clock_is_days_behind_finds_others_and_is_found(caplog: pytest.LogCaptureFixture) -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as behind:
            known, responder = station(behind).browser._nodes, station(behind).responder
            known._reader._clock = responder._clock = station(behind).defence._clock = lambda: ahead(-72) / 1000
            await one.register(service(name))
            assert await behind.get_service(name) == (service(name),)
            await behind.register(service(name, "b"))
            assert len((await one.get_service(name))[0].nodes) == 2
            async with Fold(behind.watch(name)) as fold:
                own = station(one).responder.table.get((name, "a"))
                assert own is not None
                [late] = packets([own.answer(Want.ALL)])
                await one.register(service(name, port=2))
                await wait_until(lambda: fold.catalog.get(name, "a") == service(name, port=2))
                station(behind).browser.heard(wire.parse(late))
                assert fold.catalog.get(name, "a") == service(name, port=2) and not doubts(behind)
                await one.deregister(service(name))
                await wait_until(lambda: not fold.catalog.get(name, "a"))
                station(behind).browser.heard(wire.parse(late))
                await one.register(service(name, "c"))
                await wait_until(lambda: fold.catalog.get(name, "c"))
                assert not fold.catalog.get(name, "a")

    run(main())
    assert caplog.text.count("days ahead of this clock") == 1


def test_who_has_the_right_time_counts_more_than_who_is_days_ahead() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            lie = wire.parse(forged(service(name, port=6666), ahead(24 * 365)))
            station(other).browser.heard(lie)
            await wait_until(lambda: fold.catalog.services(name) == (service(name, port=6666),))
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.services(name) == (service(name),))
            station(other).browser.heard(lie)
            await wait_until(lambda: not doubts(other))
            assert [change.action for change in fold.changes] == ["create", "update"]

    run(main())


def test_a_clock_that_was_put_right_is_followed() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other:
            responder = station(one).responder
            clock, responder._clock = responder._clock, lambda: ahead(24 * 365) / 1000
            await one.register(service(name))
            responder._clock = clock
            await one.register(service(name))
            assert await other.get_service(name) == (service(name),)

    run(main())


@pytest.mark.parametrize("behind", [10.0, 3600.0])
def test_the_last_writer_wins_with_a_clock_that_is_behind(behind: float) -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as two, connect(URL) as other, Fold(other.watch(name)) as fold:
            first, second = station(one).responder, station(two).responder
            second._clock = lambda: ahead() / 1000 - 3600 - behind
            await one.register(service(name, port=1))
            await wait_until(lambda: fold.catalog.services(name) == (service(name, port=1),))
            own = first.table.get((name, "a"))
            assert own is not None
            own.fresh_until = 0.0
            await two.register(service(name, port=2))
            await wait_until(lambda: fold.catalog.services(name) == (service(name, port=2),))
            await wait_until(lambda: own.yielded)
            assert second.owns((name, "a"))
            async with connect(URL) as late:
                assert await late.get_service(name) == (service(name, port=2),)

    run(main())


def test_a_late_goodbye_of_an_older_generation_is_not_even_doubted() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            old = Own(service(name), 60, ahead(-1))
            [late] = packets([old.goodbye(ahead(-1), expired=False)])
            station(other).browser.heard(wire.parse(late))
            assert not doubts(other)
            plain = wire.encode((), [Record(names.SERVICE_TYPE, PTR, 0, b"", old.label)], flags=RESPONSE)
            station(other).browser.heard(wire.parse(plain))
            assert doubts(other)
            await wait_until(lambda: not doubts(other))
            assert [change.action for change in fold.changes] == ["create"]

    run(main())


def test_a_node_that_expired_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    name = unique()
    monkeypatch.setattr(refresh, "_SEEK", (0.01, 0.02, 0.03))
    monkeypatch.setattr(refresh, "_LAST", 0)

    async def main() -> None:
        async with connect(URL) as other, Fold(other.watch(name)) as fold:
            asked: list[str] = []
            station(other).browser._nodes._refresh._ask_all = asked.append
            station(other).browser.heard(wire.parse(forged(service(name), 1, ttl=1)))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            await wait_until(lambda: len(asked) == 3)
            assert asked == [name] * 3
            await wait_until(lambda: not fold.catalog.services(name))

    run(main())


def test_what_is_sent_once_more_for_longer_does_not_keep_a_dead_node() -> None:
    network = Network(1)
    name = "replayed"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with network.host("one") as one, network.host("other") as other, Fold(other.watch(name)) as fold:
            await one.register(service(name), ttl=6)
            await fold.until(lambda each: len(each.changes) == 1)
            await asyncio.sleep(5)
            own = station(one).responder.table[name, "a"]
            answers, more = own.answer(Want.ALL)
            [replay] = packets([(tuple(each._replace(ttl=300) for each in answers), more)])
            network.kill("one")
            station(other).browser.heard(wire.parse(replay))
            begun = loop.time()
            await fold.until(lambda each: not each.catalog.services(name), 20)
            assert loop.time() - begun <= 6 + 2
            assert [change.reason for change in fold.changes] == [None, Reason.EXPIRED]

    network.run(main())


def test_who_registers_again_for_longer_is_believed_for_longer() -> None:
    network = Network(1)
    name = "longer"

    async def main() -> None:
        async with network.host("one") as one, network.host("other") as other, Fold(other.watch(name)) as fold:
            await one.register(service(name), ttl=2)
            await fold.until(lambda each: len(each.changes) == 1)
            await asyncio.sleep(1)
            await one.register(service(name), ttl=60)
            life = station(other).browser._nodes._nodes[name, "a"]
            await wait_until(lambda: life.ttl == 60)
            await asyncio.sleep(50)
            assert life.ttl == 60 and [change.action for change in fold.changes] == ["create"]

    network.run(main())


@pytest.mark.parametrize("fresh", [True, False])
def test_a_second_process_whose_clock_is_days_behind_is_told_of_by_both(
    fresh: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(1)
    name = "behind"

    async def main() -> None:
        async with network.host("one") as one, network.host("behind", clock=-3 * 86_400.0) as behind:
            await one.register(service(name), ttl=60)
            await asyncio.sleep(0.1 if fresh else 10)
            await behind.register(service(name, port=2), ttl=60)
            await wait_until(lambda: caplog.text.count("another process registers the same node id") == 2)
            await one.register(service(name, port=3), ttl=60)
            await asyncio.sleep(5)

    network.run(main())
    assert caplog.text.count("another process registers the same node id") == 2


def test_what_we_said_ourselves_days_ago_is_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    network = Network(1)
    name = "ourselves"

    async def main() -> None:
        async with network.host("one") as one:
            await one.register(service(name), ttl=60)
            await asyncio.sleep(10)
            own = station(one).responder.table[name, "a"]
            late = records.encode(own.record, own.revision - 3 * 86_400_000, own.secret)
            await one.register(service(name, port=2), ttl=60)
            revision = own.revision
            station(one).defence.heard(wire.parse(packet([late])))
            await asyncio.sleep(5)
            assert own.revision == revision

    network.run(main())
    assert not caplog.records


def test_a_forged_revision_that_others_just_believe_is_put_right() -> None:
    network = Network(1)
    name = "edge"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with network.host("one") as one, network.host("other") as other, Fold(other.watch(name)) as fold:
            await one.register(service(name), ttl=60)
            await fold.until(lambda each: len(each.changes) == 1)
            await asyncio.sleep(10)
            revision = int((NOON + loop.time() + 24.5 * 3600) * 1000)
            lie = wire.parse(forged(service(name, port=6666), revision))
            for each in (one, other):
                station(each).defence.heard(lie)
                station(each).browser.heard(lie)
            await fold.until(lambda each: each.catalog.services(name) == (service(name, port=6666),))
            begun = loop.time()
            await fold.until(lambda each: each.catalog.services(name) == (service(name),))
            assert loop.time() - begun < 2

    network.run(main())
