"""mdns://127.0.0.1 among neighbours that lie, flood, or send nonsense."""

from __future__ import annotations

import asyncio
import logging
import random
import socket

import pytest

from mdns_neighbours import GROUP, URL, Fold, ahead, asker, doubts, forged, neighbour, service, station, unique
from microreg import connect
from microreg.backends.mdns import names, nodes, records, wire
from microreg.backends.mdns.own import Own, Want, packets
from microreg.backends.mdns.wire import PTR, RESPONSE, SRV, TXT, Question, Record
from microreg.errors import ServiceNotFound
from support import run, wait_until

pytestmark = pytest.mark.usefixtures("alone")


def test_nonsense_changes_nothing_and_stalls_nobody(caplog: pytest.LogCaptureFixture) -> None:
    name = unique()
    rng = random.Random(4)
    own = Own(service(name, "liar"), 20, 1)
    good = [
        *packets([own.answer(Want.ALL)]),
        *packets([own.goodbye(2, expired=False)]),
        wire.encode([Question(names.SERVICE_TYPE, PTR), Question(names.subtype(name), PTR)]),
        wire.encode([Question(own.label, TXT)], [Record(names.SERVICE_TYPE, PTR, 60, b"", own.label)]),
    ]

    def nonsense() -> bytes:
        if rng.random() < 0.2:
            return rng.randbytes(rng.randrange(1, 600))
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 3, 9))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.2 else data)

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            loop = asyncio.get_running_loop()
            worst = 0.0
            with neighbour() as sock:
                asking = station(other).transport._asking
                [port] = [sock.port() for sock in asking.values()]
                for _ in range(150):
                    for _ in range(10):
                        sock.sendto(nonsense(), GROUP)
                        sock.sendto(nonsense(), ("127.0.0.1", port))
                    begun = loop.time()
                    await asyncio.sleep(0)
                    worst = max(worst, loop.time() - begun)
            assert worst < 0.5
            await wait_until(lambda: fold.catalog.get(name, "a") == service(name))
            assert service(name).nodes[0] in (await other.get_service(name))[0].nodes

    with caplog.at_level(logging.DEBUG, "microreg"):
        run(main())
    assert "a packet could not be handled" not in caplog.text


def test_a_forged_goodbye_is_not_believed() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            liar = Own(service(name), 15, ahead())
            plain = [Record(liar.label, kind, 0, bytes(6), liar.on(None).target) for kind in (SRV,)]
            with neighbour() as sock:
                for parts in (liar.goodbye(ahead(), expired=False), ((*plain,), ())):
                    [packet] = packets([parts])
                    sock.sendto(packet, GROUP)
                    await wait_until(lambda: doubts(other))
                    await wait_until(lambda: not doubts(other))
            assert [change.action for change in fold.changes] == ["create"]
            assert fold.catalog.services(name) == (service(name),)

    run(main())


def test_a_forged_update_is_put_right(caplog: pytest.LogCaptureFixture) -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            own = station(one).responder.table.get((name, "a"))
            assert own is not None
            own.fresh_until = 0.0  # else it is put right before anybody can see it
            revision = ahead()
            with neighbour() as sock:
                for _ in range(5):
                    sock.sendto(forged(service(name, port=6666), revision), GROUP)
            await wait_until(lambda: fold.catalog.services(name) == (service(name, port=6666),))
            await wait_until(lambda: fold.catalog.services(name) == (service(name),))
            assert await other.get_service(name) == (service(name),)
            assert len(fold.changes) == 3

    run(main())
    assert caplog.text.count("another process registers the same node id") == 1


def test_an_old_packet_takes_nothing_back() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name, port=1))
            own = station(one).responder.table.get((name, "a"))
            assert own is not None
            [before] = packets([own.answer(Want.ALL)])
            await one.register(service(name, port=2))
            await wait_until(lambda: fold.catalog.services(name) == (service(name, port=2),))
            with neighbour() as sock:
                sock.sendto(before, GROUP)
                await one.register(service(name, "b"))
                await wait_until(lambda: fold.catalog.get(name, "b"))
                assert fold.catalog.get(name, "a") == service(name, port=2)
                await one.deregister(service(name))
                await wait_until(lambda: not fold.catalog.get(name, "a"))
                sock.sendto(before, GROUP)
                await one.register(service(name, "c"))
                await wait_until(lambda: fold.catalog.get(name, "c"))
                assert not fold.catalog.get(name, "a")

    run(main())


