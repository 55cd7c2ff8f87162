"""What a :class:`microreg.testing.Proxy` is made of: connections of two pipes each, over one line that can be bad."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["Connection", "Lane", "Line", "Pipe"]

_CHUNK = 65_536
_CHUNKS = 64
_SLICES = 50  # per second, of what a throttled line lets through
_NO_LINGER = struct.pack("ii", 1, 0)


class Line:
    """The condition that all connections share; see :class:`microreg.testing.Proxy` for what it means."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate = 0.0
        self.whole = asyncio.Event()
        self.whole.set()
        self.up = Lane(self)
        self.down = Lane(self)

    def renew(self) -> None:
        """Make it ready for another event loop, in the condition that it is in."""
        before, self.whole = self.whole, asyncio.Event()
        if before.is_set():
            self.whole.set()


class Lane:
    """One direction of a line. ``carried`` is the bytes that it has delivered."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.carried = 0
        self._free = 0.0

    async def admit(self, size: int) -> None:
        """Wait until so many bytes may be delivered."""
        rate = self.line.rate
        if rate > 0:
            now = asyncio.get_running_loop().time()
            self._free = max(now, self._free) + size / rate
            await asyncio.sleep(self._free - now)
        await self.line.whole.wait()

    def slices(self, data: bytes) -> Iterator[bytes]:
        """The parts that are delivered one after the other."""
        while data:
            size = max(1, int(self.line.rate / _SLICES)) if self.line.rate > 0 else len(data)
            yield data[:size]
            data = data[size:]


class Pipe:
    """One direction of a connection: bytes come out in order, each as late as the line was slow when it went in."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._queue = asyncio.Queue[tuple[float, bytes | None]](_CHUNKS)
        self.ended = asyncio.Event()
        """Whether its source has ended, orderly or by a reset."""
        self.leaks = False
        """Whether what comes out is thrown away."""

    async def fill(self, reader: asyncio.StreamReader) -> None:
        """Read until the source ends, which is put in too: as no bytes, or as None for a reset."""
        last: bytes | None = b""
        try:
            while data := await reader.read(_CHUNK):
                await self._put(data)
        except OSError:
            last = None
        self.ended.set()
        await self._put(last)

    async def empty(self, writer: asyncio.StreamWriter) -> None:
        """Deliver until the end, which is delivered too. Raises OSError for a reset, on either side."""
        writer.transport.set_write_buffer_limits(high=0)  # drain() then waits until everything is out
        while True:
            due, data = await self._queue.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if not data:
                await self._lane.line.whole.wait()
                break
            for part in self._lane.slices(data):
                await self._lane.admit(len(part))
                if not self.leaks:
                    self._lane.carried += len(part)
                    writer.write(part)
                    await writer.drain()
        if data is None:
            raise ConnectionResetError
        if not self.leaks:
            writer.write_eof()

    async def _put(self, data: bytes | None) -> None:
        await self._queue.put((asyncio.get_running_loop().time() + self._lane.line.delay, data))


class Connection:
    """A connection that a client has made, and the one to the server that belongs to it."""

    def __init__(self, line: Line, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted = accepted
        self._line = line
        self._ends: list[asyncio.StreamWriter] = []
        self._up = Pipe(line.up)
        self._down = Pipe(line.down)

    async def run(self, upstream: int) -> None:
        """Carry bytes until both sides have ended, or one is reset."""
        try:
            from_client, client = await asyncio.open_connection(sock=self._accepted)
            self._ends.append(client)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up.fill(from_client))
                await self._line.whole.wait()
                if self._up.ended.is_set():
                    raise ConnectionResetError
                from_server, server = await asyncio.open_connection("127.0.0.1", upstream)
                self._ends.append(server)
                group.create_task(self._up.empty(server))
                group.create_task(self._down.fill(from_server))
                group.create_task(self._down.empty(client))
        except* OSError:
            self.reset()
        finally:
            await self._close()

    def reset(self) -> None:
        """Reset it on both sides."""
        if not self._ends and self._accepted.fileno() >= 0:
            self._accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        for end in self._ends:
            _reset(end)

    def drop(self) -> None:
        """Give back what a run that was cancelled before it began holds."""
        self._accepted.close()

    async def hang_up(self, patience: float) -> None:
        """End it towards the client and wait until that has closed it too, so long. What it sent goes its way."""
        if not self._ends:
            return
        client = self._ends[0]
        self._down.leaks = True
        try:
            client.write_eof()
        except OSError:  # it is gone already, by a reset that has not been read yet
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._up.ended.wait()
                return
        _reset(client)

    async def _close(self) -> None:
        for end in self._ends:
            end.close()
        for end in self._ends:
            with suppress(OSError):
                await end.wait_closed()


def _reset(end: asyncio.StreamWriter) -> None:
    if not end.transport.is_closing():
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        end.transport.abort()
