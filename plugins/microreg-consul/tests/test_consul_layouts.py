"""What is written of a node, and that it is read as it was; Consul is not asked here, its limits are checked."""

from __future__ import annotations

import re
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consul_entries import entry, raw
from microreg import Endpoint, Node, Service, Status, Value
from microreg.codec import encode
from microreg.errors import RecordTooLarge
from microreg.rules import check_service
from microreg_consul.layouts import GoMicro, Layout
from microreg_consul.records import Records

LAYOUTS = [Layout(), GoMicro()]

GREETER = Service(
    "greeter",
    "1.0.0",
    {"team": "core"},
    [Endpoint("Greeter.Hello", Value("HelloRequest", "HelloRequest", (Value("name", "string"),)))],
    [Node("10.0.0.7:9090", id="greeter-1", metadata={"zone": "a", "port.http": "8080"})],
)


def node(**changes: object) -> Service:
    """The greeter with these fields of its node."""
    return GREETER.with_nodes(GREETER.nodes[0].replace(**changes))  # type: ignore[arg-type]


def meta(layout: Layout, record: Service) -> dict[str, str]:
    """Its Meta, within Consul's limits."""
    written = cast("dict[str, str]", layout.registration(record)["Meta"])
    assert len(written) <= 64
    for key, value in written.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key) and not key.startswith("consul-")
        assert len(value.encode()) <= 512
    return written


def test_it_looks_right_in_consul() -> None:
    assert Layout().registration(GREETER) == {
        "ID": "greeter:greeter-1",
        "Name": "greeter",
        "Tags": ["version=1.0.0", "zone=a"],
        "Address": "10.0.0.7",
        "Port": 9090,
        "Meta": {
            "port__http": "8080",
            "zone": "a",
            "microreg-1": '{"name":"greeter","version":"1.0.0","metadata":{"team":"core"},"endpoints":[{"name":'
            '"Greeter.Hello","request":{"name":"HelloRequest","type":"HelloRequest","values":[{"name":"name","type":'
            '"string","values":null}]},"response":null,"metadata":{}}],"nodes":[{"id":"greeter-1"}]}',
        },
    }


def test_the_least_that_is_written() -> None:
    written = Layout().registration(Service("greeter", nodes=[Node("db.internal:1", id="a")]))
    assert written["Tags"] == []
    assert written["Meta"] == {"microreg-1": '{"name":"greeter","nodes":[{"id":"a"}]}'}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("weight", "passing"), [("1", 1), ("100", 100), ("65535", 65535)])
def test_dns_knows_the_weight(layout: Layout, weight: str, passing: int) -> None:
    assert layout.registration(node(metadata={"weight": weight}))["Weights"] == {"Passing": passing, "Warning": 1}


@pytest.mark.parametrize("weight", ["", "0", "-1", "0.5", "65536", "999999", "٣", "much"])
def test_a_weight_that_consul_would_refuse_stays_metadata(weight: str) -> None:
    record = node(metadata={"weight": weight})
    assert "Weights" not in Layout().registration(record)
    assert Records().read(entry(Layout(), record)) == record


