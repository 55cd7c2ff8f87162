"""How an announcement stands, how it came to that, and waiting until that changes.

Everything is offered by :mod:`microreg.announce.announcement`; import it from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from microreg.errors import RegistryError
from microreg.model import Status

__all__ = ["Journal", "RenewalStatistics", "State", "Transition"]

log = logging.getLogger("microreg.announce")

_LENGTH = 64


class State(StrEnum):
    """Where an announcement stands: ``live`` means that the store holds the record as wanted."""

    REGISTERING = "registering"
    LIVE = "live"
    LOST = "lost"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, of the kind of error, or of the node's status: when, to what, and why.

    ``time`` is the loop's (``loop.time()``, seconds); ``status`` what the store was last told of the node,
    ``draining`` from when it leaves.
    """

    time: float
    state: State
    error: RegistryError | None = None
    status: Status = Status.PASSING


@dataclass(frozen=True, slots=True)
class RenewalStatistics:
    """How the writes of an announcement went so far: the first one, changes and renewals, not those of its leaving."""

    written: int
    """How many the store took."""
    failed: Mapping[str, int]
    """How many it did not, or were withheld because of the check, by the ``code`` of the error."""


class Journal:
    """The state, the last error and the history of one announcement. ``on_live`` is called once, when first live."""

    def __init__(self, name: str, status: Status) -> None:
        self.state = State.REGISTERING
        self.error: RegistryError | None = None
        self.status: Status = status
        self.history: deque[Transition] = deque(maxlen=_LENGTH)
        self.on_live: Callable[[], None] | None = None
        self.written = 0
        self.failed: dict[str, int] = {}
        self._name = name
        self._news: asyncio.Future[None] | None = None

    def move(self, state: State, error: RegistryError | None, status: Status | None = None) -> None:
        """Note where things stand now; a status that is not given is as before, and all as before is no transition."""
        status = status or self.status
        same = state is self.state and type(error) is type(self.error) and status is self.status
        self.state, self.error, self.status = state, error, status
        if not same or not self.history:
            self.history.append(Transition(asyncio.get_running_loop().time(), state, error, status))
            trouble = error is not None and state is not State.GONE
            extra = {"service": self._name, "error": str(error or ""), "status": str(status)}
            why = f": {error}" if trouble else ""
            log.log(logging.WARNING if trouble else logging.INFO, "%s is %s%s", self._name, state, why, extra=extra)
        if state is State.LIVE and self.on_live is not None:
            tell, self.on_live = self.on_live, None
            tell()
        self.notify()

    def count(self, error: RegistryError | None) -> None:
        """One more attempt to write was made, or withheld, with this outcome."""
        if error is None:
            self.written += 1
        else:
            self.failed[error.code] = self.failed.get(error.code, 0) + 1

    def after(self, last: Transition | None) -> tuple[Transition, ...]:
        """The transitions that followed this one, oldest first; all that are remembered where it is not among them."""
        followed: list[Transition] = []
        for transition in reversed(self.history):
            if transition is last:
                break
            followed.append(transition)
        return tuple(reversed(followed))

    def notify(self) -> None:
        """Let whoever waits look again."""
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``done()``, at most ``timeout`` seconds; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                while not done():
                    if self._news is None:
                        self._news = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._news)
        except TimeoutError:
            return done()
        return True
