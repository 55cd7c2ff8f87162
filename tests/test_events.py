"""Snapshot and Change: how they compare, and that they can be taken apart with ``match``."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies as given_
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Node, Service, merge
from strategies import quick, record


def describe(event: Event) -> str:
    match event:
        case Snapshot(services):
            return f"snapshot of {len(services)}"
        case Change(Action.DELETE, service, node, Reason.EXPIRED):
            return f"{service.name} {node.id} expired"
        case Change(action, service, node, reason, previous):
            return f"{action} {service.name} {node.id} {reason} {previous is None}"


def test_events_are_made_for_match() -> None:
    assert describe(Snapshot([record()])) == "snapshot of 1"
    assert describe(Change.gone(record(), Reason.EXPIRED)) == "greeter a expired"
    assert describe(Change.gone(record())) == "delete greeter a removed False"
    assert describe(Change.put(record())) == "create greeter a None True"
    assert describe(Change.put(record(port=81), record())) == "update greeter a None False"


@quick
@given(st.lists(given_.few_records, max_size=6, unique_by=lambda each: (each.name, each.nodes[0].id)), st.randoms())
def test_snapshots_are_equal_whatever_the_order(records: list[Service], rng: random.Random) -> None:
    one, other = Snapshot(records), Snapshot(rng.sample(records, len(records)))
    assert one == other
    assert hash(one) == hash(other)
    assert one.services == other.services == merge(records)
    assert one.services is one.services
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def test_snapshots_differ_by_content() -> None:
    assert Snapshot([record()]) != Snapshot()
    assert Snapshot([record()]) != Snapshot([record(port=81)])
    assert Snapshot() != ()
    assert Snapshot() == Snapshot([Service("no-nodes")])
    assert "greeter" in repr(Snapshot([record()]))


def test_a_snapshot_keeps_one_record_per_node() -> None:
    both = Service("x", nodes=[Node("h:1", id="b"), Node("h:2", id="a")])
    assert Snapshot([both]).records == both.records()
    assert Snapshot(iter([both])).services == merge([both])
    assert Snapshot.of(iter(both.records())) == Snapshot([both])


def test_changes_are_immutable_values() -> None:
    change = Change.gone(record())
    assert change == Change.gone(record())
    assert change != Change.gone(record(), Reason.LOST)
    assert change.previous == change.service
    assert len({change, pickle.loads(pickle.dumps(change)), copy.copy(change)}) == 1
    with pytest.raises(AttributeError):
        change.action = Action.CREATE  # type: ignore[misc]
