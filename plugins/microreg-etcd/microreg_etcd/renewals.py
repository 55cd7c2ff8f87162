"""The stream that carries the renewals of all leases of a client."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from microreg.errors import RegistryUnavailable
from microreg.toolkit import end
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.stubs import answers, rpc

__all__ = ["Renewals"]

_BUSY = 16
_GATHER = 0.05
_ALONE = 1.0


class Renewals:
    """One stream to one member. Whoever asks for the renewal of one lease meanwhile shares the answer.

    Where more than a handful go out in a second, those that come within 50 ms are sent together: most of what a
    renewal costs is that somebody wakes up for it. A single one does not wait.

    A stream that ends fails all that wait, and is ``over``: open another.
    """

    def __init__(self, endpoint: Endpoint, metadata: rpc.Metadata) -> None:
        self.endpoint = endpoint
        self.over = False
        self._metadata = metadata
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[rpc.LeaseKeepAliveResponse]] = {}
        self._unsent: deque[int] = deque()
        self._wake = asyncio.Event()
        self._task = self._loop.create_task(self._run(), name="microreg etcd renewals")

    async def renew(self, lease: int) -> rpc.LeaseKeepAliveResponse:
        """The server's answer. Raises AioRpcError or RegistryUnavailable when the stream ends before it comes."""
        if self.over:
            raise self._ended()
        answer = self._waiting.get(lease)
        if answer is None:
            answer = self._waiting[lease] = self._loop.create_future()
            self._unsent.append(lease)
            self._wake.set()
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """End the stream and join its tasks."""
        await end(self._task)
        self._fail(self._ended())  # a task that was cancelled before it began has told nobody

    async def _run(self) -> None:
        stream = self.endpoint.lease.LeaseKeepAlive(metadata=self._metadata)  # not kept: it keeps the connection
        writer = self._loop.create_task(self._write(stream), name="microreg etcd renewals, sending")
        error: Exception = self._ended()
        try:
            async for answer in answers(stream):
                waiting = self._waiting.pop(answer.ID, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except rpc.AioRpcError as caught:
            error = caught.with_traceback(None)  # its frames hold the stream
        finally:
            stream.cancel()
            self._fail(error)
            await end(writer)

    async def _write(self, stream: rpc.StreamCall[rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse]) -> None:
        sent: deque[float] = deque(maxlen=_BUSY)
        alone = 0.0
        # What ended the stream is told by reading it.
        with suppress(rpc.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._wake.wait()
                now = self._loop.time()
                if len(sent) == _BUSY and now - sent[0] < 1.0 and now >= alone:
                    await asyncio.sleep(_GATHER)
                    if len(self._unsent) == 1:  # whoever renews one after the other waits for each answer
                        alone = self._loop.time() + _ALONE
                self._wake.clear()
                while self._unsent:
                    await stream.write(rpc.LeaseKeepAliveRequest(ID=self._unsent.popleft()))
                    sent.append(self._loop.time())

    def _ended(self) -> RegistryUnavailable:
        return RegistryUnavailable(f"etcd at {self.endpoint.address} ended the stream of renewals")

    def _fail(self, error: Exception) -> None:
        self.over = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen, also where nobody waits any more
        self._waiting.clear()
        self._unsent.clear()
