"""The stream that carries the renewals of all leases of a client."""

from __future__ import annotations

import asyncio
from collections import deque

from microreg.errors import RegistryUnavailable
from microreg.toolkit import end
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.stubs import answers, rpc

__all__ = ["Renewals"]


class Renewals:
    """One stream to one member. Whoever asks for the renewal of one lease meanwhile shares the answer.

    A stream that ends fails all that wait, and is ``over``: open another.
    """

    def __init__(self, endpoint: Endpoint, metadata: rpc.Metadata) -> None:
        self.endpoint = endpoint
        self.over = False
        self._stream = endpoint.lease.LeaseKeepAlive(metadata=metadata)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[rpc.LeaseKeepAliveResponse]] = {}
        self._unsent: deque[int] = deque()
        self._wake = asyncio.Event()
        self._task = self._loop.create_task(self._run(), name="microreg etcd renewals")

    async def renew(self, lease: int) -> rpc.LeaseKeepAliveResponse:
        """The server's answer. Raises AioRpcError or RegistryUnavailable when the stream ends before it comes."""
        answer = self._waiting.get(lease)
        if answer is None:
            answer = self._waiting[lease] = self._loop.create_future()
            self._unsent.append(lease)
            self._wake.set()
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """End the stream and join its tasks."""
        await end(self._task)

    async def _run(self) -> None:
        writer = self._loop.create_task(self._write(), name="microreg etcd renewals, sending")
        error: Exception = RegistryUnavailable(f"etcd at {self.endpoint.address} ended the stream of renewals")
        try:
            async for answer in answers(self._stream):
                waiting = self._waiting.pop(answer.ID, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except rpc.AioRpcError as caught:
            error = caught
        finally:
            self.over = True
            writer.cancel()
            self._stream.cancel()
            await asyncio.wait([writer])
            self._fail(error)

    async def _write(self) -> None:
        while True:
            while self._unsent:
                await self._stream.write(rpc.LeaseKeepAliveRequest(ID=self._unsent.popleft()))
            self._wake.clear()
            await self._wake.wait()

    def _fail(self, error: Exception) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen, also where nobody waits any more
        self._waiting.clear()
