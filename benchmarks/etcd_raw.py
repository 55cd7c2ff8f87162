"""The stubs of etcd's protocol alone: the smallest program that does what ``etcd://`` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import cycle

from aetcd import rpc

from microreg.codec import encode
from microreg.model import Service
from microreg_etcd.layouts import Layout

_OPERATIONS = 100  # in one transaction; etcd takes 128
_TOGETHER = 0.05


class Raw:
    """A client that knows nothing but the stubs, and where the records of a prefix stand."""

    def __init__(self, port: int, prefix: str = "") -> None:
        self.layout = Layout(prefix)
        self._channel = rpc.insecure_channel(f"127.0.0.1:{port}")
        self.kv, self.lease = rpc.KVStub(self._channel), rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def read(self, name: str | None, *, keys_only: bool = False) -> Sequence[rpc.KeyValue]:
        """What stands under a name, or under all of them."""
        start, end = self.layout.range(name)
        return (await self.kv.Range(rpc.RangeRequest(key=start, range_end=end, keys_only=keys_only))).kvs

    async def put(self, service: Service, lease: int = 0) -> None:
        """Write the record of one node."""
        key = self.layout.key(service.name, service.nodes[0].id)
        await self.kv.Put(rpc.PutRequest(key=key, value=encode(service), lease=lease))

    async def grant(self, lease: int, ttl: int) -> None:
        """A lease of this id, for so many seconds."""
        await self.lease.LeaseGrant(rpc.LeaseGrantRequest(ID=lease, TTL=ttl))

    async def fill(self, services: Sequence[Service]) -> None:
        """Write many records, in large transactions."""
        for first in range(0, len(services), _OPERATIONS):
            puts = [
                rpc.RequestOp(
                    request_put=rpc.PutRequest(key=self.layout.key(each.name, each.nodes[0].id), value=encode(each))
                )
                for each in services[first : first + _OPERATIONS]
            ]
            await self.kv.Txn(rpc.TxnRequest(compare=[], success=puts, failure=[]))

    async def events(self, name: str) -> AsyncGenerator[int]:
        """How many events of a name came with each message; 0 with the first, which says that the watch is open."""
        start, end = self.layout.range(name)
        stream = self.watch.Watch()
        create = rpc.WatchCreateRequest(key=start, range_end=end, start_revision=0, progress_notify=True)
        await stream.write(rpc.WatchRequest(create_request=create))
        try:
            while isinstance(answer := await stream.read(), rpc.WatchResponse):
                yield len(answer.events)
        finally:
            stream.cancel()

    async def renew_all(self, leases: Sequence[int], period: float) -> None:
        """Renew every lease once in ``period`` seconds, evenly, on one stream, until cancelled.

        As many at once as come in 50 ms: one by one takes three times as much.
        """
        stream = self.lease.LeaseKeepAlive()
        loop = asyncio.get_running_loop()

        async def read() -> None:
            while isinstance(answer := await stream.read(), rpc.LeaseKeepAliveResponse):
                assert answer.TTL > 0, "a lease has expired"

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                due = loop.time()
                many = max(1, round(len(leases) * _TOGETHER / period))
                for number, lease in enumerate(cycle(leases), 1):
                    await stream.write(rpc.LeaseKeepAliveRequest(ID=lease))
                    if number % many == 0:
                        due += period / len(leases) * many
                        await asyncio.sleep(due - loop.time())
        finally:
            stream.cancel()
