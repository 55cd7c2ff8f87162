"""An event loop that others call into: from other loops, and from threads without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

from microreg import process
from microreg.errors import RegistryClosed, RegistryUnavailable, WrongLoop

__all__ = ["Hub"]

T = TypeVar("T")

_PATIENCE = 10.0


class Hub:
    """A loop in a thread of its own, or ``loop``, which somebody else runs, in the thread that calls.

    ``name`` is what its callers call, for errors. A loop of its own begins with :meth:`open`.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._name = name
        self._pid = process.pid
        self._given = loop
        self._loop = loop
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread; nothing where the loop was given."""
        if self._given is None and self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._main, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Cancel what is under way, and join the thread. Who still waits for an answer gets RegistryUnavailable."""
        loop, self._loop = self._loop, None
        if self._thread is not None and loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_PATIENCE)
            self._thread = None

    def run(self, function: Callable[[], Coroutine[object, object, T]]) -> T:
        """Await ``function()`` on the loop, from a thread that runs none, or runs another, and wait for the outcome.

        A loop that was given must not be running.
        """
        loop = self._opened()
        if self._thread is None:
            return loop.run_until_complete(function())
        return self._submit(function, loop).result(_PATIENCE)

    def switch(self, function: Callable[[], T]) -> T:
        """Call a plain function where the loop is, and wait for the outcome; a given loop may be running or not."""
        if self._thread is None:
            return function()

        async def at_once() -> T:
            return function()

        return self.run(at_once)

    async def call(self, function: Callable[[], Coroutine[object, object, T]]) -> T:
        """Await ``function()`` on the loop, from any loop. When the caller is cancelled, so is the call.

        Raises RegistryUnavailable when the loop is gone, or ends meanwhile, and WrongLoop in another loop than one
        that was given.
        """
        loop = self._opened()
        if loop is asyncio.get_running_loop():
            return await function()
        if self._thread is None:
            raise WrongLoop(f"{self._name} belongs to an event loop that somebody else runs: use it there")
        try:
            return await asyncio.wrap_future(self._submit(function, loop))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._loop is loop or (task is not None and task.cancelling()):
                raise
            raise self._gone() from None

    def _submit(
        self, function: Callable[[], Coroutine[object, object, T]], loop: asyncio.AbstractEventLoop
    ) -> Future[T]:
        coroutine = function()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop was closed just now
            coroutine.close()
            raise self._gone() from None

    def _opened(self) -> asyncio.AbstractEventLoop:
        if process.pid != self._pid:
            raise RegistryClosed(f"{self._name} is in the memory of the process that forked this one, out of reach")
        if self._loop is None:
            raise self._gone()
        return self._loop

    def _gone(self) -> RegistryUnavailable:
        return RegistryUnavailable(f"{self._name} is not open (any more)")

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            try:
                loop.run_until_complete(_wind_down())
            finally:
                loop.close()


async def _wind_down() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_PATIENCE / 2)
    await asyncio.get_running_loop().shutdown_asyncgens()