@pytest.mark.parametrize(
    ("name", "id", "expected", "go_micro"),
    [
        ("greeter", "a", "greeter:a", "greeter:a"),
        ("greeter-2", "x_1.y", "greeter-2:x_1.y", "greeter-2:x_1.y"),
        ("Greeter", "a", "Greeter:a:100", "Greeter:a:100"),
        ("greeter", "A", "greeter:A:1", "greeter:A:1"),
        ("greeter", "greeter-7", "greeter:greeter-7", "greeter-7"),
        ("greeter", "greeter", "greeter:greeter", "greeter:greeter"),
        ("greeter", "greeter-B", "greeter:greeter-B:1", "greeter:greeter-B:1"),
    ],
)
def test_ids(name: str, id: str, expected: str, go_micro: str) -> None:
    assert Layout().service_id(name, id) == expected
    assert GoMicro().service_id(name, id) == go_micro
    record = Service(name, nodes=[Node("10.0.0.1:1", id=id)])
    for layout in LAYOUTS:
        assert Records().read(entry(layout, record)) == record


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_ids_differ_for_a_store_that_folds_case(one: tuple[str, str], other: tuple[str, str]) -> None:
    folded = [Layout().service_id(*each).lower() for each in (one, other, (one[0].swapcase(), one[1]))]
    assert (folded[0] == folded[1]) == (one == other)
    assert (folded[0] == folded[2]) == (one[0].swapcase() == one[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("status", Status)
def test_the_status_is_in_the_record(layout: Layout, status: Status) -> None:
    record = node(status=status)
    assert Records().read(entry(layout, record)) == record
    assert ("status" in str(meta(layout, record))) == (status is not Status.PASSING)


KEYS = [
    ".",
    "..",
    "a.b",
    "a..b",
    "a_.b",
    "a._b",
    "a__b",
    "_",
    "__",
    "a.",
    ".a",
    "-",
    "version",
    "microreg-1",
    "microreg-",
    "microreg",
    "consul-x",
    "consul",
    "consul.x",
    "Microreg-1",
    "k" * 128,
    "." * 128,
    "k" * 127 + ".",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_keys_of_metadata_stay_as_they_are(layout: Layout) -> None:
    record = node(metadata={key: f"value of {key[:20]}" for key in KEYS})
    check_service(record)
    meta(layout, record)
    assert Records().read(entry(layout, record)) == record
    for key in KEYS:
        alone = node(metadata={key: "x"})
        meta(layout, alone)
        assert Records().read(entry(layout, alone)) == alone


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "value", ["", "x" * 512, "x" * 513, "x" * 1024, "é" * 256, "é" * 257, "🙂" * 255, '"\\\n\0\x1b']
)
def test_odd_values_of_metadata_stay_as_they_are(layout: Layout, value: str) -> None:
    record = node(metadata={"key": value})
    meta(layout, record)
    assert Records().read(entry(layout, record)) == record


def test_as_much_as_people_can_read_stands_in_plain_pairs() -> None:
    many = {f"key-{number}": "x" for number in range(63)}
    assert len(meta(Layout(), Service("a", nodes=[Node("10.0.0.1:1", id="a", metadata=many)]))) == 64
    record = Service("a", nodes=[Node("10.0.0.1:1", id="a", metadata={**many, "one-more": "x"})])
    assert list(meta(Layout(), record)) == ["microreg-1", "microreg-2"]
    assert Records().read(entry(Layout(), record)) == record


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_that_consul_cannot_hold_says_so(layout: Layout) -> None:
    large = {f"key-{number}": "€" * 341 for number in range(40)}
    record = Service("greeter", "1", large, nodes=[Node("10.0.0.1:1", id="a")])
    check_service(record)
    with pytest.raises(RecordTooLarge, match=r"'a' of service 'greeter' needs \d+ bytes in Consul's Meta") as caught:
        layout.registration(record)
    assert caught.value.size > caught.value.limit == 64 * 509
    less = Service("greeter", "1", dict(list(large.items())[:30]), nodes=record.nodes)
    meta(layout, less)
    assert Records().read(entry(layout, less)) == less


def test_endpoints_fill_as_many_pairs_as_they_need() -> None:
    endpoints = [Endpoint(f"Greeter.Call{number}", Value("Request", "Request")) for number in range(200)]
    record = Service("greeter", "1", {}, endpoints, [Node("10.0.0.1:1", id="a")])
    assert 20 < len(meta(Layout(), record)) <= 64
    assert Records().read(entry(Layout(), record)) == record
    too_many = Service("greeter", "1", {}, endpoints * 3, record.nodes)
    with pytest.raises(RecordTooLarge):
        Layout().registration(too_many)
    assert Records().read(entry(GoMicro(), too_many)) == too_many  # in tags, which Consul does not limit


@pytest.mark.parametrize("address", ["[::1]:80", "[fe80::1%eth0]:8080", "10.0.0.1:65535", "db.internal.:1"])
def test_addresses(address: str) -> None:
    for layout in LAYOUTS:
        record = node(address=address)
        assert layout.registration(record)["Address"] == record.nodes[0].host
        assert Records().read(entry(layout, record)) == record


def test_nodes_of_a_version_share_what_they_have_in_common() -> None:
    one, other = (Records().read(entry(Layout(), node(address=f"10.0.0.1:{port}"))) for port in (1, 2))
    assert one and other and one.endpoints is other.endpoints and one.metadata is other.metadata


def test_what_anybody_else_registered_is_a_node_too() -> None:
    service = Records().read(raw(ID="web-1", Service="web", Address="10.0.0.9", Port=80, Tags=["traefik.enable=true"]))
    assert service == Service("web", nodes=[Node("10.0.0.9:80", id="web-1")])


def test_the_address_of_the_agent_stands_in() -> None:
    for empty in ("", None):
        service = Records().read(raw(ID="web", Service="web", Address=empty, Port=80, Tags=None, Meta=None))
        assert service == Service("web", nodes=[Node("127.0.0.1:80", id="web")])


def test_without_a_port() -> None:
    for port in (0, None):
        service = Records().read(raw(ID="web", Service="web", Address="2001:db8::1", Port=port))
        assert service == Service("web", nodes=[Node("2001:db8::1", id="web")])
    v6 = Records().read(raw(ID="web", Service="web", Address="2001:db8::1", Port=80))
    assert v6 and (v6.nodes[0].host, v6.nodes[0].port) == ("2001:db8::1", 80)


def test_meta_of_others_is_metadata_as_it_stands() -> None:
    found = Records().read(
        raw(ID="web-1", Service="web", Address="10.0.0.9", Port=80, Meta={"a__b": "c", "version": "2.1", "n": ""})
    )
    metadata = {"a__b": "c", "version": "2.1", "n": ""}
    assert found == Service("web", "2.1", nodes=[Node("10.0.0.9:80", id="web-1", metadata=metadata)])


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=60).filter(str.isprintable)
METADATA = st.dictionaries(
    st.text("abzAZ09_.-", min_size=1, max_size=6) | st.sampled_from(KEYS),
    st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(["x" * 1024, "é" * 300, "🙂" * 200]),
    max_size=8,
)
VALUES = st.recursive(
    st.builds(Value, TEXT, TEXT),
    lambda inner: st.builds(Value, TEXT, TEXT, st.lists(inner, max_size=2).map(tuple)),
    max_leaves=3,
)
ENDPOINTS = st.builds(Endpoint, TEXT.filter(bool), st.none() | VALUES, st.none() | VALUES, METADATA)
RECORDS = st.builds(
    Service,
    NAMES,
    TEXT,
    METADATA,
    st.lists(ENDPOINTS, max_size=3),
    st.builds(
        Node,
        st.sampled_from(["10.0.0.7:9090", "[::1]:1", "db.internal:65535"]),
        id=NAMES,
        metadata=METADATA,
        status=st.sampled_from(Status),
    ).map(lambda node: [node]),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(LAYOUTS), RECORDS)
def test_whatever_may_be_registered_is_read_as_it_was(layout: Layout, record: Service) -> None:
    check_service(record)
    try:
        meta(layout, record)
    except RecordTooLarge:
        assert len(encode(record)) > 32_000
        return
    assert Records().read(entry(layout, record)) == record
