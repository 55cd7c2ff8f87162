"""A bound on how long a call may take, which costs a call that waits for nothing next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from functools import partial
from types import CoroutineType, FrameType, FunctionType
from typing import Generic, TypeVar, cast

__all__ = ["Overdue", "bounded", "waits_in"]

T = TypeVar("T")


_Steps = Generator[object, object, T] | Coroutine[object, object, T]


class Overdue(TimeoutError):
    """The time is over. Every other TimeoutError is the call's own."""


async def bounded(call: Awaitable[T], seconds: float) -> T:
    """What the call returns. Raises Overdue, once the call has ended, where it took longer than so many seconds.

    The time runs from now on, and the call runs in the task that awaits this, as with :func:`asyncio.timeout`. But a
    timer is set only when the call waits for something: one that does not also needs no task.
    """
    until = asyncio.get_running_loop().time() + seconds
    steps = cast("_Steps[T]", call if type(call) is CoroutineType else call.__await__())
    try:
        waiting = steps.send(None)
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

    def __init__(self, steps: _Steps[T], waiting: object) -> None:
        self._steps = steps
        self._waiting = waiting

    def __await__(self) -> Generator[object, object, T]:
        steps, waiting = self._steps, self._waiting
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                step = partial(steps.throw, error)
            else:
                step = partial(steps.send, sent)
            try:
                waiting = step()
            except StopIteration as done:
                return cast(T, done.value)


_REST = cast(FunctionType, vars(_Rest)["__await__"]).__code__


def waits_in(suspended: object) -> object | None:
    """What a suspended coroutine or generator waits in, for who looks for the place: also inside a bounded call."""
    frame = getattr(suspended, "gi_frame", None)
    if isinstance(frame, FrameType) and frame.f_code is _REST:
        return cast(object, frame.f_locals["steps"])
    names = ("cr_await", "gi_yieldfrom", "ag_await")
    return next((inner for name in names if (inner := getattr(suspended, name, None)) is not None), None)
