"""The JSON form: go-micro's bytes, lenient reading, and nothing that a stranger writes does harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies as given_
from microreg import codec
from microreg.codec import decode, encode
from microreg.errors import InvalidService
from microreg.model import EMPTY, Endpoint, Node, Service, Status, Value
from microreg.rules import check_service
from strategies import quick, record

GREETER = Service(
    "greeter",
    "1.0.0",
    {"team": "core"},
    [
        Endpoint(
            "Greeter.Hello",
            Value("HelloRequest", "HelloRequest", (Value("name", "string"),)),
            Value("HelloResponse", "HelloResponse", (Value("msg", "string"),)),
        )
    ],
    [Node("10.0.0.7:9090", id="greeter-1", metadata={"zone": "a", "protocol": "grpc"})],
)
# What go-micro 2.9.1 writes for this service, and what its newer versions do, which embed other structs.
GO_MICRO = (
    '{"name":"greeter","version":"1.0.0","metadata":{"team":"core"},"endpoints":[{"name":"Greeter.Hello",'
    '"request":{"name":"HelloRequest","type":"HelloRequest","values":[{"name":"name","type":"string","values":null}]},'
    '"response":{"name":"HelloResponse","type":"HelloResponse","values":[{"name":"msg","type":"string","values":null}]},'
    '"metadata":{}}],"nodes":[{"id":"greeter-1","address":"10.0.0.7:9090","metadata":{"protocol":"grpc","zone":"a"}}]}'
)
GO_MICRO_NEW = (
    '{"name":"greeter","version":"1.0.0","metadata":{"team":"core"},"endpoints":[{"request":{"name":"HelloRequest",'
    '"type":"HelloRequest","values":[{"name":"name","type":"string","values":null}]},"response":{"name":"HelloResponse",'
    '"type":"HelloResponse","values":[{"name":"msg","type":"string","values":null}]},"metadata":{},'
    '"name":"Greeter.Hello"}],"nodes":[{"metadata":{"protocol":"grpc","zone":"a"},"id":"greeter-1",'
    '"address":"10.0.0.7:9090"}]}'
)


def test_our_bytes_are_those_of_go_micro() -> None:
    assert encode(GREETER).decode() == GO_MICRO


@pytest.mark.parametrize("text", [GO_MICRO, GO_MICRO_NEW, json.dumps(json.loads(GO_MICRO), indent=4)])
def test_every_order_of_keys_decodes_alike(text: str) -> None:
    for data in (text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        assert decode(data) == GREETER


@quick
@given(given_.services)
def test_what_may_be_registered_goes_there_and_back(service: Service) -> None:
    check_service(service)
    data = encode(service)
    assert decode(data) == service
    assert encode(decode(data)) == data
    assert json.loads(data)["name"] == service.name


def test_metadata_is_sorted_and_escaped_as_go_does() -> None:
    service = Service("x", metadata={"b": "<&>", "a": "\u2028\u2029é\x7f"}, nodes=[Node("h:1", id="h")])
    data = encode(service)
    assert rb'"metadata":{"a":"\u2028\u2029' in data
    assert rb'"b":"\u003c\u0026\u003e"' in data
    assert decode(data) == service


def test_a_status_is_left_out_when_passing() -> None:
    for status in Status:
        service = Service("x", nodes=[Node("h:1", id="h", status=status)])
        assert (f'"status":"{status}"' in encode(service).decode()) is (status is not Status.PASSING)
        assert decode(encode(service)) == service
    assert decode('{"name":"x","nodes":[{"id":"a","status":"of the future"}]}').nodes[0].status is Status.PASSING
    assert decode('{"name":"x","nodes":[{"id":"a","status":null}]}').nodes[0].status is Status.PASSING


class Text(str):
    """A str that is not exactly a str, as template engines and parsers make them."""


def test_subclasses_of_str_are_text() -> None:
    service = Service(Text("x"), Text("1"), {Text("k"): Text("v")}, nodes=[Node(Text("h:1"), id=Text("h"))])
    check_service(service)
    assert decode(encode(service)) == service


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ('{"name":"x"}', Service("x")),
        ('{"name":"x","version":null,"metadata":null,"endpoints":null,"nodes":null}', Service("x")),
        ('{"nodes":[null,{"address":"h:1"}],"name":"x"}', Service("x", nodes=[Node("h:1", id="h:1")])),
        ('{"name":"x","nodes":[{"id":"a"}]}', Service("x", nodes=[Node("", id="a")])),
        (
            '{"name":"x","nodes":[{"id":"","address":"h:1","metadata":null}]}',
            Service("x", nodes=[Node("h:1", id="h:1")]),
        ),
        ('{"name":"x","metadata":{"a":null,"b":"1"}}', Service("x", metadata={"a": "", "b": "1"})),
        (
            '{"name":"x","nodes":[{"id":"a","metadata":{"k":null}}]}',
            Service("x", nodes=[Node("", id="a", metadata={"k": ""})]),
        ),
        (
            '{"name":"x","endpoints":[null,{"name":null,"request":{"values":[null,{"name":"y"}]},"metadata":{"a":null}}]}',
            Service("x", endpoints=[Endpoint("", Value("", "", (Value("y"),)), None, {"a": ""})]),
        ),
        ('{"name":"größe 😀"}', Service("größe 😀")),
        ('{"future":{"a":[1,2.5e300,null,true,"x"]},"name":"x","Name":"y"}', Service("x")),
        ('{"name":"x","name":"y"}', Service("y")),
        (' {"name" :\t"x"}\r\n', Service("x")),
    ],
)
def test_reading_is_lenient(text: str, service: Service) -> None:
    assert decode(text.encode()) == service


DEEP = 100_000
BAD: dict[str, bytes | str] = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"5",
    "truncated": b'{"name":"x"',
    "trailing": b'{"name":"x"} {}',
    "byte order mark": b'\xef\xbb\xbf{"name":"x"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
    "no name": b"{}",
    "null name": b'{"name":null}',
    "empty name": b'{"name":""}',
    "long name": b'{"name":"' + b"x" * 256 + b'"}',
    "newline in name": b'{"name":"a\\nb"}',
    "control character in name": b'{"name":"a\\u001bb"}',
    "number as name": b'{"name":5}',
    "number as version": b'{"name":"x","version":5}',
    "list as metadata": b'{"name":"x","metadata":[]}',
    "number in metadata": b'{"name":"x","metadata":{"a":1}}',
    "object as nodes": b'{"name":"x","nodes":{}}',
    "text as node": b'{"name":"x","nodes":["h:1"]}',
    "node without id and address": b'{"name":"x","nodes":[{}]}',
    "unprintable id": b'{"name":"x","nodes":[{"id":"a\\u0000"}]}',
    "unprintable address as id": b'{"name":"x","nodes":[{"address":"h:1\\n"}]}',
    "text as endpoints": b'{"name":"x","endpoints":"x"}',
    "bad UTF-8 in name": b'{"name":"\xff"}',
    "bad UTF-8 in metadata": b'{"name":"x","metadata":{"a":"\xc3"}}',
    "overlong UTF-8": b'{"name":"x","version":"\xc0\xaf"}',
    "surrogate as UTF-8": b'{"name":"x","version":"\xed\xa0\x80"}',
    "lone high surrogate": b'{"name":"x","version":"\\ud800"}',
    "lone high surrogate, then more": b'{"name":"x","version":"\\ud800abcdef"}',
    "lone low surrogate": b'{"name":"x","version":"\\udc00"}',
    "lone surrogate in metadata": b'{"name":"x","metadata":{"a":"\\udfff\\ud800"}}',
    "lone surrogate in text": '{"name":"x","version":"\ud800"}',
    "NaN": b'{"name":"x","a":NaN}',
    "deep unknown key": b'{"name":"x","a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep endpoints": b'{"name":"x","endpoints":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep values": b'{"name":"x","endpoints":[{"request":' + b'{"values":[' * 17 + b"{}" + b"]}" * 17 + b"}]}",
    "very deep values": b'{"name":"x","endpoints":[{"request":' + b'{"values":[' * 9_999 + b"]}" * 9_999 + b"}]}",
    "more than 1 MiB": b'{"name":"x","version":"' + b"x" * codec.MAX_DECODED + b'"}',
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_service_is_an_invalid_service(data: bytes | str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidService) as caught:
            decode(data)
        assert 10 < len(str(caught.value)) < 500


@quick
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_noise_is_an_invalid_service(noise: bytes | str) -> None:
    with pytest.raises(InvalidService):
        decode(noise)


jsons = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5) | st.just("h:1"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "id", "address", "metadata", "request", "values", "type", "status", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@quick
@given(
    st.fixed_dictionaries(
        {"name": st.just("x") | jsons}, optional=dict.fromkeys(("nodes", "endpoints", "metadata"), jsons)
    )
)
def test_any_json_decodes_to_what_can_be_encoded_or_is_an_invalid_service(document: object) -> None:
    try:
        service = decode(json.dumps(document).encode())
    except InvalidService:
        return
    assert decode(encode(service)) == service
    hash(service)


def test_values_may_be_nested_to_the_limit() -> None:
    value = Value("innermost")
    for _ in range(codec.MAX_DEPTH - 1):
        value = Value("outer", "", (value,))
    service = Service("x", endpoints=[Endpoint("e", value, value)])
    assert decode(encode(service)) == service
    with pytest.raises(InvalidService, match="nested deeper than 16"):
        encode(Service("x", endpoints=[Endpoint("e", None, Value("one more", "", (value,)))]))


def test_a_megabyte_is_read() -> None:
    service = Service("x", metadata={"a": "y" * 900_000}, nodes=[Node("h:1", id="h")])
    assert decode(encode(service)) == service


def test_a_lone_surrogate_cannot_be_written() -> None:
    for service in (
        Service("\ud800"),
        Service("x", metadata={"a": "\udfff"}),
        Service("x", metadata={"\ud800": ""}),
        Service("x", nodes=[Node("\ud800", id="x")]),
    ):
        with pytest.raises(InvalidService, match="lone surrogate.*expected valid Unicode"):
            encode(service)


def test_equal_endpoints_and_metadata_are_one_object() -> None:
    first, second = (decode(encode(GREETER.with_nodes(Node(f"h:{port}", id=f"n{port}")))) for port in (1, 2))
    assert first != second
    assert first.endpoints is second.endpoints
    assert first.metadata is second.metadata
    assert decode(encode(record())).metadata is EMPTY or decode(encode(record())).metadata == EMPTY


def zoned(id: str, **metadata: str) -> Service:
    return decode(encode(Service("x", nodes=[Node("h:1", id=id, metadata=metadata)])))


def test_equal_metadata_of_nodes_are_one_object() -> None:
    first, second = (zoned(id, zone="a", rack="1").nodes[0] for id in "ab")
    assert first.metadata is second.metadata
    assert zoned("a", zone="a", host="1").nodes[0].metadata == {"zone": "a", "host": "1"}  # the same values
    assert first.metadata == {"zone": "a", "rack": "1"}


def test_metadata_of_more_nodes_than_are_remembered() -> None:
    for _ in range(2):
        for number in range(5_000):
            assert zoned("a", pod=f"{number}").nodes[0].metadata == {"pod": f"{number}"}


HEADS = [
    '{"name":"x","version":"1"',
    '{"name":"x","version":"2"',
    '{"name":"x","nodes":[{"id":"old"}]',
    '{"name":"x","metadata":{"a":"1"}',
    '{"name":"x","future":{"a":1',
    '{"name":"","version":"1"',
    "{",
]
TAILS = [
    ',"nodes":[]}',
    ',"nodes":[{"id":"a","address":"h:1","metadata":{"zone":"z"},"status":"warning"},{"id":"b"}]}',
    ',"nodes":[{"id":"a","metadata":null,"nodes":[1]}]}',
    ',"nodes":[{"address":"h:1"},null]}',
    ',"nodes":[{"id":"a","status":"of the future","metadata":{"k":null}}]}',
    ',"nodes":[{"id":"a"}],"version":"3"}',
    ',"nodes":[{"id":"a"}]} ',
    ',"nodes":[{"id":"a"}]}}',
    ',"nodes":[{"id":"a"}]},"nodes":[]}',
    ',"nodes":[{"id":"a\\n"}]}',
    ',"nodes":[5]}',
    ',"nodes":["\xe9"]}',
    ',"nodes":[',
]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("head", HEADS)
def test_a_known_head_changes_nothing(head: str, tail: str) -> None:
    def outcome(data: str | bytes) -> object:
        try:
            return decode(data)
        except InvalidService:
            return InvalidService

    for text in (head + tail, head + tail.replace('"a"', '"c"')):
        assert outcome(text.encode()) == outcome(text)


def test_a_thousand_versions_are_told_apart() -> None:
    for _ in range(2):
        for number in range(1_500):
            service = Service("x" * 100, f"{number:04}", nodes=[Node("h:1", id="a")])
            assert decode(encode(service)) == service


def test_what_is_large_is_not_kept() -> None:
    service = Service("x", metadata={"a": "y" * 20_000})
    first, second = decode(encode(service)), decode(encode(service))
    assert first == second
    assert first.metadata is not second.metadata
    for metadata in ({"a": "y" * 600}, {"k" * 600: ""}, {f"k{number}": "" for number in range(17)}):
        one, other = zoned("a", **metadata), zoned("a", **metadata)
        assert one == other
        assert one.nodes[0].metadata is not other.nodes[0].metadata
