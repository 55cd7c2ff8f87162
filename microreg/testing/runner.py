"""Runs checks: one, or all of them, as many at once as the harness allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast
from unittest import SkipTest

from microreg.registry import Registry
from microreg.testing.case import Case
from microreg.testing.check import Check, ConformanceError
from microreg.testing.checks import CHECKS
from microreg.testing.harness import Harness
from microreg.testing.listener import Listener
from microreg.testing.report import Report, Result

__all__ = ["run_check", "verify"]

_LOOKUP = "get.exact-name"
_WATCH = "watch.snapshot-first"
_BASIC = (_LOOKUP, _WATCH)
"""Checks that run first: what hangs in one of them hangs in every check that does the same."""

_NO_WATCH = f"needs a watch, which hangs in {_WATCH}"

_OF_WATCHES = ("watch.", "general.leaves-nothing")
"""How the ids of checks begin that open watches without asking the case for them."""

_GRACE = 6.0
"""Seconds that a cancelled check has for its end: one more than :meth:`Case.close` takes at most."""


async def run_check(check: Check, harness: Harness) -> Result:
    """Run one check, in at most the harness's deadline. Raises nothing that the registry does wrong.

    A check that does not end within six seconds of its cancellation then has failed, and its task is left behind.
    """
    return await _run(check, harness, Case(check, harness))


async def verify(
    harness: Harness, checks: Iterable[Check] = CHECKS, *, tell: Callable[[Result], None] | None = None
) -> Report:
    """Run all checks and print nothing. Those that count tasks or break the store run alone, at the end.

    ``tell`` is called with each result as it comes. Two basic checks run before the others. Where one of them has
    waited in vain, for the ``patience`` or longer, the others that wait for the same are skipped, and say so.
    """
    wanted = tuple(checks)
    loop = asyncio.get_running_loop()
    began = loop.time()
    results: dict[str, Result] = {}
    limit = asyncio.Semaphore(harness.concurrency)
    hanging: list[str] = []

    async def run(check: Check) -> None:
        async with limit:
            result = results[check.id] = await _run_unless(hanging, check, harness)
        if tell is not None:
            tell(result)

    async def together(some: Iterable[Check]) -> None:
        async with asyncio.TaskGroup() as group:
            for check in some:
                group.create_task(run(check), name=f"run {check.id}")

    await together(check for check in wanted if check.id in _BASIC)
    hanging += [id for id in _BASIC if id in results and _waited_in_vain(results[id], harness)]
    await together(check for check in wanted if check.id not in _BASIC and not check.alone)
    for check in wanted:
        if check.alone:
            await run(check)
    return Report(
        harness.title, tuple(results[check.id] for check in wanted), loop.time() - began, _left_behind(wanted)
    )


def _waited_in_vain(result: Result, harness: Harness) -> bool:
    return result.outcome == "failed" and result.seconds >= harness.patience


async def _run_unless(hanging: list[str], check: Check, harness: Harness) -> Result:
    if _LOOKUP in hanging:
        return Result(check, "skipped", f"needs what hangs in {_LOOKUP}")
    if hanging and check.id.startswith(_OF_WATCHES):
        return Result(check, "skipped", _NO_WATCH)
    return await _run(check, harness, _CaseWithoutWatch(check, harness) if hanging else Case(check, harness))


class _CaseWithoutWatch(Case):
    """A case of a registry whose watches hang."""

    def listener(self, client: Registry, name: str | None = None) -> Listener:
        """Skips the check."""
        raise SkipTest(_NO_WATCH)


async def _run(check: Check, harness: Harness, case: Case) -> Result:
    missing = check.requires - harness.offers
    if missing:
        return Result(check, "skipped", f"needs {', '.join(sorted(missing))}, which {harness.title} does not offer")
    loop = asyncio.get_running_loop()
    began = loop.time()
    task = asyncio.create_task(_outcome(case), name=_task_name(check))
    try:
        await asyncio.wait([task], timeout=harness.deadline)
        late = not task.done()
        if late:
            task.cancel()
            await asyncio.wait([task], timeout=_GRACE)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=_GRACE)
        raise
    seconds = loop.time() - began
    if late:
        stuck = "" if task.done() else ", and it did not end when it was cancelled"
        text = case.explain("an end", f"not done after {harness.deadline:g} s{stuck}")
        return Result(check, "failed", text, seconds, TimeoutError(f"not done after {harness.deadline:g} s{stuck}"))
    error = task.result()
    if error is None:
        return Result(check, "passed", "", seconds)
    if isinstance(_first(error), SkipTest):
        return Result(check, "skipped", str(_first(error)), seconds)
    return Result(check, "failed", _explanation(case, error), seconds, error)


def _task_name(check: Check) -> str:
    return f"check {check.id}"


def _left_behind(checks: Iterable[Check]) -> tuple[str, ...]:
    names = {task.get_name() for task in asyncio.all_tasks()}
    return tuple(name for name in map(_task_name, checks) if name in names)


async def _outcome(case: Case) -> BaseException | None:
    """The error of the check, also one that would end the event loop if a task raised it, such as SystemExit."""
    try:
        await _played(case)
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return error
    return None


async def _played(case: Case) -> None:
    try:
        await case.check.function(case)
    except BaseException:
        try:
            await case.close()
        except Exception as error:
            case.log(f"and closing failed: {type(error).__name__}: {error}")
        raise
    await case.close()


def _explanation(case: Case, error: BaseException) -> str:
    cause = _first(error)
    if isinstance(cause, ConformanceError):
        return str(cause)
    return case.explain("no error", f"{type(cause).__name__}: {cause}")


def _first(error: BaseException) -> BaseException:
    """Of several errors at once, the first one that says what was expected, or else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_first(each) for each in cast("BaseExceptionGroup[BaseException]", error).exceptions]
    return next((each for each in causes if isinstance(each, ConformanceError)), causes[0])
