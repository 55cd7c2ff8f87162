"""The watch: no lost state whatever the source does, no unbounded memory whatever the consumer does."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies as given_
import support
from microreg.catalog import Catalog
from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    Unsupported,
    WrongLoop,
)
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service
from microreg.watch import Source, Watch, reading
from strategies import record
from timeless import run


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class Store:
    """A store that can be scripted: records, and streams of what happens to them that can break."""

    def __init__(self, *records: Service) -> None:
        self.records = {(each.name, each.nodes[0].id): each for each in records}
        self.opened = 0
        self.open = 0
        self._streams: list[asyncio.Queue[Event | Exception | None]] = []

    def put(self, each: Service) -> None:
        self.records[each.name, each.nodes[0].id] = each
        self.send(Change.put(each))

    def delete(self, each: Service, reason: Reason = Reason.REMOVED) -> None:
        if self.records.pop((each.name, each.nodes[0].id), None):
            self.send(Change.gone(each, reason))

    def snapshot(self) -> Snapshot:
        return Snapshot(self.records.values())

    def send(self, event: Event | Exception | None) -> None:
        """An event, an error that ends the stream, or None, which ends it without one."""
        for stream in self._streams:
            stream.put_nowait(event)

    async def source(self) -> AsyncGenerator[Event, None]:
        stream: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._streams.append(stream)
        self.opened += 1
        self.open += 1
        try:
            yield self.snapshot()
            while (event := await stream.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self._streams.remove(stream)
            self.open -= 1


def in_turn(*sources: Source) -> Source:
    """The first source at the first opening, and so on; the last one for ever."""
    rest = list(sources)
    return lambda: (rest.pop(0) if len(rest) > 1 else rest[0])()


def scripted(
    *events: Event | Exception | None, then: Callable[[], Coroutine[object, object, None]] = forever
) -> Source:
    async def source() -> AsyncGenerator[Event, None]:
        for event in events:
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event
        await then()

    return source


def state(watch: Watch) -> str:
    return watch.state  # a call, so that a type checker expects another answer next time


async def settle(seconds: float = 0.001) -> None:
    """Let everything run that can, without a back-off ending."""
    await asyncio.sleep(seconds)


async def drain(watch: Watch, seconds: float = 0.01) -> list[Event]:
    """What the watch delivers until it says nothing for so long."""
    events: list[Event] = []
    with suppress(TimeoutError, StopAsyncIteration):
        while True:
            events.append(await asyncio.wait_for(anext(watch), seconds))
    return events


# -- the algebra ---------------------------------------------------------------------------------

OLD, NEW, OTHER = record(port=80), record(port=81), record(port=82)
EXPIRED, GONE = Reason.EXPIRED, Reason.DEREGISTERED


def created(each: Service) -> Change:
    return Change.put(each)


def updated(each: Service) -> Change:
    return Change.put(each, OLD)


def deleted(reason: Reason) -> Change:
    return Change.gone(OLD, reason)


@pytest.mark.parametrize(
    ("known", "steps", "delivered"),
    [
        (None, [NEW], created(NEW)),
        (None, [NEW, OTHER], created(OTHER)),
        (None, [NEW, GONE], None),
        (None, [NEW, OTHER, GONE], None),
        (None, [NEW, GONE, OTHER], created(OTHER)),
        (None, [GONE], None),
        (OLD, [NEW], updated(NEW)),
        (OLD, [NEW, OTHER], updated(OTHER)),
        (OLD, [NEW, OLD], None),
        (OLD, [OLD], None),
        (OLD, [GONE], deleted(GONE)),
        (OLD, [NEW, EXPIRED], deleted(EXPIRED)),
        (OLD, [GONE, OLD], None),
        (OLD, [GONE, NEW], updated(NEW)),
        (OLD, [GONE, NEW, EXPIRED], deleted(EXPIRED)),
        (OLD, [GONE, EXPIRED], deleted(GONE)),
        (OLD, [GONE, NEW, EXPIRED, OLD], None),
        (OLD, [NEW, GONE, OTHER], updated(OTHER)),
    ],
)
def test_what_happens_between_two_deliveries_becomes_one(
    known: Service | None, steps: list[Service | Reason], delivered: Change | None
) -> None:
    async def main() -> None:
        store = Store(*([known] if known else []))
        async with Watch(store.source) as watch:
            assert await anext(watch) == store.snapshot()
            for step in steps:
                store.send(Change.put(step) if isinstance(step, Service) else Change.gone(OLD, step))
            await settle()
            assert await drain(watch) == ([delivered] if delivered else [])

    run(main())


def test_nothing_is_coalesced_away_for_a_consumer_who_keeps_up() -> None:
    async def main() -> None:
        store = Store()
        async with Watch(store.source) as watch:
            assert await anext(watch) == Snapshot()
            store.put(OLD)
            assert await anext(watch) == Change.put(OLD)
            store.put(NEW)
            assert await anext(watch) == Change.put(NEW, OLD)
            store.delete(NEW, GONE)
            assert await anext(watch) == Change.gone(NEW, GONE)
            store.put(NEW)
            assert await anext(watch) == Change.put(NEW)

    run(main())


def test_what_happened_before_the_first_delivery_is_in_the_snapshot() -> None:
    async def main() -> None:
        store = Store(OLD, record(id="b"))
        async with Watch(store.source) as watch:
            await settle()
            store.put(NEW)
            store.delete(record(id="b"))
            store.put(record(id="c"))
            await settle()
            assert await drain(watch) == [Snapshot([NEW, record(id="c")])]

    run(main())


def test_changes_come_in_the_order_in_which_the_nodes_changed_first() -> None:
    async def main() -> None:
        store = Store()
        async with Watch(store.source) as watch:
            await anext(watch)
            for id in "cab":
                store.put(record(id=id))
            store.put(record(id="c", port=81))
            await settle()
            assert [event.node.id for event in await drain(watch) if isinstance(event, Change)] == ["c", "a", "b"]

    run(main())


class Follower:
    """Folds what a watch delivers, and insists that each event makes sense after those before."""

    def __init__(self) -> None:
        self.state: dict[tuple[str, str], Service] | None = None
        self.catalog = Catalog()

    def take(self, event: Event) -> None:
        self.catalog.apply(event)
        if isinstance(event, Snapshot):
            assert self.state is None
            self.state = {(each.name, each.nodes[0].id): each for each in event.records}
            return
        assert self.state is not None
        key = event.service.name, event.node.id
        previous = self.state.get(key)
        assert event.previous == previous
        assert (event.reason is not None) is (event.action is Action.DELETE)
        if event.action is Action.DELETE:
            assert previous == event.service
            del self.state[key]
        else:
            assert event.action is (Action.CREATE if previous is None else Action.UPDATE)
            assert event.service != previous
            self.state[key] = event.service


steps = st.one_of(
    st.tuples(st.just("put"), given_.few_records),
    st.tuples(st.just("put"), given_.few_records),
    st.tuples(st.just("delete"), given_.few_records),
    st.tuples(st.just("send"), st.sampled_from(["snapshot", "error", "end"])),
    st.tuples(st.just("quietly"), given_.few_records),
    st.tuples(st.just("take"), st.integers(1, 3)),
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.001, 0.3, 30.0])),
)


@settings(max_examples=50)
@given(st.lists(given_.few_records, max_size=4), st.lists(steps, max_size=15), st.sampled_from([None, "alpha"]))
def test_the_fold_of_what_is_delivered_ends_in_what_the_store_holds(
    records: list[Service], script: list[tuple[str, object]], name: str | None
) -> None:
    async def act(store: Store, watch: Watch, follower: Follower, what: str, argument: object) -> None:
        match what, argument:
            case "put", Service() as each:
                store.put(each)
            case "delete", Service() as each:
                store.delete(each)
            case "quietly", Service() as each:  # a change that the stream never tells, and then a gap
                store.records[each.name, each.nodes[0].id] = each
                store.send(ConnectionError("gap"))
            case "send", "snapshot":
                store.send(store.snapshot())
            case "send", _:
                store.send(OSError("lost") if argument == "error" else None)
            case "take", int() as count:
                with suppress(TimeoutError):
                    for _ in range(count):
                        follower.take(await asyncio.wait_for(anext(watch), 0.001))
            case _:
                await asyncio.sleep(float(str(argument)))

    async def main() -> None:
        store, follower = Store(*records), Follower()
        async with Watch(store.source, name, rng=random.Random(1)) as watch:
            for what, argument in script:
                await act(store, watch, follower, what, argument)
            await asyncio.sleep(60)
            assert watch.state == "live"
            for event in await drain(watch):
                follower.take(event)
            wanted = Snapshot(each for each in store.records.values() if name in (None, each.name))
            assert follower.state is not None
            assert Snapshot(follower.state.values()) == follower.catalog.snapshot() == wanted
        assert store.open == 0

    run(main())


def test_a_consumer_who_sleeps_through_everything_costs_no_memory() -> None:
    nodes = [record(id=f"n{number}") for number in range(10)]

    passing = [record(id=f"passing{number}") for number in range(1_000)]
    story: list[Change] = []
    for number, each in enumerate(nodes * 5):
        new = record(id=each.nodes[0].id, port=number + 81)
        story += [Change.put(new), Change.gone(new), Change.put(each), Change.put(new)][: number % 4 + 1]
    for each in passing:
        story += [Change.put(each), Change.gone(each)]

    async def source() -> AsyncGenerator[Event, None]:
        yield Snapshot(nodes)
        for _ in range(100_000 // len(story) + 1):
            for change in story:
                yield change
                if len(vars(watch)["_backlog"]) > 11:
                    raise AssertionError("more waits than there are nodes")
        done.set()
        await forever()

    async def main() -> None:
        assert isinstance(await anext(watch), Snapshot)
        await done.wait()
        assert watch.error is None
        events = await drain(watch)
        assert 0 < len(events) <= 10
        assert len({event.node.id for event in events if isinstance(event, Change)}) == len(events)

    async def both() -> None:
        async with watch:
            await main()

    done = asyncio.Event()
    watch = Watch(source)
    run(both())


def test_a_busy_source_lets_others_run() -> None:
    async def source() -> AsyncGenerator[Event, None]:
        yield Snapshot([record(id=f"n{number}") for number in range(5_000)])
        number = 0
        while True:
            number += 1
            yield Change.put(record(port=number % 60_000 + 1))

    async def main() -> None:
        async with Watch(source) as watch:
            await anext(watch)
            for _ in range(10):
                await asyncio.sleep(0)
                assert isinstance(await anext(watch), Change)

    run(main())


# -- sources that go wrong -----------------------------------------------------------------------


def test_a_lost_source_is_read_again_and_the_difference_delivered() -> None:
    async def main() -> None:
        store = Store(OLD, record(id="b"), record(id="c"))
        async with Watch(store.source) as watch:
            await anext(watch)
            assert (watch.state, watch.error) == ("live", None)
            del store.records["greeter", "b"]
            store.records["greeter", "a"] = NEW
            store.records["greeter", "d"] = record(id="d")
            store.send(ConnectionResetError("reset by peer"))
            await settle()
            assert (watch.state, str(watch.error)) == ("resyncing", "ConnectionResetError: reset by peer")
            assert watch.error is not None
            assert isinstance(watch.error.__cause__, ConnectionResetError)
            events = await drain(watch, 60)
            assert events == [
                Change.put(NEW, OLD),
                Change.put(record(id="d")),
                Change.gone(record(id="b"), Reason.LOST),
            ]
            assert watch.state == "live"

    run(main())


def test_a_reason_that_was_told_stays_although_a_gap_follows() -> None:
    async def main() -> None:
        store = Store(OLD)
        async with Watch(store.source) as watch:
            await anext(watch)
            store.delete(OLD, EXPIRED)
            store.send(OSError("gap"))
            await asyncio.sleep(60)
            assert await drain(watch) == [Change.gone(OLD, EXPIRED)]

    run(main())


def test_a_second_snapshot_of_a_live_source_tells_what_was_removed() -> None:
    async def main() -> None:
        async with Watch(scripted(Snapshot([OLD, record(id="b")]), Snapshot([NEW]))) as watch:
            events = await drain(watch)
            assert events == [Snapshot([NEW])]
        store = Store(OLD, record(id="b"))
        async with Watch(store.source) as watch:
            await anext(watch)
            store.send(Snapshot([NEW]))
            assert await drain(watch) == [Change.put(NEW, OLD), Change.gone(record(id="b"), Reason.REMOVED)]
            assert store.opened == 1

    run(main())


BROKEN: dict[str, tuple[Source, str]] = {
    "raises at once": (scripted(OSError("no route")), "no route"),
    "ends at once": (scripted(None), "the stream ended"),
    "begins with a change": (scripted(Change.put(OLD)), "began with Change; expected a Snapshot"),
    "hangs before the snapshot": (scripted(), "no snapshot within 20 s"),
    "raises its own TimeoutError": (scripted(TimeoutError("of the client library")), "of the client library"),
    "raises a timeout of ours": (scripted(RegistryTimeout("asked for 5 s")), "asked for 5 s"),
    "is cancelled by its library": (scripted(Snapshot([OLD]), then=lambda: cancelled()), "was cancelled"),
    "yields nonsense": (scripted(Snapshot([OLD]), 5), ""),  # type: ignore[arg-type]
    "refuses the credentials": (scripted(PermissionDenied("who are you")), "who are you"),
    "raises when it is called": (lambda: refuse(), "refused when called"),
}


async def cancelled() -> None:
    raise asyncio.CancelledError


def refuse() -> AsyncGenerator[Event, None]:
    raise RegistryUnavailable("refused when called")


@pytest.mark.parametrize(("broken", "text"), BROKEN.values(), ids=BROKEN)
def test_a_broken_source_is_opened_again(broken: Source, text: str) -> None:
    async def main() -> None:
        store = Store(OLD)
        async with Watch(in_turn(broken, broken, store.source)) as watch:
            assert await drain(watch, 100) == [Snapshot([OLD])]
            assert text in str(watch.error)
            assert isinstance(watch.error, RegistryError)
            assert (watch.state, store.opened) == ("live", 1)

    run(main())


def test_a_source_that_hangs_is_noticed_after_twenty_seconds() -> None:
    async def main() -> None:
        async with Watch(scripted()) as watch:
            await asyncio.sleep(19.9)
            assert watch.error is None
            await asyncio.sleep(0.2)
            assert isinstance(watch.error, RegistryTimeout)

    run(main())


def test_an_outage_of_an_hour_is_no_storm_and_no_silence() -> None:
    async def main() -> None:
        times: list[float] = []
        loop = asyncio.get_running_loop()

        def source() -> AsyncGenerator[Event, None]:
            times.append(loop.time())
            raise ConnectionRefusedError("down")

        async with Watch(source, rng=random.Random(7)) as watch:
            await asyncio.sleep(3600)
            assert watch.state == "resyncing"
        pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        assert 360 < len(times) < 1500
        assert all(0.049 < pause < 10.001 for pause in pauses)
        assert pauses[0] < 1
        assert len({round(pause, 6) for pause in pauses[-50:]}) > 20

    run(main())


def test_the_back_off_begins_anew_after_a_stable_time() -> None:
    async def main() -> None:
        store = Store(OLD)
        down = [scripted(OSError("down"))] * 10
        async with Watch(in_turn(*down, store.source)) as watch:
            assert await drain(watch, 200) == [Snapshot([OLD])]
            await asyncio.sleep(10)
            store.delete(OLD)
            store.send(OSError("once"))
            await asyncio.sleep(0.2)
            assert store.opened == 2

    run(main())


@pytest.mark.parametrize("kind", [ConfigError, InvalidService, RegistryClosed, Unsupported, WrongLoop])
def test_what_cannot_heal_reaches_the_consumer(kind: type[RegistryError]) -> None:
    async def main() -> None:
        async with Watch(scripted(Snapshot([OLD]), kind("for good"))) as watch:
            with pytest.raises(kind, match="for good"):
                while True:
                    await anext(watch)
            with pytest.raises(kind, match="for good"):
                await anext(watch)
            assert watch.state == "resyncing"

    run(main())


def test_errors_go_through_the_registrys_translation() -> None:
    class Library(Exception):
        pass

    async def main() -> None:
        def translate(error: Exception) -> RegistryError:
            return Unsupported(f"translated {type(error).__name__}")

        async with Watch(scripted(Library()), translate=translate) as watch:
            with pytest.raises(Unsupported, match="translated Library"):
                await anext(watch)

    run(main())


def test_other_names_are_none_of_its_business() -> None:
    async def main() -> None:
        store = Store(OLD, record("other"))
        async with Watch(store.source, "greeter") as watch:
            assert await anext(watch) == Snapshot([OLD])
            store.put(record("other", "b"))
            store.delete(record("other"))
            store.send(Snapshot([OLD, record("third")]))
            store.put(record("Greeter"))
            assert await drain(watch) == []

    run(main())


# -- a watch around a watch ---------------------------------------------------------------------


def around(*inner: Callable[[], Watch]) -> Source:
    """What a layer does: the source of an outer watch tells what inner ones tell (after the first, only changes)."""

    async def source() -> AsyncGenerator[Event, None]:
        async with AsyncExitStack() as stack:
            first, *others = [await stack.enter_async_context(make()) for make in inner]
            for other in others:
                await anext(other)
            async for event in first:
                yield event

    return source


def test_the_state_of_a_watch_is_that_of_the_watch_inside() -> None:
    async def main() -> None:
        store = Store(OLD)
        middle = around(lambda: Watch(store.source))
        async with Watch(around(lambda: Watch(middle))) as watch:
            assert watch.state == "resyncing"
            await anext(watch)
            assert (watch.state, watch.error) == ("live", None)
            store.records["greeter", "a"] = NEW
            store.send(ConnectionResetError("reset by peer"))
            await settle()
            assert (state(watch), str(watch.error)) == ("resyncing", "ConnectionResetError: reset by peer")
            assert await drain(watch, 60) == [Change.put(NEW, OLD)]
            assert (state(watch), store.opened) == ("live", 2)
            assert str(watch.error) == "ConnectionResetError: reset by peer", "the last one, as ever"

    run(main())


def test_a_store_that_is_away_from_the_beginning_is_told_by_the_outer_watch() -> None:
    async def main() -> None:
        async with Watch(around(lambda: Watch(scripted(OSError("down"))))) as watch:
            await settle()
            assert (watch.state, str(watch.error)) == ("resyncing", "OSError: down")

    run(main())


def test_a_watch_is_live_when_all_its_parts_are() -> None:
    async def main() -> None:
        stores = Store(OLD), Store()
        async with Watch(around(*(lambda store=store: Watch(store.source) for store in stores))) as watch:
            await anext(watch)
            assert state(watch) == "live"
            for store in stores:
                store.send(OSError(f"gap {stores.index(store)}"))
                await settle()
                assert (state(watch), str(watch.error)) == ("resyncing", f"OSError: gap {stores.index(store)}")
                await asyncio.sleep(60)
                assert state(watch) == "live"

    run(main())


def test_a_part_that_was_closed_counts_no_more() -> None:
    async def main() -> None:
        inner = Watch(scripted(Snapshot(), OSError("gap")))

        async def source() -> AsyncGenerator[Event, None]:
            async with inner:
                first = await anext(inner)
                await settle()
                assert inner.state == "resyncing"
            yield first
            await forever()

        async with Watch(source) as watch:
            await anext(watch)
            assert (inner.state, watch.state) == ("resyncing", "live")

    run(main())


def test_a_part_that_fails_for_good_ends_the_outer_watch() -> None:
    async def main() -> None:
        inner = Watch(Store().source)
        async with Watch(around(lambda: inner)) as watch:
            await anext(watch)
            inner.fail(RegistryClosed("the registry was closed"))
            with pytest.raises(RegistryClosed, match="was closed"):
                await anext(watch)
            assert watch.state == "resyncing"

    run(main())


def test_what_a_source_starts_in_a_task_of_its_own_is_no_part_of_its_watch() -> None:
    async def main() -> None:
        store, aside = Store(OLD), Watch(scripted(OSError("down")))

        async def other() -> None:
            async with aside:
                await forever()

        async def source() -> AsyncGenerator[Event, None]:
            task = asyncio.create_task(other())
            try:
                async for event in store.source():
                    yield event
            finally:
                task.cancel()
                await asyncio.wait([task])

        async with Watch(source) as watch:
            await anext(watch)
            await settle()
            assert str(aside.error) == "OSError: down"
            assert (watch.state, watch.error) == ("live", None)

    run(main())


def test_a_task_that_outlives_the_source_holds_no_watch() -> None:
    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []

        async def source() -> AsyncGenerator[Event, None]:
            tasks.append(asyncio.create_task(forever()))
            yield Snapshot()
            await forever()

        async with Watch(source) as watch:
            await anext(watch)
        gone = weakref.ref(watch)
        del watch
        gc.collect()
        assert gone() is None and not tasks[0].done()
        tasks[0].cancel()

    run(main())


# -- consumers and closing -----------------------------------------------------------------------


def test_a_cancelled_wait_loses_nothing() -> None:
    async def main() -> None:
        store = Store()
        async with Watch(store.source) as watch:
            await anext(watch)
            for moment in range(6):
                waiting = asyncio.ensure_future(anext(watch))
                await settle()
                store.put(record(id=f"n{moment}"))
                for _ in range(moment):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
                taken: list[Event] = [] if waiting.cancelled() else [waiting.result()]
                assert taken + await drain(watch) == [Change.put(record(id=f"n{moment}"))]

    run(main())


def test_two_consumers_of_one_watch_are_told() -> None:
    async def main() -> None:
        store = Store()
        async with Watch(store.source) as watch:
            await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await settle()
            with pytest.raises(RegistryError, match="two tasks iterate one watch; open a watch for each"):
                await anext(watch)
            store.put(OLD)
            assert await waiting == Change.put(OLD)

    run(main())


def test_a_watch_is_entered_once_and_before_it_is_iterated() -> None:
    async def main() -> None:
        watch = Watch(Store().source)
        with pytest.raises(RegistryClosed, match="async with registry.watch"):
            await anext(watch)
        async with watch:
            with pytest.raises(RegistryClosed, match="used before"):
                await watch.__aenter__()
        with pytest.raises(RegistryClosed, match="used before"):
            await watch.__aenter__()
        unused = Watch(Store().source)
        await unused.close()
        with pytest.raises(RegistryClosed, match="used before"):
            await unused.__aenter__()

    run(main())


def test_closing_stops_a_waiting_iteration_and_may_be_repeated() -> None:
    async def main() -> None:
        store = Store(OLD)
        watch = Watch(store.source)
        seen: list[Event] = []

        async def consume() -> None:
            seen.extend([event async for event in watch])

        async with watch:
            consumer = asyncio.create_task(consume())
            await settle()
            await watch.close()
            await watch.close()
            await consumer
            assert seen == [Snapshot([OLD])]
            assert store.open == 0
        await asyncio.gather(watch.close(), watch.close())
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    run(main())


def test_closing_from_inside_the_iteration() -> None:
    async def main() -> None:
        store = Store(OLD)
        seen = 0
        async with Watch(store.source) as watch:
            async for _ in watch:
                seen += 1
                await watch.close()
        assert (seen, store.open) == (1, 0)

    run(main())


def test_closing_ends_a_source_that_answers_a_cancel_with_an_error() -> None:
    async def stubborn() -> AsyncGenerator[Event, None]:
        try:
            yield Snapshot([OLD])
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError("closed under me") from None

    async def slow() -> AsyncGenerator[Event, None]:
        try:
            yield Snapshot([OLD])
            await forever()
        finally:
            await asyncio.sleep(1)
            raise RuntimeError("could not say goodbye")

    async def main() -> None:
        for source in (stubborn, slow):
            opened = 0

            def count(source: Source = source) -> AsyncGenerator[Event, None]:
                nonlocal opened
                opened += 1
                return source()

            async with asyncio.timeout(5), Watch(count) as watch:
                await anext(watch)
            async with asyncio.timeout(5), Watch(count) as watch:
                await anext(watch)
                watch.fail(RegistryClosed("closed"))
            await asyncio.sleep(30)
            assert opened == 2

    run(main())


def test_closing_before_anything_ran_and_while_backing_off() -> None:
    async def main() -> None:
        async with Watch(scripted()) as fresh:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(fresh)
        async with Watch(scripted(OSError("down"))) as failing:
            await asyncio.sleep(30.3)
            assert (failing.state, str(failing.error)) == ("resyncing", "OSError: down")

    run(main())
    run(main())


def test_a_cancelled_consumer_closes_its_watch() -> None:
    async def main() -> None:
        store = Store()

        async def consume() -> None:
            async with Watch(store.source) as watch:
                async for _ in watch:
                    pass

        task = asyncio.create_task(consume())
        await settle()
        assert store.open == 1
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), store.open) == (True, 0)

    run(main())


def test_a_failed_watch_tells_its_consumer_why() -> None:
    async def main() -> None:
        store = Store(OLD)
        async with Watch(store.source) as watch:
            await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await settle()
            watch.fail(RegistryClosed("the registry was closed"))
            watch.fail(RegistryError("too late"))
            with pytest.raises(RegistryClosed, match="the registry was closed"):
                await waiting
            await settle()
            assert (store.open, watch.state, str(watch.error)) == (0, "resyncing", "the registry was closed")
        never = Watch(store.source)
        never.fail(RegistryClosed("before it was entered"))
        with pytest.raises(RegistryClosed, match="before it was entered"):
            await never.__aenter__()
        assert store.opened == 1
        closed = Watch(store.source)
        await closed.close()
        closed.fail(RegistryClosed("nobody cares"))
        assert closed.error is None

    run(main())


def test_five_hundred_watches_leave_nothing() -> None:
    async def main() -> None:
        store = Store(OLD)
        before = asyncio.all_tasks()
        watches = [Watch(store.source, "greeter") for _ in range(500)]
        for watch in watches:
            await watch.__aenter__()
        for watch in watches:
            assert await anext(watch) == Snapshot([OLD])
        store.put(NEW)
        for watch in watches:
            assert await anext(watch) == Change.put(NEW, OLD)
        assert store.open == 500
        await asyncio.gather(*(watch.close() for watch in watches))
        assert store.open == 0
        assert asyncio.all_tasks() == before

    run(main())


def test_an_abandoned_watch_ends_with_its_loop() -> None:
    async def main() -> Store:
        store = Store(OLD)
        watch = Watch(store.source)
        await watch.__aenter__()
        await anext(watch)
        return store

    assert asyncio.run(main()).open == 0


def test_a_source_may_doubt_what_it_tells_and_go_on() -> None:
    why = RegistryUnavailable("one of two is away")

    async def main() -> None:
        store = Store(OLD)
        within: list[Watch | None] = []

        async def source() -> AsyncGenerator[Event, None]:
            within.append(reading())
            async for event in store.source():
                yield event

        watch, states = Watch(source), list[str]()
        watch.on_state = lambda: states.append(watch.state)
        async with watch:
            assert await anext(watch) == Snapshot([OLD]) and within == [watch] and reading() is None
            for _ in range(2):
                watch.doubt(why)
                assert watch.state == "resyncing" and watch.error is why
            store.put(NEW)
            assert await anext(watch) == Change.put(NEW, OLD), "it goes on"
            watch.doubt(None)
            assert str(watch.state) == "live" and watch.error is why  # as with any loss before
            watch.doubt(why)
            store.send(RuntimeError("lost"))
            await support.wait_until(lambda: watch.state == "live", what="a source that begins anew has no doubt")
        assert states[-1] == "live" and states.count("resyncing") >= 2

    run(main())
