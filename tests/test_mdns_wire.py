"""mDNS packets and TXT records: what is written can be read, and nothing that is received can hurt."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies as given_
from microreg import codec
from microreg.backends.mdns import names, records, wire
from microreg.backends.mdns.own import Own, Want, packets, with_id
from microreg.backends.mdns.wire import ANY, IPV4, IPV6, PTR, RESPONSE, SRV, TXT, Malformed, Question, Record
from microreg.errors import InvalidService, RecordTooLarge
from microreg.model import Endpoint, Node, Service, Status
from strategies import record

SECRET = b"0011223344556677"


def own(service: Service, ttl: int = 15) -> Own:
    return Own(service, ttl, 1_700_000_000_000)


labels = st.lists(st.text("abc-_09", min_size=1, max_size=12), min_size=1, max_size=5).map(lambda x: wire.name(*x))
questions = st.builds(Question, labels, st.sampled_from([PTR, SRV, TXT, IPV4, ANY]))
ttls = st.integers(0, 2**32 - 1)
nothing = st.just(b"")
resources = st.one_of(
    st.builds(Record, labels, st.sampled_from([TXT, IPV4, IPV6]), ttls, st.binary(max_size=40), nothing),
    st.builds(Record, labels, st.just(PTR), ttls, nothing, labels, st.booleans()),
    st.builds(Record, labels, st.just(SRV), ttls, st.binary(min_size=6, max_size=6), labels),
)


@settings(max_examples=50)
@given(st.lists(questions, max_size=4), st.lists(resources, max_size=6), st.lists(resources, max_size=6))
def test_what_is_written_is_read(asked: list[Question], answers: list[Record], more: list[Record]) -> None:
    message = wire.parse(wire.encode(asked, answers, more, flags=RESPONSE, id=77))
    assert (message.id, message.response) == (77, True)
    assert list(message.questions) == asked
    assert list(message.records) == [*answers, *more]
    assert [text.data for text in message.texts] == [each.data for each in (*answers, *more) if each.kind == TXT]
    assert message.leaving == any(each.ttl == 0 for each in (*answers, *more))


def test_names_are_compressed() -> None:
    text = wire.encode(answers=[Record(names.SERVICE_TYPE, PTR, 1, b"", names.instance("a", str(n))) for n in range(9)])
    assert text.count(b"_microreg") == 1


def test_a_unicast_answer_tells_no_cache_to_flush() -> None:
    [packet] = packets([own(record()).answer(Want.SUBTYPE)], [Question(names.subtype("greeter"), PTR)], unicast=True)
    message = wire.parse(with_id(packet, 7))
    assert message.id == 7
    assert not any(each.unique for each in message.records)


def test_a_name_that_points_at_itself_is_malformed() -> None:
    header = (1).to_bytes(2, "big") + b"\x84\0\0\0\0\1\0\0\0\0"
    looped = header + b"\xc0\x0c\0\x10\0\1\0\0\0\x0f\0\0"
    with pytest.raises(Malformed):
        assert wire.parse(looped).records


def test_long_chains_of_pointers_are_cut_short() -> None:
    chain = b"\1a\0" + b"".join((0xC000 | (12 if n == 0 else 13 + 2 * n)).to_bytes(2, "big") for n in range(40))
    header = b"\0\1\0\0\0\1\0\0\0\0\0\0"
    with pytest.raises(Malformed):
        wire.parse(header + chain[-2:] + b"\0\x0c\0\1")


def _survives(data: bytes) -> None:
    try:
        message = wire.parse(data)
        assert all(len(each.name) <= 256 for each in message.records)
        for text in message.texts:
            records.decode(text.data)
    except (Malformed, InvalidService):
        pass


def test_no_mutation_of_a_packet_raises_anything_else() -> None:
    rng = random.Random(20)
    nodes = [own(record(id=f"n{n}", zone="eu" * n)) for n in range(5)]
    good = [*packets(each.answer(Want.ALL) for each in nodes), *packets([nodes[0].goodbye(5, expired=True)])]
    for _ in range(1500):
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        _survives(bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data))
        _survives(rng.randbytes(rng.randrange(200)))


@settings(max_examples=50)
@given(given_.services)
def test_txt_round_trip(service: Service) -> None:
    for each in service.records():
        try:
            text = records.encode(each, 12, SECRET)
        except RecordTooLarge as error:
            assert error.size > error.limit == records.MAX_TXT
            continue
        found = records.decode(text)
        assert found.record == each
        assert (found.name, found.id, found.revision) == (each.name, each.nodes[0].id, 12)
        assert records.name_in(text) == each.name.encode()
        assert found.seal == records.seal(SECRET)


def test_small_records_are_readable_and_large_ones_compressed() -> None:
    text = records.encode(record(zone="eu"), 1, SECRET)
    assert b"m.zone=eu" in text and b"a=10.0.0.1:80" in text and b"v=1" in text
    large = record(note="x" * 1000, other="y" * 1000)
    assert b"x" * 50 not in records.encode(large, 1, SECRET)
    assert records.decode(records.encode(large, 1, SECRET)).record == large


def test_values_beyond_a_string_are_continued() -> None:
    long = record(note="é" * 200)
    text = records.encode(long, 1, SECRET)
    assert b"\xc3\xa9" in text and b"+=" in text
    assert records.decode(text).record == long


def test_what_fits_no_packet_is_refused_with_both_sizes() -> None:
    rng = random.Random(5)
    noise = {f"k{n}": rng.randbytes(500).hex() for n in range(20)}
    with pytest.raises(RecordTooLarge, match="at most 8000") as caught:
        own(Service("x", nodes=[Node("h:80", id="a", metadata=noise)]))
    assert caught.value.size > caught.value.limit == 8000


def test_the_largest_record_still_fits_one_packet() -> None:
    rng = random.Random(5)
    noise = {f"k{n}": rng.randbytes(480).hex() for n in range(12)}
    service = Service("n" * 63, nodes=[Node("h:80", id="i" * 63, metadata=noise)])
    assert 6000 < len(own(service).on(None).txt) <= records.MAX_TXT
    [packet] = packets([own(service).answer(Want.ALL)])
    assert len(packet) <= wire.MAX_PACKET


def test_packets_are_filled_and_not_too_large() -> None:
    nodes = [own(record(id=f"n{n}", zone="eu", weight="3")) for n in range(500)]
    sent = list(packets(each.answer(Want.ALL) for each in nodes))
    assert len(sent) <= 110
    assert max(map(len, sent)) <= 1400
    assert sum(len(wire.parse(packet).texts) for packet in sent) == 500


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x05i=a-b",
        b"\x04n=xy\x03i=a\x0fr=9999999999999x\x06a=h:80",
        b"\x04n=xy\x03i=a\x11r=1234567890123456\x06a=h:80"[:-1],
        b"\x04n=xy\x03i=a",
        b"\x04n=\xff\xfe\x03i=a\x06a=h:80",
        b"\x04n=xy\x03i=a\x05z=abc",
        b"\x04n=\x07y\x03i=a\x06a=h:80",
    ],
)
def test_what_is_no_record_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(InvalidService):
        records.decode(text)


def test_reading_is_lenient() -> None:
    text = records.decode(b"\x04n=xy\x06a=h:80\x06m.k=\xff1\x07m.k=two\x05S=odd\x04s=up\x09unknown=\x00")
    assert text.record == Service("xy", nodes=[Node("h:80", id="h:80", metadata={"k": "\ufffd1"})])
    assert text.revision == 0


def test_the_address_may_be_that_of_srv() -> None:
    assert records.decode(b"\x04n=xy", "10.0.0.9:80").record == Service(
        "xy", nodes=[Node("10.0.0.9:80", id="10.0.0.9:80")]
    )


def test_a_bomb_does_not_go_off() -> None:
    packed = zlib.compress(b" " * 5_000_000, 9)[:4000]
    entries = b"".join(
        bytes((len(part),)) + part
        for part in (
            b"n=xy",
            b"i=a",
            b"z=" + packed[:250],
            *(b"+=" + packed[n : n + 250] for n in range(250, 4000, 250)),
        )
    )
    with pytest.raises(InvalidService, match="more than"):
        records.decode(entries)


def test_what_is_compressed_must_be_the_record_of_that_node() -> None:
    packed = zlib.compress(codec.encode(record("other", "a")))
    with pytest.raises(InvalidService, match="another node"):
        records.decode(b"\x04n=xy\x03i=a" + bytes((len(packed) + 2,)) + b"z=" + packed)


def test_endpoints_and_status_survive() -> None:
    node = Node("[::1]:80", id="a", status=Status.DRAINING)
    service = Service("x", "", {"team": "a"}, [Endpoint("hello")], [node])
    assert records.decode(records.encode(service, 1, SECRET)).record == service


def test_a_goodbye_proves_who_it_is_from() -> None:
    text = records.decode(records.encode_goodbye(record(), 9, SECRET, expired=True))
    assert text.record is None and text.expired and text.revision == 9
    assert records.seal(text.secret) == records.seal(SECRET)
    assert not records.decode(records.encode_goodbye(record(), 9, SECRET, expired=False)).expired


@given(given_.words, given_.words)
def test_labels_fit_and_differ(name: str, node_id: str) -> None:
    label = names.instance(name, node_id)
    assert label[0] <= 63 and label.endswith(names.SERVICE_TYPE)
    assert label != names.instance(node_id + "x", name) and label != names.instance(name + "-" + node_id, "")
    assert names.subtype(name)[0] <= 63


def test_labels_of_ids_that_differ_in_case_only_differ() -> None:
    assert names.instance("a", "B") != names.instance("a", "b")
    assert (
        names.subtype("My.Service")
        == names.subtype("my-service")
        == wire.name("_my-service", "_sub", *"_microreg _tcp local".split())
    )


def test_hosts() -> None:
    assert names.host("10.0.0.1") == wire.name("microreg-10-0-0-1", "local")
    assert names.host("fe80::1%eth0") == names.host("fe80::1")
    assert names.host("db.internal.") == wire.name("db", "internal")
    assert names.host("a..b") is None


def test_dotted() -> None:
    assert wire.dotted(names.SERVICE_TYPE) == "_microreg._tcp.local"


def foreign(**fields: str) -> bytes:
    entries = {"n": "greeter", "i": "x", "a": "h:80"} | fields
    return records._pack((key.encode(), value.encode()) for key, value in entries.items())


@pytest.mark.parametrize(
    "address", ["h", ":80", "h:0", "h:65536", "h:x", "2001:db8::1", "h\n:80", "\x1b[2J:80", f"{'h' * 255}:80"]
)
def test_an_address_that_cannot_be_called_is_no_record(address: str) -> None:
    body = b'{"name":"greeter","nodes":[{"id":"x","address":%s}]}' % json.dumps(address).encode()
    packed = records._pack([(b"n", b"greeter"), (b"i", b"x"), (b"z", zlib.compress(body))])
    for text in (foreign(a=address), packed):
        with pytest.raises(InvalidService, match="address"):
            records.decode(text, budget=records.Budget(100_000))


def test_metadata_of_others_is_kept_as_it_is_as_in_json() -> None:
    text = records.decode(foreign(**{"m.k": "a\x00b\n", "d.k": "\x7f", "v": "1"}))
    body = {"name": "greeter", "version": "1", "metadata": {"k": "\x7f"}, "nodes": [NODE]}
    assert text.record == codec.decode(json.dumps(body))


NODE = {"id": "x", "address": "h:80", "metadata": {"k": "a\x00b\n"}}
