"""Follower: keeps another part of a ``mirror:`` as the first one was told to be, in the background.

One pending write per node, the newest; one write of a node at a time, so no late ``register`` overtakes a
``deregister``; no attempt after the ttl of the node's last ``register``. While the part is away, one write at a time
finds out when it is back, however many wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from microreg import process
from microreg.composite import Part
from microreg.errors import RegistryError, RegistryUnavailable
from microreg.model import Service
from microreg.rules import DEFAULT_TTL, MIN_TTL
from microreg.toolkit import Deadlines
from microreg.translation import unexpected
from microreg.watch import HOPELESS

__all__ = ["Follower", "Outcome"]

log = logging.getLogger("microreg.mirror")

_AT_ONCE = 64
"""So many nodes are written at the same time."""
_BACKOFF_BASE = 0.5
"""Seconds within which a failed write is tried again; each further failure doubles them."""
_BACKOFF_CAP = 10.0
_BACKOFF_FLOOR = 0.05
_PROMPT = 1.0
"""Seconds: after a write that took longer, callers do not wait for the next."""
_LAST_WORDS = 1.0
"""Seconds that closing gives to what is still to be written."""

_Key = tuple[str, str]
Outcome: TypeAlias = "asyncio.Future[RegistryError | None]"
"""Done after the first attempt of a write, with an error only where no other attempt can help.

