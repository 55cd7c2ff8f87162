"""What register refuses, and that it says which thing was wrong and what was expected."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies as given_
from microreg import codec, rules
from microreg.errors import InvalidService, RecordTooLarge
from microreg.model import Endpoint, Node, Service, Status, Value
from microreg.rules import MAX_TTL, MIN_TTL, check_name, check_removal, check_service, check_ttl
from strategies import quick

NODE = Node("10.0.0.1:80", id="a")


class Hostile:
    """Nothing of it can be called without an exception."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def service(**fields: object) -> Service:
    return Service(**({"name": "greeter", "nodes": [NODE]} | fields))  # type: ignore[arg-type]


def with_node(**fields: object) -> Service:
    return service(nodes=[Node(**({"address": "10.0.0.1:80", "id": "a"} | fields))])  # type: ignore[arg-type]


def with_endpoint(*arguments: object, **fields: object) -> Service:
    return service(endpoints=[Endpoint(*arguments, **fields)])  # type: ignore[arg-type]


def nested(levels: int) -> Value:
    value = Value("v")
    for _ in range(levels - 1):
        value = Value("v", "", (value,))
    return value


@quick
@given(given_.services)
def test_what_the_rules_describe_passes(accepted: Service) -> None:
    check_service(accepted)
    check_removal(accepted)
    assert len(codec.encode(accepted)) <= codec.MAX_RECORD


