"""How long others are believed: they are asked for before their ttl ends (RFC 6762 section 5.2) and a while after."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from microreg.backends.mdns.asking import Asking
from microreg.backends.mdns.hearing import Hearing
from microreg.backends.mdns.names import Key
from microreg.toolkit import Deadlines

__all__ = ["MAX_TTL", "MERCY", "Life", "Refresh"]

MAX_TTL = 300
"""Seconds that a foreign record is believed at most before it is asked for again."""
MERCY = 30.0
"""Seconds for which a process that was late or behind asks anew before it believes that others are gone."""

# When a node is asked for: at a part of its ttl between these two, then seconds after its end. Then it is gone.
_PARTS = ((0.70, 0.82), (0.85, 0.89), (0.93, 0.97), (1.0, 1.0))
_GRACE = (0.2, 0.4, 0.7, 1.05, 1.45)
_LAST = len(_PARTS) + len(_GRACE) - 1
_BY_MULTICAST = (0, 1, 3, 5, 7)
"""When everybody is to hear the answer: one to us alone has to wait, sometimes for seconds, until its sender knows our
hardware address (ARP), while packets get lost."""
_MIN_STEP = 0.2
_LATE = 0.5
_SEEK = (0.5, 1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 29.0, 37.0, 46.0, 56.0)
_MAX_SOUGHT = 64


@dataclass(slots=True, eq=False)
class Life:
    """When a node was heard, and how often it was asked for since; times are ``loop.time()`` in seconds."""

    key: Key
    ttl: float = 0.0
    heard: float = 0.0
    due: float = 0.0
    asked: float = 0.0
    mercy: float = 0.0
    stage: int = 0

    @property
    def is_over(self) -> bool:
        """Whether its ttl is over, and all that is left is the grace."""
        return self.stage >= len(_PARTS)


class Refresh:
    """Asks for nodes in time, and calls ``expired`` for one that did not answer.

    ``ask_all`` is called with a service name: one question refreshes all nodes of it, at all who listen.
    """

    def __init__(
        self,
        hearing: Hearing,
        asking: Asking,
        rng: random.Random,
        *,
        ask_all: Callable[[str], None],
        expired: Callable[[Key], None],
    ) -> None:
        self._hearing = hearing
        self._asking = asking
        self._rng = rng
        self._ask_all, self._expired = ask_all, expired
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Life] = Deadlines(self._due)
        self._sought: dict[str, asyncio.TimerHandle] = {}

    def heard(self, life: Life, ttl: int) -> None:
        """The node was told, for ``ttl`` seconds."""
        life.ttl = max(1, min(ttl, MAX_TTL))
        life.heard = self._loop.time()
        life.stage = 0
        life.mercy = 0.0
        self._plan(life)

    def drop(self, life: Life) -> None:
        """Ask for this node no more."""
        self._deadlines.drop(life)

    def close(self) -> None:
        """Stop all timers."""
        self._deadlines.close()
        for timer in self._sought.values():
            timer.cancel()

    def _due(self, life: Life) -> None:
        now = self._loop.time()
        away = life.is_over and self._was_away(life, now)
        if away:
            life.mercy = now - life.heard - life.ttl
            life.stage = len(_PARTS)
        elif life.stage == _LAST:
            self._expired(life.key)
            self.seek(life.key[0])
            return
        life.asked = now
        if life.stage in _BY_MULTICAST:
            self._ask_all(life.key[0])
        if life.stage:
            self._asking.ask(life.key, times=1 if away or life.stage < len(_PARTS) - 1 else 2)
        life.stage += 1
        self._plan(life, now + _MIN_STEP)

    def _was_away(self, life: Life, now: float) -> bool:
        """Whether an answer may be there and unread: our own timer is late, or our own last question not back."""
        away = now > life.due + _LATE or self._hearing.is_behind(life.asked, MERCY)
        return away and now < life.heard + life.ttl + MERCY

    def _plan(self, life: Life, earliest: float = 0.0) -> None:
        """Set when the node is to be asked for (or, at the last stage, given up)."""
        if life.is_over:
            after = life.ttl + life.mercy + _GRACE[life.stage - len(_PARTS)]
        else:
            after = life.ttl * self._rng.uniform(*_PARTS[life.stage])
        life.due = max(earliest, life.heard + after)
        self._deadlines.set(life, life.due)

    def seek(self, name: str) -> None:
        """A node of this name was given up, and may live, all its answers lost: asked for again, it is back soon."""
        if name not in self._sought and len(self._sought) < _MAX_SOUGHT:
            self._seek_in(name, 0)

    def _seek_in(self, name: str, turn: int) -> None:
        delay = _SEEK[turn] - (_SEEK[turn - 1] if turn else 0.0)
        self._sought[name] = self._loop.call_later(delay, self._sought_out, name, turn)

    def _sought_out(self, name: str, turn: int) -> None:
        self._ask_all(name)
        if turn + 1 < len(_SEEK):
            self._seek_in(name, turn + 1)
        else:
            del self._sought[name]
