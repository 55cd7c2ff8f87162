"""``python -m microreg.testing.client``: a client of a store in a process of its own, so that it can be killed.

It reads one line from its input, a JSON object with ``url``, ``record`` (a service in JSON, as text) and ``ttl``;
registers the record once; prints ``registered``; and stays until its input ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial

from msgspec import json

from microreg import codec
from microreg.connect import connect
from microreg.registry import Registry
from microreg.testing.process import Order

__all__ = ["obey"]


async def obey(client: Callable[[str], Registry] = connect) -> None:
    """Do what the first line of the input says, with the registry that ``client`` makes of the url in it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), sys.stdin)
    try:
        order = json.decode(await reader.readline(), type=Order)
        async with client(order.url) as registry:
            await registry.register(codec.decode(order.record), ttl=order.ttl)
            sys.stdout.write("registered\n")
            sys.stdout.flush()
            await reader.read()
    finally:
        transport.close()


if __name__ == "__main__":
    asyncio.run(obey())
