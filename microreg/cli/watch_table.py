"""The live table of ``microreg watch`` on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from microreg.cli.listing import Listing
from microreg.cli.text import STATUS_STYLE, safe
from microreg.events import Action, Event, Snapshot
from microreg.model import Service
from microreg.watch import Watch

__all__ = ["NodeTable", "TableView", "age"]

_KEPT = 15.0
"""Seconds for which a node that is gone stays in the table."""


@dataclass(slots=True)
class _Row:
    record: Service
    since: float
    event: str
    event_at: float
    gone: bool = False


def age(seconds: float) -> str:
    """A duration in its largest unit: ``12s``, ``3m``, ``2h``, ``5d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


class NodeTable:
    """Every node, of all services or of the one of this name, with its status, age and last event.

    Pure: give it a clock, take what rich can print.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, name: str | None = None) -> None:
        self._clock = clock
        self._spare = ("age", "version") if name is None else ("service", "age", "version")
        self._rows: dict[tuple[str, str], _Row] = {}
        self.events = 0

    def apply(self, event: Event) -> None:
        """Take in one event."""
        now = self._clock()
        if isinstance(event, Snapshot):
            self._rows = {
                (record.name, record.nodes[0].id): _Row(record, now, "there already", now) for record in event.records
            }
            return
        self.events += 1
        key = event.service.name, event.node.id
        row = self._rows.get(key)
        if event.action is Action.DELETE:
            since = row.since if row else now
            self._rows[key] = _Row(event.service, since, str(event.reason or "gone"), now, gone=True)
        elif row is None or row.gone:
            self._rows[key] = _Row(event.service, now, "came", now)
        else:
            row.record, row.event, row.event_at = event.service, "changed", now

    def render(self) -> Listing:
        """The nodes as they are now; nodes that went a while ago are left out, and forgotten."""
        now = self._clock()
        self._rows = {key: row for key, row in self._rows.items() if not row.gone or now - row.event_at < _KEPT}
        columns = "service", "version", "id", "address", "status", "age", "last event"
        made = Listing(*columns, folds=("last event",), spare=self._spare)
        for _, row in sorted(self._rows.items()):
            made.add_row(*_cells(row, now), style="dim" if row.gone else "")
        return made


def _cells(row: _Row, now: float) -> list[Text]:
    record, node = row.record, row.record.nodes[0]
    status = Text("gone", style="red") if row.gone else Text(str(node.status), style=STATUS_STYLE[node.status])
    return [
        Text(safe(record.name)),
        Text(safe(record.version)),
        Text(safe(node.id)),
        Text(safe(node.address)),
        status,
        Text(age(now - row.since)),
        Text(f"{row.event} {age(now - row.event_at)} ago"),
    ]


class TableView:
    """Shows a :class:`NodeTable` on the terminal, with the state of the watch above it."""

    def __init__(self, url: str, name: str | None, console: Console | None = None) -> None:
        self._title = f"{name or 'all services'} at {url}"
        self._nodes = NodeTable(name=name)
        self._header = Text(self._title)
        # refreshed by tick() in the event loop: rich's own refresh would be a thread
        self._live = Live(console=console or Console(highlight=False, emoji=False), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    async def show(self, event: Event) -> None:
        """Take in one event; the next tick shows it."""
        self._nodes.apply(event)

    def tick(self, watch: Watch) -> None:
        """Draw everything anew."""
        state = Text(watch.state, style="green" if watch.state == "live" else "yellow")
        self._header = Text.assemble((self._title, "bold"), " · ", state, f" · {self._nodes.events} events")
        if watch.state != "live" and watch.error is not None:
            self._header.append(f" · {safe(str(watch.error))}", style="red")
        self._live.update(Group(self._header, self._nodes.render()), refresh=True)
