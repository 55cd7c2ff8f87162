"""namespace+: names with a prefix in the store, without one outside, and nothing in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microreg
import support
from microreg import codec
from microreg.errors import ConfigError, InvalidService, RecordTooLarge, RegistryClosed, ServiceNotFound
from microreg.events import Action, Change, Reason, Snapshot
from microreg.layers.cache import CacheLayer
from microreg.layers.namespace import NamespaceLayer
from microreg.model import Endpoint, Node, Service
from microreg.registry import Registry
from timeless import run


def one(name: str = "orders", id: str = "a", **more: str) -> Service:
    return Service(name, "1", more, [Endpoint("Place")], [Node("10.0.0.1:80", id=id)])


@asynccontextmanager
async def three() -> AsyncGenerator[tuple[Registry, Registry, Registry]]:
    """The namespaces a and a-b of a store, and the store itself."""
    async with (
        microreg.connect("namespace+memory://shared?namespace.prefix=a") as first,
        microreg.connect("namespace+memory://shared?namespace.prefix=a-b") as second,
        microreg.connect("memory://shared") as plain,
    ):
        yield first, second, plain


def test_a_name_has_the_prefix_in_the_store_only() -> None:
    async def main() -> None:
        async with three() as (first, second, plain):
            await first.register(one(zone="x"))
            assert await first.get_service("orders") == (one(zone="x"),)
            assert await plain.get_service("a.orders") == (one("a.orders", zone="x"),)
            assert (await first.list_services(), await plain.list_services()) == (("orders",), ("a.orders",))
            assert await second.list_services() == ()
            for name in ("orders", "a.orders", "b.orders"):
                with pytest.raises(ServiceNotFound, match=f"'{name}'") as caught:
                    await second.get_service(name)
                assert caught.value.name == name and caught.value.authoritative
            await second.deregister(one())
            assert await first.get_service("orders")
            await first.deregister(one())
            assert await plain.list_services() == ()

    run(main())


def test_a_watch_of_all_names_tells_of_its_namespace_only() -> None:
    async def main() -> None:
        async with three() as (first, second, plain):
            await first.register(one("before"))
            await second.register(one("hidden"))
            await plain.register(one("a"))
            async with first.watch() as events, first.watch("orders") as orders:
                assert await anext(events) == Snapshot([one("before")]) and await anext(orders) == Snapshot()
                for registry, name in ((second, "orders"), (plain, "orders"), (plain, "a-x.orders"), (first, "orders")):
                    await registry.register(one(name))
                for told in (events, orders):
                    change = await anext(told)
                    assert isinstance(change, Change)
                    assert (change.action, change.service, change.previous) == (Action.CREATE, one(), None)
                await first.register(one(zone="b"))
                change = await anext(events)
                assert isinstance(change, Change) and (change.service, change.previous) == (one(zone="b"), one())
                await plain.deregister(one("a.orders"))
                change = await anext(events)
                assert isinstance(change, Change) and change.reason is Reason.DEREGISTERED
                assert change.service.name == "orders"

    run(main())


NAME = st.from_regex(r"[a-z](?:[a-z.]{0,4}[a-z])?", fullmatch=True)
PREFIX = st.from_regex(r"[a-z](?:[a-z-]{0,3}[a-z])?", fullmatch=True)


@settings(max_examples=25)
@given(mine=PREFIX, theirs=PREFIX, name=NAME, other=NAME)
def test_no_name_of_one_namespace_is_one_of_another(mine: str, theirs: str, name: str, other: str) -> None:
    async def main() -> None:
        async with (
            microreg.connect(f"namespace+memory://shared?namespace.prefix={mine}") as first,
            microreg.connect(f"namespace+memory://shared?namespace.prefix={theirs}") as second,
        ):
            await first.register(one(name, "first"))
            await second.register(one(other, "second"))
            seen = [node.id for each in await first.get_service(name) for node in each.nodes]
            shared = mine == theirs and name == other
            assert seen == (["first", "second"] if shared else ["first"])
            assert await first.list_services() == tuple(sorted({name} | ({other} if mine == theirs else set())))

    run(main())


def test_a_name_shares_its_length_with_the_prefix() -> None:
    async def main() -> None:
        async with three() as (first, _, plain):
            await first.register(one("x" * 61))
            assert await plain.list_services() == ("a." + "x" * 61,)
            with pytest.raises(
                RecordTooLarge, match="'x+' has 62 characters; in the namespace 'a' at most 61"
            ) as caught:
                await first.register(one("x" * 62))
            assert (caught.value.size, caught.value.limit) == (62, 61)
            with pytest.raises(ServiceNotFound):
                await first.get_service("x" * 253)
            for call in (first.get_service("ü" * 127), first.deregister(one("ü" * 127))):
                with pytest.raises(InvalidService, match="has 254 bytes; in the namespace 'a' at most 253"):
                    await call
            with pytest.raises(InvalidService, match="254 bytes"):
                first.watch("x" * 254)

    run(main())


def test_errors_speak_of_the_name_that_was_given() -> None:
    async def main() -> None:
        async with three() as (first, _, _plain):
            filler = {f"key-{number}": "v" * 1000 for number in range(64)}
            for bad, said in (
                (Service("orders"), "service 'orders' has no node"),
                (one("a b"), "service name 'a b'"),
                (Service("orders", "1", {**filler, "x": "y" * 1000}, nodes=one().nodes), "'orders' has 65 pairs"),
            ):
                with pytest.raises(InvalidService, match=said):
                    await first.register(bad)
            wrong: list[object] = ["", 5, None, []]
            for name in wrong:
                with pytest.raises(InvalidService):
                    await first.get_service(name)  # type: ignore[arg-type]

    run(main())


def test_a_record_that_only_the_prefix_makes_too_large_is_told_by_its_own_name() -> None:
    async def main() -> None:
        async with three() as (first, _, _plain):
            metadata = {f"key-{number}": "v" * 1000 for number in range(63)}
            size = len(codec.encode(Service("orders", "1", {**metadata, "pad": ""}, [Endpoint("P")], one().nodes)))
            rest = codec.MAX_RECORD - size
            endpoint = Endpoint("P", metadata={"more": "v" * (rest - 1024 - len('"more":""'))})
            brim = Service("orders", "1", {**metadata, "pad": "v" * 1024}, [endpoint], one().nodes)
            assert len(codec.encode(brim)) == codec.MAX_RECORD
            with pytest.raises(RecordTooLarge, match="of service 'orders' has 65538 bytes") as caught:
                await first.register(brim)
            assert (caught.value.size, caught.value.limit) == (codec.MAX_RECORD + 2, codec.MAX_RECORD)

    run(main())


@pytest.mark.parametrize("prefix", ["", "a.b", "-a", "a-", "a" * 33, "a%20b", "%C3%BC"])
def test_a_prefix_that_would_leak_or_does_not_fit(prefix: str) -> None:
    with pytest.raises(ConfigError, match="namespace.prefix.*expected 1 to 32 letters"):
        microreg.connect(f"namespace+memory://?namespace.prefix={prefix}")


def test_a_prefix_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"namespace\+ needs the option namespace.prefix"):
        microreg.connect("namespace+memory://")


def test_it_is_closed_and_not_open_as_what_is_inside() -> None:
    async def main() -> None:
        registry = microreg.connect("namespace+memory://?namespace.prefix=a")
        for call in (registry.get_service("x"), registry.register(one()), registry.list_services()):
            with pytest.raises(RegistryClosed, match="not open yet"):
                await call
        with pytest.raises(RegistryClosed, match="not open yet"):
            registry.watch()
        async with registry, registry.watch() as events:
            assert await anext(events) == Snapshot()
            await registry.close()
            with pytest.raises(RegistryClosed):
                await anext(events)

    run(main())


def test_a_cache_around_it_knows_names_without_the_prefix() -> None:
    async def main() -> None:
        async with microreg.connect("cache+namespace+memory://shared?namespace.prefix=a") as registry:
            cache = registry.unwrap(CacheLayer)
            assert cache is not None and registry.unwrap(NamespaceLayer) is not None
            await registry.register(one())
            assert await registry.get_service("orders") == (one(),)
            await support.wait_until(lambda: cache.follow("orders").live)
            assert cache.services("orders") == (one(),)
            async with microreg.connect("memory://shared") as plain:
                await plain.deregister(one("a.orders"))
            await support.wait_until(lambda: not cache.services("orders"))

    run(main())


def test_an_announcement_keeps_its_place_in_the_namespace() -> None:
    async def main() -> None:
        async with three() as (first, _, plain):
            async with microreg.announce(first, "orders", address="10.0.0.1:80", drain_delay=0) as announcement:
                await announcement.wait_live(5)
                await asyncio.sleep(100)
                assert await plain.list_services() == ("a.orders",)
            assert await plain.list_services() == ()

    run(main())
