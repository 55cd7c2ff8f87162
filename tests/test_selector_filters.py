"""Filters and zones: which nodes may be selected, how filters are written, and what a broken one does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

import microreg
from microreg.errors import ConfigError, NoNodeAvailable
from microreg.model import Endpoint, Node, Service, Status
from microreg.net import Interface
from microreg.registry import Registry
from microreg.selector import Filter, Selector, filters
from selecting import selecting
from support import python
from timeless import run

NODE = Node("10.0.0.1:80", id="a", metadata={"zone": "a", "tier": "gold", "port.http": "80"})
SERVICE = Service("greeter", "2.1", {"tier": "silver", "team": "x"}, [Endpoint("hello")], [NODE])


def fits(given: Filter | str, node: Node = NODE, service: Service = SERVICE) -> bool:
    (parsed,) = filters.parse(given)
    return parsed(node, service)


@pytest.mark.parametrize(
    "given",
    [
        "version:2.1",
        "version:>=2",
        "version: >=2,<3",
        "version:~=2.0",
        "version:==2.1.0",
        "version:!=2.2",
        filters.version(">=2"),
        "metadata:tier=gold",
        "metadata:tier=gold,team=x",
        "metadata: tier=gold, zone=a",
        filters.metadata(tier="gold"),
        filters.metadata("port.http=80", tier="gold"),
        "endpoint:hello",
        filters.endpoint("hello"),
        "status:passing",
        "status:passing,warning",
        filters.status(Status.PASSING),
        "zone:a",
        "zone:b,a",
        filters.zone("b", "a"),
        lambda node, service: node.port == 80,
    ],
    ids=lambda given: given if isinstance(given, str) else "function",
)
def test_what_fits(given: Filter | str) -> None:
    assert fits(given)


@pytest.mark.parametrize(
    "given",
    [
        "version:2",
        "version:2.1.0",
        "version:",
        "version:>2.1",
        "version:>=3",
        "metadata:tier=silver",
        "metadata:tier=gold,team=y",
        "metadata:nothing=",
        "endpoint:Hello",
        "status:warning",
        "zone:b",
        "zone:A",
        lambda node, service: node.port == 81,
    ],
    ids=lambda given: given if isinstance(given, str) else "function",
)
def test_what_does_not_fit(given: Filter | str) -> None:
    assert not fits(given)


@pytest.mark.parametrize("version", ["", "latest", "v?", "1.0-x-y", "2.0rc1"])
def test_a_version_that_is_none_fits_no_specifier(version: str) -> None:
    service = Service("greeter", version, nodes=[NODE])
    assert not fits("version:>=0", service=service) and fits(f"version:{version}", service=service)


def test_a_pre_release_fits_where_one_is_named() -> None:
    service = Service("greeter", "2.0rc1", nodes=[NODE])
    assert fits("version:>=2.0rc1", service=service) and fits("version:==2.0rc1", service=service)


def test_local_nodes_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (Interface("eth0", 2, ("10.0.0.7", "fe80::1%eth0")),)
    monkeypatch.setattr("microreg.net.interfaces", lambda: own)
    local = filters.local()
    for host in ("10.0.0.7", "127.0.0.1", "127.8.8.8", "localhost", "[::1]", "[fe80::1%eth0]"):
        assert local(Node(f"{host}:80"), SERVICE), host
    for host in ("10.0.0.8", "[2001:db8::1]", "greeter.example"):
        assert not local(Node(f"{host}:80"), SERVICE), host


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("versoin:2", "no filter 'versoin' is installed .*did you mean 'version'"),
        (
            "nothing",
            r"no filter 'nothing' is installed \(installed: endpoint, local, metadata, status, version, zone\)",
        ),
        ("version:>=2,<<3", "'>=2,<<3' is no version specifier; expected one such as '>=2,<3'"),
        ("version", "filter 'version': TypeError: .*wanted"),
        ("metadata", "expected at least one key=value"),
        ("metadata:gold", "'gold': expected key=value"),
        ("metadata:=gold", "'=gold': expected key=value"),
        ("endpoint:", "expected endpoint:VALUE"),
        ("zone", "expected zone:VALUE"),
        ("status:critical", "'critical' is never selected; expected passing or warning"),
        ("status:", "expected passing or warning"),
        ("status", "expected status:VALUE"),
        ("local:x", "filter 'local:x': TypeError"),
        (5, "filters 5: expected a filter, or several"),
        ([5], "filter 5: expected text such as 'zone:a', or a plain function"),
        ([None], "expected text such as 'zone:a', or a plain function"),
        (None, "filters None .*: expected a filter, or several"),
    ],
)
def test_a_filter_that_cannot_be(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selector(microreg.connect("memory://"), filters=given)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda text: None, "filter 'mine:x' made None .*; expected a plain function"),
        (lambda text: {}[text], "filter 'mine:x': KeyError: 'x'"),
    ],
)
def test_a_factory_of_others_that_makes_no_filter(
    made: Callable[[str], Filter], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microreg.plugins.load", lambda group, name: made)
    with pytest.raises(ConfigError, match=message):
        filters.parse("mine:x")


@pytest.mark.parametrize("factory", [filters.version, filters.metadata, filters.endpoint, filters.status, filters.zone])
@pytest.mark.parametrize("given", [5, None, b"x"])
def test_what_a_factory_is_given_is_text(factory: Callable[[object], Filter], given: object) -> None:
    with pytest.raises(ConfigError, match="expected text"):
        factory(given)


def test_an_asynchronous_filter_is_refused() -> None:
    async def always(node: Node, service: Service) -> bool:
        return True

    class Always:
        async def __call__(self, node: Node, service: Service) -> bool:
            return True

    for each in (always, Always()):
        with pytest.raises(ConfigError, match="expected text such as 'zone:a', or a plain function"):
            Selector(microreg.connect("memory://"), filters=cast(Filter, each))


def test_packaging_is_loaded_when_a_specifier_is_read() -> None:
    code = """
