"""The registration that never gives up, and drains first.

One task per announcement is the only writer of its record: it registers, renews, heals and withdraws.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from microreg.errors import (
    ConfigError,
    InvalidService,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    Unsupported,
    WrongLoop,
)
from microreg.model import Endpoint, Node, Service, Status
from microreg.probe import Probe
from microreg.registry import Checked, Registry
from microreg.rules import check_service, check_ttl

__all__ = ["Announcement", "State", "Transition"]

log = logging.getLogger("microreg.announce")

BACKOFF_BASE = 0.5
BACKOFF_CAP = 30.0
"""Seconds between two attempts at most, however long the store is away."""
STOP_BUDGET = 5.0
"""Seconds that leaving may take in all."""
_FIRST = 1.0
_FLOOR = 0.05
_HOPELESS = (ConfigError, InvalidService, RegistryClosed, Unsupported, WrongLoop)


class State(StrEnum):
    """Where an announcement stands: ``live`` means that the store holds the record as wanted."""

    REGISTERING = "registering"
    LIVE = "live"
    LOST = "lost"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state: when (``loop.time()``, seconds), to what, and because of which error."""

    time: float
    state: State
    error: RegistryError | None = None


class Announcement:
    """Keeps one node registered from ``async with`` to its end; made by :func:`microreg.announce`.

    ``state`` and ``error`` say how it stands, ``history`` holds the last 64 transitions. Entering waits for
    the first attempt, at most a second, and raises only what can never succeed (InvalidService,
    ConfigError, Unsupported, RegistryClosed, WrongLoop); a store that is down is tried again for ever.
    """

    def __init__(
        self,
        registry: Registry,
        service: Service,
        *,
        ttl: float,
        probe: Probe | None = None,
        drain_delay: float = 0.5,
        rng: random.Random | None = None,
    ) -> None:
        check_service(service)
        self.registry = registry
        self.ttl = check_ttl(ttl)
        self.state = State.REGISTERING
        self.error: RegistryError | None = None
        self.history: deque[Transition] = deque(maxlen=64)
        self._wanted = service
        self._probe = probe
        self._healthy = True
        self._drain_delay = drain_delay
        self._rng = rng or random.Random()
        self._pid = os.getpid()
        self._stopping = False
        self._was_live = False
        self._attempts = 0
        self._busy = False
        self._ended = False
        self._writer: asyncio.Task[None] | None = None
        self._stopper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._news: asyncio.Future[None] | None = None

    @property
    def service(self) -> Service:
        """The record as it should be now: a Service with exactly this node, ``critical`` while its check fails."""
        node = self._wanted.nodes[0]
        if self._stopping:
            node = node.replace(status=Status.DRAINING)
        elif not self._healthy:
            node = node.replace(status=Status.CRITICAL)
        return self._wanted.with_nodes(node)

    @property
    def node(self) -> Node:
        """The node of :attr:`service`."""
        return self.service.nodes[0]

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            raise RegistryClosed("this announcement was used before; call announce() again for another")
        checked = self.registry.unwrap(Checked)
        if checked is not None:
            checked.claim(self._wanted)
        self._writer = asyncio.create_task(self._write(), name=f"microreg announce {self._wanted.name}")
        try:
            await self._until(lambda: self._attempts > 0, _FIRST)
            if isinstance(self.error, _HOPELESS):
                raise self.error
        except BaseException:
            self._stopping = True
            self._writer.cancel()
            await asyncio.wait([self._writer])
            self._finish()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    async def wait_live(self, timeout: float | None = None) -> None:
        """Wait until the store holds the record. Raises RegistryUnavailable after ``timeout`` seconds, or when gone."""
        over = (State.LIVE, State.DRAINING, State.GONE)
        if not await self._until(lambda: self.state in over, timeout) or self.state is not State.LIVE:
            raise RegistryUnavailable(
                f"{self._wanted.name!r} is {self.state}, not live: {self.error or 'no error yet'}"
            )

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
        InvalidService, with nothing changed, for a record that cannot be registered.
        """
        if self._stopping:
            raise RegistryClosed(f"{self._wanted.name!r} is {self.state}; it cannot change any more")
        before, node = self._wanted, self._wanted.nodes[0]
        wanted = Service(
            before.name,
            before.version if version is None else version,
            before.metadata,
            before.endpoints if endpoints is None else endpoints,
            [
                Node(
                    node.address if address is None else address,
                    id=node.id,
                    metadata=node.metadata if metadata is None else metadata,
                    status=node.status if status is None else status,
                )
            ],
        )
        check_service(wanted)
        self._wanted = wanted
        if self._writer is None:
            return
        attempt = self._attempts + 1 + self._busy
        self._changed.set()
        await self._until(lambda: self._attempts >= attempt or self._stopping or self._ended, None)
        if isinstance(self.error, InvalidService) and self._wanted is wanted:
            self._wanted = before
            self._changed.set()
            raise self.error

    async def drain(self) -> None:
        """Leave: status ``draining``, deregister, wait until watchers have heard; at most 5 s in all.

        Done when it returns, also with the store down and also when the caller was cancelled; only a second
        cancellation ends it early. Calling it again waits for the first.
        """
        if self._writer is None:
            return
        if self._stopper is None:
            self._stopping = True
            self._stopper = asyncio.create_task(self._leave(), name=f"microreg drain {self._wanted.name}")
        try:
            await asyncio.shield(self._stopper)
        except asyncio.CancelledError:
            self._stopper.cancel()
            await asyncio.wait([self._stopper])
            raise

    # -- the only writer -------------------------------------------------------------------------

    async def _write(self) -> None:
        failures = 0
        while not self._stopping and os.getpid() == self._pid:
            self._changed.clear()
            self._busy = True
            try:
                live = await self._attempt()
            finally:
                self._busy = False
                self._attempts += 1
                self._notify()
            if isinstance(self.error, RegistryClosed | WrongLoop):
                break
            failures = 0 if live else failures + 1
            await self._pause(self.ttl / 3 * self._rng.uniform(0.9, 1.1) if live else self._backoff(failures))
        self._ended = True
        self._notify()

    async def _attempt(self) -> bool:
        if self._probe is not None:
            try:
                async with asyncio.timeout(self.ttl / 3):
                    self._healthy = await self._probe()
            except TimeoutError:
                self._move(
                    State.LOST,
                    RegistryError(f"the check took more than {self.ttl / 3:g} s; renewal is withheld"),
                )
                return True
        try:
            await self.registry.register(self.service, ttl=self.ttl)
        except RegistryError as error:
            self._move(State.LOST if self._was_live else State.REGISTERING, error)
            return False
        self._move(State.LIVE, None)
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _backoff(self, failures: int) -> float:
        return max(_FLOOR, self._rng.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 16))))

    # -- leaving ---------------------------------------------------------------------------------

    async def _leave(self) -> None:
        assert self._writer is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + STOP_BUDGET
        try:
            self._changed.set()
            self._notify()
            await asyncio.wait([self._writer], timeout=_FIRST)
            self._writer.cancel()
            await asyncio.wait([self._writer])
            self._move(State.DRAINING, self.error)
            if os.getpid() == self._pid and not isinstance(self.error, _HOPELESS):
                await self._withdraw(end - self._drain_delay)
        finally:
            self._writer.cancel()
            self._finish()

    async def _withdraw(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(end):
                if self._was_live:
                    await self._tell_draining()
                failures = 0
                while not await self._deregister():
                    failures += 1
                    await asyncio.sleep(min(self._backoff(failures), max(0.0, end - loop.time())))
        except TimeoutError:
            log.warning("left without deregistering; the record expires", extra={"service": self._wanted.name})
        if self._was_live:
            await asyncio.sleep(self._drain_delay)

    async def _tell_draining(self) -> None:
        try:
            await self.registry.register(self.service, ttl=self.ttl)
        except RegistryError as error:
            self._move(State.DRAINING, error)

    async def _deregister(self) -> bool:
        try:
            await self.registry.deregister(self.service)
        except RegistryError as error:
            self._move(State.DRAINING, error)
            return isinstance(error, _HOPELESS)
        return True

    def _finish(self) -> None:
        checked = self.registry.unwrap(Checked)
        if checked is not None:
            checked.release(self._wanted)
        self._move(State.GONE, self.error)

    # -- state -----------------------------------------------------------------------------------

    def _move(self, state: State, error: RegistryError | None) -> None:
        self.error = error
        first = state is State.LIVE and not self._was_live
        self._was_live = self._was_live or first
        if state is not self.state or not self.history:
            self.state = state
            self.history.append(Transition(asyncio.get_running_loop().time(), state, error))
            level = logging.WARNING if state is State.LOST else logging.INFO
            log.log(
                level,
                "announcement is %s",
                state,
                extra={"service": self._wanted.name, "error": str(error or "")},
            )
        if first:
            self._announced()
        self._notify()

    def _announced(self) -> None:
        from microreg.plugins import hooks

        try:
            hooks().hook.microreg_announced(announcement=self)
        except Exception:
            log.exception("a plugin failed in microreg_announced")

    def _notify(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None

    async def _until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not done():
                    if self._news is None:
                        self._news = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._news)
        except TimeoutError:
            return False
        return True
