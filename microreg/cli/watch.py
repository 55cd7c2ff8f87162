"""``microreg watch [NAME]``: follow what is registered, as a live table or as JSON lines."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Protocol

import typer

from microreg.cli.common import JsonOption, RegistryOption, configured, duration, is_terminal, option
from microreg.cli.errors import OK, report
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import json_line, node_json, services_json
from microreg.errors import RegistryError, RegistryTimeout
from microreg.events import Event, Snapshot
from microreg.watch import Watch

__all__ = ["event_line", "watch"]

_TICK = 0.25
"""Seconds between two looks at the state of the watch; also how often the table's ages move on."""

_Name = Annotated[str | None, typer.Argument(metavar="NAME", help="Follow only this service.", show_default=False)]
_Timeout = Annotated[
    str | None,
    option(
        "--timeout",
        "DURATION",
        "End with exit code 3 where the registry has not answered by then; not given: wait as long as it takes.",
    ),
]


class _View(Protocol):
    """What shows the events."""

    async def show(self, event: Event) -> None: ...

    def tick(self, watch: Watch) -> None: ...


def watch(
    name: _Name = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    timeout: _Timeout = None,
) -> int:
    """Follow one service, or all of them: nodes that come, change and go.

    On a terminal: a live table; Ctrl-C ends it. In a pipe, or with --json: one JSON object a line, first
    {"event":"snapshot","services":[…]}, then {"event":"create"|"update"|"delete","service":…,"node":…,"reason":…}.
    A registry that goes away is waited for, and what has changed meanwhile is told.
    """

    async def main(_: Stop) -> int:
        seconds = duration("--timeout", timeout)
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(configured(registry))
            view: _View
            if is_terminal() and not json:
                from microreg.cli.watch_table import TableView

                view = stack.enter_context(TableView(str(opened.url), name))
            else:
                view = LinesView(as_json=json)
            await _follow(await stack.enter_async_context(opened.watch(name)), view, seconds)
        return OK

    return execute(main, as_json=json)


async def _follow(watch: Watch, view: _View, timeout: float | None) -> None:
    async def tick() -> None:
        while True:
            view.tick(watch)
            await asyncio.sleep(_TICK)

    ticker = asyncio.create_task(tick(), name="microreg watch view")
    try:
        try:
            async with asyncio.timeout(timeout):
                first = await anext(watch)
        except TimeoutError:
            raise watch.error or RegistryTimeout(f"the registry did not answer within {timeout:g} s") from None
        await view.show(first)
        async for event in watch:
            await view.show(event)
    finally:
        ticker.cancel()
        await asyncio.wait([ticker])


class LinesView:
    """One JSON line for each event on stdout; on stderr what keeps the registry from answering."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._told: RegistryError | None = None

    async def show(self, event: Event) -> None:
        """Print the event at once."""
        await write(event_line(event))

    def tick(self, watch: Watch) -> None:
        """Report a new error of the watch, once for as long as its text stays the same."""
        if watch.state == "live":
            self._told = None
        elif watch.error is not None and str(watch.error) != str(self._told or ""):
            self._told = watch.error
            report(watch.error, as_json=self._as_json)


def event_line(event: Event) -> str:
    """An event as one line of JSON."""
    if isinstance(event, Snapshot):
        return f'{{"event":"snapshot","services":{services_json(event.services)}}}'
    return json_line(
        event=str(event.action),
        service=event.service,
        node=node_json(event.service),
        reason=None if event.reason is None else str(event.reason),
    )
