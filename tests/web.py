"""A web server for tests of clients, in a thread of its own: notes what it is asked, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import ssl
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

__all__ = ["Asked", "Web"]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """One HTTP/1.1 server on a free port of 127.0.0.1; to be used with ``with``.

    ``mode``: ``answer``; ``break`` the connection when the request was read; ``hang`` without an answer; ``trickle``
    the headers and half of the body, the rest when ``release`` is set; ``tear`` breaks there; ``redirect`` from /old to
    /new, at the host that it was called by.
    """

    mode: str = "answer"
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list[Asked])
    connections: int = 0
    port: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._main()])
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                asked = await self._read(line.decode(), reader)
                self.asked.append(asked)
                if not await self._answer(asked, writer):
                    return
        except ConnectionError:
            pass  # the client is gone
        finally:
            writer.transport.abort()

    async def _read(self, line: str, reader: asyncio.StreamReader) -> Asked:
        method, path, _ = line.split()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().strip().splitlines()
        headers = {name.lower(): value.strip() for name, value in (each.split(":", 1) for each in head)}
        body = b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        return Asked(method, path, headers, body)

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays."""
        match self.mode:
            case "break":
                return False
            case "hang":
                await asyncio.sleep(3600)
            case "redirect" if asked.path == "/old":
                where = f"http://{asked.headers['host']}/new"
                writer.write(f"HTTP/1.1 307 Go\r\nlocation: {where}\r\ncontent-length: 0\r\n\r\n".encode())
            case "trickle" | "tear":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
                await writer.drain()
                if self.mode == "tear":
                    return False
                await asyncio.to_thread(self.release.wait)
                writer.write(b" last")
            case _:
                text = str(self.port).encode()
                body = b"" if asked.method == "HEAD" else text
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), body))
        await writer.drain()
        return True
