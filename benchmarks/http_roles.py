"""Clients that watch: ``python benchmarks/http_roles.py ROLE PORT``. Each says 0 when it is ready."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

from beside import say, told
from data import record

from microreg.codec import encode

HEARING = 1_000
IDLE = 10_000
AT_ONCE = 100
_ASK = b"GET /v1/watch?name=%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Watcher(asyncio.Protocol):
    """One stream of a name. Says to ``heard`` how many changes it has heard."""

    def __init__(self, name: str, heard: Counter[int]) -> None:
        self._name = name.encode()
        self._heard = heard
        self._count = 0
        self.begun = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_ASK % self._name)

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"event: change")):
            self._count += 1
            self._heard[self._count] += 1
        if not self.begun.done() and b"event: snapshot" in data:
            self.begun.set_result(None)


@asynccontextmanager
async def watching(port: int, names: list[str]) -> AsyncGenerator[Counter[int]]:
    """A stream for each of these names, all of them open: how many have heard so many changes."""
    heard = Counter[int]()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, len(names) + 200)), hard))
    loop = asyncio.get_running_loop()
    found: list[tuple[asyncio.Transport, Watcher]] = []
    for start in range(0, len(names), AT_ONCE):
        makers = [partial(Watcher, name, heard) for name in names[start : start + AT_ONCE]]
        made = await asyncio.gather(*(loop.create_connection(maker, "127.0.0.1", port) for maker in makers))
        await asyncio.gather(*(watcher.begun for _, watcher in made))
        found += made
    yield heard
    for transport, _ in found:
        transport.close()


async def hear(port: int) -> None:
    """Whenever told to, change a node that a thousand watch: milliseconds until the last of them has heard."""
    async with watching(port, ["seen"] * HEARING) as heard:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        say(0)
        for number in count(1):
            await told()
            body = encode(record(0, name="seen", port=number))
            head = f"PUT /v1/services/seen/nodes/seen-000000 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}"
            begun = time.monotonic()
            writer.write(head.encode() + b"\r\n\r\n" + body)
            while heard[number] < HEARING:  # noqa: ASYNC110 (an event would be one more turn of the loop)
                await asyncio.sleep(0)
            say((time.monotonic() - begun) * 1000)
            await reader.readuntil(b"\r\n\r\n")


async def idle(port: int) -> None:
    """Watch ten thousand names on which nothing happens."""
    async with watching(port, [f"idle-{number}" for number in range(IDLE)]):
        say(0)
        await asyncio.Event().wait()


ROLES = {role.__name__: role for role in (hear, idle)}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](int(sys.argv[2])))
