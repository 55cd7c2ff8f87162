"""The catalog against a naive model, its views, its subscribers, its cost, and its source for a Watch."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from types import FrameType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import strategies as given_
from microreg.catalog import Catalog
from microreg.errors import RegistryUnavailable
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service, merge
from strategies import record
from support import run

Key = tuple[str, str]
NAMES = ("alpha", "beta", "gamma")
snapshots = st.lists(given_.few_records, max_size=5).map(Snapshot)
reasons = st.sampled_from(Reason)


def key_of(each: Service) -> Key:
    return each.name, each.nodes[0].id


class CatalogMachine(RuleBasedStateMachine):
    """Whatever is done to a Catalog, it holds what a plain dict would, and tells every difference once."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog()
        self.model: dict[Key, Service] = {}
        self.views = {name: self.catalog.services(name) for name in NAMES}
        self.heard: list[Change] = []
        self.folded: dict[Key, Service] = {}
        self.catalog.subscribe(None, self.heard.append)
        self.others: dict[str, tuple[list[Change], int]] = {}
        self.stops: dict[str, Callable[[], None]] = {}

    @rule(each=given_.few_records)
    def put(self, each: Service) -> None:
        old = self.model.get(key_of(each))
        expected = None if old == each else Change.put(each, old)
        assert self.catalog.put(each) == expected
        self.model[key_of(each)] = each

    @rule(each=given_.few_records, reason=reasons)
    def remove(self, each: Service, reason: Reason) -> None:
        old = self.model.pop(key_of(each), None)
        assert self.catalog.remove(*key_of(each), reason) == (Change.gone(old, reason) if old else None)

    @rule(each=given_.few_records, action=st.sampled_from(Action), reason=st.none() | reasons)
    def apply_change(self, each: Service, action: Action, reason: Reason | None) -> None:
        self.catalog.apply(Change(action, each, each.nodes[0], reason))
        if action is Action.DELETE:
            self.model.pop(key_of(each), None)
        else:
            self.model[key_of(each)] = each

    @rule(snapshot=snapshots)
    def apply_snapshot(self, snapshot: Snapshot) -> None:
        self.catalog.apply(snapshot)
        self.model = {key_of(each): each for each in snapshot.records}

    @rule(snapshot=snapshots, name=st.sampled_from(NAMES), reason=reasons)
    def replace_one_name(self, snapshot: Snapshot, name: str, reason: Reason) -> None:
        self.catalog.replace(snapshot, name, reason)
        self.model = {key: each for key, each in self.model.items() if key[0] != name}
        self.model |= {key_of(each): each for each in snapshot.records if each.name == name}

    @rule(name=st.sampled_from(NAMES))
    @precondition(lambda self: not self.stops)
    def subscribe(self, name: str) -> None:
        mine: list[Change] = []
        self.others[name] = mine, len(self.heard)
        self.stops[name] = self.catalog.subscribe(name, mine.append)

    @rule()
    @precondition(lambda self: self.stops)
    def unsubscribe(self) -> None:
        name, stop = self.stops.popitem()
        mine, before = self.others.pop(name)
        stop()
        stop()
        assert mine == [change for change in self.heard[before:] if change.service.name == name]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert {key_of(each): each for each in self.catalog.records()} == self.model
        assert len(self.catalog) == len(self.model)
        assert self.catalog.names() == tuple(sorted({name for name, _ in self.model}))
        assert self.catalog.names() is self.catalog.names()
        for key, each in self.model.items():
            assert self.catalog.get(*key) is not None
            assert self.catalog.get(*key) == each
        assert self.catalog.get("alpha", "z") is None
        assert self.catalog.snapshot() == Snapshot(self.model.values())

    @invariant()
    def views_change_only_with_their_name(self) -> None:
        for name in NAMES:
            mine = [each for key, each in self.model.items() if key[0] == name]
            view = self.catalog.services(name)
            assert view == merge(mine)
            assert self.catalog.services(name) is view
            told = [change for change in self.heard[self.seen :] if change.service.name == name]
            assert told or view is self.views[name]
            self.views[name] = view
        self.seen = len(self.heard)

    seen = 0
    told = 0

    @invariant()
    def the_fold_of_what_was_told_is_the_state(self) -> None:
        for change in self.heard[self.told :]:
            key = key_of(change.service)
            assert change.node == change.service.nodes[0]
            assert change.previous == self.folded.get(key)
            match change.action:
                case Action.CREATE:
                    assert key not in self.folded
                    self.folded[key] = change.service
                case Action.UPDATE:
                    assert self.folded[key] != change.service
                    self.folded[key] = change.service
                case Action.DELETE:
                    assert change.reason is not None
                    del self.folded[key]
        self.told = len(self.heard)
        assert self.folded == self.model


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=25, stateful_step_count=25)


