"""Threads for blocking functions: the portal's default executor, and checks that may take their time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Thread, current_thread
from typing import ParamSpec, TypeVar

from microreg.toolkit import in_thread

__all__ = ["Workers", "off_loop"]

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """A daemon thread for each call: the pool of the standard library waits for ever, at the interpreter's exit too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._busy: set[Thread] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in a thread of its own."""
        outcome: Future[T] = Future()
        call = partial(fn, *args, **kwargs)
        thread = Thread(target=self._work, args=(outcome, call), name=f"{self._name} worker", daemon=True)
        self._busy.add(thread)
        try:
            thread.start()
        except BaseException:
            self._busy.discard(thread)
            raise
        return outcome

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until no thread is busy; whether that is so."""
        end = time.monotonic() + timeout
        for thread in tuple(self._busy):
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in tuple(self._busy))

    def _work(self, outcome: Future[T], call: Callable[[], T]) -> None:
        try:
            if outcome.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    outcome.set_exception(error)
                else:
                    outcome.set_result(result)
        finally:
            self._busy.discard(current_thread())


def off_loop(check: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """A check as an async function that runs a plain one in a thread, one run at a time."""
    if inspect.iscoroutinefunction(check):
        return check
    running: asyncio.Task[Future[object]] | None = None

    async def run() -> object:
        nonlocal running
        if running is None or running.done():
            running = asyncio.create_task(in_thread(_outcome, check), name="microreg check")
            running.add_done_callback(_heard)
        result = (await asyncio.shield(running)).result()
        return await result if inspect.isawaitable(result) else result

    return run


def _outcome(check: Callable[[], object]) -> Future[object]:
    """What a check returned or raised, as a value: a task that raises SystemExit would end the event loop."""
    outcome: Future[object] = Future()
    try:
        outcome.set_result(check())
    except KeyboardInterrupt as error:  # its own: a signal strikes the main thread only
        outcome.set_exception(RuntimeError(repr(error)))
    except BaseException as error:
        outcome.set_exception(error)
    return outcome


def _heard(run: asyncio.Task[Future[object]]) -> None:
    """Nobody may be waiting any more for a slow check, not even to hear that there is no thread for it."""
    if not run.cancelled():
        run.exception()
