"""An event loop with virtual time: an hour passes in milliseconds, and twice in the same way.

::

    from microreg.testing.virtual import run

    run(main())                                     # as asyncio.run(main()), in virtual time
    with VirtualTime() as time:                     # the same in several steps
        time.run(main())
    asyncio.Runner(loop_factory=VirtualLoop)        # the same, under a runner of your own

Time stands still while anything can run, and jumps to the next timer when nothing can. What would hang for
ever is an error at once. There is no real I/O: sockets, subprocesses and executors raise VirtualTimeError,
because virtual time would pass them by. Other threads may call ``call_soon_threadsafe``, but nobody waits for
them. ``time.time()`` and ``time.monotonic()`` stay as they are: code under test reads ``loop.time()``.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn, ParamSpec, Self, TypeVar

from microreg.bounded import waits_in

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["VirtualLoop", "VirtualTime", "VirtualTimeError", "run"]

P = ParamSpec("P")
T = TypeVar("T")

_DAY = 86_400.0
_MAX_TURNS = 1_000_000  # within a virtual millisecond
_CLEANUP = 60.0
_SHOWN = 10
_NO_IO = (
    "there is no real I/O in virtual time: a socket, pipe or subprocess was used; "
    "put something in memory in its place, or run this in an ordinary event loop"
)


class VirtualTimeError(RuntimeError):
    """The code under test would hang, spin or wait for the real world. The message says which tasks, and where."""


def run(main: Coroutine[object, object, T], *, max_seconds: float = _DAY) -> T:
    """Run ``main`` as ``asyncio.run`` does, in virtual time, and return what it returns.

    Raises VirtualTimeError when nothing can ever run again (deadlock), when the loop spins without time
    passing, after ``max_seconds`` of virtual time, and on real I/O.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(max_seconds=max_seconds)) as runner:
        return runner.run(main)


class VirtualTime:
    """Runs one coroutine after another on a loop of its own, in virtual time, from ``with`` to its end.

    Raises what :func:`run` does; ``max_seconds`` is for all of them together.
    """

    def __init__(self, *, max_seconds: float = _DAY) -> None:
        self._runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(max_seconds=max_seconds))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which stands still while nothing is run."""
        return self._runner.get_loop()

    def run(self, main: Coroutine[object, object, T]) -> T:
        """Run the coroutine and return what it returns; tasks that it leaves behind wait for the next one."""
        return self._runner.run(main)

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` begins at 0 and jumps from timer to timer; deterministic.

    To be used as the ``loop_factory`` of an ``asyncio.Runner``, or through :func:`run`. When it has raised
    VirtualTimeError there is another minute of virtual time, in which the runner can cancel the tasks.
    """

    def __init__(self, *, max_seconds: float = _DAY) -> None:
        self._clock = _Clock(max_seconds)
        super().__init__(self._clock)
        self._clock.sealed = True

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._clock.now

    def run_in_executor(self, executor: object, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """Refused: virtual time does not wait for threads. Raises VirtualTimeError."""
        name = getattr(_inner(func), "__qualname__", "a function")
        raise VirtualTimeError(f"virtual time does not wait for threads, and {name} was to run in one")

    async def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Refused before anything is opened or started. Raises VirtualTimeError."""
        raise VirtualTimeError(_NO_IO)

    create_connection = create_server = create_datagram_endpoint = subprocess_exec = subprocess_shell = _refuse
    create_unix_connection = create_unix_server = _refuse


class _Clock(selectors.BaseSelector):
    """What the loop asks to wait for I/O: there is none, so instead of waiting, time moves on."""

    def __init__(self, max_seconds: float) -> None:
        self.now = 0.0
        self.sealed = False
        self._max_seconds = max_seconds
        self._end = max_seconds
        self._real = selectors.DefaultSelector()
        self._mark = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once; ``timeout`` seconds of virtual time have then passed, unless another thread woke us."""
        self._count()
        events = self._real.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None:
            self._fail("deadlock: ", "something that never comes")
        if self.now + timeout > self._end:
            self._fail(f"max_seconds={self._max_seconds:g} of virtual time are over: ", "what has not come so far")
        self.now += timeout
        return []

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        """The loop's own wake-up pipe, and nothing else."""
        if self.sealed:
            raise VirtualTimeError(_NO_IO)
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """See the standard library."""
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """See the standard library."""
        return self._real.get_map()

    def close(self) -> None:
        """See the standard library."""
        self._real.close()

    def _count(self) -> None:
        self._turns += 1
        if self.now >= self._mark + 0.001:
            self._mark, self._turns = self.now, 0
        elif self._turns > _MAX_TURNS:
            self._turns = 0
            self._fail(f"hot loop: {_MAX_TURNS} turns within a virtual millisecond: ", "others or spin")

    def _fail(self, what: str, awaited: str) -> NoReturn:
        self._end = self.now + _CLEANUP
        tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
        places = [f"{task.get_name()} at {_place(task)}" for task in tasks[:_SHOWN]]
        more = [f"… and {len(tasks) - _SHOWN} more"] if len(tasks) > _SHOWN else []
        count = "1 task waits" if len(tasks) == 1 else f"{len(tasks)} tasks wait"
        raise VirtualTimeError(f"{what}{count} for {awaited}: {', '.join(places + more) or '(no task at all)'}")


def _place(task: asyncio.Task[object]) -> str:
    """Where a task stands, in the innermost coroutine that is Python code."""
    frame: FrameType | None = None
    inner: object = task.get_coro()
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None) or frame
        inner = waits_in(inner)
    if frame is None:
        return "its end"
    code = frame.f_code
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_qualname}"


def _inner(function: object) -> object:
    """The function that ``asyncio.to_thread`` has wrapped."""
    arguments: tuple[object, ...] = getattr(function, "args", ())
    return arguments[0] if arguments else function
