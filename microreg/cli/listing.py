"""Rows for a terminal of any width: what people copy from it, such as ids and addresses, stays in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from microreg.cli.common import table

__all__ = ["Listing"]

_FOLDED = 16
"""Characters that a column gets at least whose cells may be folded."""
_GAP = 2


class Listing:
    """A table; where the terminal is too narrow for it, each row is a block of lines, one for each cell.

    Only cells of the columns ``folds`` are ever folded. Where it is too wide, those of ``spare`` are left out first,
    one after the other. A column without any text is not shown.
    """

    def __init__(self, *columns: str, folds: Sequence[str] = (), spare: Sequence[str] = (), title: str = "") -> None:
        self._columns = columns
        self._folds = folds
        self._spare = spare
        self._title = title
        self._rows: list[tuple[tuple[Text, ...], str]] = []

    def add_row(self, *cells: Text, style: str = "") -> None:
        """Add the cells of all columns."""
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title:
            yield Text(self._title, style="bold")
        needs = {each: self._needs(each) for each in range(len(self._columns)) if self._has_text(each)}
        for name in self._spare:
            if _width(needs) > options.max_width:
                needs = {each: width for each, width in needs.items() if self._columns[each] != name}
        if _width(needs) <= options.max_width:
            yield self._table(list(needs))
        else:
            yield from self._blocks(list(needs))

    def _has_text(self, column: int) -> bool:
        return not self._rows or any(cells[column].plain for cells, _ in self._rows)

    def _needs(self, column: int) -> int:
        """The characters that a table needs at least for this column."""
        name = self._columns[column]
        widest = max([len(name), *(cells[column].cell_len for cells, _ in self._rows)])
        return min(widest, _FOLDED) if name in self._folds else widest

    def _table(self, shown: Sequence[int]) -> Table:
        made = table(*(self._columns[each] for each in shown))
        for column, each in zip(made.columns, shown, strict=True):
            column.no_wrap = self._columns[each] not in self._folds
        for cells, style in self._rows:
            made.add_row(*(cells[each] for each in shown), style=style)
        return made

    def _blocks(self, shown: Sequence[int]) -> Iterator[Text]:
        """Each row as lines of name and cell; what stands in a column without a name is put before the first."""
        named = [each for each in shown if self._columns[each]]
        marks = [each for each in shown if not self._columns[each]]
        room = max(len(self._columns[each]) for each in named) + _GAP
        for cells, style in self._rows:
            lead = "".join(f"{cells[each].plain} " for each in marks)
            for each in named:
                if cells[each].plain:
                    yield Text.assemble((lead + self._columns[each].ljust(room), "bold"), cells[each], style=style)
                    lead = " " * len(lead)
            yield Text()


def _width(needs: Mapping[int, int]) -> int:
    return sum(needs.values()) + _GAP * (len(needs) - 1)
