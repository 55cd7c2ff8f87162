"""Somebody says that a node is gone, or is different now, and may be wrong or lying: the node is asked for.

It is believed when nobody objects within a moment. Who cannot hear whether somebody does (see hearing) waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from microreg.backends.mdns.asking import Asking
from microreg.backends.mdns.hearing import Hearing
from microreg.backends.mdns.records import Text
from microreg.backends.mdns.refresh import MERCY, Life
from microreg.backends.mdns.wire import Record
from microreg.events import Reason

__all__ = ["PATIENCE", "SOON", "SUSPICION", "Claim", "Doubts"]

SOON = 0.1
"""Seconds in which a node has to object to its own restart."""
PATIENCE = 0.3
"""Seconds in which a node has to object where it may be somebody else who speaks; it is asked twice."""

SUSPICION = 2.0
"""Seconds in which a node has to object that could not be called; it is asked four times. Its loop may be busy."""
_INSISTENCE = {SOON: 0, PATIENCE: 1, SUSPICION: 3}
"""How often a node is asked again."""

Claim = tuple[Text, Record] | Reason
"""What somebody says that a node is now, or why it is gone."""


@dataclass(slots=True)
class _Doubt:
    patience: float
    heard: float
    asked: float
    claim: Claim
    left: int
    timer: asyncio.TimerHandle | None = None

    @property
    def step(self) -> float:
        """Seconds from one question to the next."""
        return self.patience / (_INSISTENCE[self.patience] + 1)


class Doubts:
    """The nodes that are in doubt; each is asked once for all that is said of it meanwhile.

    ``unopposed`` is called with a node that said nothing, and with what it is now: what was claimed last, if anything.
    """

    def __init__(self, hearing: Hearing, asking: Asking, unopposed: Callable[[Life, Claim], None]) -> None:
        self._hearing = hearing
        self._asking = asking
        self._unopposed = unopposed
        self._loop = asyncio.get_running_loop()
        self._doubts: dict[Life, _Doubt] = {}
        self.suspicions = 0
        """How many of these nodes could not be called."""

    def __len__(self) -> int:
        return len(self._doubts)

    def add(self, life: Life, patience: float, claim: Claim) -> None:
        """Ask whether this node is still what it was, for ``patience`` seconds."""
        doubt = self._doubts.get(life)
        if doubt is None:
            doubt = self._doubts[life] = _Doubt(patience, life.heard, self._loop.time(), claim, _INSISTENCE[patience])
            self.suspicions += patience == SUSPICION
            self._asking.ask(life.key, times=2)
            self._wait(life, doubt)
        if not isinstance(claim, Reason):
            doubt.claim = claim

    def close(self) -> None:
        """Stop all timers."""
        for doubt in self._doubts.values():
            if doubt.timer is not None:
                doubt.timer.cancel()

    def _wait(self, life: Life, doubt: _Doubt) -> None:
        doubt.timer = self._loop.call_later(doubt.step, self._insist if doubt.left else self._decide, life, doubt)

    def _insist(self, life: Life, doubt: _Doubt) -> None:
        if life.heard == doubt.heard:
            self._asking.ask(life.key, times=2)
        doubt.left -= 1
        self._wait(life, doubt)

    def _decide(self, life: Life, doubt: _Doubt) -> None:
        if self._hearing.is_behind(doubt.asked, MERCY):
            doubt.timer = self._loop.call_later(doubt.patience, self._decide, life, doubt)
            return
        del self._doubts[life]
        self.suspicions -= doubt.patience == SUSPICION
        if life.heard == doubt.heard:
            self._unopposed(life, doubt.claim)
