"""Processes and event loops: what ends with a fork, with a loop, with the interpreter; and which ones these are."""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

from microreg.errors import WrongLoop

__all__ = [
    "FORKED",
    "NOWHERE",
    "cancelling",
    "check_loop",
    "end",
    "hush",
    "in_child",
    "joinable",
    "keep",
    "never_closed",
    "own_loop",
    "pid",
    "running_loop",
    "runs_here",
]

log = logging.getLogger("microreg.process")

T = TypeVar("T")

pid = os.getpid()
"""The id of this process, in a forked child too, without a system call."""

FORKED = "was opened before fork(), and belongs to the parent process: connect() again in the child"
"""What a child is told of something that is not its own."""

NOWHERE = 1 << 10
"""The ``stacklevel`` of a warning without a line to point at: whoever should have closed it is gone."""

_actions: WeakKeyDictionary[object, Callable[[object], object]] = WeakKeyDictionary()
_kept: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def in_child(thing: T, action: Callable[[T], object]) -> None:
    """Call ``action(thing)`` in every child that is forked while ``thing`` lives, before anything else runs there.

    The child has only the thread that forked and none of its loops runs, so an action may neither wait nor
    send: what it is for is to let go. ``thing`` is held weakly and has one action: the last one given.
    """
    _actions[thing] = cast("Callable[[object], object]", action)


def _forked() -> None:
    global pid
    pid = os.getpid()
    for thing, action in tuple(_actions.items()):
        try:
            action(thing)
        except Exception:
            log.exception("could not let go of what belongs to the parent process")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread and process; None where there is none.

    None is also the answer in a child that was forked in a running loop, and to coroutines that are torn down
    after the end of theirs.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def check_loop(loop: asyncio.AbstractEventLoop, what: object) -> None:
    """Raise WrongLoop unless this is the loop that runs here."""
    if running_loop() is not loop:
        raise WrongLoop(
            f"{what} was opened in another event loop, and belongs to the loop that opened it: "
            "connect() once per loop, or use microreg.sync from threads"
        )


def own_loop(task: asyncio.Task[T], what: object) -> asyncio.AbstractEventLoop:
    """The loop of a task, which has to be the one that runs here. Raises WrongLoop."""
    loop = task.get_loop()
    check_loop(loop, what)
    return loop


def runs_here(task: asyncio.Task[T]) -> bool:
    """Whether the loop that runs here is the task's."""
    return task.get_loop() is running_loop()


def joinable(task: asyncio.Task[T]) -> bool:
    """Whether the task can be waited for here: it runs in this loop, and is not who asks."""
    return runs_here(task) and task is not asyncio.current_task()


async def end(*tasks: asyncio.Task[T]) -> None:
    """Cancel the tasks and wait until they have let go of everything; nothing for those that cannot be joined here."""
    mine = [task for task in tasks if joinable(task)]
    for task in mine:
        task.cancel()
    if mine:
        await asyncio.wait(mine)
    for task in mine:
        with suppress(asyncio.CancelledError):
            task.exception()  # seen; a cancellation else keeps the frames that it went through, and all they hold


def cancelling() -> bool:
    """Whether who runs here was told to end: a task that was cancelled, or a coroutine without a loop to go on in."""
    if running_loop() is None:
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def hush(loop: asyncio.AbstractEventLoop) -> None:
    """For a loop that never runs again: no "Task was destroyed but it is pending!" about this package's tasks."""
    for task in asyncio.all_tasks(loop):
        if task.get_name().startswith("microreg "):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def keep(loop: asyncio.AbstractEventLoop) -> None:
    """Say that who runs this loop closes what is left open in it, and warns in words of its own."""
    _kept.add(loop)


def never_closed(what: str, loop: asyncio.AbstractEventLoop) -> None:
    """Warn that something was dropped open, or left open until the exit of the interpreter; for ``weakref.finalize``.

    It is said once: about the tasks in a loop that stands still, asyncio says nothing more.
    """
    if loop in _kept:
        return
    if not loop.is_running():
        hush(loop)
    warnings.warn(
        f"{what} was never closed: use `async with microreg.connect(...) as registry:`, or `await registry.close()`; "
        "what it registered stays until its ttl ends",
        RuntimeWarning,
        stacklevel=NOWHERE,
    )


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forked)
