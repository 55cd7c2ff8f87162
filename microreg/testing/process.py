"""A client of the store in a process of its own, which a check can kill."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct, json

from microreg import codec
from microreg.model import Service

__all__ = ["COMMAND", "ClientProcess", "Order"]

COMMAND = (sys.executable, "-m", "microreg.testing.client")
"""How a client process is started where the store has a config string."""
_START = 20.0


class Order(Struct):
    """What a client process is to do: the line that it reads from its input."""

    url: str
    record: str
    ttl: float


class ClientProcess:
    """Registers the service's nodes once for ``ttl`` seconds, when entered, and does nothing more until it is killed.

    The config string goes through the input of the process: it may contain secrets.
    """

    def __init__(self, command: Sequence[str], url: str, service: Service, ttl: float) -> None:
        self._command = command
        self._order = json.encode(Order(url, codec.encode(service).decode(), ttl)) + b"\n"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        process = self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(self._order)
            async with asyncio.timeout(_START):
                line = await process.stdout.readline()
            if line.strip() != b"registered":
                raise RuntimeError(f"{' '.join(self._command)} printed {line!r}; expected b'registered'")
        except BaseException:
            await self.kill()
            raise
        return self

    async def kill(self) -> None:
        """End it at once, with SIGKILL, and wait until it is gone."""
        process = self._process
        if process is None or process.stdin is None:
            return
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await process.communicate()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()
