"""One service of the demo, in a process of its own: ``python -m microreg.cli.demo.service NAME ID TTL``.

Answers HTTP on a free port of 127.0.0.1 and announces itself in ``$MICROREG_REGISTRY``. SIGTERM drains it;
so does the end of its stdin, which is how it hears that its parent died. Talks to its parent in JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

from microreg.announce import announce
from microreg.connect import connect
from microreg.errors import RegistryError

__all__ = ["main"]

_HOST = "127.0.0.1"
_REQUEST = 5.0
"""Seconds that a client may take to ask."""


def main(arguments: list[str]) -> int:
    """Serve until asked to leave; the exit code."""
    name, node_id, ttl = arguments
    # Ctrl-C in the terminal reaches the parent too, which then decides who ends when
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_serve(name, node_id, float(ttl)))
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _serve(name: str, node_id: str, ttl: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    transport, _ = await loop.connect_read_pipe(lambda: _Parent(stop), sys.stdin)
    answer = json.dumps({"node": node_id, "pid": os.getpid()}).encode()
    server = await asyncio.start_server(lambda reader, writer: _answer(reader, writer, answer), _HOST, 0)
    port: int = server.sockets[0].getsockname()[1]
    try:
        async with server, connect() as registry:
            _tell(announcing=time.time())
            async with announce(registry, name, address=f"{_HOST}:{port}", id=node_id, ttl=ttl):
                await stop.wait()
    finally:
        transport.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    try:
        async with asyncio.timeout(_REQUEST):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        return
    finally:
        writer.close()


def _tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


class _Parent(asyncio.Protocol):
    """The pipe from the parent; nothing ever comes through it but its end."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