ACCEPTED = {
    "one letter": service(name="x"),
    "63 letters": service(name="x" * 63),
    "all kinds of characters": service(name="A0-._z"),
    "upper case": service(name="Greeter"),
    "IPv6": with_node(address="[2001:db8::1]:80"),
    "IPv6 with a zone": with_node(address="[fe80::1%eth0]:80"),
    "DNS name": with_node(address="greeter.internal:65535"),
    "loopback": with_node(address="127.0.0.1:1"),
    "64 pairs": service(metadata={f"k{number}": "" for number in range(64)}),
    "a value of 1 KiB": service(metadata={"k": "v" * 1024}),
    "a key of 128": service(metadata={"k" * 128: "v"}),
    "any text as value": service(metadata={"k": "\x00\n<>é😀"}),
    "16 levels": with_endpoint("e", nested(16), nested(16)),
    "draining": with_node(status=Status.DRAINING),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
def test_limits_are_inclusive(accepted: Service) -> None:
    check_service(accepted)
    assert codec.decode(codec.encode(accepted)) == accepted


NAMES = [
    "",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "a b",
    "a/b",
    "a\n",
    "é",
    "x" * 64,
    "a\x00",
    "\ud800",
    "😀",
    "a:b",
    "a\u202eb",
]
NO_TEXT: list[object] = [None, b"greeter", 5, True, 1.5, ["a"], {"a": 1}, Hostile(), object(), float("nan"), 10**5000]
ADDRESSES: dict[object, str] = {
    "": "empty",
    "10.0.0.1": "port is missing",
    "10.0.0.1:": "from 1 to 65535",
    "10.0.0.1:0": "from 1 to 65535",
    "10.0.0.1:70000": "from 1 to 65535",
    "10.0.0.1:-1": "from 1 to 65535",
    "10.0.0.1:http": "from 1 to 65535",
    "10.0.0.1:8_0": "from 1 to 65535",
    "10.0.0.1:080": "from 1 to 65535",
    "::1:80": "brackets",
    "fe80::1": "brackets",
    "[::1]": "port is missing",
    "[::1:80": "brackets",
    "0.0.0.0:80": "wildcard",
    "[::]:80": "wildcard",
    "*:80": "wildcard",
    ":80": "host is empty",
    "224.0.0.251:80": "multicast",
    "http://10.0.0.1:80": "without scheme",
    "10.0.0.256:80": "IPv4",
    "ho st:80": "space",
    "host\n:80": "control",
    "\ud800:80": "surrogate",
    "h" * 300 + ":80": "longer than",
    "größe:80": "ASCII",
    b"10.0.0.1:80": "expected a str",
    None: "expected a str",
    80: "expected a str",
}
BAD: list[tuple[object, str, str]] = [
    *((service(name=name), "service name", "expected 1 to 63 letters, digits") for name in NAMES),
    *((with_node(id=name), "node id", "expected 1 to 63 letters, digits") for name in NAMES),
    *((service(name=name), "service name", "expected 1 to 63 letters") for name in NO_TEXT),
    *((with_node(id=name), "node id", "expected a str") for name in NO_TEXT[1:]),
    *((service(version=text), "version", "expected a str") for text in NO_TEXT),
    *((with_node(address=address), "address", expected) for address, expected in ADDRESSES.items()),
    (service(nodes=[]), "no node", "at least one is needed"),
    (service(nodes=[NODE, Node("h:1", id="a")]), "two nodes with the id 'a'", "unique"),
    (service(nodes=["10.0.0.1:80"]), "node", "expected a microreg.Node"),
    (service(nodes="ab"), "node", "expected a microreg.Node"),
    (service(nodes=[None]), "node", "expected a microreg.Node"),
    (service(nodes=[Hostile()]), "node", "expected a microreg.Node"),
    (service(version="\ud800"), "version", "valid Unicode"),
    (service(version="a\nb"), "version", "printable"),
    (service(version="v" * 256), "version", "at most 255 bytes"),
    (service(metadata={"": "v"}), "key ''", "expected 1 to 128"),
    (service(metadata={"a b": "v"}), "key 'a b'", "expected 1 to 128"),
    (service(metadata={"k" * 129: "v"}), "key 'kkk", "expected 1 to 128"),
    (service(metadata={"é": "v"}), "key 'é'", "expected 1 to 128"),
    (service(metadata={b"k": "v"}), "key b'k'", "expected 1 to 128"),
    (service(metadata={None: "v"}), "key None", "expected 1 to 128"),
    (service(metadata={"k": None}), "value of 'k'", "expected a str"),
    (service(metadata={"k": b"v"}), "value of 'k' is a bytes", "expected a str"),
    (service(metadata={"k": Hostile()}), "value of 'k'", "expected a str"),
    (service(metadata={"k": "\udfff"}), "value of 'k'", "valid text"),
    (service(metadata={"k": "v" * 1025}), "value of 'k' has 1025 bytes", "at most 1024"),
    (service(metadata={"k": "é" * 513}), "value of 'k' has 1026 bytes", "at most 1024"),
    (service(metadata={"k": "v" * 1_000_000}), "value of 'k' has 1000000 bytes", "at most 1024"),
    (service(metadata={f"k{number}": "" for number in range(65)}), "65 pairs", "at most 64"),
    (with_node(metadata={"k": 5}), "metadata of node 'a' of service 'greeter'", "expected a str"),
    (with_node(status="passing"), "status of node 'a'", "expected a microreg.Status"),
    (with_node(status=None), "status of node 'a'", "expected a microreg.Status"),
    (with_node(status=Hostile()), "status of node 'a'", "expected a microreg.Status"),
    (service(endpoints=["Hello"]), "endpoint", "expected a microreg.Endpoint"),
    (service(endpoints=[Hostile()]), "endpoint", "expected a microreg.Endpoint"),
    (with_endpoint(""), "endpoint of service 'greeter'", "empty name"),
    (with_endpoint(None), "endpoint None", "expected a str"),
    (with_endpoint(Hostile()), "endpoint", "expected a str"),
    (with_endpoint("\ud800"), "endpoint", "valid Unicode"),
    (with_endpoint("e" * 256), "endpoint", "at most 255"),
    (with_endpoint("e", metadata={"k": 5}), "endpoint 'e' of service 'greeter'", "expected a str"),
    (with_endpoint("e", "Request"), "endpoint 'e'", "microreg.Value"),
    (with_endpoint("e", None, b"Response"), "endpoint 'e'", "microreg.Value"),
    (with_endpoint("e", Value(None)), "value's name", "expected a str"),  # type: ignore[arg-type]
    (with_endpoint("e", Value("v", 5)), "value's type", "expected a str"),  # type: ignore[arg-type]
    (with_endpoint("e", Value("v", "\ud800")), "value's type", "valid Unicode"),
    (with_endpoint("e", Value("v", "", [Value("w")])), "endpoint 'e'", "tuple"),  # type: ignore[arg-type]
    (with_endpoint("e", Value("v", "", None)), "endpoint 'e'", "tuple"),  # type: ignore[arg-type]
    (with_endpoint("e", Value("v", "", ("w",))), "endpoint 'e'", "microreg.Value"),  # type: ignore[arg-type]
    (with_endpoint("e", nested(17)), "endpoint 'e'", "deeper than 16"),
    (with_endpoint("e", None, nested(5_000)), "endpoint 'e'", "deeper than 16"),
    (None, "NoneType", "expected a microreg.Service"),
    ("greeter", "str", "expected a microreg.Service"),
    (NODE, "Node", "expected a microreg.Service"),
]


@pytest.mark.parametrize(("bad", "what", "expected"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_input_says_what_was_wrong_and_what_was_expected(bad: Service, what: str, expected: str) -> None:
    with pytest.raises(InvalidService) as caught:
        check_service(bad)
    text = str(caught.value)
    assert what in text
    assert expected in text
    assert len(text) < 800
    assert text.isprintable()


def test_a_record_that_is_too_large_says_both_sizes() -> None:
    full = {f"k{number}": "v" * 1024 for number in range(63)}
    large = Service("greeter", metadata=full, nodes=[NODE, Node("10.0.0.2:80", id="b", metadata=full)])
    with pytest.raises(RecordTooLarge, match="node 'b' of service 'greeter' has [0-9]+ bytes; at most 65536") as caught:
        check_service(large)
    assert caught.value.limit == 65_536 < caught.value.size == len(codec.encode(large.records()[1]))
    check_service(large.with_nodes(NODE))


@pytest.mark.parametrize(
    "ttl",
    [
        *(0, -1, 0.999, -0.0, MAX_TTL + 1, 10**400, -(10**5000), math.nan, math.inf, -math.inf, True, False),
        *("15", b"15", None, [15], Decimal(15), Fraction(15), 15j, Hostile()),
    ],
    ids=lambda ttl: type(ttl).__name__,
)
def test_a_bad_ttl_is_explained(ttl: float) -> None:
    with pytest.raises(InvalidService, match=r"ttl .*expected a number of seconds.* 1 to 86400 \(one day\)"):
        check_ttl(ttl)


@quick
@given(st.floats(MIN_TTL, MAX_TTL) | st.integers(1, 86_400))
def test_a_good_ttl_is_a_float(ttl: float) -> None:
    assert check_ttl(ttl) == ttl
    assert type(check_ttl(ttl)) is float


@pytest.mark.parametrize("name", ["x", "a b", "größe 😀", "_tcp.local.", "é" * 127, "-"])
def test_names_that_others_wrote_may_be_asked_for(name: str) -> None:
    asked = Service(name, nodes=[Node("", id=name)])
    check_name(name)
    check_removal(asked)
    assert codec.decode(codec.encode(asked)) == asked


@pytest.mark.parametrize("name", ["", "\n", "\ud800", "é" * 128, "x" * 256, *NO_TEXT], ids=range(16))
def test_names_that_nobody_can_have(name: str) -> None:
    with pytest.raises(InvalidService, match="service name .*expected"):
        check_name(name)
    with pytest.raises(InvalidService, match="service name .*expected"):
        check_removal(Service(name, nodes=[NODE]))
    if name is not None:
        with pytest.raises(InvalidService, match="node id .*expected"):
            check_removal(Service("greeter", nodes=[Node("h:1", id=name)]))


@pytest.mark.parametrize(
    "wrong", [None, "greeter", Service("greeter"), service(nodes=[NODE, NODE]), service(nodes=[5])], ids=str
)
def test_removal_needs_nodes_too(wrong: Service) -> None:
    with pytest.raises(InvalidService):
        check_removal(wrong)


anything = st.one_of(
    st.sampled_from(
        [None, True, 0, -1, 10**5000, math.nan, b"x", "", "x", "\ud800", [], {}, (), set(), Hostile(), object, Status]
    ),
    st.text(max_size=4),
    st.lists(st.text(max_size=2) | st.none(), max_size=2),
    st.dictionaries(st.text(max_size=2) | st.none() | st.integers(), st.text(max_size=2) | st.none(), max_size=2),
    st.sampled_from(
        [NODE, Service("greeter"), Endpoint("e"), Value("v"), [NODE], (NODE,), [Value("v")], [Endpoint("e")]]
    ),
)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.lists(anything, min_size=14, max_size=14))
def test_arbitrary_objects_are_refused_or_accepted_but_nothing_else(rng: random.Random, objects: list[object]) -> None:
    good: list[object] = [
        "greeter",
        "1",
        {},
        (),
        None,
        "10.0.0.1:80",
        "a",
        {},
        Status.PASSING,
        "e",
        None,
        None,
        {},
        "v",
    ]
    spoilt = set(rng.sample(range(14), rng.choice([1, 1, 1, 2, 14])))
    name, version, metadata, endpoints, nodes, address, id_, pairs, status, endpoint, request, response, more, value = (
        objects[index] if index in spoilt else good[index] for index in range(14)
    )
    try:
        if 4 not in spoilt:
            nodes = [Node(address, id=id_, metadata=pairs, status=status)]  # type: ignore[arg-type]
        if 3 not in spoilt:
            request = Value(value, "", ()) if 10 not in spoilt else request  # type: ignore[arg-type]
            endpoints = [Endpoint(endpoint, request, response, more)]  # type: ignore[arg-type]
        built = Service(name, version, metadata, endpoints, nodes)  # type: ignore[arg-type]
        check_service(built)
    except InvalidService as error:
        assert str(error)
    else:
        assert codec.decode(codec.encode(built)) == built


odd_pairs = st.dictionaries(
    given_.keys | given_.printable | st.just("k" * 129), given_.utf8 | st.just("v" * 1025), max_size=3
)
large = st.builds(
    lambda char, count, pairs: {f"k{number}": char * count for number in range(pairs)},
    st.sampled_from("a<\x01é中😀\u2028"),
    st.integers(900, 1024),
    st.integers(0, 64),
)


@settings(max_examples=200)
@given(odd_pairs | large, odd_pairs | large)
def test_the_short_way_of_checking_refuses_what_the_long_way_does(
    of_service: dict[str, str], of_node: dict[str, str]
) -> None:
    built = service(metadata=of_service, nodes=with_node(metadata=of_node).nodes)
    found: list[str] = []
    for long in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if long:
                patch.setattr(rules, "_is_plain", lambda _: False)
                patch.setattr(rules, "_is_small", lambda _: False)
            try:
                check_service(built)
            except InvalidService as error:
                found.append(str(error))
            else:
                found.append("")
    assert found[0] == found[1]
