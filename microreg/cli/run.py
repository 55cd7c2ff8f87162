"""``microreg run --name NAME --port PORT -- COMMAND…``: announce any program for as long as it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from microreg.cli.announcing import CheckOption, IdOption, MetaOption, TtlOption, VersionOption, announcement_of
from microreg.cli.child import CannotStart, Child
from microreg.cli.common import RegistryOption, configured, duration, option
from microreg.cli.errors import report, write_error
from microreg.cli.loop import Stop, execute
from microreg.cli.supervise import Doorbell, Supervisor
from microreg.errors import RegistryError, Unsupported
from microreg.registry import Registry

__all__ = ["run"]

_KILL_AFTER = 10.0

_Command = Annotated[
    list[str],
    typer.Argument(metavar="COMMAND", help="The program and its arguments, after --.", show_default=False),
]
_Name = Annotated[str, option("--name", None, "Name of the service.")]
_Port = Annotated[
    int,
    typer.Option(
        "--port", min=1, max=65535, help="Port the program listens on; it is told in $PORT, unless that is set."
    ),
]
_Address = Annotated[
    str | None,
    option(
        "--address",
        "HOST[:PORT]",
        "Where others reach it; not given: $MICROREG_ADVERTISE, else found out. A port here is announced in place "
        "of --port.",
    ),
]
_KillAfter = Annotated[
    str | None,
    option(
        "--kill-after",
        "DURATION",
        f"SIGKILL for a program that ignores the signal to stop, this long after it; not given: {_KILL_AFTER:g}s.",
    ),
]


def run(
    command: _Command,
    name: _Name,
    port: _Port,
    address: _Address = None,
    check: CheckOption = None,
    ttl: TtlOption = None,
    version: VersionOption = "",
    id: IdOption = None,
    meta: MetaOption = None,
    registry: RegistryOption = None,
    kill_after: _KillAfter = None,
) -> int:
    """Run a program in any language and announce it, from when its port answers until it is to stop.

    With --check, from when that passes. SIGTERM, SIGINT (Ctrl-C) and SIGQUIT reach the program last: first the
    node is drained and deregistered, then the program and what it started get the signal, and --kill-after later
    SIGKILL. A second signal is passed on at once, SIGHUP, SIGUSR1 and SIGUSR2 always are, to the program alone.
    When the program ends by itself it is deregistered at once, and what it left running is ended. While the
    registry is away the program runs on.

    The exit code is the program's, 128 + n where signal n ended it, 127 where it was not found, 126 where it
    cannot be run. It has stdin, stdout and stderr to itself but for a few lines on stderr, and runs in a session
    of its own: it can use the terminal, but there is no /dev/tty. On Linux it is killed when microreg is killed,
    but not what it started.
    """

    async def main(stop: Stop) -> int:
        if os.name != "posix":
            raise Unsupported("microreg run needs the signals and sessions of Unix, which this system has not")
        patience = duration("--kill-after", kill_after)
        opened = configured(registry)
        described = partial(announcement_of, version=version, node_id=id, meta=meta, ttl=ttl, check=check)
        # No delay: the supervisor waits for watchers, and only where the program still answers.
        node = described(opened, name, port, address, drain_delay=0.0)
        try:
            door = Doorbell(port, node.node.address, check)
            supervisor = Supervisor(node, door, stop.last_resort)
            return await _run(opened, supervisor, door, command, _KILL_AFTER if patience is None else patience)
        finally:
            await node.drain()

    return execute(main, writes=False)


async def _run(
    registry: Registry, supervisor: Supervisor, door: Doorbell, command: Sequence[str], kill_after: float
) -> int:
    """The exit code of the command. What goes wrong when the registry closes does not change it."""
    await registry.open()
    try:
        with supervisor.signals():
            child = await Child.start(command, _environment(door.port), kill_after)
            return await supervisor.watch_over(child)
    except CannotStart as error:
        write_error(f"microreg: {error}")
        return error.code
    finally:
        try:
            await registry.close()
        except RegistryError as error:
            report(error, as_json=False)


def _environment(port: int) -> dict[str, str]:
    return {"PORT": str(port), **os.environ}
