"""``microreg list``: the services that are registered."""

from __future__ import annotations

import asyncio

from microreg.cli.common import (
    JsonOption,
    RegistryOption,
    TimeoutOption,
    configured,
    is_terminal,
    print_lines,
    print_table,
)
from microreg.cli.errors import OK
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import join, safe, services_json
from microreg.errors import ServiceNotFound
from microreg.model import Service
from microreg.registry import Registry

__all__ = ["list_services"]

_AT_ONCE = 16


def list_services(registry: RegistryOption = None, json: JsonOption = False, timeout: TimeoutOption = None) -> int:
    """List the services that are registered: name, versions, number of nodes.

    In a pipe: one line for each name, separated by tabs. With --json: an array of services, one for each
    name and version, with their nodes. An empty registry is an empty list and no error.
    """

    async def main(_: Stop) -> int:
        async with configured(registry, timeout) as opened:
            services = await _everything(opened)
        if json:
            await write(services_json(services))
        else:
            _show(services, str(opened.url))
        return OK

    return execute(main, as_json=json)


async def _everything(registry: Registry) -> list[Service]:
    """Every service of every name; a name whose last node left meanwhile is passed over."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> tuple[Service, ...]:
        async with limit:
            try:
                return await registry.get_service(name)
            except ServiceNotFound:
                return ()

    names = await registry.list_services()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in names]
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return [service for task in tasks for service in task.result()]


def _show(services: list[Service], registry: str) -> None:
    by_name: dict[str, list[Service]] = {}
    for service in services:
        by_name.setdefault(service.name, []).append(service)
    lines = [
        (
            safe(name),
            safe(join(each.version for each in found if each.version)),
            str(sum(len(each.nodes) for each in found)),
        )
        for name, found in by_name.items()
    ]
    if not is_terminal():
        print_lines(lines)
    elif not lines:
        print(f"no service is registered in {safe(registry)}")
    else:
        from rich.text import Text

        from microreg.cli.listing import Listing

        made = Listing("name", "versions", "nodes", folds=("versions",))
        for line in lines:
            made.add_row(*map(Text, line))
        print_table(made)
