"""fallback: the next store answers where one does not know, or is away; a watch tells the same as lookups."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microreg
from composing import TROUBLES, Odd, fallback, one, plain
from microreg.catalog import Catalog
from microreg.checked import Checked
from microreg.errors import (
    InvalidService,
    PermissionDenied,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.layers.cache import CacheLayer, CacheOptions
from microreg.layers.fallback import FallbackRegistry
from microreg.model import Service
from microreg.registry import Registry
from microreg.watch import Watch
from support import store_of, wait_until
from timeless import run


def now() -> float:
    return asyncio.get_running_loop().time()


async def put(part: Odd, *records: Service) -> None:
    """Into the store of a part, past its line."""
    for record in records:
        part.store.catalog.put(record)
    await asyncio.sleep(0.1)


async def drop(part: Odd, record: Service, reason: Reason = Reason.DEREGISTERED) -> None:
    part.store.catalog.remove(record.name, record.nodes[0].id, reason)
    await asyncio.sleep(0.1)


async def change(events: Watch) -> Change:
    event = await asyncio.wait_for(anext(events), 60)
    assert isinstance(event, Change)
    return event


# -- lookups -------------------------------------------------------------------------------------------


def test_the_first_part_that_knows_a_name_has_all_of_its_nodes() -> None:
    async def main() -> None:
        async with fallback(3) as (registry, (first, second, third)):
            await put(first, one("x"))
            await put(second, one("x", "b"), one("y"))
            await put(third, one("y", "c"), one("z"))
            assert [await registry.get_service(name) for name in "xyz"] == [(one("x"),), (one("y"),), (one("z"),)]
            assert await registry.list_services() == ("x", "y", "z")
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("w")
            assert caught.value.authoritative and caught.value.name == "w"

    run(main())


def test_merged_a_name_has_the_nodes_of_all_parts() -> None:
    async def main() -> None:
        async with fallback(3, merge=True) as (registry, (first, second, third)):
            await put(first, one("x", zone="first"))
            await put(second, one("x", zone="second"), one("x", "b"))
            await put(third, one("x", "b", zone="third"), one("x", "c"))
            (found,) = await registry.get_service("x")
            assert [node.id for node in found.nodes] == ["a", "b", "c"] and found.metadata == {"zone": "first"}
            third.store.down = True
            (found,) = await registry.get_service("x")
            assert [node.id for node in found.nodes] == ["a", "b"]
            with pytest.raises(RegistryUnavailable):
                await registry.get_service("y")

    run(main())


@pytest.mark.parametrize("refusal", [PermissionDenied("denied"), RegistryError("odd"), Unsupported("cannot")])
def test_a_part_that_is_away_or_refuses_is_passed_over(refusal: RegistryError) -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            await put(second, one())
            first.refusal = refusal
            assert await registry.get_service("orders") == (one(),)
            first.refusal, first.store.down = None, True
            assert await registry.get_service("orders") == (one(),)
            assert await registry.list_services() == ("orders",)
            with pytest.raises(RegistryUnavailable) as caught:
                await registry.get_service("unknown")
            assert str(caught.value) == (
                "no part could say where 'unknown' is: part 1 (memory://part-1): the memory store was switched off or "
                "wiped by a test; part 2 (memory://part-2): no node of service 'unknown' is registered"
            )

    run(main())


def test_the_most_telling_error_is_raised() -> None:
    async def main() -> None:
        async with fallback(3) as (registry, (first, second, third)):
            second.refusal = PermissionDenied("denied")
            with pytest.raises(PermissionDenied, match=r"part 1 .*no node.*part 2 .*denied.*part 3 .*no node"):
                await registry.get_service("x")
            third.store.down = True
            with pytest.raises(RegistryUnavailable, match=r"part 2 .*denied.*part 3 .*switched off"):
                await registry.get_service("x")
            first.store.down = True
            with pytest.raises(RegistryUnavailable, match="no part lists its services: part 1"):
                second.refusal, second.store.down = None, True
                await registry.list_services()
            with pytest.raises(InvalidService):
                await registry.get_service("")

    run(main())


def test_a_part_that_hangs_leaves_time_for_the_next_and_gets_little_for_a_while() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            await put(second, one())
            first.line.cut = True
            began = now()
            assert await registry.get_service("orders") == (one(),)
            assert now() - began < 3.5
            for ask in (registry.get_service, lambda _: registry.list_services()):
                began = now()
                await ask("orders")
                assert now() - began < 1
            with pytest.raises(RegistryTimeout, match="did not answer within its share of the timeout"):
                await registry.get_service("unknown")
            first.line.cut = False
            await put(first, one(zone="first"))
            assert await registry.get_service("orders") == (one(zone="first"),)

    run(main())


def test_a_slow_part_that_hung_once_is_found_well_again_however_often_it_is_asked() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            await put(first, one(zone="first"))
            await put(second, one(zone="second"))
            first.line.delay = 2.0
            assert await registry.get_service("orders") == (one(zone="first"),)
            first.line.cut = True
            assert await registry.get_service("orders") == (one(zone="second"),)
            first.line.cut = False
            assert await registry.get_service("orders") == (one(zone="second"),)
            end, seen = now() + 15, set[Service]()
            while now() < end:
                seen.update(await registry.get_service("orders"))
                await asyncio.sleep(0.1)
            assert seen == {one(zone="first"), one(zone="second")}
            assert await registry.get_service("orders") == (one(zone="first"),)

    run(main())


def test_absence_is_authoritative_only_where_every_part_can_know(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with fallback() as (registry, (_, second)):

            async def unsure(name: str) -> tuple[Service, ...]:
                raise ServiceNotFound(name, authoritative=False)

            monkeypatch.setattr(second, "get_service", unsure)
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("x")
            assert not caught.value.authoritative

    run(main())


# -- writes --------------------------------------------------------------------------------------------


def test_writes_go_to_the_first_part_that_takes_any() -> None:
    async def main() -> None:
        url = "fallback:static://fixed=10.0.0.9:80|memory://a|memory://b"
        async with microreg.connect(url) as registry, microreg.connect("memory://a") as first:
            await registry.register(one())
            assert await registry.get_service("orders") == await first.get_service("orders") == (one(),)
            assert await registry.list_services() == ("fixed", "orders")
            await registry.deregister(one())
            assert await first.list_services() == ()
        async with microreg.connect("fallback:static://a=10.0.0.9:80|static://b=10.0.0.9:80") as fixed:
            with pytest.raises(Unsupported, match="no part takes writes: part 1 .*nothing can be registered"):
                await fixed.register(one())

    run(main())


def test_a_node_does_not_move_to_the_next_store_while_the_first_is_away() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            first.store.down = True
            async with microreg.announce(registry, one(), drain_delay=0) as announcement:
                await asyncio.sleep(60)
                assert announcement.state == "registering" and not second.ids()
                first.store.down = False
                await announcement.wait_live(20)
                assert first.ids() == {"a"} and not second.ids()

    run(main())


# -- watches -------------------------------------------------------------------------------------------


def test_a_delete_in_one_part_shows_the_node_of_the_next() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)), registry.watch("x") as x, registry.watch() as every:
            for events in (x, every):
                assert await anext(events) == Snapshot()
            await put(second, one("x", zone="second"))
            await put(first, one("x", zone="first"))
            for events in (x, every):
                assert (await change(events)).service == one("x", zone="first")
            await put(second, one("x", zone="other"))  # nobody sees it
            await drop(first, one("x"))
            for events in (x, every):
                told = await change(events)
                assert (told.action, told.service) == (Action.UPDATE, one("x", zone="other"))
                assert told.previous == one("x", zone="first")
            await drop(second, one("x"))
            for events in (x, every):
                told = await change(events)
                assert (told.action, told.reason) == (Action.DELETE, Reason.DEREGISTERED)

    run(main())


def test_a_name_moves_as_a_whole_and_never_blinks() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)), registry.watch("orders") as events:
            await put(second, one(id="b"), one(id="c"))
            shown = Catalog()
            shown.apply(await anext(events))
            await put(first, one())
            for _ in range(3):
                shown.apply(await change(events))
                assert shown.services("orders")
            assert shown.services("orders") == await registry.get_service("orders") == (one(),)
            await drop(first, one())
            for _ in range(3):
                shown.apply(await change(events))
                assert shown.services("orders")
            assert shown.services("orders") == await registry.get_service("orders")

    run(main())


def test_a_lost_part_keeps_its_nodes_for_ten_seconds_and_the_others_stay() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            await put(first, one("x", zone="first"), one("only"))
            await put(second, one("x", zone="second"), one("y"))
            async with registry.watch() as every, registry.watch("x") as x, registry.watch("y") as y:
                shown = Catalog()
                assert {type(await anext(events)) for events in (x, y)} == {Snapshot}
                shown.apply(await anext(every))
                assert shown.names() == ("only", "x", "y")
                first.store.down = True
                await asyncio.sleep(5)
                assert [events.state for events in (every, x, y)] == ["resyncing", "resyncing", "live"]
                assert isinstance(x.error, RegistryUnavailable)
                told = await change(x)
                assert told.service == one("x", zone="second") and x.state == "live"
                shown.apply(await change(every))
                assert shown.services("x") == (one("x", zone="second"),) == await registry.get_service("x")
                assert shown.names() == ("only", "x", "y"), "nobody else has it: what was told last stays"
                assert every.state == "live"
                first.store.down = False
                for events in (x, every):
                    assert (await change(events)).service == one("x", zone="first")

    run(main())


def test_what_came_back_is_told_as_it_is_now() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)), registry.watch("x") as events:
            await put(first, one("x", "gone"), one("x", "stays"))
            await put(second, one("x", "second"))
            catalog, shown = Catalog(), list[Change]()
            catalog.apply(await anext(events))
            first.store.down = True
            await asyncio.sleep(20)
            await drop(first, one("x", "gone"))
            first.store.down = False
            await asyncio.sleep(15)
            assert events.state == "live"
            while events._backlog:
                shown.append(await change(events))
                catalog.apply(shown[-1])
            assert catalog.services("x") == await registry.get_service("x")
            assert [(each.action, each.node.id) for each in shown] == [(Action.DELETE, "gone")]

    run(main())


@pytest.mark.parametrize("trouble", ["down", "cut", "denied"])
def test_the_first_snapshot_does_not_wait_for_a_part_that_is_not_there(trouble: str) -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, second)):
            await put(second, one())
            first.store.down, first.line.cut = trouble == "down", trouble == "cut"
            first.refusal = PermissionDenied("denied") if trouble == "denied" else None
            began = now()
            async with registry.watch("orders") as events:
                assert await anext(events) == Snapshot([one()])
                assert now() - began <= (7.1 if trouble == "cut" else 0.1)
                assert events.state == "live"
                first.store.down = first.line.cut = False
                await put(first, one(zone="first"))
                assert (await change(events)).service == one(zone="first")

    run(main())


def test_while_all_are_away_what_was_told_stays() -> None:
    async def main() -> None:
        async with fallback() as (registry, parts), registry.watch("orders") as events, registry.watch() as every:
            await put(parts[0], one())
            await put(parts[1], one("y"))
            for each in (events, every):
                assert isinstance(await anext(each), Snapshot)
            for part in parts:
                part.store.down = True
            await asyncio.sleep(3600)
            assert (events.state, every.state) == ("resyncing", "resyncing")
            assert isinstance(events.error, RegistryUnavailable)
            late = asyncio.create_task(_first(registry))
            await asyncio.sleep(60)
            assert not late.done()
            for part in parts:
                part.store.down = False
            assert await late == Snapshot([one(), one("y")])
            await wait_until(lambda: events.state == every.state == "live", timeout=15)
            assert not events._backlog and not every._backlog

    run(main())


async def _first(registry: Registry) -> Event:
    async with registry.watch() as events:
        return await anext(events)


def test_a_name_that_nobody_knows_is_not_sure_while_one_is_away() -> None:
    async def main() -> None:
        async with fallback() as (registry, (_, second)):
            cache = CacheLayer(registry, registry.url, CacheOptions())
            second.store.down = True
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("orders")
            await asyncio.sleep(30)
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("orders")
            second.store.down = False
            await asyncio.sleep(30)
            with pytest.raises(ServiceNotFound):
                await cache.get_service("orders")
            await cache.close()

    run(main())


def test_a_cache_is_live_for_hours_while_the_old_store_is_off(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with microreg.connect("cache+fallback:memory://new|memory://old#cache.max_stale=1m") as registry:
            cache, whole = registry.unwrap(CacheLayer), registry.unwrap(FallbackRegistry)
            assert cache is not None and whole is not None
            old = store_of(whole.parts[1].registry)
            async with microreg.connect("memory://new") as writer, microreg.Selector(registry) as selector:
                async with microreg.announce(writer, one(), drain_delay=0):
                    assert (await selector.select("orders", timeout=1)).id == "a"
                    old.down = True
                    for _ in range(720):
                        await asyncio.sleep(10)
                        assert selector.pick("orders").id == "a" and cache.freshness("orders").kind == "live"
                    assert whole.parts[1].state == "lost" and whole.parts[0].state == "live"

    with caplog.at_level(logging.INFO, "microreg.composite"):
        run(main())
    assert [record.getMessage()[:29] for record in caplog.records] == ["part 2 (memory://old) is lost"]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "drop", "drop", "wipe", *TROUBLES]),
        st.integers(0, 2),
        st.sampled_from("xy"),
        st.sampled_from("ab"),
        st.sampled_from([0, 0, 1, 12]),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(OPERATIONS, st.booleans())
def test_the_law_holds_whatever_the_parts_do(operations: list[tuple[str, int, str, str, int]], merge: bool) -> None:
    async def main() -> None:
        async with fallback(3, merge=merge) as (registry, parts), registry.watch() as every, registry.watch("x") as x:
            folds = {every: Catalog(), x: Catalog()}
            for number, (what, index, name, id, seconds) in enumerate(operations):
                part = parts[index]
                match what:
                    case "put":
                        part.store.catalog.put(one(name, id, zone=f"{index} {number}"))
                    case "drop":
                        part.store.catalog.remove(name, id)
                    case "wipe":
                        part.store.wipe()
                    case trouble:
                        part.suffer(trouble)
                await asyncio.sleep(seconds)
                if number % 3 == 0:
                    await _drain(folds)
            for part in parts[1:]:
                part.store.down = part.line.cut = False
            for part in parts:
                part.line.delay = part.line.jitter = 0.0
            first = parts[0]
            if not first.store.down:  # one that stays away is looked up and watched alike
                first.line.cut = False
            await asyncio.sleep(60)
            await _drain(folds)
            await _compare(registry, folds, x, every, away=first.store.down)

    run(main())


async def _drain(folds: dict[Watch, Catalog]) -> None:
    for events, catalog in folds.items():
        while not events._backlog.told or events._backlog:
            try:
                catalog.apply(await asyncio.wait_for(anext(events), 30))
            except TimeoutError:
                return


async def _compare(registry: Checked, folds: dict[Watch, Catalog], x: Watch, every: Watch, *, away: bool) -> None:
    assert every.state == "live"
    for name in "xy":
        try:
            found = await registry.get_service(name)
        except RegistryUnavailable:
            assert away and x.state == "resyncing" or name == "y"
            continue
        except ServiceNotFound:
            found = ()
        assert folds[every].services(name) == found
        if name == "x":
            assert x.state == "live" and folds[x].services(name) == found
    if not away:
        assert folds[every].names() == await registry.list_services()


@pytest.mark.parametrize("moment", [0.0, 1.0, 3.2, 4.0])
@pytest.mark.parametrize("verb", ["get_service", "list_services", "register", "watch"])
def test_a_cancelled_call_leaves_nothing_behind(moment: float, verb: str) -> None:
    async def main() -> None:
        async with fallback() as (registry, parts):
            parts[0].line.cut = True
            parts[1].line.delay = 2.0
            calls: dict[str, Callable[[], object]] = {
                "get_service": lambda: registry.get_service("x"),
                "list_services": registry.list_services,
                "register": lambda: registry.register(one()),
                "watch": lambda: _first(registry),
            }
            task = asyncio.ensure_future(calls[verb]())  # type: ignore[call-overload]
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.wait([task])
            parts[0].line.cut, parts[1].line.delay = False, 0.0
            await put(parts[1], one("z"))
            assert await registry.get_service("z") == (one("z"),)
            assert (await _first(registry)) == Snapshot([one("z")])

    run(main())


def test_closing_under_open_watches_is_no_loss_of_a_part(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with fallback() as (registry, _), registry.watch() as every, registry.watch("x") as x:
            for events in (every, x):
                assert await anext(events) == Snapshot()
            await registry.close()
            for events in (every, x):
                with pytest.raises(RegistryClosed):
                    await anext(events)

    with caplog.at_level(logging.INFO, "microreg.composite"):
        run(main())
    assert caplog.messages == []


def test_another_client_sees_what_was_written() -> None:
    async def main() -> None:
        async with fallback() as (registry, (first, _)), plain(first) as other:
            await registry.register(one())
            assert await other.get_service("orders") == (one(),)

    run(main())
