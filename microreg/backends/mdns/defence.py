"""Somebody else speaks for a node of ours: a second process with the same id, or a forger.

The last writer wins, so that a node never flaps between two processes: who hears of a later revision asks
for it, and gives way when it is answered for. Where nobody answers it was forged, and the node is put again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from microreg.backends.mdns.lookup import Desk
from microreg.backends.mdns.own import Own
from microreg.backends.mdns.records import MAX_AHEAD, claim_in, identity_in, too_far
from microreg.backends.mdns.responder import Responder
from microreg.backends.mdns.warnings import Warnings
from microreg.backends.mdns.wire import PTR, TXT, Message, Question, Text

__all__ = ["Defence"]

_AT_MOST_EVERY = 1.0
_WAIT = 0.1
_AGAIN = 0.03
_MERCY = 5.0
_FRESH = 5.0
_GATHER = 0.01
_BATCH = 20


class Defence:
    """Watches what others say about the nodes of a responder."""

    def __init__(
        self,
        responder: Responder,
        desk: Desk,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._responder = responder
        self._desk = desk
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._warnings = Warnings()
        self._timers: dict[Own, asyncio.TimerHandle] = {}
        self._asked: dict[Own, bool] = {}
        self._greeting: dict[Own, None] = {}
        self._greeter: asyncio.TimerHandle | None = None
        self._renewed: set[Own] = set()

    def close(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._greeter is not None:
            self._greeter.cancel()

    def heard(self, message: Message, *, answer: bool = False) -> None:
        """A response of anybody; ``answer``: to a question of ours."""
        contradicted = False
        for text in dict.fromkeys(message.texts):
            own = self._responder.table.by_identity(identity_in(text.data))
            if own is not None and not own.says(text.data):
                contradicted = True
                self._contradicted(own, text, answer)
        if message.leaving and not contradicted:
            for record in message.records:
                own = self._responder.table.by_label(record.target if record.kind == PTR else record.name)
                if own is not None and record.ttl == 0 and not own.yielded:
                    self._contest(own, 0)

    def renewed(self, own: Own) -> None:
        """A node is registered: asked for when that is new; where it gave way, it comes back if the other is gone."""
        if own.fresh_until == float("inf"):
            own.fresh_until = self._loop.time() + _FRESH
            self._greeting[own] = None
            if self._greeter is None:
                self._greeter = self._loop.call_later(_GATHER, self._greet)
        if own.yielded:
            if own in self._timers:
                self._renewed.add(own)
            self._contest(own, own.rival)

    def _greet(self) -> None:
        """Ask whether somebody announces already what was just registered."""
        self._greeter = None
        questions = [Question(own.label, TXT) for own in self._greeting]
        self._greeting.clear()
        for start in range(0, len(questions), _BATCH):
            self._desk.ask(questions[start : start + _BATCH])

    def _contradicted(self, own: Own, record: Text, answer: bool) -> None:
        revision, mark, leaving = claim_in(record.data)
        days = revision < own.revision - MAX_AHEAD * 1000 or too_far(revision, self._clock())
        if days and not (leaving or own.yielded or revision < 0 or mark == own.seal):
            self._warn(own)  # a clock is wrong: nothing that we tell would settle who is later
        if days or revision < own.revision:
            return
        if self._loop.time() < own.fresh_until:
            own.rival = max(own.rival, revision)
            own.fresh_until = 0.0
            if not leaving:
                self._warn(own)
            self._responder.put_again(own)
            return
        if revision == own.revision:
            return
        own.rival = max(own.rival, revision)
        if own in self._asked and answer and not leaving:
            self._asked[own] = True
        elif not own.yielded:
            self._warn(own)
            self._contest(own, revision)

    def _warn(self, own: Own) -> None:
        self._warnings.say(
            "rival",
            "another process registers the same node id, or somebody forges records",
            service=own.key[0],
            node=own.key[1],
        )

    def _contest(self, own: Own, revision: int) -> None:
        """Find out who is right, for one node at most once a second."""
        own.rival = max(own.rival, revision)
        if own not in self._timers:
            when = max(self._loop.time(), own.challenged + _AT_MOST_EVERY)
            self._timers[own] = self._loop.call_at(when, self._challenge, own)

    def _challenge(self, own: Own) -> None:
        own.challenged = self._loop.time()
        self._asked[own] = False
        self._desk.ask([Question(own.label, TXT)])
        self._timers[own] = self._loop.call_later(_AGAIN, self._challenge_again, own)

    def _challenge_again(self, own: Own) -> None:
        self._desk.ask([Question(own.label, TXT)])
        self._timers[own] = self._loop.call_later(_WAIT - _AGAIN, self._decide, own)

    def _decide(self, own: Own) -> None:
        if self._desk.hearing.is_behind(own.challenged, _MERCY):
            self._timers[own] = self._loop.call_later(_WAIT, self._decide, own)
            return
        del self._timers[own]
        answered = self._asked.pop(own)
        renewed = own in self._renewed
        self._renewed.discard(own)
        if self._responder.table.get(own.key) is not own:
            return
        if answered:
            own.yielded = True
            self._desk.ask([Question(own.label, TXT)])
            if renewed:
                self._contest(own, own.rival)
        else:
            self._responder.put_again(own)
