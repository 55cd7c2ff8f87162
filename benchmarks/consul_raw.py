"""aiohttp alone: the smallest program that does what ``consul://`` does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import cycle

import aiohttp
import msgspec

from microreg.model import Service
from microreg_consul.layouts import Layout

_TOGETHER = 0.05


class Raw:
    """A client that knows nothing but aiohttp, and how a record is registered."""

    def __init__(self, port: int) -> None:
        self._agent = f"http://127.0.0.1:{port}/v1"
        self._layout = Layout()
        plain = {"Accept-Encoding": "identity"}  # as microreg asks: packing what stays on the machine takes longer
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16), headers=plain)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def read(self, name: str) -> bytes:
        """What stands under a name, as JSON."""
        return await self.get(f"{self._agent}/health/service/{name}")

    async def get(self, url: str) -> bytes:
        """The body of an answer."""
        async with self._session.get(url) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def put(self, path: str, json: object = None) -> None:
        """A write."""
        async with self._session.put(f"{self._agent}/agent/{path}", json=json) as answer:
            answer.raise_for_status()
            await answer.read()

    def id(self, service: Service) -> str:
        """What the agent calls the node of this record."""
        return self._layout.service_id(service.name, service.nodes[0].id)

    async def register(self, service: Service, ttl: float = 60) -> None:
        """A service with a TTL check that passes."""
        check = {"CheckID": f"service:{self.id(service)}", "TTL": f"{ttl:g}s", "Status": "passing"}
        await self.put("service/register", {**self._layout.registration(service), "Check": check})

    async def deregister(self, service: Service) -> None:
        """Take it away."""
        await self.put(f"service/deregister/{self.id(service)}")

    async def fill(self, services: Iterable[Service]) -> None:
        """Register many, and wait until the catalog has them."""
        names = Counter[str]()
        for each in services:
            names[each.name] += 1
            await self.register(each, 3600)
        for name, nodes in names.items():
            async with aclosing(self.changes(name)) as answers:
                async for body in answers:
                    if len(msgspec.json.decode(body)) == nodes:
                        break

    async def renew(self, service: Service) -> None:
        """Let its TTL begin anew."""
        await self.put(f"check/pass/service:{self.id(service)}")

    async def changes(self, name: str) -> AsyncGenerator[bytes]:
        """What stands under a name, whenever that is something else, by blocking queries."""
        index = "0"
        while True:
            url = f"{self._agent}/health/service/{name}"
            async with self._session.get(url, params={"index": index, "wait": "60s"}) as answer:
                found, body = answer.headers["X-Consul-Index"], await answer.read()
            if found != index:
                index = found
                yield body

    async def renew_all(self, services: Sequence[Service], period: float) -> None:
        """Renew every node once in ``period`` seconds, evenly, as many at once as come in 50 ms; until cancelled."""
        loop = asyncio.get_running_loop()
        many = max(1, round(len(services) * _TOGETHER / period))
        due, turn = loop.time(), cycle(services)
        while True:
            await asyncio.gather(*(self.renew(next(turn)) for _ in range(many)))
            due += period / len(services) * many
            await asyncio.sleep(due - loop.time())
