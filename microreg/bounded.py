"""A bound on how long a call may take, which costs a call that waits for nothing next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from functools import partial
from typing import Generic, TypeVar, cast

__all__ = ["Overdue", "bounded"]

T = TypeVar("T")


class Overdue(TimeoutError):
    """The time is over. Every other TimeoutError is the call's own."""


async def bounded(call: Awaitable[T], seconds: float) -> T:
    """What the call returns. Raises Overdue, once the call has ended, where it took longer than so many seconds.

    The time runs from now on, and the call runs in the task that awaits this, as with :func:`asyncio.timeout`. But a
    timer is set only when the call waits for something: one that does not also needs no task.
    """
    until = asyncio.get_running_loop().time() + seconds
    steps = call.__await__()
    try:
        waiting = next(steps)
    except StopIteration as done:
        return cast(T, done.value)
    limit = asyncio.timeout_at(until)
    try:
        async with limit:
            return await _Rest(steps, waiting)
    except TimeoutError as error:
        if limit.expired():
            raise Overdue from error
        raise


class _Rest(Generic[T]):
    """What is left of a call after its first step; ``waiting`` is what that step waits for."""

    def __init__(self, steps: Generator[object, object, T], waiting: object) -> None:
        self._steps = steps
        self._waiting = waiting

    def __await__(self) -> Generator[object, object, T]:
        waiting = self._waiting
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                self._steps.close()
                raise
            except BaseException as error:
                step = partial(self._steps.throw, error)
            else:
                step = partial(self._steps.send, sent)
            try:
                waiting = step()
            except StopIteration as done:
                return cast(T, done.value)
