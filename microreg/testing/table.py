"""The sentences and their checks as a Markdown table; ``python -m microreg.testing`` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from microreg.testing.check import Check
from microreg.testing.checks import CHECKS

__all__ = ["table"]


def table(checks: Iterable[Check] = CHECKS, killed: Mapping[str, Sequence[str]] | None = None) -> str:
    """One row per check: its id, the sentence it proves, and what a registry or harness needs for it.

    ``killed`` adds a column: by the id of a check, the names of the registries with one bug that die by it.
    """
    columns = ["check", "sentence", "needs", *(["finds"] if killed is not None else [])]
    rows = [columns, ["---"] * len(columns)]
    for check in checks:
        needs = ", ".join(f"`{each}`" for each in sorted(check.requires))
        finds = [", ".join(f"`{name}`" for name in killed.get(check.id, ()))] if killed is not None else []
        rows.append([f"`{check.id}`", check.sentence.replace("|", "\\|"), needs, *finds])
    return "".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in row) + "|\n" for row in rows)
