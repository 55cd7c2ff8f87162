"""Runs checks: one, or all of them, as many at once as the harness allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from microreg.testing.case import Case
from microreg.testing.check import Check, ConformanceError
from microreg.testing.checks import CHECKS
from microreg.testing.harness import Harness
from microreg.testing.report import Report, Result

__all__ = ["run_check", "verify"]


async def run_check(check: Check, harness: Harness) -> Result:
    """Run one check, in at most the harness's deadline. Raises nothing that the registry does wrong."""
    missing = check.requires - harness.offers
    if missing:
        return Result(check, "skipped", f"needs {', '.join(sorted(missing))}, which {harness.title} does not offer")
    loop = asyncio.get_running_loop()
    began = loop.time()
    case = Case(check, harness)
    limit = asyncio.timeout(harness.deadline)
    try:
        async with limit:
            await _played(case)
    except Exception as error:
        if limit.expired():
            text = case.explain("an end", f"not done after {harness.deadline:g} s")
        else:
            text = _explanation(case, error)
        return Result(check, "failed", text, loop.time() - began, error)
    return Result(check, "passed", "", loop.time() - began)


async def verify(harness: Harness, checks: Iterable[Check] = CHECKS) -> Report:
    """Run all checks and print nothing. Those that count tasks or break the store run alone, at the end."""
    wanted = tuple(checks)
    loop = asyncio.get_running_loop()
    began = loop.time()
    results: dict[str, Result] = {}
    limit = asyncio.Semaphore(harness.concurrency)

    async def run(check: Check) -> None:
        async with limit:
            results[check.id] = await run_check(check, harness)

    async with asyncio.TaskGroup() as group:
        for check in wanted:
            if not check.alone:
                group.create_task(run(check), name=f"check {check.id}")
    for check in wanted:
        if check.alone:
            await run(check)
    return Report(harness.title, tuple(results[check.id] for check in wanted), loop.time() - began)


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


def _explanation(case: Case, error: Exception) -> str:
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