import sys
from microreg.selector import filters
filters.version("2.1")
print("packaging.specifiers" in sys.modules)
filters.version(">=2")
print("packaging.specifiers" in sys.modules)
"""
    assert python(code).split() == ["False", "True"]


# -- in a Selector -----------------------------------------------------------------------------------


def node(id: str, zone: str = "", status: Status = Status.PASSING, **metadata: str) -> Node:
    return Node(f"10.0.0.{ord(id)}:80", id=id, status=status, metadata=metadata | ({"zone": zone} if zone else {}))


async def put(registry: Registry, *nodes: Node, version: str = "1") -> None:
    await registry.register(Service("greeter", version, nodes=nodes), ttl=3600)
    await asyncio.sleep(0.01)


def seen(selector: Selector) -> str:
    return "".join(sorted({selector.pick("greeter").id for _ in range(200)}))


def test_a_selector_picks_what_fits_all_filters() -> None:
    async def main() -> None:
        async with selecting(filters=["version:>=2", "metadata:tier=gold"]) as (selector, registry):
            await put(registry, node("a", tier="gold"), node("b", tier="gold"))
            with pytest.raises(NoNodeAvailable) as caught:
                await selector.select("greeter", timeout=0.1)
            assert "2 known, none fits: left out by the filter version:>=2 (2)" in str(caught.value)
            await put(registry, node("b", tier="gold"), node("c", tier="iron"), version="2.0")
            assert seen(selector) == "b"
            await put(registry, node("c", tier="gold"), version="2.1")
            assert seen(selector) == "bc"
            await put(registry, node("b", tier="gold"), version="1.9")
            assert seen(selector) == "c"

    run(main())


def test_one_filter_needs_no_list() -> None:
    async def main() -> None:
        for one in ("zone:a", filters.zone("a")):
            async with selecting(filters=one) as (selector, registry):
                await put(registry, node("a", "a"), node("b", "b"))
                await selector.select("greeter")
                assert seen(selector) == "a"

    run(main())


def test_a_filter_that_raises_leaves_its_nodes_out_and_says_so() -> None:
    def picky(node: Node, service: Service) -> bool:
        return bool(int(node.metadata["rank"]))

    async def main() -> None:
        async with selecting(filters=picky) as (selector, registry):
            await put(registry, node("a", rank="x"), node("b"))
            with pytest.raises(NoNodeAvailable, match="picky raised ValueError: .*; .*picky raised KeyError: 'rank'"):
                await selector.select("greeter", timeout=0.1)
            await put(registry, node("c", rank="1"))
            assert seen(selector) == "c"
            assert "picky raised KeyError: 'rank'" in str(selector.explain("greeter"))

    run(main())


def test_a_filter_that_cannot_even_be_shown_does_not_end_the_watch() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise TypeError

    class Hidden:
        def __call__(self, node: Node, service: Service) -> bool:
            if node.id == "a":
                raise Unspeakable
            return node.id != "b"

        def __repr__(self) -> str:
            raise TypeError

    async def main() -> None:
        async with selecting(filters=Hidden()) as (selector, registry):
            await put(registry, node("c"))
            await selector.select("greeter")
            for id in "abd":
                await put(registry, node(id))
                await asyncio.sleep(0.1)
            why = [each.why for each in selector.explain("greeter").nodes]
            assert "raised Unspeakable: something without a text" in why[0] and "left out by" in why[1]
            assert why[2:] == ["", ""]

    run(main())


# -- zones -------------------------------------------------------------------------------------------


def test_calls_stay_in_their_zone_while_it_has_enough_nodes() -> None:
    async def main() -> None:
        async with selecting(zone="a") as (selector, registry):
            await put(registry, node("a", "a"), node("b", "a"), node("c", "b"), node("d"))
            await selector.select("greeter")
            assert seen(selector) == "ab"
            await put(registry, node("a", "a", Status.CRITICAL))
            assert seen(selector) == "b", "half of them is enough"
            await put(registry, node("b", "a", Status.DRAINING))
            assert seen(selector) == "cd", "none is not"
            assert "zone a has too few nodes" in selector.explain("greeter").note
            await put(registry, node("b", "a"), node("e", "a", Status.STARTING))
            assert seen(selector) == "bcd", "a third is not"
            await put(registry, node("a", "a"))
            assert seen(selector) == "ab"

    run(main())


def test_a_zone_without_nodes_is_no_reason_to_fail() -> None:
    async def main() -> None:
        async with selecting(zone="nowhere") as (selector, registry):
            await put(registry, node("a", "a"), node("b"))
            assert (await selector.select("greeter")).id in "ab"
            assert seen(selector) == "ab"

    run(main())


def test_nodes_that_a_filter_leaves_out_are_no_part_of_the_zone() -> None:
    async def main() -> None:
        async with selecting(filters="version:2", zone="a") as (selector, registry):
            await put(registry, *(node(id, "a") for id in "abc"), version="1")
            await put(registry, node("d", "a"), node("e", "b"), version="2")
            await selector.select("greeter")
            assert seen(selector) == "d", "one of one, and not one of four"

    run(main())


def test_a_retry_may_leave_the_zone() -> None:
    async def main() -> None:
        async with selecting(zone="a") as (selector, registry):
            await put(registry, node("a", "a"), node("b", "b"))
            tried: list[str] = []

            async def fail(node: Node) -> None:
                tried.append(node.id)
                raise ConnectionResetError

            with pytest.raises(ConnectionResetError):
                await selector.call("greeter", fail)
            assert tried == ["a", "b"]

    run(main())


def test_a_zone_is_a_name() -> None:
    with pytest.raises(ConfigError, match="zone 5: expected the name"):
        Selector(microreg.connect("memory://"), zone=cast(str, 5))
