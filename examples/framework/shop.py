"""A fleet on the framework: orders ask the stock, a client asks the orders.

python shop.py all [REGISTRY]     everything in one process; the registry is memory://shop unless told
python shop.py orders|stock|client [REGISTRY]     one of them, in a process of its own
"""

from __future__ import annotations

import asyncio
import sys

from framework import Client, Server

import microreg


def stock(registry: str) -> Server:
    """The service that knows how many there are."""
    server = Server("stock", registry=registry, version="1.0.0")

    @server.endpoint
    async def count(item: str) -> object:
        return len(item)

    return server


def orders(registry: str) -> Server:
    """The service that takes orders, as long as there is stock."""
    server = Server("orders", registry=registry, version="2.1.0")
    client = Client(registry)
    server.before_start.append(client.open)
    server.after_stop.append(client.close)

    @server.endpoint
    async def order(item: str) -> object:
        left = await client.call("stock", "count", item=item)
        return f"{item}: ordered, {left} left"

    return server


async def ask(registry: str) -> None:
    """Order something, whichever program takes the order."""
    async with Client(registry) as client:
        print(await client.call("orders", "order", item="spoon"))


async def everything(registry: str) -> None:
    """Both services and the client, in this process."""
    servers = [orders(registry), stock(registry)]
    async with microreg.connect(registry), asyncio.TaskGroup() as group:  # memory:// lives while somebody has it open
        for server in servers:
            group.create_task(server.run())
        await ask(registry)
        for server in servers:
            server.stopping.set()


async def main(role: str, registry: str) -> None:
    """Play this role."""
    match role:
        case "all":
            await everything(registry)
        case "client":
            await ask(registry)
        case "orders":
            await orders(registry).run()
        case "stock":
            await stock(registry).run()
        case _:
            sys.exit(f"no role {role!r}: expected all, client, orders or stock")


if __name__ == "__main__":
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    asyncio.run(main(role, sys.argv[2] if len(sys.argv) > 2 else "memory://shop"))
