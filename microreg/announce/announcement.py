"""The registration that never gives up, and drains first. The writing is done by :mod:`microreg.announce.writer`."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from microreg import process
from microreg.announce.journal import RenewalStatistics, State, Transition
from microreg.announce.probe import Probe
from microreg.announce.writer import Writer
from microreg.arguments import check_timeout, is_number, shown
from microreg.checked import Checked
from microreg.errors import InvalidService, RegistryClosed, RegistryError, RegistryUnavailable
from microreg.model import Endpoint, Node, Service, Status
from microreg.registry import Registry
from microreg.rules import check_service, check_ttl
from microreg.watch import HOPELESS

__all__ = ["Announcement", "RenewalStatistics", "State", "Transition"]

_FIRST = 1.0
"""Seconds that entering waits for the first attempt."""
_MAX_DELAY = 3600.0
_SHORTEST = 0.1
"""Seconds from one renewal to the next, at least."""
_LONGEST = 0.75
"""Of the ttl: a renewal may be a tenth late, and take its time."""


class Announcement:
    """Keeps one node registered from ``async with`` to its end; made by :func:`microreg.announce`.

    Entering waits for the first attempt, at most a second, and raises only what can never succeed
    (InvalidService, ConfigError, Unsupported, RegistryClosed, WrongLoop); a store that is down, or refuses the
    credentials, is tried again for ever. Leaving drains, also when the body or the entering is cancelled;
    a second cancellation ends that at once.
    """

    def __init__(
        self,
        registry: Registry,
        service: Service,
        *,
        ttl: float,
        interval: float | None = None,
        probe: Probe | None = None,
        drain_delay: float = 0.5,
        find: Callable[[], str | None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_service(service)
        if len(service.nodes) != 1:
            raise InvalidService(f"an announcement is of one node; service {service.name!r} has {len(service.nodes)}")
        self.registry = registry
        self.ttl = check_ttl(ttl)
        self._drain_delay = _seconds(drain_delay)
        self._writer = Writer(registry, service, self.ttl, _interval(interval, self.ttl), probe, find, rng)
        self._journal = self._writer.journal
        self._stopper: asyncio.Task[None] | None = None
        self._entered = False

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self._journal.state

    @property
    def error(self) -> RegistryError | None:
        """Why the last attempt failed; None where it did not."""
        return self._journal.error

    @property
    def history(self) -> tuple[Transition, ...]:
        """The last 64 transitions, oldest first."""
        return tuple(self._journal.history)

    @property
    def statistics(self) -> RenewalStatistics:
        """How its writes and renewals went so far. Any thread may ask."""
        return RenewalStatistics(self._journal.written, dict(self._journal.failed))

    @property
    def service(self) -> Service:
        """The record as it should be now: a Service with exactly this node, ``critical`` while its check fails."""
        return self._writer.service

    @property
    def node(self) -> Node:
        """The node of :attr:`service`."""
        return self.service.nodes[0]

    def __repr__(self) -> str:
        return f"<Announcement {self.service.name} {self.node.id} at {self.node.address} is {self.state}>"

    def __del__(self) -> None:
        if not getattr(self, "_entered", True):
            warnings.warn(
                f"the announcement of {self.service.name!r} was never entered, so nothing was registered: "
                "use `async with microreg.announce(...):`",
                RuntimeWarning,
                source=self,
                stacklevel=2,
            )

    async def __aenter__(self) -> Self:
        self._entered = True
        if self._writer.started:
            raise RegistryClosed("this announcement was used before; call announce() again for another")
        checked = self.registry.unwrap(Checked)
        if checked is not None:
            checked.claim(self.service)
            checked.users.add(self)
        self._journal.on_live = self._announced
        first = self._writer.start()
        try:
            await asyncio.wait([first], timeout=_FIRST)
        except asyncio.CancelledError as error:
            await self.__aexit__(type(error), error, None)
            raise
        if isinstance(self.error, HOPELESS):
            await self._end()
            raise self.error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopper = self._leaving()
        if stopper is None:
            return
        cancelled = isinstance(error, asyncio.CancelledError)
        caught: asyncio.CancelledError | None = None
        while not stopper.done():
            try:
                await asyncio.wait([stopper])
            except asyncio.CancelledError as again:
                if cancelled or caught is not None:
                    stopper.cancel()
                    await asyncio.wait([stopper])
                caught = again
        await self._end()
        if caught is not None:
            raise caught

    async def wait_live(self, timeout: float | None = None) -> None:
        """Wait until the store holds the record. Raises RegistryUnavailable after ``timeout`` seconds, or when gone."""
        writer = self._writer
        if not writer.started:
            raise RegistryClosed("this announcement has not begun: use `async with announce(...) as announcement:`")
        limit = None if timeout is None else check_timeout(timeout)
        await self._journal.until(lambda: self.state is State.LIVE or writer.stopping or writer.ended, limit)
        if self.state is not State.LIVE or writer.stopping:
            why = self.error or "no attempt was answered so far"
            raise RegistryUnavailable(f"{writer.wanted.name!r} is {self.state}, not live: {why}")

    async def changed(self, since: Transition | None = None, *, timeout: float | None = None) -> tuple[Transition, ...]:
        """The transitions after ``since`` (None: from the first on), oldest first; waits until there is one.

        Empty where none will come, because ``since`` is that to ``gone``, or none came within ``timeout`` seconds.
        Nothing is missed between two calls, and any number of tasks may wait, before the beginning too::

            last = None
            while news := await announcement.changed(last):
                for last in news:
                    print(last.state, last.status, last.error)

        Who falls behind by more than the 64 of :attr:`history` gets those.
        """
        journal = self._journal
        limit = None if timeout is None else check_timeout(timeout)
        await journal.until(lambda: bool(journal.after(since)) or self.state is State.GONE, limit)
        return journal.after(since)

    async def update(
        self,
        *,
        status: Status | None = None,
        metadata: Mapping[str, str] | None = None,
        address: str | None = None,
        version: str | None = None,
        endpoints: Iterable[Endpoint] | None = None,
    ) -> None:
        """Replace the given fields (status, metadata and address are the node's) and publish at once.

        Returns after one attempt; where that failed the change is published when the store is back. Raises
        InvalidService, with nothing changed, for a record that cannot be registered. Where only the store can
        tell (RecordTooLarge), every change since the record that it holds is taken back.
        """
        writer = self._writer
        before = writer.wanted
        if writer.stopping or writer.ended:
            raise RegistryClosed(f"{before.name!r} is {self.state} and cannot change any more")
        wanted = Service(
            before.name,
            before.version if version is None else version,
            before.metadata,
            before.endpoints if endpoints is None else endpoints,
            (before.nodes[0].replace(status=status, metadata=metadata, address=address),),
        )
        check_service(wanted)
        writer.wanted = wanted
        if address is not None:
            writer.find = None
        if writer.started:
            await writer.publish()

    async def drain(self) -> None:
        """Leave: status ``draining``, deregister, wait until watchers have heard; at most 5 s in all.

        Done when it returns, also with the store down. When the call is cancelled the leaving goes on, and the
        end of ``async with`` waits for it. Calling it again waits for the first. One that was never entered is
        given up.
        """
        self._entered = True
        stopper = self._leaving()
        if stopper is not None:
            await asyncio.wait([stopper])

    def _leaving(self) -> asyncio.Task[None] | None:
        begun = self._writer.started and process.running_loop() is not None
        if self._stopper is None and begun and self.state is not State.GONE:
            self._writer.stopping = True
            self._stopper = asyncio.create_task(self._leave(), name=f"microreg drain {self.service.name}")
        return self._stopper

    async def _leave(self) -> None:
        try:
            await self._writer.leave(self._drain_delay)
        finally:
            await self._end()

    async def _end(self) -> None:
        """The writer is stopped and the node free for another announcement, whatever came before."""
        if self.state is State.GONE:
            return
        try:
            await self._writer.stop()
        finally:
            checked = self.registry.unwrap(Checked)
            if checked is not None:
                checked.release(self.service)
            self._journal.move(State.GONE, self.error)

    def _announced(self) -> None:
        from microreg.plugins import tell

        tell("microreg_announced", announcement=self)


def _seconds(drain_delay: float) -> float:
    if not is_number(drain_delay) or not 0 <= drain_delay <= _MAX_DELAY:
        raise InvalidService(f"drain_delay {shown(drain_delay)}: expected a number of seconds from 0 to {_MAX_DELAY:g}")
    return float(drain_delay)


def _interval(interval: float | None, ttl: float) -> float:
    if interval is None:
        return ttl / 3
    longest = _LONGEST * ttl
    if not is_number(interval) or not _SHORTEST <= interval <= longest:
        raise InvalidService(
            f"interval {shown(interval)}: expected a number of seconds from {_SHORTEST:g} to {longest:g}, three "
            f"quarters of ttl={ttl:g}"
        )
    return float(interval)
