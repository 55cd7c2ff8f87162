"""The last resort of a command that a signal was to end: the process ends hard, and says what was hanging.

A backend may swallow its cancellation, or block the event loop (``time.sleep``). Asking the loop helps with neither,
but the kernel's timer does: its signal interrupts a blocking call, and Python runs the handler there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType

from microreg.bounded import waits_in
from microreg.cli.text import safe

__all__ = ["LastResort", "end_hard", "hanging"]

_BLOCKED = 2.0
"""Seconds that the event loop may leave a signal unnoticed."""

_TWICE = 0.5
"""Seconds after which another signal is no echo of the first: wrappers pass on what the terminal sent already."""

_SHOWN = 3
_SHOW_CURSOR = b"\x1b[?25h"


class LastResort:
    """A deadline for ending in order, which holds also while the event loop is blocked. One for each command."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._signal = 0
        self._unnoticed: float | None = None  # when a signal came that the loop has not looked at
        self._deadline = float("inf")

    @contextmanager
    def ready(self) -> Generator[None, None, None]:
        """Have the timer's signal for as long as this lasts. Without such a timer (Windows) nothing is promised."""
        if not hasattr(signal, "setitimer"):
            yield
            return
        before = signal.signal(signal.SIGALRM, self._over)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def came(self, number: int, frame: FrameType | None) -> None:
        """A signal that is to end the command came; the event loop has not noticed it yet."""
        self._signal, now = self._signal or number, self._loop.time()
        if self._unnoticed is None:
            self._unnoticed = now
            self._arm()
        elif now - self._unnoticed > _TWICE:
            self._over(number, frame)

    def noticed(self) -> None:
        """The event loop lives."""
        self._unnoticed = None
        self._arm()

    def within(self, seconds: float) -> None:
        """The command is to end within so many seconds, or by an earlier deadline that was set before."""
        self._deadline = min(self._deadline, self._loop.time() + seconds)
        self._arm()

    def _arm(self) -> None:
        if hasattr(signal, "setitimer"):
            blocked = float("inf") if self._unnoticed is None else self._unnoticed + _BLOCKED
            due = min(blocked, self._deadline)
            left = 0.0 if due == float("inf") else max(0.001, due - self._loop.time())
            signal.setitimer(signal.ITIMER_REAL, left)

    def _over(self, _number: int, frame: FrameType | None) -> None:
        where = "" if frame is None else _place(frame)
        what = hanging(asyncio.all_tasks(self._loop)) if self._unnoticed is None else f"the event loop, blocked {where}"
        end_hard(128 + self._signal, f"{signal.Signals(self._signal).name}: ended hard, because this hangs: {what}")


def end_hard(code: int, text: str) -> None:
    """Print one line to stderr and end the process at once, whatever tasks and threads still do."""
    with suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), _SHOW_CURSOR)
    with suppress(OSError, ValueError):
        os.write(2, f"microreg: {safe(text)}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)


def hanging(tasks: Iterable[asyncio.Task[object]]) -> str:
    """The tasks among these that were cancelled and have not ended, with the line that each waits in."""
    cancelled = sorted(
        (task for task in tasks if task.cancelling() and not task.done()), key=lambda task: task.get_name()
    )
    shown = [f"{task.get_name()} {_waits(task)}".strip() for task in cancelled]
    return "; ".join(shown[:_SHOWN]) + (f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _waits(task: asyncio.Task[object]) -> str:
    """The innermost line outside asyncio that a suspended task waits in."""
    waits, place = object.__getattribute__(task, "get_coro")(), ""
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        if isinstance(frame, FrameType) and not str(frame.f_globals.get("__name__")).startswith("asyncio"):
            place = _place(frame)
        waits = waits_in(waits)
    return place


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"in {code.co_qualname} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"
