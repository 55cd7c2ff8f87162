"""The signals that end a command, or that it passes on: handled at once, also where its loop waits or is blocked."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType

from microreg.cli.hanging import LastResort

__all__ = ["handling"]


@contextmanager
def handling(
    names: Iterable[str], call: Callable[[int], None], last_resort: LastResort | None = None
) -> Generator[None, None, None]:
    """Have the loop call ``call`` with the number of each of these signals that comes.

    With ``last_resort`` they are to end the command, and do so also where the loop is blocked.
    A signal that the parent process ignores stays ignored: nohup and background jobs rely on it.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        if last_resort is not None:
            last_resort.came(number, frame)
        loop.call_soon_threadsafe(act, number)

    def act(number: int) -> None:
        if last_resort is not None:
            last_resort.noticed()
        call(number)

    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    with _waking(loop):
        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
    """Have every signal wake the loop, the timer's of the last resort too.

    Python runs its handler between two instructions of the main thread. A signal that comes just before the loop
    waits in the kernel, or that another thread gets, interrupts no wait: without this it is handled when
    something else happens, up to a timeout later. A loop that sees to it itself (uvloop, Windows) is left alone.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        theirs = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if theirs != -1:
            signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
            yield
            return
        loop.add_reader(reader, reader.recv, 4096)
        try:
            yield
        finally:
            loop.remove_reader(reader)
            now = signal.set_wakeup_fd(-1)
            if now != writer.fileno():
                signal.set_wakeup_fd(now, warn_on_full_buffer=False)
