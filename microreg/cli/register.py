"""``microreg register NAME``: announce a service for as long as the command runs."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from microreg.address import address_problem
from microreg.announce.announcement import Announcement, Transition
from microreg.cli.announcing import (
    CheckOption,
    IdOption,
    MetaOption,
    TtlOption,
    VersionOption,
    announcement_of,
    told,
)
from microreg.cli.common import JsonOption, RegistryOption, configured, duration, option
from microreg.cli.errors import OK, exit_code, redacted, report
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import json_line, node_json
from microreg.errors import ConfigError

__all__ = ["register"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the service.")]
_Port = Annotated[int | None, option("--port", None, "Port the service listens on.")]
_Address = Annotated[
    str | None,
    option(
        "--address",
        "HOST[:PORT]",
        "Where others reach it; not given: $MICROREG_ADVERTISE, else found out. A port here replaces --port.",
    ),
]
_Timeout = Annotated[
    str | None,
    option(
        "--timeout", "DURATION", "End with exit code 3 where the node is not live by then; not given: try for ever."
    ),
]


def register(
    name: _Name,
    port: _Port = None,
    address: _Address = None,
    version: VersionOption = "",
    id: IdOption = None,
    meta: MetaOption = None,
    ttl: TtlOption = None,
    check: CheckOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
    timeout: _Timeout = None,
) -> int:
    """Announce a service until SIGINT (Ctrl-C) or SIGTERM, then drain: draining, deregistered, gone.

    Prints each change of state: registering, live, lost, draining, gone. With --json: one object a line.
    """

    async def main(stop: Stop) -> int:
        seconds = duration("--timeout", timeout)
        async with configured(registry) as opened:
            _check_place(port, address)
            announcement = announcement_of(
                opened, name, port, address, version=version, node_id=id, meta=meta, ttl=ttl, check=check
            )
            return await _run(announcement, stop, seconds, as_json=json)

    return execute(main, as_json=json)


def _check_place(port: int | None, address: str | None) -> None:
    if port is None and address is None:
        raise ConfigError("register needs --port, the port the service listens on (or --address HOST:PORT)")
    problem = "" if address is None else address_problem(address)
    if port is None and problem:
        raise ConfigError(f"--address: {problem}; give HOST:PORT, or --port beside it")


async def _run(announcement: Announcement, stop: Stop, timeout: float | None, *, as_json: bool) -> int:
    """Announce until asked to stop. Whatever ends it, the node is withdrawn and every transition printed."""
    stop.graceful = True
    reporter: asyncio.Task[None] | None = None
    try:
        async with announcement:
            reporter = asyncio.create_task(_report(announcement, as_json=as_json), name="microreg register output")
            if timeout is not None:
                await _live_or_asked(announcement, stop, timeout)
            await stop.asked.wait()
    finally:
        if reporter is not None:
            await asyncio.wait([reporter], timeout=1.0)
            reporter.cancel()
            await asyncio.wait([reporter])
    if announcement.error is None:
        return OK
    report(announcement.error, as_json=as_json)
    return exit_code(announcement.error)


async def _live_or_asked(announcement: Announcement, stop: Stop, timeout: float) -> None:
    asked = asyncio.create_task(stop.asked.wait())
    live = asyncio.create_task(announcement.wait_live(timeout))
    try:
        await asyncio.wait([asked, live], return_when=asyncio.FIRST_COMPLETED)
        if live.done():
            await live
    finally:
        asked.cancel()
        live.cancel()
        await asyncio.wait([asked, live])


async def _report(announcement: Announcement, *, as_json: bool) -> None:
    """Print every transition, until it is gone."""
    last: Transition | None = None
    try:
        while news := await announcement.changed(last):
            for last in news:
                await write(_line(announcement, last, as_json=as_json))
    except BrokenPipeError:
        return


def _line(announcement: Announcement, transition: Transition, *, as_json: bool) -> str:
    if not as_json:
        state, rest = told(announcement, transition)
        return f"{time.strftime('%H:%M:%S')} {state:<11} {rest}"
    record, error = announcement.service, transition.error
    record = record.with_nodes(record.nodes[0].replace(status=transition.status))
    problem = None if error is None else {"code": error.code, "message": redacted(str(error))}
    return json_line(event="state", state=str(transition.state), service=record, node=node_json(record), error=problem)
