"""Measures: what there is to know of a running program, in one table that OpenTelemetry and ``/metrics`` both read.

Names, units and kinds follow OpenTelemetry's semantic conventions. Nothing here counts: it reads what announcements,
Selectors, caches and registries know of themselves, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Literal

from microreg.announce.announcement import Announcement, State
from microreg.checked import Checked
from microreg.composite import Composite
from microreg.layers.cache import CacheLayer
from microreg.registry import Layer, Registry
from microreg.selector import CallStatistics, Selector

__all__ = ["MEASURES", "Labels", "Measure", "Reading", "measured", "registries"]

Labels = tuple[str, ...]
"""The values of a measure's attributes, in their order; an empty one is left out."""

Reading = Mapping[Labels, float]
"""What a measure says of one object."""

_MOST_NAMES = 1000
"""So many names are told of one cache or Selector, the stalest or busiest: they may know many times as many."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: ``read`` says what it is of an announcement, a Selector, a cache or a registry (``Checked``).

    A ``counter`` only grows, as long as its object lives; a ``sum`` goes up and down, and those of several objects
    are added; of a ``gauge`` the largest counts.
    """

    name: str
    kind: Literal["counter", "sum", "gauge"]
    unit: str
    about: str
    attributes: tuple[str, ...]
    read: Callable[[object], Reading]

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus, as OpenTelemetry's exporters make it."""
        end = {"s": "_seconds"}.get(self.unit, "") + ("_total" if self.kind == "counter" else "")
        return self.name.replace(".", "_") + end

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its attributes in Prometheus."""
        return tuple(attribute.replace(".", "_") for attribute in self.attributes)

    def total(self, readings: Iterable[Reading]) -> dict[Labels, float]:
        """What it is of several objects together."""
        total: dict[Labels, float] = {}
        for reading in readings:
            for labels, value in reading.items():
                before = total.get(labels, 0)
                total[labels] = max(before, value) if self.kind == "gauge" else before + value
        return total


def registries(registry: Registry) -> Iterator[Checked]:
    """The registries that a registry is made of, each with what works on it in ``users``: of a composite, all parts."""
    if isinstance(registry, Checked):
        yield registry
    if isinstance(registry, Layer):
        yield from registries(registry.inner)
    elif isinstance(registry, Composite):
        for part in registry.parts:
            yield from registries(part.registry)


def measured(registry: Registry) -> list[object]:
    """Everything in and around a registry that a measure says something of."""
    found = list(registries(registry))
    return [*found, *(user for each in found for user in each.users)]


def _announcements(thing: object) -> Reading:
    if not isinstance(thing, Announcement) or thing.state is State.GONE:
        return {}
    return {(thing.service.name, state): int(state is thing.state) for state in State if state is not State.GONE}


def _renewals(thing: object) -> Reading:
    if not isinstance(thing, Announcement) or thing.state is State.GONE:
        return {}
    name, done = thing.service.name, thing.statistics
    return {(name, ""): done.written, **{(name, error): count for error, count in done.failed.items()}}


def _watches(thing: object) -> Reading:
    if not isinstance(thing, Checked) or not thing.is_open:
        return {}
    done = thing.statistics
    return {(thing.url.scheme, "live"): done.live, (thing.url.scheme, "resyncing"): done.resyncing}


def _resyncs(thing: object) -> Reading:
    if not isinstance(thing, Checked) or not thing.is_open:
        return {}
    return {(thing.url.scheme,): thing.statistics.resyncs}


def _ages(thing: object) -> Reading:
    if not isinstance(thing, CacheLayer):
        return {}
    known = [(thing.freshness(name), name) for name in thing.names]
    ages = ((fresh.age, name) for fresh, name in known if fresh.kind != "unknown")
    return {(name,): age for age, name in nlargest(_MOST_NAMES, ages)}


def _calls(thing: object) -> Reading:
    found: dict[Labels, float] = {}
    for name, done in _of_selector(thing):
        found |= {
            (name, "answered"): done.answered,
            (name, "failed"): done.failed,
            (name, "unavailable"): done.unavailable,
        }
    return found


def _retries(thing: object) -> Reading:
    found: dict[Labels, float] = {}
    for name, done in _of_selector(thing):
        found |= {(name, "made"): done.retries, (name, "refused"): done.refused}
    return found


def _ejections(thing: object) -> Reading:
    return {(name,): done.ejections for name, done in _of_selector(thing)}


def _nodes(thing: object) -> Reading:
    found: dict[Labels, float] = {}
    for name, done in _of_selector(thing):
        found |= {(name, "available"): done.available, (name, "ejected"): done.ejected}
    return found


def _of_selector(thing: object) -> Iterable[tuple[str, CallStatistics]]:
    known = thing.statistics.items() if isinstance(thing, Selector) else ()
    return known if len(known) <= _MOST_NAMES else nlargest(_MOST_NAMES, known, key=_busy)


def _busy(each: tuple[str, CallStatistics]) -> int:
    done = each[1]
    return done.answered + done.failed + done.unavailable


_SERVICE = "microreg.service.name"
_REGISTRY = "microreg.registry.scheme"

MEASURES = (
    Measure(
        "microreg.announcements",
        "sum",
        "{announcement}",
        "Announcements, by the state that they are in.",
        (_SERVICE, "microreg.announcement.state"),
        _announcements,
    ),
    Measure(
        "microreg.announcement.renewals",
        "counter",
        "{renewal}",
        "Writes and renewals of announced nodes; error.type is there where one failed.",
        (_SERVICE, "error.type"),
        _renewals,
    ),
    Measure(
        "microreg.watches",
        "sum",
        "{watch}",
        "Watches of a registry, by whether they hear it.",
        (_REGISTRY, "microreg.watch.state"),
        _watches,
    ),
    Measure(
        "microreg.watch.resyncs",
        "counter",
        "{resync}",
        "How often watches read the registry again after they had lost it.",
        (_REGISTRY,),
        _resyncs,
    ),
    Measure(
        "microreg.cache.age",
        "gauge",
        "s",
        "How old what the cache knows of a name is; 0 while a watch keeps it true.",
        (_SERVICE,),
        _ages,
    ),
    Measure(
        "microreg.selector.calls",
        "counter",
        "{call}",
        "Calls to nodes, by how they ended; unavailable: there was no node.",
        (_SERVICE, "microreg.call.outcome"),
        _calls,
    ),
    Measure(
        "microreg.selector.retries",
        "counter",
        "{retry}",
        "Calls made again on another node, and those refused by the retry budget.",
        (_SERVICE, "microreg.retry.outcome"),
        _retries,
    ),
    Measure(
        "microreg.selector.ejections",
        "counter",
        "{ejection}",
        "How often a node was left alone because it failed.",
        (_SERVICE,),
        _ejections,
    ),
    Measure(
        "microreg.selector.nodes",
        "sum",
        "{node}",
        "Nodes that a Selector picks from, and those that it leaves alone.",
        (_SERVICE, "microreg.node.state"),
        _nodes,
    ),
)
"""Every measure there is."""