Who does not wait for it any more cancels it: then that error is logged, and told by the part.
"""


@dataclass(slots=True, eq=False)
class _Write:
    """What a node is to be: registered for ``ttl`` seconds, which end at ``until``, or gone (None)."""

    record: Service
    ttl: float | None
    until: float
    outcome: Outcome
    failures: int = 0


class Follower:
    """Writes to one part. ``prompt`` is whether a caller may wait for it."""

    def __init__(self, part: Part, rng: random.Random) -> None:
        self.prompt = True
        self._part = part
        self._rng = rng
        self._wanted: dict[_Key, _Write] = {}
        self._ready: dict[_Key, None] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._failures = 0
        self._gate: asyncio.TimerHandle | None = None  # while the part is left alone
        self._closed = True
        self._idle = asyncio.Event()

    def open(self) -> None:
        """Belong to the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._ends: Deadlines[_Key] = Deadlines(self._part.dropped)  # of the last register of each node
        self._later: Deadlines[_Key] = Deadlines(self._again)

    @property
    def pending(self) -> int:
        """How many nodes are still to be written."""
        return len(self._wanted) + len(self._tasks)

    def register(self, record: Service, ttl: float) -> Outcome:
        """Write this record, now and until it is there or its ttl is over."""
        until = self._loop.time() + ttl
        self._ends.set(_key(record), until)
        return self._put(_Write(record, ttl, until, self._loop.create_future()))

    def deregister(self, record: Service) -> Outcome:
        """Withdraw this node, now and until it is gone or would have expired."""
        until = self._ends.get(_key(record)) or self._loop.time() + DEFAULT_TTL
        return self._put(_Write(record, None, until, self._loop.create_future()))

    async def close(self) -> None:
        """One more attempt at what is to be withdrawn, for a moment; then nothing runs any more."""
        if self._closed:
            return
        self._closed = True
        for key, write in tuple(self._wanted.items()):
            if write.ttl is not None and not self.prompt:
                _settle(self._wanted.pop(key))
        self._ready = dict.fromkeys(self._wanted)
        self._open_gate()
        try:
            if self.pending:
                self._idle.clear()
                async with asyncio.timeout(_LAST_WORDS):
                    await self._idle.wait()
        except TimeoutError:
            log.info("%s was closed before %d nodes were written; they expire", self._part, self.pending)
        finally:
            self._wanted.clear()
            self._ready.clear()
            for deadlines in (self._ends, self._later):
                deadlines.close()
            if self._gate is not None:
                self._gate.cancel()
            await process.end(*self._tasks.values())

    # -- what is next --------------------------------------------------------------------------------

    def _put(self, write: _Write) -> Outcome:
        key = _key(write.record)
        before = self._wanted.get(key)
        if before is not None:
            _settle(before)
        self._wanted[key] = write
        if self._later.get(key) is not None:
            _settle(write)  # its turn comes
        else:
            self._ready[key] = None
            self._pump()
        return write.outcome

    def _again(self, key: _Key) -> None:
        if key in self._wanted:
            self._ready[key] = None
            self._pump()

    def _pump(self) -> None:
        """Begin what may begin: nothing while the part is left alone, one write while it is not known to be back."""
        if self._gate is not None:
            return
        for key in tuple(islice(self._ready, 2 * _AT_ONCE)):
            if len(self._tasks) >= (1 if self._failures else _AT_ONCE):
                break
            if key in self._tasks:
                continue
            del self._ready[key]
            write = self._wanted.pop(key)
            if self._is_over(write):
                self._part.dropped(key)
                _settle(write)
                continue
            name = f"microreg mirror {write.record.name}"
            self._tasks[key] = self._loop.create_task(self._attempt(key, write), name=name)
        if not self.pending:
            self._idle.set()

    def _lifetime(self, write: _Write) -> float:
        """The ttl to write: what is left of it, so that a retry lets no node live longer than it was meant to."""
        ttl, left = write.ttl or 0.0, self._left(write)
        return ttl if left > 0.95 * ttl else max(MIN_TTL, left)

    def _is_over(self, write: _Write) -> bool:
        """Whether the node, had it been written when it was asked for, would be gone by now, or in a moment."""
        if write.ttl is None:
            return write.failures > 0 and self._left(write) <= 0
        return self._left(write) < min(MIN_TTL, write.ttl / 2)

    def _left(self, write: _Write) -> float:
        return write.until - self._loop.time()

    def _open_gate(self) -> None:
        if self._gate is not None:
            self._gate.cancel()
            self._gate = None
        self._pump()

    # -- one write -----------------------------------------------------------------------------------

    async def _attempt(self, key: _Key, write: _Write) -> None:
        began = self._loop.time()
        try:
            if write.ttl is None:
                await self._part.registry.deregister(write.record)
            else:
                await self._part.registry.register(write.record, ttl=self._lifetime(write))
        except RegistryError as error:
            self._failed(key, write, error)
        except Exception as error:  # whatever a layer raises: the node is tried again
            self._failed(key, write, unexpected(error))
        else:
            self._failures = 0
            self.prompt = self._loop.time() - began < _PROMPT
            if write.ttl is None and key not in self._wanted:
                self._ends.drop(key)
            self._part.answered(key)
            _settle(write)
        finally:
            del self._tasks[key]
            self._pump()

    def _failed(self, key: _Key, write: _Write, error: RegistryError) -> None:
        """Try again, unless something newer is wanted, or no attempt can help."""
        newer = key in self._wanted
        if not isinstance(error, RegistryUnavailable):
            self._failures = 0
        if isinstance(error, HOPELESS):
            self._refused(key, write, self._part.named(error))
            return
        self._part.failed(error, key)
        _settle(write)
        write.failures += 1
        if not newer and not self._closed:
            self._wanted[key] = write
        if isinstance(error, RegistryUnavailable):
            self.prompt = False
            if key in self._wanted:
                self._ready[key] = None
            if self._gate is None and not self._closed:
                self._failures += 1
                self._gate = self._loop.call_later(self._backoff(self._failures, write), self._open_gate)
        elif not newer and not self._closed:
            self._later.set(key, self._loop.time() + self._backoff(write.failures, write))

    def _refused(self, key: _Key, write: _Write, error: RegistryError) -> None:
        """For good. Whoever waits is told; otherwise it is a warning, and not the same one with each renewal."""
        if not write.outcome.done():
            write.outcome.set_result(error)
        else:
            self._part.failed(error, key)

    def _backoff(self, failures: int, write: _Write) -> float:
        ceiling = min(_BACKOFF_CAP, (write.ttl or DEFAULT_TTL) / 2, _BACKOFF_BASE * 2.0 ** min(failures, 16))
        return max(_BACKOFF_FLOOR, self._rng.uniform(0, ceiling))


def _key(record: Service) -> _Key:
    return record.name, record.nodes[0].id


def _settle(write: _Write) -> None:
    """Nobody has to wait for it any longer."""
    if not write.outcome.done():
        write.outcome.set_result(None)
