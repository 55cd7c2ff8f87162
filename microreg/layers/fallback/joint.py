"""Joint: the source of a watch over several registries. It goes on as long as one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from microreg import process
from microreg.composite import Part, combined
from microreg.errors import RegistryClosed, RegistryError, RegistryTimeout, WrongLoop
from microreg.events import Change, Event, Snapshot
from microreg.layers.fallback.union import Union
from microreg.translation import unexpected
from microreg.watch import Watch, reading

__all__ = ["Joint"]

_Timers = dict[int, asyncio.TimerHandle]

_HOLD = 10.0
"""Seconds for which a part that was lost is taken at its last word: most are back by then."""
_MOMENT = 0.05
"""Seconds within which a watch that is live again has told what changed meanwhile."""


class Joint:
    """One watch per part, and the events of all as one source.

    The Snapshot comes when every part has told its own or is known to be lost, and after ``patience`` seconds without
    those that are silent. A part that is lost keeps its nodes for ten seconds; then the other parts' nodes count, and
    its own only for names that nobody else has. While no part that is there can say how things stand, the watch is
    ``resyncing``; while none is there at all, what was told last stays.
    """

    def __init__(self, parts: Sequence[Part], name: str | None, merge: bool, patience: float) -> None:
        self._parts = parts
        self._name = name
        self._patience = patience
        self._union = Union(len(parts), merge, self._told)
        self._dirty: dict[tuple[str, str], Change] = {}
        self._wake = asyncio.Event()
        self._spoken: set[int] = set()
        self._lost: dict[int, RegistryError] = {}
        self._ended: set[int] = set()
        self._hold: _Timers = {}
        self._back: _Timers = {}
        self._fatal: RegistryError | None = None
        self._outer = reading()
        self._loop = asyncio.get_running_loop()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The Snapshot, then the latest change of each changed node."""
        tasks = [
            self._loop.create_task(self._follow(number, part), name=f"microreg fallback {self._name or '*'}")
            for number, part in enumerate(self._parts)
        ]
        try:
            await self._first()
            self._dirty.clear()
            snapshot = self._union.snapshot()
            self._judge()
            yield snapshot
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._fatal is not None:
                    raise self._fatal
                batch = tuple(self._dirty.values())
                self._dirty.clear()
                for change in batch:
                    yield change
        finally:
            for timer in (*self._hold.values(), *self._back.values()):
                timer.cancel()
            await process.end(*tasks)
            for part in self._parts:
                part.dropped(self)

    async def _first(self) -> None:
        """Wait until the Snapshot can be told. Raises RegistryUnavailable where all parts are lost."""
        everyone = len(self._parts)
        deadline = self._loop.time() + self._patience
        while len(self._spoken | {*self._lost}) < everyone and self._fatal is None:
            left = deadline - self._loop.time()
            if left <= 0 and self._spoken:
                self._leave_out_the_silent()
                break
            self._wake.clear()
            try:
                async with asyncio.timeout(left if left > 0 else None):
                    await self._wake.wait()
            except TimeoutError:
                continue
        if self._fatal is not None:
            raise self._fatal
        if len(self._lost) == everyone:
            raise self._all_lost()

    def _leave_out_the_silent(self) -> None:
        for number, part in enumerate(self._parts):
            if number not in self._spoken and number not in self._lost:
                self._lose(number, RegistryTimeout(f"{part} told nothing within {self._patience:g} s"))

    # -- one part ------------------------------------------------------------------------------------

    async def _follow(self, number: int, part: Part) -> None:
        try:
            watch = part.registry.watch(self._name)
            watch.on_state = partial(self._moved, number, watch)
            async with watch as events:
                async for event in events:
                    self._heard(number, event)
        except (RegistryClosed, WrongLoop) as error:
            self._fatal = error
        except Exception as error:  # whatever a layer raises: the others go on
            self._ended.add(number)
            self._lose(number, unexpected(error, part))
            if len(self._ended) == len(self._parts):
                self._fatal = self._all_lost()
        self._wake.set()

    def _heard(self, number: int, event: Event) -> None:
        self._union.apply(number, event)
        if isinstance(event, Snapshot):
            self._spoken.add(number)
            self._present(number)
        self._judge()

    def _moved(self, number: int, watch: Watch) -> None:
        """The watch of a part is live, or not any more."""
        if isinstance(watch.error, RegistryClosed):
            return  # the end of all, of which the iteration tells
        if watch.state != "live":
            if watch.error is not None:
                self._lose(number, watch.error)
        elif number in self._lost and number in self._spoken:
            self._timer(self._back, number, _MOMENT, partial(self._is_back, number, watch))

    def _is_back(self, number: int, watch: Watch) -> None:
        if watch.state == "live":
            self._present(number)

    def _lose(self, number: int, error: RegistryError) -> None:
        known = number in self._lost
        self._lost[number] = error
        if not known:
            self._parts[number].failed(error, self)
            if number in self._spoken:
                self._timer(self._hold, number, _HOLD, partial(self._away, number))
            else:
                self._union.set_away(number, True)
        self._judge()
        self._wake.set()

    def _away(self, number: int) -> None:
        self._union.set_away(number, True)
        self._judge()

    def _present(self, number: int) -> None:
        for timers in (self._hold, self._back):
            if number in timers:
                timers.pop(number).cancel()
        self._lost.pop(number, None)
        self._parts[number].answered(self)
        self._union.set_away(number, False)
        self._judge()
        self._wake.set()

    def _timer(self, timers: _Timers, number: int, seconds: float, call: Callable[[], None]) -> None:
        if number in timers:
            timers[number].cancel()
        timers[number] = self._loop.call_later(seconds, call)

    # -- the whole -----------------------------------------------------------------------------------

    def _told(self, change: Change) -> None:
        self._dirty[change.service.name, change.node.id] = change
        self._wake.set()

    def _judge(self) -> None:
        """Whether what is told is what a lookup would say, had it to ask the parts now."""
        if self._outer is not None:
            self._outer.doubt(self._reason())

    def _reason(self) -> RegistryError | None:
        """Why that is not so: nobody who is there knows, or one who is lost may be back in a moment."""
        lost = self._lost.keys()
        if self._name is None:
            doubtful = lost if len(lost) == len(self._parts) else lost - self._union.away
        else:
            speakers = self._union.speakers(self._name)
            doubtful = lost & set(speakers) if speakers else lost
        return self._lost[min(doubtful)] if doubtful else None

    def _all_lost(self) -> RegistryError:
        return combined("no part can be watched", [(self._parts[number], self._lost[number]) for number in self._lost])
