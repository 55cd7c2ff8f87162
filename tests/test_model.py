"""Services, nodes and metadata are values: immutable, hashable, and the same after every journey."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies as given_
from microreg.errors import InvalidService
from microreg.model import EMPTY, Endpoint, FrozenDict, Node, Service, Status, Value, merge, new_id
from strategies import quick, record

FULL = Service(
    "greeter",
    "1.0",
    {"team": "core"},
    [Endpoint("Hello", Value("Request", "Request", (Value("name", "string"),)), None, {"public": "yes"})],
    [Node("10.0.0.7:80", id="a", metadata={"zone": "x"}, status=Status.WARNING), Node("[::1]:80", id="b")],
)


@quick
@given(given_.services)
def test_values_survive_every_journey(service: Service) -> None:
    twins = [pickle.loads(pickle.dumps(service, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*twins, copy.copy(service), copy.deepcopy(service)):
        assert twin == service
        assert hash(twin) == hash(service)
        assert type(twin.metadata) is FrozenDict
        assert all(type(node.metadata) is FrozenDict and isinstance(node.status, Status) for node in twin.nodes)


@pytest.mark.parametrize("value", [FULL, FULL.nodes[0], FULL.endpoints[0], FULL.endpoints[0].request])
def test_values_are_immutable(value: object) -> None:
    assert value is not None
    before = repr(value)
    with pytest.raises(AttributeError):
        value.name = "other"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        value.other = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del value.metadata  # type: ignore[attr-defined]
    assert repr(value) == before
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"version": "2"},
        {"metadata": {"team": "infra"}},
        {"endpoints": ()},
        {"nodes": FULL.nodes[::-1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts_in_comparison(change: dict[str, object]) -> None:
    fields = ("name", "version", "metadata", "endpoints", "nodes")
    other = Service(**{field: change.get(field, getattr(FULL, field)) for field in fields})  # type: ignore[arg-type]
    assert other != FULL
    assert len({other, FULL, copy.copy(FULL)}) == 2
    anything: list[object] = [5, None, "greeter", FULL.nodes[0]]
    assert FULL not in anything


MUTATIONS: dict[str, Callable[[FrozenDict], object]] = {
    "set": lambda d: d.__setitem__("a", "2"),
    "delete": lambda d: d.__delitem__("a"),
    "or": lambda d: d.__ior__({"b": "2"}),
    "update": lambda d: d.update(b="2"),
    "update nothing": lambda d: d.update(),
    "setdefault": lambda d: d.setdefault("b", "2"),
    "pop": lambda d: d.pop("a", None),
    "popitem": lambda d: d.popitem(),
    "clear": lambda d: d.clear(),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_a_frozen_dict_does_not_change(mutate: Callable[[FrozenDict], object]) -> None:
    metadata = FrozenDict(a="1")
    before = hash(metadata)
    with pytest.raises(TypeError, match="immutable: build a new"):
        mutate(metadata)
    assert metadata == {"a": "1"}
    assert hash(metadata) == before


def test_an_augmented_or_does_not_change_a_frozen_dict_in_place() -> None:
    metadata = FrozenDict(a="1")
    with pytest.raises(TypeError):
        metadata |= {"b": "2"}
    assert metadata | {"b": "2"} == {"a": "1", "b": "2"}
    assert {**metadata, "c": "3"} == {"a": "1", "c": "3"}


@quick
@given(given_.metadata)
def test_frozen_dicts_are_equal_whatever_the_order(pairs: dict[str, str]) -> None:
    one, other = FrozenDict(pairs), FrozenDict(reversed(pairs.items()))
    assert one == other == pairs
    assert hash(one) == hash(other)
    for twin in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert type(twin) is FrozenDict
        assert twin == one


def test_metadata_is_copied_in_and_shared_when_frozen() -> None:
    mine = {"a": "1"}
    node = Node("h:1", metadata=mine)
    mine["a"] = "2"
    assert node.metadata == {"a": "1"}
    assert Node("h:1", metadata=node.metadata).metadata is node.metadata
    assert Node("h:1").metadata is Service("x").metadata is EMPTY
    assert Node("h:1", metadata=MappingProxyType({"a": "1"})).metadata == {"a": "1"}


@pytest.mark.parametrize("wrong", [5, "text", b"text", ["a"], None, 1.5, ...], ids=repr)
def test_metadata_that_is_no_mapping_is_explained(wrong: object) -> None:
    for build in (
        lambda m: Service("x", metadata=m),
        lambda m: Node("h:1", metadata=m),
        lambda m: Endpoint("e", metadata=m),
    ):
        with pytest.raises(InvalidService, match=f"metadata is of type {type(wrong).__name__}; expected a mapping"):
            build(wrong)


@pytest.mark.parametrize("field", ["nodes", "endpoints"])
def test_one_node_instead_of_a_list_is_explained(field: str) -> None:
    wrong: dict[str, object] = {field: FULL.nodes[0]}
    with pytest.raises(InvalidService, match=f"{field} is of type Node; expected a list"):
        Service("x", **wrong)  # type: ignore[arg-type]
    none: dict[str, object] = {field: None}
    with pytest.raises(InvalidService, match=f"{field} is of type NoneType"):
        Service("x", **none)  # type: ignore[arg-type]


def test_any_iterable_of_nodes_will_do() -> None:
    assert Service("x", nodes=(node for node in FULL.nodes)).nodes == FULL.nodes
    assert Service("x", nodes=list(FULL.nodes)).nodes == FULL.nodes


def test_ids_are_random() -> None:
    ids = {Node("h:1").id for _ in range(1000)} | {new_id()}
    assert len(ids) == 1001
    assert all(len(each) == 24 and set(each) <= set("0123456789abcdef") for each in ids)
    assert Node("h:1", id="given").id == "given"
    assert len(Node("h:1", id=None).id) == 24


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.7:9090", "10.0.0.7", 9090),
        ("greeter.local:80", "greeter.local", 80),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("greeter.local", "greeter.local", 0),
        ("[::1]", "::1", 0),
        ("fe80::1", "fe80::1", 0),
        ("::1", "::1", 0),
        ("host:", "host", 0),
        ("host:http", "host", 0),
        ("host:70000", "host", 0),
        ("host:-1", "host", 0),
        ("host:٣", "host", 0),
        ("host:" + "9" * 5000, "host", 0),
        (":80", "", 80),
        ("", "", 0),
    ],
)
def test_host_and_port(address: str, host: str, port: int) -> None:
    node = Node(address)
    assert (node.host, node.port) == (host, port)


@pytest.mark.parametrize(
    ("address", "arguments", "metadata", "url"),
    [
        ("10.0.0.7:80", (), {}, "http://10.0.0.7:80"),
        ("10.0.0.7:80", ("grpc",), {}, "grpc://10.0.0.7:80"),
        ("10.0.0.7:80", ("http", "/a"), {}, "http://10.0.0.7:80/a"),
        ("10.0.0.7:80", ("http", "a"), {}, "http://10.0.0.7:80/a"),
        ("[::1]:80", (), {}, "http://[::1]:80"),
        ("[fe80::1%eth0]:80", (), {}, "http://[fe80::1%25eth0]:80"),
        ("10.0.0.7:80", ("grpc",), {"port.grpc": "9090"}, "grpc://10.0.0.7:9090"),
        ("[::1]:80", ("https", "x"), {"port.https": "443"}, "https://[::1]:443/x"),
        ("10.0.0.7:80", (), {"port.grpc": "9090"}, "http://10.0.0.7:80"),
        ("10.0.0.7:80", (), {"port.http": ""}, "http://10.0.0.7:80"),
        ("10.0.0.7:80", (), {"port.http": "0"}, "http://10.0.0.7:80"),
        ("10.0.0.7:80", (), {"port.http": "80@evil.example"}, "http://10.0.0.7:80"),
        ("10.0.0.7:80", (), {"port.http": "70000"}, "http://10.0.0.7:80"),
        ("greeter.local", ("http", "x"), {}, "http://greeter.local/x"),
        ("::1", (), {}, "http://[::1]"),
    ],
)
def test_url(address: str, arguments: tuple[str, ...], metadata: dict[str, str], url: str) -> None:
    assert Node(address, metadata=metadata).url(*arguments) == url


def test_replace_keeps_the_identity() -> None:
    node = FULL.nodes[0]
    other = node.replace(status=Status.DRAINING, address="h:1", metadata={})
    assert (other.id, other.address, other.metadata, other.status) == ("a", "h:1", {}, Status.DRAINING)
    assert node.replace() == node


def test_only_passing_and_warning_nodes_are_selectable() -> None:
    assert [status for status in Status if status.selectable] == [Status.PASSING, Status.WARNING]


@quick
@given(given_.services)
def test_records_are_one_service_per_node(service: Service) -> None:
    records = service.records()
    assert [each.nodes for each in records] == [(node,) for node in service.nodes]
    assert {each.with_nodes() for each in records} == {service.with_nodes()}
    for each in records:
        assert each.records() == (each,)
        assert each.records()[0] is each
    assert service.with_nodes().records() == ()


many = st.lists(given_.few_records, max_size=8, unique_by=lambda each: (each.name, each.nodes[0].id))


@quick
@given(many, st.randoms(use_true_random=False))
def test_merge_does_not_depend_on_the_order(records: list[Service], rng: random.Random) -> None:
    shuffled = rng.sample(records, len(records))
    assert merge(shuffled) == merge(records)


@quick
@given(many)
def test_merge_sorts_groups_and_loses_nothing(records: list[Service]) -> None:
    merged = merge(records)
    assert [(each.name, each.version) for each in merged] == sorted({(each.name, each.version) for each in records})
    assert all([node.id for node in each.nodes] == sorted(node.id for node in each.nodes) for each in merged)
    flat = [(each.name, each.version, node) for each in merged for node in each.nodes]
    assert sorted(flat, key=str) == sorted(((each.name, each.version, each.nodes[0]) for each in records), key=str)


def test_merge_takes_the_shared_parts_of_the_smallest_id_and_the_latest_of_one_node() -> None:
    small = Service("x", "1", {"from": "a"}, [Endpoint("A")], [Node("h:1", id="a")])
    large = Service("x", "1", {"from": "b"}, [Endpoint("B")], [Node("h:2", id="b")])
    (merged,) = merge([large, small])
    assert (merged.metadata, merged.endpoints) == ({"from": "a"}, (Endpoint("A"),))
    assert merge([record(port=80), record(port=81)]) == (record(port=81),)
    assert merge([record(version="1"), record(version="2")]) == (record(version="2"),)
    assert merge([]) == ()
