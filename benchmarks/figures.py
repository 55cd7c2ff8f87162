"""What a benchmark found: figures beside their floors, as a table and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_SCALE = {"s": (1e6, "µs"), "ms": (1, "ms"), "B": (1, "B"), "%": (1, "%"), "/min": (1, "/min")}


@dataclass(frozen=True)
class Aim:
    """The most that a figure, or its ratio to the floor where ``ratio`` is set, should be; and how people say that."""

    most: float
    text: str
    ratio: bool = False


def rate(per_second: int) -> Aim:
    """At least so many operations in a second."""
    return Aim(1 / per_second, f"≥ {per_second:,}/s")


@dataclass(frozen=True)
class Figure:
    """One measurement. ``unit`` is ``s``, ``ms`` or ``B``, for one operation or one node, ``%`` of a core, or ``/min``.

    Less is better. ``floor`` is the same unit for the smallest thing that does the same work without microreg.
    """

    what: str
    unit: str
    ours: float
    floor: float
    floor_is: str
    aim: Aim | None = None

    @property
    def ratio(self) -> float:
        """How many times the floor."""
        return self.ours / self.floor if self.floor else float("inf")

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none."""
        return None if self.aim is None else (self.ratio if self.aim.ratio else self.ours) <= self.aim.most

    def verdict(self) -> str:
        """The aim, and whether it is met."""
        return "" if self.aim is None else f"{self.aim.text}: {'met' if self.met else 'not met'}"

    def row(self) -> list[str]:
        """The cells of a table."""
        return [self.what, self._amount(self.ours), self._amount(self.floor), f"{self.ratio:.2f}", self.floor_is] + [
            self.verdict()
        ]

    def document(self) -> dict[str, object]:
        """The figure as JSON."""
        return {**asdict(self), "aim": self.aim and self.aim.text, "ratio": self.ratio, "met": self.met}

    def _amount(self, value: float) -> str:
        factor, unit = _SCALE[self.unit]
        return f"{value * factor:.3g} {unit}" if value * factor < 100 else f"{value * factor:,.0f} {unit}"


def table(figures: Iterable[Figure]) -> str:
    """The figures for people: numbers to the right."""
    head = ["", "microreg", "floor", "times", "the floor is", "aim"]
    rows = [head, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if 0 < column < 4 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def write(path: Path, theme: str, figures: Iterable[Figure]) -> None:
    """The figures for machines."""
    document = {
        "theme": theme,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "figures": [figure.document() for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
