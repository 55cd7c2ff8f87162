"""Portal: one thread that runs one event loop, and blocking calls into it from all other threads."""

from __future__ import annotations

import asyncio
import atexit
import logging
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from threading import Lock, Thread, get_ident
from typing import Any, Generic, ParamSpec, TypeVar

from microreg import process
from microreg.errors import RegistryClosed, WrongLoop
from microreg.sync.workers import Workers

__all__ = ["Portal"]

log = logging.getLogger("microreg.sync")

P = ParamSpec("P")
R = TypeVar("R")

_GRACE = 6.0
"""Seconds that an interrupted call may take to end: an announcement leaves within five."""
_LAST = 5.0
"""Seconds that closing may take in the loop."""
_WIND_DOWN = 2.0
"""Seconds that the tasks which are left then may take to end."""
_WORKERS = 2.0
"""Seconds that plain functions of the user may take to return."""

_Last = Callable[[], Awaitable[None]]


class _Call(Generic[R]):
    """One blocking call: its task on the loop, and what the thread that waits will get.

    A signal handler may strike the thread that waits and call, too, so the loop must never want a lock which that
    thread holds now and then, as a Future's or an Event's is. Here the loop only opens a lock, which takes no time.
    """

    def __init__(self, name: str, function: Callable[[], Awaitable[R]]) -> None:
        self.done = False
        self._name = name
        self._function = function
        self._task: asyncio.Task[R] | None = None
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._waiting = Lock()
        self._waiting.acquire()

    def start(self) -> None:
        """On the loop, in a copy of the caller's context: begin."""
        if not self.done:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"microreg call {self._name}")
            self._task.add_done_callback(self._finish)

    def cancel(self) -> None:
        """On the loop: end it, begun or not."""
        if self._task is None:
            self.fail()
        else:
            self._task.cancel()

    def fail(self, why: str = "the registry was closed while this call was under way") -> None:
        """There is no loop for it (any more): nobody waits for ever."""
        if not self.done:
            self._end(RegistryClosed(why))

    def wait(self, timeout: float = -1) -> None:
        """Until it is done, or ``timeout`` seconds have passed; without end by default."""
        if not self.done:
            self._waiting.acquire(timeout=timeout)

    def result(self) -> R:
        """Wait for what the function returns, or raise what it raises."""
        self.wait()
        try:
            if self._error is not None:
                raise self._error
            return self._results[0]
        finally:
            del self  # the error's traceback leads here

    async def _run(self) -> R:
        return await self._function()

    def _finish(self, task: asyncio.Task[R]) -> None:
        if task.cancelled():
            self.fail()
            return
        error = task.exception()
        if error is None:
            self._results.append(task.result())
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self.done = True
        with suppress(RuntimeError):  # it is open: the loop and a caller have found at once that there is no loop
            self._waiting.release()


