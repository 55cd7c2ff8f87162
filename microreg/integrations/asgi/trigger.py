"""Hypercorn is told to stop by its supervisor without a signal; here its workers are held back all the same.

The supervisor sets an event that the workers look at, in a coroutine without any hook. What awaits it is the
function ``raise_shutdown`` of the module that runs a worker, so that one stands aside for a while. Should a
version of Hypercorn not have it, its workers drain when their lifespan ends.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from types import FrameType
from typing import cast

from microreg.integrations.asgi.signals import TOGETHER

__all__ = ["held_trigger"]

_MODULE = "hypercorn.asyncio.run"
_NAME = "raise_shutdown"

_Wait = Callable[[], Awaitable[object]]


@contextmanager
def held_trigger(drain: _Wait) -> Generator[None]:
    """Within ``with`` a Hypercorn worker of the running loop awaits ``drain()`` before it begins to shut down.

    Its workers handle no SIGTERM. The supervisor sends two to each that has not ended when the first has, and service
    managers send one to all: that begins the shutdown where it has not begun, instead of killing at once.
    """
    module = sys.modules.get(_MODULE)
    original = cast("Callable[[_Wait], Coroutine[object, object, None]] | None", getattr(module, _NAME, None))
    if original is None:
        yield
        return
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    async def drained_first(trigger: _Wait) -> None:
        async def drained() -> None:
            await _first(trigger, told.wait)
            await drain()

        await original(drained if asyncio.get_running_loop() is loop else trigger)

    setattr(module, _NAME, drained_first)
    try:
        with _on_sigterm(told.set):
            yield
    finally:
        if getattr(module, _NAME) is drained_first:
            setattr(module, _NAME, original)


async def _first(*waits: _Wait) -> None:
    """Wait until one of them is over, whose exception is raised; the others are cancelled."""

    async def wait(what: _Wait) -> None:
        await what()

    tasks = [asyncio.create_task(wait(what), name="microreg hypercorn") for what in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


@contextmanager
def _on_sigterm(stop: Callable[[], object]) -> Generator[None]:
    """Let SIGTERM, where nobody handles it, call ``stop``; one that comes over a second after the first kills."""
    loop, first = asyncio.get_running_loop(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        first = first or loop.time()
        if loop.is_closed() or loop.time() - first > TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            loop.call_soon_threadsafe(stop)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
