"""Holding back the signals that end a process, until something else is done.

Whatever a server does when a signal comes, it does it later: while signals are held, the handlers of this module
stand before the server's. To let go, they are taken away again and the signals that came are raised anew, so
that it makes no difference whether the server handles them with ``signal.signal`` or in its loop, or not at all.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

__all__ = ["TOGETHER", "Signals"]

_Handler = Callable[[int, FrameType | None], object] | int
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]

TOGETHER = 1.0
"""Seconds in which further signals count as the first: service managers signal the supervisor of a server and its
workers, and the supervisor then its workers once more."""


class Signals:
    """Within ``with`` SIGTERM and SIGINT are held; at its end, or by ``release()``, the server gets those that came.

    ``begin`` is called in the loop at the first signal. ``hurry`` is called after another one: a second SIGINT, or
    any that comes more than a second after the first. All are then let go at once. Outside of the main thread, where
    no handlers can be set, and for signals that are ignored, nothing is held.
    """

    def __init__(self, begin: Callable[[], None], hurry: Callable[[], None]) -> None:
        self._begin = begin
        self._hurry = hurry
        self._loop = asyncio.get_running_loop()
        self._before: dict[int, _Handler] = {}
        self._came: list[int] = []
        self._first = 0.0
        self._wakeup = _Wakeup(self._loop)
        self._holding = False

    def __enter__(self) -> Self:
        self._holding = True
        for number in _ENDING:
            handler = signal.getsignal(number)
            if handler is None or handler is signal.SIG_IGN:
                continue
            try:
                signal.signal(number, self._handle)
            except ValueError:  # not the main thread
                return self
            self._before[number] = handler
        if self._before:
            self._wakeup.hold(self._before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Put the handlers back, and raise each signal that came once more, for them. Again: nothing."""
        if not self._holding:
            return
        self._holding = False
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._wakeup.release()
        for number in self._came:
            signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            with suppress(RuntimeError):  # the loop was closed before the signals were let go
                self._loop.call_soon_threadsafe(self._note, number)
                return
            self._came.append(number)
            self.release()
        else:  # somebody who set a handler above this one calls it, as what was there before
            before = self._before[number]
            if callable(before):
                before(number, frame)

    def _note(self, number: int) -> None:
        if not self._holding:
            signal.raise_signal(number)
            return
        before, now = set(self._came), self._loop.time()
        if not before:
            self._first = now
            self._begin()
        hurried = before and (now - self._first > TOGETHER or (number == signal.SIGINT and number in before))
        if hurried or number not in before:
            self._came.append(number)
        if hurried:
            self._hurry()
            self.release()


class _Wakeup:
    """Keeps the numbers of held signals from the descriptor through which a loop learns of signals.

    A loop reads them there, and calls what was given to ``loop.add_signal_handler``. All others pass.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ours: tuple[socket.socket, socket.socket] | None = None
        self._theirs = -1
        self._held: frozenset[int] = frozenset()

    def hold(self, numbers: Iterable[int]) -> None:
        """Take the place of the loop's descriptor, if there is one."""
        if sys.platform == "win32":  # loops have no signal handlers there
            return
        theirs = signal.set_wakeup_fd(-1)
        if theirs == -1:
            return
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._held = frozenset(numbers)
        self._ours, self._theirs = (reader, writer), theirs
        self._loop.add_reader(reader.fileno(), self._pass_on)

    def release(self) -> None:
        """Give its place back, unless another one has taken it: then everything goes on to pass through here."""
        if self._ours is None:
            return
        reader, writer = self._ours
        now = signal.set_wakeup_fd(-1)
        if now != writer.fileno():
            signal.set_wakeup_fd(now)
            self._held = frozenset()
            return
        signal.set_wakeup_fd(self._theirs, warn_on_full_buffer=False)
        self._pass_on()
        if not self._loop.is_closed():
            self._loop.remove_reader(reader.fileno())
        reader.close()
        writer.close()
        self._ours = None

    def __del__(self) -> None:
        """Where the place was never given back, the loop is gone now, and nobody passes on any more."""
        for each in self._ours or ():
            each.close()

    def _pass_on(self) -> None:
        assert self._ours is not None
        with suppress(OSError):  # nothing there, or the loop of these signals is gone
            numbers = self._ours[0].recv(4096)
            passing = bytes(number for number in numbers if number not in self._held)
            if passing:
                os.write(self._theirs, passing)