class Portal:
    """A thread with an event loop, from its making to ``stop()``; any thread may call into it.

    ``last`` is awaited on the loop before it ends, at most 5 s, where nobody called ``stop()``: at the exit
    of the interpreter, or after ``abandon()``. ``name`` is for errors and for the name of the thread.
    """

    def __init__(self, name: str, last: _Last) -> None:
        self._name = name
        self._last = last
        self._pid = process.pid
        self._calls: set[_Call[Any]] = set()
        self._closed = False
        self._workers = Workers(f"microreg {name}")
        self._loop = asyncio.new_event_loop()
        process.keep(self._loop)
        self._loop.set_default_executor(self._workers)
        self._stopping: asyncio.Future[_Last | None] = self._loop.create_future()
        self._thread = Thread(target=self._main, name=f"microreg {name}", daemon=True)
        try:
            self._thread.start()
            atexit.register(self._at_exit)
        except RuntimeError:  # the system has no thread for us
            self._loop.close()
            raise
        except BaseException:
            self.stop()
            raise

    @property
    def over(self) -> bool:
        """Whether calls are refused: it was stopped, or this process is a fork of the one that made it."""
        return self._closed or process.pid != self._pid

    def call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await ``function(*args, **kwargs)`` on the loop and return its result, or raise what it raises.

        An exception that strikes the waiting thread (KeyboardInterrupt above all) cancels the call, waits for
        its end (at most 6 s; a second one cancels again and waits no more) and goes on. Raises RegistryClosed
        after ``stop()`` and in a forked child, WrongLoop in the portal's own thread.
        """
        self._check()
        call = _Call(getattr(function, "__name__", ""), partial(function, *args, **kwargs))
        try:
            self._submit(call)
            return call.result()
        except BaseException:
            self._cancel(call)
            raise
        finally:
            self._calls.discard(call)
            del call  # its error's traceback leads here

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a plain function on the loop, for what must happen there though it does not wait. See ``call``."""

        async def at_once() -> R:
            return function(*args, **kwargs)

        return self.call(at_once)

    def enter(self, enter: Callable[[], Awaitable[object]], leave: Callable[[], Awaitable[object]]) -> None:
        """Call ``enter``; where an interrupt comes too late to keep it from succeeding, call ``leave`` too."""
        entered = False

        async def note() -> None:
            nonlocal entered
            await enter()
            entered = True

        try:
            self.call(note)
        except BaseException:
            if entered:
                self.leave(leave)
            raise

    def leave(self, leave: Callable[[], Awaitable[object]]) -> None:
        """Call ``leave``, unless the loop is gone and everything with it."""
        if self.over:
            return
        try:
            self.call(leave)
        except RegistryClosed:
            if not self.over:
                raise

    def stop(self) -> None:
        """Cancel what is under way and join the thread. Calling it twice is fine; so it is in a forked child."""
        if process.pid != self._pid:
            return
        self._check()
        self._end(None)
        self._join()

    def abandon(self) -> None:
        """Say once that nobody closed it, and let it end by itself."""
        if not self.over:
            try:
                self._warn()
            finally:
                self._end(self._last)

    # -- callers ---------------------------------------------------------------------------------

    def _check(self) -> None:
        if process.pid != self._pid:
            raise RegistryClosed(
                f"{self._name} was opened before fork(), by process {self._pid}, and its thread did not come along: "
                "connect() again in the child"
            )
        if get_ident() == self._thread.ident and self._thread.is_alive():
            raise WrongLoop(
                f"a blocking call to {self._name} from its own event loop would wait for itself: make the check a "
                "plain function (def, not async def), which runs in another thread, or call from a thread of your own"
            )

    def _submit(self, call: _Call[R]) -> None:
        self._calls.add(call)  # first: from now on whoever ends the loop also ends the call
        if not self._closed:
            with suppress(RuntimeError):  # the loop is closed: another thread, or a signal handler, has stopped it
                self._loop.call_soon_threadsafe(call.start)
                return
        call.fail(f"{self._name} was closed; connect() again for another")

    def _cancel(self, call: _Call[R]) -> None:
        if call.done:
            return
        try:
            self._schedule(call.cancel)
            call.wait(_GRACE)
        except BaseException:
            self._schedule(call.cancel)
            raise

    def _schedule(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, last: _Last | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._schedule(partial(self._begin_to_end, last))

    def _begin_to_end(self, last: _Last | None) -> None:
        if not self._stopping.done():
            self._stopping.set_result(last)

    def _join(self) -> None:
        atexit.unregister(self._at_exit)
        if self._thread.ident is None:
            return
        try:
            self._thread.join(_LAST + _WIND_DOWN + 1.0)
        except BaseException:
            self._thread.join(_WIND_DOWN)
            raise
        if self._thread.is_alive():
            log.warning("%s: something blocks the event loop; its thread is left behind", self._name)
        elif not self._workers.join(_WORKERS):
            log.warning("%s: a blocking check or call goes on in its thread", self._name)

    def _at_exit(self) -> None:
        try:
            self.abandon()
        finally:
            self.stop()

    def _warn(self) -> None:
        warnings.warn(
            f"{self._name} was never closed: use `with microreg.sync.connect(...) as registry:`, or call close()",
            RuntimeWarning,
            stacklevel=process.NOWHERE,
        )

    # -- the thread ------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except (KeyboardInterrupt, SystemExit) as error:
            log.error("%s: a task ended the event loop: %r", self._name, error)
        finally:
            self._closed = True
            try:
                self._loop.run_until_complete(self._wind_down())
            finally:
                self._loop.close()
                for call in tuple(self._calls):
                    call.fail()

    async def _serve(self) -> None:
        last = await self._stopping
        if last is not None:
            try:
                async with asyncio.timeout(_LAST):
                    await last()
            except Exception as error:
                log.warning("%s: could not close in order: %s", self._name, error)

    async def _wind_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_WIND_DOWN)
        await self._loop.shutdown_asyncgens()
