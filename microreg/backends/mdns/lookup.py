"""Asking (RFC 6762 section 6.7): one-shot questions from a port of our own, answered by unicast and at once.

A question from port 5353 would be answered by multicast after up to 120 ms, at most once a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from microreg.backends.mdns.hearing import Hearing
from microreg.backends.mdns.recent import Recent
from microreg.backends.mdns.sockets import PORT, Address
from microreg.backends.mdns.transport import Transport
from microreg.backends.mdns.wire import Question, encode

__all__ = ["Desk", "Inquiry"]

_ASK_AT = (0.0, 0.05, 0.15, 0.3, 0.6)
_BREATH = 0.03
_STEP = 0.01
_LATE = 0.02
_QUIET = 1 / 3
_LONGEST = 5.0
_BEHIND = 4.0
_LOST = 0.5
_ID_LIFE = 10.0
_MAX_IDS = 1024


@dataclass(slots=True, eq=False)
class _Asked:
    """Questions under one id, and when the last answer to them came, in ``loop.time()``."""

    answered: float = float("-inf")


class Desk:
    """Sends one-shot questions and knows the answers to them from what nobody asked for."""

    def __init__(self, transport: Transport, rng: random.Random) -> None:
        self._transport = transport
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._ids: Recent[int, _Asked] = Recent(_MAX_IDS, _ID_LIFE)
        self.hearing = Hearing()

    def ask(self, questions: Sequence[Question], asked: _Asked | None = None) -> None:
        """Ask the group on every link, under a fresh id: responders may drop a question that they just had.

        ``asked`` notes the answers, where the same was asked before.
        """
        while (identity := self._rng.randrange(1, 1 << 16)) in self._ids:
            pass
        self._ids.put(identity, asked or _Asked())
        self.hearing.said(identity)
        self._transport.ask(encode(questions, id=identity))

    @property
    def is_heard(self) -> bool:
        """Whether what is asked leaves this machine on any link, as far as the system says."""
        return not self._transport.fails

    def takes(self, identity: int, source: Address) -> bool:
        """Whether this is an answer, which counts as such: from port 5353, under an id that was used a moment ago."""
        asked = self._ids.get(identity) if source[1] == PORT else None
        if asked is not None:
            asked.answered = self._loop.time()
        return asked is not None


class Inquiry:
    """One question, asked again until the answers have settled.

    They have when nobody answered for ``settle`` seconds, or when a third of that passed since the last node
    that was new; at the latest after five times ``settle``. A loop that is late waits longer, and one that has
    not even heard its own question waits for that, up to four seconds: its answers may be in the same queue.
    """

    def __init__(self, desk: Desk, question: Question, settle: float, *, answered: bool) -> None:
        self._desk = desk
        self._question = question
        self._quiet = settle * _QUIET
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._end = self._started + settle * _LONGEST
        self._patience = max(settle * _LONGEST, _BEHIND)
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self._times = 0
        self._asked = _Asked()
        self._said = float("-inf")
        self._asking: asyncio.TimerHandle | None = None
        first = self._quiet if answered else settle
        self._settling = self._loop.call_at(self._started + first, self._settle)
        self._ask()

    def news(self) -> None:
        """A node was heard that was not known before."""
        if not self.settled.done():
            self._settling.cancel()
            self._settling = self._loop.call_at(min(self._loop.time() + self._quiet, self._end), self._settle)

    def close(self) -> None:
        """Stop asking; who waits goes on."""
        self._settling.cancel()
        if self._asking is not None:
            self._asking.cancel()
        if not self.settled.done():
            self.settled.set_result(None)

    def _settle(self) -> None:
        """Time is up, unless this loop itself is late: then answers may wait unread, and get another while."""
        now = self._loop.time()
        late = now - self._settling.when() > _LATE and now < self._end
        if late or (self._desk.is_heard and self._desk.hearing.is_behind(self._started, self._patience)):
            self._settling = self._loop.call_at(now + self._quiet, self._settle)
        else:
            self.close()

    def _ask(self) -> None:
        now = self._loop.time()
        pouring = now < self._asked.answered + _BREATH  # asking again would only double what comes in
        if self._times and (pouring or self._desk.hearing.is_behind(self._said, _LOST)):
            self._asking = self._loop.call_later(_STEP, self._ask)
            return
        self._said = now
        self._desk.ask([self._question], self._asked)
        self._times += 1
        if self._times < len(_ASK_AT):
            self._asking = self._loop.call_at(self._started + _ASK_AT[self._times], self._ask)
