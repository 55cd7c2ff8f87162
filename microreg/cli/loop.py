"""Runs a command's coroutine until it is done, a signal asks it to stop, or nobody reads its output."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, nullcontext
from types import FrameType

__all__ = ["Stop", "end_quietly", "execute", "handling", "write"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGPIPE = 13
_AT_ONCE = 4096
"""Bytes that a pipe which is ready for writing takes without blocking (POSIX: PIPE_BUF, 512 or more)."""


class Stop:
    """What asks a command to stop: SIGINT, SIGTERM, SIGHUP, or a reader of its output that went away.

    A command that stops by itself sets ``graceful`` and awaits ``asked``; a second signal cancels it.
    Every other command is cancelled by the first.
    """

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.asked = asyncio.Event()
        self.graceful = False
        self.signal = 0
        self._task = task

    def ask(self, number: int) -> None:
        """Stop because of a signal."""
        again, self.signal = self.signal, self.signal or number
        if again and number == _SIGPIPE:
            return
        self.asked.set()
        if again or not self.graceful:
            self._task.cancel()


def execute(main: Callable[[Stop], Coroutine[object, object, int]], *, writes: bool = True) -> int:
    """Run ``main`` in a new event loop; its exit code, or 128 + signal where a signal ended it.

    A command that does not write to stdout itself says so, and goes on when nobody reads it.
    """
    with asyncio.Runner() as runner:
        return runner.run(_guarded(main, writes))


async def _guarded(main: Callable[[Stop], Coroutine[object, object, int]], writes: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    stop = Stop(task)
    with handling(_SIGNALS, stop.ask), _reader_gone(stop) if writes else nullcontext():
        try:
            return await main(stop)
        except asyncio.CancelledError:
            if not stop.signal:
                raise
            task.uncancel()
            return 128 + stop.signal
        except BrokenPipeError:
            return end_quietly()
        finally:
            if stop.signal == _SIGPIPE:
                end_quietly()


@contextmanager
def handling(names: Iterable[str], call: Callable[[int], None]) -> Generator[None, None, None]:
    """Have the loop call ``call`` with the number of each of these signals that comes.

    A signal that the parent process ignores stays ignored: nohup and background jobs rely on it.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call, number)

    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reader_gone(stop: Stop) -> Generator[None, None, None]:
    """Notice at once that the other end of a pipe was closed, not only at the next write."""
    loop, pipe = asyncio.get_running_loop(), _pipe()
    if pipe is None or not hasattr(select, "poll"):
        yield
        return
    poll = select.poll()
    poll.register(pipe, 0)

    def look() -> None:
        if any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0)):
            loop.remove_reader(pipe)
            stop.ask(_SIGPIPE)

    loop.add_reader(pipe, look)
    try:
        yield
    finally:
        loop.remove_reader(pipe)


async def write(line: str) -> None:
    """Write one line to stdout at once, in UTF-8. A pipe that is full suspends only this coroutine."""
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    pipe = _pipe()
    sys.stdout.flush()
    if pipe is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    for start in range(0, len(data), _AT_ONCE):
        await _writable(pipe)
        os.write(pipe, data[start : start + _AT_ONCE])


async def _writable(pipe: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(pipe, _fulfil, ready)
    try:
        await ready
    finally:
        loop.remove_writer(pipe)


def _fulfil(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _pipe() -> int | None:
    """The descriptor of stdout where it is a pipe (which the loop can watch), else None."""
    try:
        number = sys.stdout.fileno()
        return number if os.name == "posix" and stat.S_ISFIFO(os.fstat(number).st_mode) else None
    except (OSError, ValueError, AttributeError):
        return None


def end_quietly() -> int:
    """Make Python's last flush of stdout succeed, and return the exit code of SIGPIPE."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass
    return 128 + _SIGPIPE
