"""An etcd behind a proxy, and what can be done to it; a client of another make for looking at it."""

from __future__ import annotations

from dataclasses import dataclass, field

from aetcd import rpc

from microreg.testing import Proxy, ServerFaults, ServerProcess
from microreg_etcd.layouts import Layout

__all__ = ["EtcdFaults", "Raw"]


@dataclass
class Raw:
    """The stubs alone: what microreg has not touched."""

    port: int
    channel: rpc.Channel = field(init=False)

    async def __aenter__(self) -> Raw:
        self.channel = rpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.kv = rpc.KVStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.channel.close()

    async def put(self, key: bytes, value: bytes) -> None:
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
        await self.kv.Txn(rpc.TxnRequest(compare=[], success=[put], failure=[]))

    async def delete(self, key: bytes, end: bytes = b"") -> None:
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))
        await self.kv.Txn(rpc.TxnRequest(compare=[], success=[delete], failure=[]))

    async def get(self, key: bytes, end: bytes = b"") -> list[rpc.KeyValue]:
        return list((await self.kv.Range(rpc.RangeRequest(key=key, range_end=end))).kvs)


class EtcdFaults(ServerFaults):
    """Every fault of the kit over an etcd that is reached through a proxy."""

    def __init__(self, server: ServerProcess, proxy: Proxy, layout: Layout | None = None) -> None:
        super().__init__(server, proxy)
        self._port = server.port
        self._layout = layout or Layout("")

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        key = self._layout.key(name, id)
        async with Raw(self._port) as raw:
            await (raw.delete(key) if data is None else raw.put(key, data))
