"""Runs a command's coroutine until it is done, a signal asks it to stop, or nobody reads its output."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from microreg.cli.errors import failed
from microreg.cli.hanging import LastResort, end_hard, hanging
from microreg.cli.signals import handling

__all__ = ["Stop", "end_quietly", "execute", "write"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGPIPE = 13
_CLEANING = 8.0
"""Seconds that a cancelled command may take: longer than a registry's close, shorter than Docker waits (10 s)."""

_AGAIN = 1.0
"""Seconds that it may take once it was asked again."""

_LEFT = 2.0
"""Seconds that tasks and threads which nobody joined may take to end after the command."""

_AT_ONCE = 4096
"""Bytes that a pipe which is ready for writing takes without blocking (POSIX: PIPE_BUF, 512 or more)."""


class Stop:
    """What asks a command to stop: SIGINT, SIGTERM, SIGHUP, or a reader of its output that went away.

    A command that stops by itself sets ``graceful`` and awaits ``asked``; a second signal cancels it.
    Every other command is cancelled by the first. One that does not end when it was cancelled is ended hard,
    after eight seconds, or one second after the next signal; see ``last_resort``.
    """

    def __init__(self, task: asyncio.Task[object], last_resort: LastResort) -> None:
        self.asked = asyncio.Event()
        self.graceful = False
        self.signal = 0
        self.last_resort = last_resort
        self._task = task
        self._cancelled = False

    def ask(self, number: int) -> None:
        """Stop because of a signal."""
        again, self.signal = self.signal, self.signal or number
        if again and number == _SIGPIPE:
            return
        self.asked.set()
        if again or not self.graceful:
            if number != _SIGPIPE:
                self.last_resort.within(_AGAIN if self._cancelled else _CLEANING)
            self._cancelled = True
            self._task.cancel()


def execute(
    main: Callable[[Stop], Coroutine[object, object, int]],
    *,
    writes: bool = True,
    as_json: bool = False,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run ``main`` in a new event loop; its exit code, or 128 + signal where a signal ended it.

    A command that does not write to stdout itself says so, and goes on when nobody reads it. Tasks and threads that
    a backend leaves behind get two seconds; where they are still there, the error is reported and the process ends.
    """
    runner, pool, before = asyncio.Runner(loop_factory=loop_factory), ThreadPoolExecutor(), set(threading.enumerate())
    runner.get_loop().set_default_executor(pool)
    code, error = 0, None
    try:
        code = runner.run(_guarded(main, writes))
    except Exception as raised:
        error = raised
    except BaseException:
        runner.close()
        raise
    left = _left_behind(runner, pool, before)
    if left:
        code = code if error is None else failed(error, as_json=as_json)
        sys.stdout.flush()
        end_hard(code, f"warning: still running, and left behind: {', '.join(left)}")
    runner.close()
    if error is not None:
        raise error
    return code


def _left_behind(runner: asyncio.Runner, pool: ThreadPoolExecutor, before: set[threading.Thread]) -> list[str]:
    """The names of tasks that do not end when they are cancelled, and of threads that do not end."""
    loop = runner.get_loop()
    deadline = loop.time() + _LEFT
    tasks = runner.run(_cancelled())
    pool.shutdown(wait=False, cancel_futures=True)
    threads = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - loop.time()))
    return sorted(tasks) + [f"thread {thread.name}" for thread in threads if thread.is_alive()]


async def _cancelled() -> list[str]:
    """Cancel all tasks there are; those that have not ended then, and where each waits."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return []
    _, left = await asyncio.wait(tasks, timeout=_LEFT)
    return [hanging([task]) for task in left]


async def _guarded(main: Callable[[Stop], Coroutine[object, object, int]], writes: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    last_resort = LastResort(asyncio.get_running_loop())
    stop = Stop(task, last_resort)
    reader = _reader_gone(stop) if writes else nullcontext()
    with last_resort.ready(), handling(_SIGNALS, stop.ask, last_resort), reader:
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
