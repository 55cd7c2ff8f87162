"""Does this program keep up with the network? It knows by listening for its own questions.

What we ask the group comes back to our own socket, behind all that came in before it. Until then answers may
be waiting unread, or be dropped unread: a program that was starved must not conclude from silence that others
are gone (the idea of Lifeguard, arXiv 1707.00788: suspect yourself before you suspect others).
"""

from __future__ import annotations

import asyncio

__all__ = ["Hearing"]

_STEP = 0.1
_HOPE = 100
_TRIES = 5
_ATTENTION = 1.0
_MAX = 1024


class Hearing:
    """Questions that went out, and which of them came back.

    Where multicast does not loop back none ever does: after five questions, and ten seconds in which we asked and
    this loop ran, without a single one, silence counts again, until one comes.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._out: dict[int, float] = {}
        self._back = self._last = float("-inf")
        self._deaf = False
        self._steps = self._asked = 0
        self._timer: asyncio.TimerHandle | None = None

    def said(self, identity: int) -> None:
        """A question with this id goes out."""
        self._out.pop(identity, None)
        if len(self._out) >= _MAX:
            del self._out[next(iter(self._out))]
        self._out[identity] = self._last = self._loop.time()
        self._asked += 1
        if self._timer is None:
            self._timer = self._loop.call_later(_STEP, self._step)

    def heard(self, identity: int) -> None:
        """A question of ours came back; those before it that did not were lost."""
        said = self._out.get(identity)
        if said is None:
            return
        self._back, self._deaf = max(said, self._back), False
        self._steps = self._asked = 0
        while self._out and next(iter(self._out.values())) <= said:
            del self._out[next(iter(self._out))]

    def is_behind(self, since: float, at_most: float) -> bool:
        """Whether nothing that was asked at ``since`` (``loop.time()``) or later has come back so far.

        That excuses us for ``at_most`` seconds; then silence counts all the same.
        """
        return self._back < since and not self._deaf and self._loop.time() < since + at_most

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        """Counts only while this loop runs: to stand still for a minute is one step."""
        self._timer = None
        self._steps += 1
        if self._steps >= _HOPE and self._asked >= _TRIES:
            self._deaf = True
            self._out.clear()
        elif self._out and self._loop.time() < self._last + _ATTENTION:
            self._timer = self._loop.call_later(_STEP, self._step)