def test_a_flood_is_bounded_and_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(nodes, "MAX_PER_NAME", 50)
    name = unique()

    async def main() -> None:
        async with connect(URL) as one, connect(URL) as other, Fold(other.watch(name)) as fold:
            await one.register(service(name))
            await wait_until(lambda: fold.catalog.get(name, "a"))
            with neighbour() as sock:
                for number in range(300):
                    sock.sendto(forged(service(name, f"fake{number}"), 1), GROUP)
                    await asyncio.sleep(0)
            await one.register(service(name, port=9))
            await wait_until(lambda: fold.catalog.get(name, "a") == service(name, port=9))
            assert sum(1 for _ in fold.catalog.records(name)) == 50

    run(main())
    assert caplog.text.count("more than 50 nodes of one name") == 1


def test_large_records_of_others_are_read_or_dropped() -> None:
    name = unique()
    text = records._pack([(b"n", name.encode()), (b"i", b"big"), (b"a", b"h:80"), (b"m.k", b"x" * 8000)])

    async def main() -> None:
        async with connect(URL) as other, Fold(other.watch(name)) as fold:
            with neighbour() as sock:
                for data in (text, text + b"\xff" * 2000):
                    record = Record(names.instance(name, "big"), TXT, 60, data)
                    sock.sendto(wire.encode(answers=[record], flags=RESPONSE), GROUP)
            await wait_until(lambda: fold.catalog.get(name, "big"))
            record_ = fold.catalog.get(name, "big")
            assert record_ is not None and record_.nodes[0].metadata == {"k": "x" * 8000}

    run(main())


def test_only_answers_to_our_questions_are_taken() -> None:
    name = unique()

    async def main() -> None:
        async with connect(URL) as registry:
            transport = station(registry).transport
            [asking] = transport._asking.values()
            target = "127.0.0.1", asking.port()
            call = asyncio.ensure_future(registry.get_service(name))
            with neighbour() as right, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
                await asyncio.sleep(0)
                [packet] = packets([Own(service(name), 60, 1).answer(Want.ALL)])
                wrong.sendto(packet, target)
                right.sendto(packet, target)
                with pytest.raises(ServiceNotFound):
                    await call

    run(main())


def test_a_response_is_never_answered() -> None:
    async def main() -> None:
        async with connect(URL) as registry:
            name = unique()
            await registry.register(service(name))
            sent: list[bytes] = []
            transport = station(registry).transport
            transport.reply = lambda packet, link, to: sent.append(packet)  # type: ignore[method-assign]
            question = Question(names.subtype(name), PTR)
            with asker() as sock:
                sock.sendto(wire.encode([question], flags=RESPONSE, id=5), GROUP)
                sock.sendto(wire.encode([question], id=6), GROUP)
                await wait_until(lambda: 6 in [wire.parse(packet).id for packet in sent])
            assert 5 not in [wire.parse(packet).id for packet in sent]

    run(main())


def test_what_cannot_be_shown_or_called_is_skipped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    name = unique()
    bad = ({"i": "a\nb"}, {"i": "\x1b[2J"}, {"i": "x" * 256}, {"a": "h"}, {"a": "h\x00:80"}, {"a": "h:99999"})
    entries = [{"n": name, "i": f"bad{n}", "a": "h:80"} | fields for n, fields in enumerate(bad)]
    good = [{"n": name, "i": f"good{n}", "a": f"h:{n + 1}"} for n in range(2)]
    texts = [
        records._pack((key.encode(), value.encode()) for key, value in each.items())
        for each in (good[0], *entries, good[1])
    ]

    async def main() -> None:
        async with connect(URL) as other, Fold(other.watch(name)) as fold:
            answers = [Record(names.instance(name, f"{n}"), TXT, 60, text) for n, text in enumerate(texts)]
            with neighbour() as sock:
                sock.sendto(wire.encode(answers=answers, flags=RESPONSE), GROUP)
            await wait_until(lambda: fold.catalog.get(name, "good1"))
            assert [node.id for each in fold.catalog.services(name) for node in each.nodes] == ["good0", "good1"]

    run(main())
    [warned] = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warned.startswith("ignored a malformed record (") and "printable text" in warned