def test_a_snapshot_with_one_node_twice_tells_only_the_later() -> None:
    catalog = Catalog()
    told: list[Change] = []
    catalog.subscribe(None, told.append)
    catalog.apply(Snapshot([record(port=1), record(port=2)]))
    assert told == [Change.put(record(port=2))]


def test_a_delete_without_a_reason_was_removed_and_a_gap_lost() -> None:
    catalog = Catalog()
    told: list[Change] = []
    catalog.subscribe("greeter", told.append)
    catalog.put(record())
    catalog.apply(Change(Action.DELETE, record(), record().nodes[0]))
    catalog.put(record())
    catalog.apply(Snapshot())
    assert [change.reason for change in told] == [None, Reason.REMOVED, None, Reason.LOST]


def test_who_unsubscribes_during_a_callback_hears_no_more() -> None:
    catalog = Catalog()
    heard: list[str] = []
    stops: dict[str, Callable[[], None]] = {}

    def first(_: Change) -> None:
        heard.append("first")
        for stop in stops.values():
            stop()

    stops["first"] = catalog.subscribe("greeter", first)
    stops["second"] = catalog.subscribe("greeter", lambda _: heard.append("second"))
    stops["all"] = catalog.subscribe(None, lambda _: heard.append("all"))
    catalog.put(record())
    catalog.put(record(port=81))
    assert heard == ["first"]


def test_who_subscribes_during_a_callback_hears_later_changes() -> None:
    catalog = Catalog()
    heard: list[Change] = []

    def subscribe(_: Change) -> None:
        if not heard:
            catalog.subscribe("greeter", heard.append)

    catalog.subscribe("greeter", subscribe)
    catalog.put(record())
    assert heard == []
    change = catalog.put(record(port=81))
    assert heard[0] == change


def calls(catalog: Catalog, event: Event) -> int:
    """How many functions, of Python and of C, one ``apply`` calls."""
    count = 0

    def profile(_frame: FrameType, what: str, _argument: object) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    sys.setprofile(profile)
    try:
        catalog.apply(event)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("event", [Change.put(record(port=81)), Change.gone(record())], ids=["put", "gone"])
def test_a_change_costs_the_same_at_every_size(event: Change) -> None:
    counts = set[int]()
    for size in (10, 5_000):
        catalog = Catalog()
        catalog.put(record())
        for number in range(size):
            catalog.put(record("greeter", f"n{number}"))
            catalog.put(record(f"other{number}", "a"))
        assert catalog.services("greeter")
        counts.add(calls(catalog, event))
    assert len(counts) == 1


def test_changes_are_a_snapshot_and_then_the_latest_of_each_node() -> None:
    async def main() -> None:
        catalog = Catalog()
        catalog.put(record())
        catalog.put(record("other"))
        async with aclosing(catalog.changes("greeter")) as events:
            assert await anext(events) == Snapshot([record()])
            for port in range(1, 5_000):
                catalog.put(record(port=port))
                catalog.put(record("other", port=port))
            catalog.put(record(id="b"))
            assert [await anext(events), await anext(events)] == [
                Change.put(record(port=4_999), record(port=4_998)),
                Change.put(record(id="b")),
            ]
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            assert not waiting.done()
            catalog.remove("greeter", "b", Reason.EXPIRED)
            assert await waiting == Change.gone(record(id="b"), Reason.EXPIRED)

    run(main())


def test_an_interrupt_ends_every_running_source_with_its_error() -> None:
    async def main() -> None:
        catalog = Catalog()
        one, other = catalog.changes(), catalog.changes("greeter")
        assert await anext(one) == await anext(other) == Snapshot()
        waiting = asyncio.ensure_future(anext(one))
        await asyncio.sleep(0)
        catalog.interrupt(RegistryUnavailable("gone"))
        for source in (waiting, anext(other)):
            with pytest.raises(RegistryUnavailable, match="gone"):
                await source
        catalog.interrupt(RegistryUnavailable("nobody hears this"))
        async with aclosing(catalog.changes()) as again:
            assert await anext(again) == Snapshot()

    run(main())


def test_a_closed_source_leaves_no_subscriber() -> None:
    async def main() -> None:
        catalog = Catalog()
        async with aclosing(catalog.changes()) as events:
            await anext(events)
        waiting = catalog.changes("greeter")
        await anext(waiting)
        task = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert vars(catalog)["_subscribers"] == vars(catalog)["_interrupts"] == {}

    run(main())
