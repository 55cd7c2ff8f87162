"""All names by two blocking queries: whose checks or tags have changed is read again, and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import TypeVar, cast

from microreg_consul.client import Client
from microreg_consul.feed import Feed
from microreg_consul.health import Check, checks_of, is_ours, text
from microreg_consul.queries import Ask, answers
from microreg_consul.records import Records
from microreg_consul.standing import Standing

__all__ = ["Overview"]

T = TypeVar("T")

Marks = Mapping[str, frozenset[object]]
"""By name, what is another set when something has changed under it."""

_AT_ONCE = 8
_SWEEP = 0.5
"""Seconds at least between two readings of what others have registered."""
_SHARE = 20
"""They take one part in so many of the time at most."""


class Overview(Feed):
    """Every name.

    Consul has no query that tells every instance. It has one of all names with their tags, and one of all checks,
    and in microreg's layout every change of a record is another check. What others register may change in its Meta
    alone: then the first query ends without saying why, and their names are read again, within a second or so.
    """

    def __init__(self, client: Client, records: Records, rng: random.Random, over: Callable[[Feed], None]) -> None:
        self._marks: dict[str, Marks] = {}
        """What either query has told last."""
        self._agents: frozenset[object] = frozenset()
        """The checks of agents, and how they stand."""
        self._dirty: set[str] = set()
        """The names to read again."""
        self._foreign: set[str] = set()
        """The names under which others have registered something."""
        self._ahead: set[str] = set()
        """The names of which more was read than the query of checks has told yet."""
        self._wake, self._moved = asyncio.Event(), asyncio.Event()
        self._took = 0.0
        super().__init__(client, records, rng, over)

    async def _keep(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(self._services, self._see_services), name="microreg consul names")
                group.create_task(self._follow(self._checks, self._see_checks), name="microreg consul checks")
                group.create_task(self._sweep(), name="microreg consul sweep")
                group.create_task(self._read(), name="microreg consul reading")
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _follow(self, ask: Ask[T], see: Callable[[T], None]) -> None:
        async with aclosing(answers(ask, self._rng)) as found:
            async for answer in found:
                see(answer)

    async def _services(self, index: int, wait: float) -> tuple[int, dict[str, list[str]]]:
        found, services = await self._client.services(index, wait)
        if found != index:
            self._moved.set()
        return found, services

    async def _checks(self, index: int, wait: float) -> tuple[int, list[Check]]:
        found, checks = await self._client.checks(index, wait)
        if found != index and self._ahead:  # what was read may be gone again, and this answer the same as before
            self._dirty |= self._ahead
            self._ahead.clear()
            self._wake.set()
        return found, checks

    def _see_services(self, services: Mapping[str, Iterable[str]]) -> None:
        self._compare("services", {name: frozenset(tags) for name, tags in services.items()})

    def _see_checks(self, checks: Iterable[Check]) -> None:
        marks, agents = _marked(checks)
        if agents != self._agents:  # it is all services of an agent that are gone, or back
            self._agents = frozenset(agents)
            self._dirty.update(*self._marks.values())
        self._compare("checks", marks)

    def _compare(self, query: str, marks: Marks) -> None:
        before = self._marks.get(query, {})
        self._dirty.update(name for name in {*before, *marks} if before.get(name) != marks.get(name))
        self._marks[query] = marks
        self._wake.set()

    async def _sweep(self) -> None:
        while True:
            await self._moved.wait()
            await asyncio.sleep(max(_SWEEP, _SHARE * self._took) * self._rng.uniform(0.5, 1.0))
            self._moved.clear()
            self._dirty |= self._foreign
            self._wake.set()

    async def _read(self) -> None:
        """Read the names again that may have changed, a batch after the other: no answer overtakes another."""
        time = asyncio.get_running_loop().time
        while True:
            await self._wake.wait()
            self._wake.clear()
            if len(self._marks) < 2:
                continue  # until both queries have told what there is
            names, self._dirty = self._dirty, set()
            began = time()
            waiting = iter(names)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(names))):
                    group.create_task(self._enter_all(waiting), name="microreg consul reading")
            self._took = time() - began
            self._complete()

    async def _enter_all(self, names: Iterable[str]) -> None:
        for name in names:
            _, entries = await self._client.entries(name)
            Standing(name, entries, self._records).enter(self.catalog)
            marks, _ = _marked(check for entry in entries for check in checks_of(entry))
            if marks.get(name) != self._marks["checks"].get(name):
                self._ahead.add(name)
            if all(is_ours(checks_of(entry)) for entry in entries):
                self._foreign.discard(name)
            else:
                self._foreign.add(name)

    def __str__(self) -> str:
        return "all names"


def _marked(checks: Iterable[Check]) -> tuple[Marks, set[object]]:
    """The marks of the services that have these checks, and those of agents."""
    marks: defaultdict[str, set[object]] = defaultdict(set)
    agents: set[object] = set()
    for check in checks:
        mark = text(check, "Node"), text(check, "CheckID"), text(check, "Status")
        if name := text(check, "ServiceName"):
            marks[name].add((*mark, check.get("ModifyIndex")))
        else:
            agents.add(mark)
    return {name: frozenset(marked) for name, marked in marks.items()}, agents


def _first(error: BaseException) -> BaseException:
    """The error that ended the tasks of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
