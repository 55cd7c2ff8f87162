"""``microreg register NAME``: announce a service for as long as the command runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from microreg.address import address_problem
from microreg.announce import announce
from microreg.announce.announcement import Announcement, State, Transition
from microreg.cli.common import JsonOption, RegistryOption, configured, duration, option
from microreg.cli.errors import OK, exit_code, redacted, report
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import json_line, node_json, safe
from microreg.errors import ConfigError
from microreg.model import Status
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL

__all__ = ["register"]

_LOOK = 0.05
"""Seconds between two looks at the announcement's history."""


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
_Version = Annotated[str, option("--version", None, "Version of the service.")]
_Id = Annotated[str | None, option("--id", None, "Id of this node; not given: a random one.")]
_Meta = Annotated[list[str] | None, option("--meta", "KEY=VALUE", "Metadata of this node; may be repeated.")]
_Ttl = Annotated[
    str | None,
    option("--ttl", "DURATION", f"How long the record outlives this process, 1s to 1d; not given: {DEFAULT_TTL:g}s."),
]
_Check = Annotated[
    str | None,
    option("--check", "URL", "http://host:port/path or tcp://host:port; the node is critical while it fails."),
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
    version: _Version = "",
    id: _Id = None,
    meta: _Meta = None,
    ttl: _Ttl = None,
    check: _Check = None,
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
            announcement = _announcement(opened, name, port, address, version, id, meta or (), ttl, check)
            return await _run(announcement, stop, seconds, as_json=json)

    return execute(main)


def _announcement(
    registry: Registry,
    name: str,
    port: int | None,
    address: str | None,
    version: str,
    node_id: str | None,
    meta: Sequence[str],
    ttl: str | None,
    check: str | None,
) -> Announcement:
    seconds = duration("--ttl", ttl)
    problem = "" if address is None else address_problem(address)
    if port is None and address is None:
        raise ConfigError("register needs --port, the port the service listens on (or --address HOST:PORT)")
    if port is None and problem:
        raise ConfigError(f"--address: {problem}; give HOST:PORT, or --port beside it")
    if address is not None and not problem:
        port = None
    return announce(
        registry,
        name,
        port=port,
        address=address,
        version=version,
        metadata=_metadata(meta),
        id=node_id,
        ttl=DEFAULT_TTL if seconds is None else seconds,
        check=check,
    )


def _metadata(items: Sequence[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--meta: expected KEY=VALUE, got {item[:60]!r}")
        if key in metadata:
            raise ConfigError(f"--meta: {key!r} is given twice")
        metadata[key] = value
    return metadata


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
    """Print every transition, and every change of the node's status between two."""
    told: Transition | None = None
    status = announcement.node.status
    try:
        while told is None or told.state is not State.GONE:
            news = list(announcement.history)
            if told in news:
                news = news[news.index(told) + 1 :]
            if not news and told is not None and announcement.node.status is not status:
                news = [told]
            status = announcement.node.status
            for told in news:
                await write(_line(announcement, told, as_json=as_json))
            await asyncio.sleep(_LOOK)
    except BrokenPipeError:
        return


def _line(announcement: Announcement, transition: Transition, *, as_json: bool) -> str:
    error = transition.error
    record, node = announcement.service, announcement.node
    if as_json:
        told = None if error is None else {"code": error.code, "message": redacted(str(error))}
        return json_line(event="state", state=str(transition.state), service=record, node=node_json(record), error=told)
    status = f" ({node.status})" if transition.state is State.LIVE and node.status is not Status.PASSING else ""
    state = f"{transition.state}{status}"
    where = f"{record.name} {node.id} at {node.address} in {announcement.registry.url}"
    return safe(f"{time.strftime('%H:%M:%S')} {state:<11} {where}" + (f": {redacted(str(error))}" if error else ""))
