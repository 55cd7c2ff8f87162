"""A watch as a check uses it: reads when told to, folds what it reads, and insists that each event makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from types import TracebackType
from typing import NoReturn, Protocol, Self

from microreg.catalog import Catalog
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.model import Service, merge
from microreg.testing.harness import Harness
from microreg.testing.show import show
from microreg.watch import Watch

__all__ = ["Listener"]


class _Case(Protocol):
    @property
    def harness(self) -> Harness: ...
    def log(self, text: str) -> None: ...
    def fail(self, expected: str, seen: object) -> NoReturn: ...


class Listener:
    """A watch under observation. ``catalog`` is the fold of what was read; ``changes`` is what was read.

    Where all names are watched, only the check's own count.
    """

    def __init__(self, watch: Watch, label: str, case: _Case, names: Collection[str]) -> None:
        self.watch = watch
        self.catalog = Catalog()
        self.changes: list[Change] = []
        self._case = case
        self._label = label
        self._names = names
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        await self.watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.watch.__aexit__(kind, error, trace)

    async def start(self, within: float | None = None) -> Snapshot:
        """Read the first event, which must be the Snapshot."""
        event = await self._read(self._case.harness.patience if within is None else within)
        if not isinstance(event, Snapshot):
            self._case.fail(f"{self._label} begins with a Snapshot", event or "nothing")
        own = Snapshot(record for record in event.records if record.name in self._names)
        self._case.log(f"{self._label}: {show(own)}")
        self.catalog.apply(own)
        return own

    async def next(self, within: float | None = None) -> Change | None:
        """The next change of the check's own names; None when none came within the patience."""
        seconds = self._case.harness.patience if within is None else within
        deadline = self._loop.time() + seconds
        while True:
            event = await self._read(deadline - self._loop.time())
            if event is None:
                return None
            if isinstance(event, Snapshot):
                self._case.fail(f"{self._label} sends one Snapshot, at its beginning", f"another one: {show(event)}")
            if event.service.name in self._names:
                self._case.log(f"{self._label}: {show(event)}")
                self._insist(event)
                self.catalog.apply(event)
                self.changes.append(event)
                return event

    async def expect(
        self, action: Action, record: Service, *, previous: Service | None = None, within: float | None = None
    ) -> Change:
        """The next change, which must be this. For a delete, ``record`` is what was known last."""
        change = await self.next(within)
        wanted = Change(action, record, record.nodes[0], None, record if action is Action.DELETE else previous)
        what = f"next on {self._label}: {show(wanted)}"
        if change is None:
            seconds = self._case.harness.patience if within is None else within
            self._case.fail(what, f"no event within {seconds:g} s")
        if (change.action, change.service) != (action, record) or change.previous != wanted.previous:
            self._case.fail(what, change)
        return change

    async def until(self, done: Callable[[], bool], expected: str, within: float | None = None) -> None:
        """Read until this holds."""
        seconds = self._case.harness.patience if within is None else within
        deadline = self._loop.time() + seconds
        while not done():
            if await self.next(max(0.0, deadline - self._loop.time())) is None and not done():
                self._case.fail(f"{self._label}: {expected}, within {seconds:g} s", self.known())

    async def holds(self, *expected: Service, within: float | None = None) -> None:
        """Read until what was read folds into exactly these services."""
        wanted = merge(record for service in expected for record in service.records())
        await self.until(lambda: self.known() == wanted, f"folds into {show(wanted)}", within)

    async def quiet(self, seconds: float | None = None) -> None:
        """Insist that nothing comes for the harness's settling time."""
        change = await self.next(self._case.harness.settle if seconds is None else seconds)
        if change is not None:
            self._case.fail(f"no event on {self._label}", change)

    def known(self) -> tuple[Service, ...]:
        """What was read, folded and merged as ``get_service`` would."""
        return merge(self.catalog.records())

    async def _read(self, seconds: float) -> Event | None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await anext(self.watch)
        except TimeoutError:
            return None
        except StopAsyncIteration:
            self._case.fail(f"{self._label} goes on until it is closed", "it ended")

    def _insist(self, change: Change) -> None:
        """What holds for every change: it is about one node, and it is consistent with what was told before."""
        known = self.catalog.get(change.service.name, change.node.id)
        wrong = ""
        if change.service.nodes != (change.node,):
            wrong = "the change's service has exactly the change's node"
        elif change.action is Action.CREATE and (known is not None or change.previous is not None):
            wrong = f"a create is of a node that was not there, but it was: {show(known)}"
        elif change.action is not Action.CREATE and (known is None or change.previous != known):
            wrong = f"an update or delete has as previous what was told last: {show(known)}"
        elif change.action is Action.UPDATE and change.service == known:
            wrong = "an update changes something"
        elif (change.action is Action.DELETE) != isinstance(change.reason, Reason):
            wrong = "a delete has a reason, and nothing else has"
        if wrong:
            self._case.fail(f"{self._label}: {wrong}", change)
