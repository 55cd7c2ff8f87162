"""The checks as a test class that pytest and unittest both collect: a stranger's whole test module is one line."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from microreg.testing.check import Check
from microreg.testing.checks import CHECKS
from microreg.testing.harness import Harness
from microreg.testing.report import Report
from microreg.testing.runner import verify

__all__ = ["contract"]


def contract(
    harness: Harness,
    checks: Iterable[Check] = CHECKS,
    *,
    run: Callable[[Coroutine[object, object, Report]], Report] = asyncio.run,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> type[unittest.TestCase]:
    """A test class with one test per check; assign it to a name that begins with ``Test``.

    All checks run at once before the first test, so that the whole takes as long as the slowest; each test
    then tells how its check ended: passed, failed with an explanation, or skipped because the registry or
    the harness lacks something. ``run`` runs the coroutine that runs the checks; a store in this process may
    be checked in virtual time (:func:`microreg.testing.virtual.run`).

    ``around`` gives a context manager that is entered before the checks and left after the last test: servers
    that have to run meanwhile (:func:`microreg.testing.running`). ``unittest.SkipTest`` raised by it, or by
    entering it, skips every test, visibly.
    """
    wanted = tuple(checks)

    class Contract(unittest.TestCase):
        report: ClassVar[Report]

        @classmethod
        def setUpClass(cls) -> None:
            cls.enterClassContext(around())
            cls.report = run(verify(harness, wanted))

    for each in wanted:
        method = _test(each)
        setattr(Contract, method.__name__, method)
    Contract.__doc__ = f"The contract of a registry, kept by {harness.title}."
    return Contract


def _test(check: Check) -> Callable[[unittest.TestCase], None]:
    def test(self: unittest.TestCase) -> None:
        report: Report = vars(type(self))["report"]
        report.require(check)

    test.__name__ = "test_" + check.id.replace(".", "_").replace("-", "_")
    test.__doc__ = check.sentence
    return test
