"""``microreg get NAME``: the nodes of one service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from microreg.cli.common import (
    JsonOption,
    RegistryOption,
    TimeoutOption,
    configured,
    is_terminal,
    print_lines,
    print_table,
    registered_names,
)
from microreg.cli.errors import OK
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import STATUS_STYLE, NodeRow, pairs, rows, safe, services_json, similar
from microreg.errors import ServiceNotFound
from microreg.model import Service
from microreg.registry import Registry

if TYPE_CHECKING:
    from rich.text import Text

    from microreg.cli.listing import Listing

__all__ = ["get_service"]


def get_service(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the service, exactly as registered.")],
    registry: RegistryOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Show the nodes of one service: version, id, address, status, metadata, endpoints.

    In a pipe: one line for each node with these columns, separated by tabs. With --json: an array of
    services, one for each version. Exit code 1 where no node of that name is registered; names that look alike
    are told on stderr.
    """

    async def main(_: Stop) -> int:
        async with configured(registry, timeout) as opened:
            services = await _found(opened, name)
        if json:
            await write(services_json(services))
        elif is_terminal():
            print_table(_table(services))
            _print_metadata(services)
        else:
            print_lines([safe(cell) for cell in row] for row in rows(services))
        return OK

    return execute(main, as_json=json)


async def _found(registry: Registry, name: str) -> tuple[Service, ...]:
    """The service. Raises ServiceNotFound with a note of names that look alike."""
    try:
        return await registry.get_service(name)
    except ServiceNotFound as error:
        if alike := similar(name, await registered_names(registry) or ()):
            error.add_note(f"did you mean {' or '.join(alike)}?")
        raise


def _table(services: tuple[Service, ...]) -> Listing:
    from microreg.cli.listing import Listing

    columns = "version", "id", "address", "status", "metadata", "endpoints"
    made = Listing(*columns, folds=("metadata", "endpoints"), title=safe(services[0].name))
    for row in rows(services):
        made.add_row(*_cells(row))
    return made


def _cells(row: NodeRow) -> list[Text]:
    from rich.text import Text

    cells = [Text(safe(cell)) for cell in row]
    cells[3].stylize(STATUS_STYLE.get(row[3], ""))
    return cells


def _print_metadata(services: tuple[Service, ...]) -> None:
    for service in services:
        if service.metadata:
            version = f" {service.version}" if service.version else ""
            print(safe(f"metadata of {service.name}{version}: {pairs(service.metadata)}"))
