"""A program on a host of a test's network: watches one name, and does what its input tells it, a JSON object a line.

    python mdns_host.py mdns:// greeter [log]

It prints a line for every event of the watch, with all nodes known after it, and one for every command done:
``announce`` (an id, with port, ttl, address), ``where`` and ``leave`` (an id), ``get`` (a name), ``connect`` (an
address) and ``listen`` (a port).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import AsyncExitStack
from typing import Any

from microreg import Registry, ServiceNotFound, announce, connect
from microreg.address import split_address
from microreg.announce.announcement import Announcement
from microreg.catalog import Catalog
from microreg.events import Change, Snapshot

Running = dict[str, Announcement]


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event} | fields) + "\n")
    sys.stdout.flush()


class Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say("log", level=record.levelname, text=record.getMessage())


async def watch(registry: Registry, name: str) -> None:
    catalog = Catalog()
    async with registry.watch(name) as events:
        async for event in events:
            catalog.apply(event)
            nodes = {node.id: node.address for service in catalog.services(name) for node in service.nodes}
            if isinstance(event, Snapshot):
                say("snapshot", nodes=nodes)
            elif isinstance(event, Change):
                say(str(event.action), nodes=nodes, id=event.node.id, reason=str(event.reason or ""))


async def obey(registry: Registry, name: str, command: dict[str, Any], running: Running, stack: AsyncExitStack) -> None:
    match command:
        case {"announce": id, **details}:
            running[id] = announcement = announce(registry, name, id=id, drain_delay=0.0, **details)
            await announcement.__aenter__()
            say("announced", id=id, address=announcement.node.address)
        case {"where": id}:
            say("where", id=id, address=running[id].node.address)
        case {"leave": id}:
            await running.pop(id).__aexit__(None, None, None)
        case {"get": name}:
            try:
                services = await registry.get_service(name)
            except ServiceNotFound:
                services = ()
            say("got", nodes={node.id: node.address for service in services for node in service.nodes})
        case {"connect": address}:
            try:
                async with asyncio.timeout(20):
                    _, writer = await asyncio.open_connection(*split_address(address))
            except OSError as error:
                say("connected", address=address, error=str(error))
                return
            writer.close()
            say("connected", address=address, error="")
        case {"listen": port}:
            server = await asyncio.start_server(lambda _, writer: writer.close(), ["0.0.0.0", "::"], port)
            await stack.enter_async_context(server)
            say("listening", port=port)
        case _:
            raise ValueError(f"what is {command}?")


async def main(url: str, name: str, *more: str) -> None:
    if more:
        logging.getLogger("microreg").setLevel(logging.INFO)
        logging.getLogger("microreg").addHandler(Log())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    running: Running = {}
    async with connect(url) as registry, AsyncExitStack() as stack:
        watching = asyncio.create_task(watch(registry, name))
        async for line in commands:
            await obey(registry, name, json.loads(line), running, stack)
        for announcement in running.values():
            await announcement.__aexit__(None, None, None)
        watching.cancel()
        await asyncio.wait([watching])


asyncio.run(main(*sys.argv[1:]))
