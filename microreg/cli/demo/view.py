"""How the demo is shown: a live table on a terminal, plain lines in a pipe, JSON lines for programs."""

from __future__ import annotations

import sys
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from microreg.cli.demo.journal import Journal, Line, Story
from microreg.cli.text import STATUS_STYLE, json_line, safe

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

__all__ = ["JsonView", "LinesView", "TableView", "View"]

_KIND_STYLE = {
    "step": "bold",
    "heard": "green",
    "killed": "red",
    "failed": "bold red",
    "retry": "yellow",
    "asked": "magenta",
}


class View(Protocol):
    """What shows the demo while it runs; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def line(self, line: Line) -> None:
        """Something happened."""

    def tick(self, journal: Journal) -> None:
        """A while has passed."""


class _Plain:
    """A view that writes each line when it comes and shows nothing else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()

    def tick(self, journal: Journal) -> None:
        """Nothing moves in a pipe."""

    def line(self, line: Line) -> None:
        """Print the line at once. Nobody reads it any more: say nothing, the command is being stopped."""
        try:
            print(self._text(line), flush=True)
        except BrokenPipeError:
            return

    def _text(self, line: Line) -> str:
        return _plain(line)


class LinesView(_Plain):
    """Plain lines: seconds, what, which node, in words."""


class JsonView(_Plain):
    """One JSON object for each line."""

    def _text(self, line: Line) -> str:
        return json_line(event=line.kind, at=round(line.at, 4), node=line.node or None, text=line.text)


class TableView:
    """A table of the nodes above the last events, drawn anew with each tick."""

    _LINES = 12

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lines: deque[Line] = deque(maxlen=self._LINES)
        # refreshed by tick() in the event loop: rich's own refresh would be a thread
        self._live = Live(console=Console(highlight=False, emoji=False), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def line(self, line: Line) -> None:
        """Keep the line for the next tick."""
        self._lines.append(line)

    def tick(self, journal: Journal) -> None:
        """Draw everything anew."""
        self._live.update(self._render(journal), refresh=True)

    def _render(self, journal: Journal) -> Group:
        from rich.console import Group
        from rich.text import Text

        counts = f"calls {journal.calls} · failed {len(journal.failed_calls)} · retries {journal.retries}"
        lines = [Text(_plain(line), style=_KIND_STYLE.get(line.kind, "")) for line in self._lines]
        return Group(Text(f"microreg demo · {journal.now:.1f} s · {counts}", style="bold"), _nodes(journal), *lines)


def _plain(line: Line) -> str:
    if line.kind == "step":
        return f"{line.at:6.2f} s  --- {line.text}"
    return safe(f"{line.at:6.2f} s  {line.kind:<8} {line.node:<6} {line.text}")


def _nodes(journal: Journal) -> Table:
    from rich.text import Text

    from microreg.cli.common import table

    made = table("node", "pid", "address", "state", "calls", "retried")
    for node, story in journal.stories.items():
        made.add_row(
            Text(safe(node)),
            str(story.pid or ""),
            Text(safe(story.address)),
            _state(story),
            str(story.answered),
            str(story.errors),
        )
    return made


def _state(story: Story) -> Text:
    from rich.text import Text

    if story.heard_gone is not None:
        return Text(f"gone: {story.reason}", style="dim")
    if story.heard is None:
        return Text("starts", style="cyan")
    if story.killed is not None:
        return Text("killed, not yet noticed", style="red")
    return Text(story.status, style=STATUS_STYLE.get(story.status, ""))
