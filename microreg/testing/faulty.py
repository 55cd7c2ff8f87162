"""A memory registry at the end of a line on which everything can go wrong, for simulations in virtual time.

::

    line = Line(random.Random(7))
    registry = Checked(FaultyMemory(RegistryURL.parse("memory://sim"), Options(), line))
    line.cut = True                        # a partition: nothing gets through, nobody is told
    line.delay, line.jitter = 0.5, 2.0     # calls and events come late, and overtake each other

Registries of one name share the store; each may have a line of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing

from microreg import options as config
from microreg.backends.memory import MemoryRegistry
from microreg.errors import RegistryUnavailable
from microreg.events import Change, Event, Snapshot
from microreg.model import Service, merge
from microreg.rules import DEFAULT_TTL
from microreg.testing.line import RAW, Line
from microreg.toolkit import decode_all
from microreg.url import RegistryURL
from microreg.watch import Watch

__all__ = ["PROBE", "FaultyMemory"]

PROBE = 5.0
"""Seconds of silence after which a watch asks whether the store is still there."""

_Key = tuple[str, str]
_Apply = Callable[[int], Coroutine[object, object, None]]


class FaultyMemory(MemoryRegistry):
    """A memory registry that keeps the contract, whatever the line does.

    What a late write brings back after a deregister of the same client is fenced off, as a store does that
    numbers its writes. Of two registers that overtake each other the later to arrive stays.
    """

    def __init__(self, url: RegistryURL, options: config.Options, line: Line | None = None) -> None:
        super().__init__(url, options)
        self.line = line or Line()
        self._late: set[asyncio.Task[None]] = set()
        self._count = 0
        self._applied: dict[_Key, int] = {}
        self._fences: dict[_Key, int] = {}
        self._warned: set[str] = set()

    # -- writing -------------------------------------------------------------------------------------

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Write the record when it arrives, unless it was withdrawn meanwhile."""
        await self._carry(lambda number: self._put(service, ttl, number))

    async def deregister(self, service: Service) -> None:
        """Withdraw the record that was written before, when this arrives."""
        await self._carry(lambda number: self._remove(service, number))

    def fenced(self, key: tuple[str, str], number: int) -> bool:
        """Whether a write of this number comes too late."""
        return number < self._fences.get(key, 0)

    async def _put(self, service: Service, ttl: float, number: int) -> None:
        key = _key(service)
        if not self.fenced(key, number):
            await super().register(service, ttl=ttl)
            self._applied[key] = max(number, self._applied.get(key, 0))

    async def _remove(self, service: Service, number: int) -> None:
        key = _key(service)
        if number > self._applied.get(key, 0):
            await super().deregister(service)
            self._fences[key] = max(number, self._fences.get(key, 0))

    async def _carry(self, apply: _Apply) -> None:
        """Bring a write to the store: at once, late, or twice. A caller who is gone changes nothing."""
        self._count += 1
        number = self._count
        await self.line.through()
        late = self.line.late()
        if late:
            await asyncio.shield(self._later(apply, number, late))
        else:
            await apply(number)
        if self.line.duplicates:
            self._later(apply, number, late + self.line.late())

    def _later(self, apply: _Apply, number: int, seconds: float) -> asyncio.Task[None]:
        async def arrive() -> None:
            await asyncio.sleep(seconds)
            await apply(number)

        task = asyncio.get_running_loop().create_task(arrive(), name="microreg late write")
        self._late.add(task)
        task.add_done_callback(self._arrived)
        return task

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # whether anybody hears of it or not

    async def close(self) -> None:
        """Let go of the store; writes that have not arrived are lost."""
        late = tuple(self._late)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await super().close()

    # -- reading -------------------------------------------------------------------------------------

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the store holds when the question arrives."""
        await self._ask()
        services = await super().get_service(name)
        if any(node.address == RAW for service in services for node in service.nodes):
            return merge(self.decoded(self.store.catalog.records(name)))
        return services

    async def list_services(self) -> tuple[str, ...]:
        """The names that the store holds when the question arrives."""
        await self._ask()
        names = await super().list_services()
        return tuple(name for name in names if self.decoded(self.store.catalog.records(name)))

    async def _ask(self) -> None:
        await self.line.through()
        if late := self.line.late():
            await asyncio.sleep(late)

    def decoded(self, records: Iterable[Service]) -> list[Service]:
        """The records, those that others wrote decoded; what does not decode is left out."""
        found: list[Service] = []
        for record in records:
            found += self.decode(*_raw(record)) if record.nodes[0].address == RAW else [record]
        return found

    def decode(self, key: str, data: bytes) -> list[Service]:
        """What another program wrote, where it is a record."""
        return decode_all([(key, data)], self._warned)

    # -- watching ------------------------------------------------------------------------------------

    def watch(self, name: str | None = None) -> Watch:
        """What happens in the store, as the line lets it through."""
        return Watch(lambda: self.source(name), rng=self.line.rng)

    async def source(self, name: str | None) -> AsyncGenerator[Event, None]:
        """A Snapshot, then changes: late, twice, and overtaking each other, but for each node in their order."""
        await self._ask()
        self.store.require()
        events = self.store.catalog.changes(name)
        async with aclosing(_Inbox(events)) as inbox:
            if (told := self.told(await anext(events))) is not None:
                yield told
            while True:
                for event in await self._arriving(inbox):
                    for _ in range(2 if self.line.duplicates else 1):
                        if (told := self.told(event)) is not None:
                            yield told

    async def _arriving(self, inbox: _Inbox) -> list[Event]:
        """What arrives next: an event, or all that happened while it was on its way, in any order."""
        while (event := await inbox.get(PROBE)) is None or self.line.cut:
            await self.probe()
            if event is not None:
                break
        late = self.line.late()
        if not late or not isinstance(event, Change):
            return [event]
        await asyncio.sleep(late)
        latest = {_key(event.service): event}
        while isinstance(event := await inbox.get(0), Change):
            latest[_key(event.service)] = event
        changes: list[Event] = [*latest.values()]
        self.line.rng.shuffle(changes)
        return changes

    async def probe(self) -> None:
        """Ask whether the store is still there; a line that is cut for longer than this has lost the watch."""
        try:
            async with asyncio.timeout(PROBE):
                await self.line.through()
        except TimeoutError:
            raise RegistryUnavailable(f"no sign of life for {PROBE:g} s") from None

    def told(self, event: Event) -> Event | None:
        """The event as watchers hear it; None where there is nothing to hear."""
        if isinstance(event, Snapshot):
            return Snapshot(self.decoded(event.records))
        for record in self.decoded([event.service]):
            return event if record is event.service else Change(event.action, record, record.nodes[0], event.reason)
        return None


class _Inbox:
    """The events of a generator, with a limit to how long one waits for the next."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events
        self._next: asyncio.Task[Event] | None = None

    async def get(self, seconds: float) -> Event | None:
        """The next event; None where none came in time."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        if not (await asyncio.wait([self._next], timeout=seconds))[0]:
            return None
        done, self._next = self._next, None
        return done.result()

    async def aclose(self) -> None:
        """End the generator."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            if not self._next.cancelled():
                self._next.exception()
        await self._events.aclose()


def _raw(record: Service) -> tuple[str, bytes]:
    (node,) = record.nodes
    return f"{record.name}/{node.id}", node.metadata["data"].encode("latin-1")


def _key(service: Service) -> _Key:
    return service.name, service.nodes[0].id
