"""A program on a host of a test's network: examines registries, or announces a node, as its input tells it.

    python doctor_host.py [seconds by which its clock is wrong]

``{"examine": url, "env": {…}}`` prints what the doctor finds, ``{"announce": id, "address": …}`` announces by mDNS.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

if len(sys.argv) > 1:
    right = time.time
    time.time = lambda: right() + float(sys.argv[1])

from microreg import announce, connect
from microreg.doctor import examine


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event} | fields) + "\n")
    sys.stdout.flush()


async def obey(command: dict[str, Any], stack: AsyncExitStack) -> None:
    match command:
        case {"examine": url, **more}:
            before = dict(os.environ)
            os.environ |= more.get("env", {})
            findings = await examine(url, timeout=3.0)
            os.environ.clear()
            os.environ |= before
            say("examined", id=more.get("id", url), findings=[asdict(each) for each in findings])
        case {"announce": id, "address": address}:
            registry = await stack.enter_async_context(connect("mdns://"))
            announcement = announce(registry, "greeter", id=id, address=address, drain_delay=0.0)
            await stack.enter_async_context(announcement)
            await announcement.wait_live(10)
            say("announced", id=id)
        case _:
            raise ValueError(f"what is {command}?")


async def main() -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with AsyncExitStack() as stack:
        async for line in commands:
            await obey(json.loads(line), stack)


asyncio.run(main())
