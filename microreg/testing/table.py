"""The sentences and their checks as a Markdown table; ``python -m microreg.testing`` prints it."""

from __future__ import annotations

from collections.abc import Iterable

from microreg.testing.check import Check
from microreg.testing.checks import CHECKS

__all__ = ["table"]


def table(checks: Iterable[Check] = CHECKS) -> str:
    """One row per check: its id, the sentence it proves, and what a registry or harness needs for it."""
    rows = ["| check | sentence | needs |", "|---|---|---|"]
    for check in checks:
        needs = ", ".join(f"`{each}`" for each in sorted(check.requires))
        rows.append(f"| `{check.id}` | {check.sentence.replace('|', chr(92) + '|')} | {needs} |")
    return "\n".join(rows) + "\n"
