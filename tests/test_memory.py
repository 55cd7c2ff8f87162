"""memory://: who shares a store, what expires when, and the fault switches."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies as given_
from microreg import connect
from microreg.backends.memory import MemoryRegistry
from microreg.catalog import Catalog
from microreg.errors import ConfigError, RegistryUnavailable, ServiceNotFound
from microreg.events import Change, Reason, Snapshot
from microreg.model import Service, merge
from microreg.registry import Registry
from strategies import record
from support import store_of
from timeless import run


def test_registries_of_one_name_share_a_store_and_others_do_not() -> None:
    async def main() -> None:
        async with (
            connect("memory://one") as one,
            connect("memory://one?timeout=1s") as same,
            connect("memory://two") as two,
            connect("memory://") as anonymous,
            connect("memory://") as other,
        ):
            for registry, port in ((one, 1), (two, 2), (anonymous, 3)):
                await registry.register(record(port=port))
            assert await same.get_service("greeter") == (record(port=1),)
            assert await two.get_service("greeter") == (record(port=2),)
            assert await anonymous.get_service("greeter") == (record(port=3),)
            assert await other.list_services() == ()

    run(main())


def test_a_store_is_gone_with_the_last_registry_of_its_name() -> None:
    async def main() -> None:
        first = connect("memory://one")
        await first.open()
        await first.register(record(), ttl=86_400)
        async with connect("memory://one") as second:
            await first.close()
            assert await second.list_services() == ("greeter",)
        async with connect("memory://one") as third:
            assert await third.list_services() == ()

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_another_loop_has_a_store_of_its_own() -> None:
    async def main(registry: Registry) -> tuple[str, ...]:
        await registry.open()
        before = await registry.list_services()
        await registry.register(record())
        return before

    with asyncio.Runner() as one, asyncio.Runner() as other:
        here, there = connect("memory://one"), connect("memory://one")
        assert one.run(main(here)) == other.run(main(there)) == ()
        one.run(here.close())
        other.run(there.close())


def test_a_store_knows_its_name_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match="a memory store has a name but no path"):
        connect("memory://one/path")
    with pytest.raises(RegistryUnavailable, match="not open"):
        store_of(connect("memory://one"))
    assert connect("memory://").advertised_host() == "127.0.0.1"


def test_a_record_expires_a_ttl_after_its_last_register() -> None:
    async def main() -> None:
        async with connect("memory://") as registry, registry.watch() as events:
            assert await anext(events) == Snapshot()
            loop = asyncio.get_running_loop()
            await registry.register(record(), ttl=10)
            assert await anext(events) == Change.put(record())
            await asyncio.sleep(9)
            await registry.register(record(), ttl=10)
            await asyncio.sleep(9.9)
            assert await registry.get_service("greeter") == (record(),)
            assert await anext(events) == Change.gone(record(), Reason.EXPIRED)
            assert loop.time() == pytest.approx(19)
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("greeter")
            assert caught.value.authoritative
            await registry.register(record(), ttl=100)
            await registry.register(record(), ttl=1)
            begin = loop.time()
            assert [await anext(events), await anext(events)] == [
                Change.put(record()),
                Change.gone(record(), Reason.EXPIRED),
            ]
            assert loop.time() - begin == pytest.approx(1)

    run(main())


def test_deregistered_nodes_do_not_expire_later() -> None:
    async def main() -> None:
        async with connect("memory://") as registry, registry.watch("greeter") as events:
            await anext(events)
            await registry.register(record(), ttl=5)
            assert await anext(events) == Change.put(record())
            await registry.deregister(record(port=99))
            assert await anext(events) == Change.gone(record(), Reason.DEREGISTERED)
            assert store_of(registry).deadlines.get(("greeter", "a")) is None
            await registry.deregister(record())
            await asyncio.sleep(3)
            await registry.register(record(), ttl=5)
            assert await anext(events) == Change.put(record())
            await asyncio.sleep(4)
            assert await registry.list_services() == ("greeter",)

    run(main())


def test_a_store_that_is_down_refuses_and_expires_and_comes_back() -> None:
    async def main() -> None:
        async with connect("memory://") as registry, registry.watch("greeter") as events:
            store = store_of(registry)
            await registry.register(record(id="a"), ttl=5)
            await registry.register(record(id="b"), ttl=500)
            assert await anext(events) == Snapshot([record(id="a"), record(id="b")])
            store.down = True
            for call in (
                registry.register(record()),
                registry.deregister(record()),
                registry.get_service("greeter"),
                registry.list_services(),
            ):
                with pytest.raises(RegistryUnavailable, match="switched off"):
                    await call
            await asyncio.sleep(60)
            assert (events.state, type(events.error)) == ("resyncing", RegistryUnavailable)
            store.down = False
            assert await anext(events) == Change.gone(record(id="a"), Reason.LOST)
            assert (events.state, await registry.get_service("greeter")) == ("live", (record(id="b"),))

    run(main())


def test_a_wiped_store_forgets_and_its_watches_notice() -> None:
    async def main() -> None:
        async with connect("memory://") as registry, registry.watch() as events:
            await registry.register(record(), ttl=5)
            assert await anext(events) == Snapshot([record()])
            store_of(registry).wipe()
            assert store_of(registry).deadlines.get(("greeter", "a")) is None
            assert await registry.list_services() == ()
            assert await anext(events) == Change.gone(record(), Reason.LOST)
            await registry.register(record(), ttl=50)
            assert await anext(events) == Change.put(record())
            await asyncio.sleep(40)
            assert await registry.list_services() == ("greeter",)

    run(main())


steps = st.one_of(
    st.tuples(st.just("register"), given_.few_records, st.integers(1, 20)),
    st.tuples(st.just("register"), given_.few_records, st.integers(1, 20)),
    st.tuples(st.just("deregister"), given_.few_records, st.just(0)),
    st.tuples(st.just("sleep"), st.none(), st.integers(0, 9)),
    st.tuples(st.just("take"), st.none(), st.just(0)),
    st.tuples(st.sampled_from(["wipe", "outage"]), st.none(), st.just(0)),
)


PART = 0.26
"""Seconds that never add up, in fifteen steps, to the very end of a ttl: there, rounding decides who is alive."""


@settings(max_examples=40)
@given(st.lists(steps, max_size=15))
def test_whatever_is_done_a_watch_ends_in_what_get_service_says(script: list[tuple[str, Service | None, int]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        model: dict[tuple[str, str], tuple[Service, float]] = {}
        folded = Catalog()
        async with connect("memory://x") as registry, connect("memory://x") as reader, reader.watch() as events:

            async def take() -> None:
                try:
                    while True:
                        folded.apply(await asyncio.wait_for(anext(events), 0.001))
                except TimeoutError:
                    pass

            async def check() -> None:
                alive = [each for each, until in model.values() if until > loop.time()]
                assert await reader.list_services() == tuple(sorted({each.name for each in alive}))
                for name in await reader.list_services():
                    assert await reader.get_service(name) == merge(each for each in alive if each.name == name)

            for what, each, number in script:
                match what, each:
                    case "register", Service():
                        await registry.register(each, ttl=number)
                        model[each.name, each.nodes[0].id] = each, loop.time() + number
                    case "deregister", Service():
                        await registry.deregister(each)
                        model.pop((each.name, each.nodes[0].id), None)
                    case "sleep", _:
                        await asyncio.sleep(number + PART)
                    case "take", _:
                        await take()
                    case "wipe", _:
                        store_of(registry).wipe()
                        model.clear()
                    case _:
                        store_of(registry).down = True
                        await asyncio.sleep(PART)
                        store_of(registry).down = False
                await check()
            for _ in range(200):
                await asyncio.sleep(0.5)
                await take()
                if events.state == "live" and not len(vars(events)["_backlog"]):
                    break
            await check()
            assert folded.snapshot() == Snapshot(
                [each for name in await reader.list_services() for each in await reader.get_service(name)]
            )

    run(main())


def test_it_is_prompt_and_knows_the_very_object_that_is_registered() -> None:
    async def main() -> None:
        first, equal = record(), record()
        async with connect("memory://") as registry:
            assert registry.prompt and not registry.holds(first)
            for call in (registry.register(first), registry.get_service("greeter"), registry.list_services()):
                with pytest.raises(StopIteration):
                    call.send(None)
            inner = registry.unwrap(MemoryRegistry)
            assert inner is not None and inner.holds(first) and not inner.holds(equal)
            await registry.register(equal)
            assert inner.holds(first) and not inner.holds(equal)
            with pytest.raises(StopIteration):
                registry.deregister(first).send(None)
            assert not inner.holds(first)
        assert not inner.holds(first)

    run(main())
