"""What came out: one Result per check, a Report of them all; as text, as JSON, or as an exception."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from unittest import SkipTest

from microreg.testing.check import Check, ConformanceError

__all__ = ["Report", "Result"]

_MARKS = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}


@dataclass(frozen=True, slots=True)
class Result:
    """How one check ended. ``explanation`` says why it failed or was skipped; ``seconds`` it took."""

    check: Check
    outcome: Literal["passed", "failed", "skipped"]
    explanation: str = ""
    seconds: float = 0.0
    error: BaseException | None = None

    def require(self) -> None:
        """Return if the check passed.

        Raises ConformanceError if it failed, ``unittest.SkipTest`` (which pytest knows too) if it was skipped.
        """
        if self.outcome == "failed":
            if isinstance(self.error, ConformanceError):
                raise self.error
            raise ConformanceError(self.explanation) from self.error
        if self.outcome == "skipped":
            raise SkipTest(self.explanation)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of :func:`microreg.testing.verify`, in the order of the checks.

    ``left_behind`` names the tasks of checks that had to be abandoned, because they do not end when cancelled.
    """

    title: str
    results: tuple[Result, ...]
    seconds: float
    left_behind: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something passed and nothing failed."""
        outcomes = {result.outcome for result in self.results}
        return "passed" in outcomes and "failed" not in outcomes

    def of(self, check: Check | str) -> Result:
        """The result of one check. Raises LookupError when it was not run."""
        for result in self.results:
            if result.check.id == str(check):
                return result
        raise LookupError(f"check {check} was not run; the checks are {', '.join(map(str, self._ids()))}")

    def require(self, check: Check | str) -> None:
        """See :meth:`Result.require`."""
        self.of(check).require()

    def text(self, *, verbose: bool = True) -> str:
        """One line per check, then what failed and why, then a summary."""
        lines = [f"{self.title}"]
        width = max((len(id) for id in self._ids()), default=0)
        for result in self.results:
            what = result.explanation if result.outcome == "skipped" else result.check.sentence
            lines.append(f"{_MARKS[result.outcome]}  {result.check.id:{width}}  {result.seconds:5.2f} s  {what}")
        if verbose:
            lines += [f"\n{result.explanation}" for result in self.results if result.outcome == "failed"]
        if self.left_behind:
            lines.append(f"\nstill running, and left behind: {', '.join(self.left_behind)}")
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """How many passed, failed and were skipped, and how long it took."""
        count = Counter(result.outcome for result in self.results)
        parts = [f"{count[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped") if count[outcome]]
        return f"{', '.join(parts) or 'nothing was run'} in {self.seconds:.1f} s"

    def to_dict(self) -> dict[str, object]:
        """The report as values that JSON has."""
        return {
            "registry": self.title,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "left_behind": list(self.left_behind),
            "checks": [
                {
                    "id": result.check.id,
                    "sentence": result.check.sentence,
                    "requires": sorted(result.check.requires),
                    "outcome": result.outcome,
                    "explanation": result.explanation,
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
        }

    def json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def _ids(self) -> Iterable[str]:
        return [result.check.id for result in self.results]
