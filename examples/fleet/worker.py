"""Calls both services again and again: plain asyncio, with retries on other nodes."""

import asyncio
import signal
import sys
from collections import Counter
from contextlib import suppress

import httpx

from microreg import Node, RegistryError, Selector, connect

PATHS = {"orders": "/orders/lamp", "stock": "/stock/chair"}
PAUSE = 0.2


class Worker:
    """Keeps calling, and counts how that went."""

    def __init__(self, http: httpx.AsyncClient, selector: Selector) -> None:
        self.http = http
        self.selector = selector
        self.known: set[str] = set()
        self.count = Counter[str]()

    async def ask(self, name: str, node: Node) -> None:
        """One call to one node; what it raises decides whether another node is tried."""
        (await self.http.get(node.url("http") + PATHS[name])).raise_for_status()
        if node.address not in self.known:
            self.known.add(node.address)
            print(f"found {name} at {node.address}", flush=True)

    async def call(self, name: str) -> None:
        """Call whichever node is best, at most three of them; wait until there is one."""
        try:
            await self.selector.call(name, lambda node: self.ask(name, node), timeout=30, retry_on=httpx.TransportError)
            self.count["answered"] += 1
        except (RegistryError, httpx.HTTPError) as error:
            self.count["failed"] += 1
            print(f"{name} failed: {error}", flush=True)

    async def run(self) -> None:
        while True:
            await asyncio.gather(*map(self.call, PATHS))
            await asyncio.sleep(PAUSE)


async def main() -> int:
    async with connect() as registry, Selector(registry) as selector, httpx.AsyncClient() as http:
        worker = Worker(http, selector)
        running = asyncio.create_task(worker.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        with suppress(asyncio.CancelledError):
            await running
        print(f"{worker.count['answered']} calls answered, {worker.count['failed']} failed", flush=True)
        return 1 if worker.count["failed"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
