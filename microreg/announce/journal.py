"""How an announcement stands, how it came to that, and waiting until that changes.

Everything is offered by :mod:`microreg.announce.announcement`; import it from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from microreg.errors import RegistryError

__all__ = ["Journal", "State", "Transition"]

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
    """One change of state, or of the kind of error: when (``loop.time()``, seconds), to what, and why."""

    time: float
    state: State
    error: RegistryError | None = None


class Journal:
    """The state, the last error and the history of one announcement. ``on_live`` is called once, when first live."""

    def __init__(self, name: str) -> None:
        self.state = State.REGISTERING
        self.error: RegistryError | None = None
        self.history: deque[Transition] = deque(maxlen=_LENGTH)
        self.on_live: Callable[[], None] | None = None
        self._name = name
        self._news: asyncio.Future[None] | None = None

    def move(self, state: State, error: RegistryError | None) -> None:
        """Note where things stand now. What is as before is no transition; another kind of error is one."""
        same = state is self.state and type(error) is type(self.error)
        self.state, self.error = state, error
        if not same or not self.history:
            self.history.append(Transition(asyncio.get_running_loop().time(), state, error))
            trouble = error is not None and state is not State.GONE
            extra = {"service": self._name, "error": str(error or "")}
            why = f": {error}" if trouble else ""
            log.log(
                logging.WARNING if trouble else logging.INFO, "%s is %s%s", self._name, state, why, extra=extra
            )
        if state is State.LIVE and self.on_live is not None:
            tell, self.on_live = self.on_live, None
            tell()
        self.notify()

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
