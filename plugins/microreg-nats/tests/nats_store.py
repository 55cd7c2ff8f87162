"""A nats-server behind a proxy, and what can be done to it; nats-py alone for looking at it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import nats as raw
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from microreg.testing import Proxy, ServerFaults, ServerProcess
from microreg_nats.bucket.keys import Keys

__all__ = ["NatsFaults", "Raw", "pretending", "raw_client"]


class Raw:
    """nats-py alone: what microreg has not touched."""

    def __init__(self, client: Client, bucket: str = "microreg") -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream()
        self.stream = f"KV_{bucket}"
        self.keys = Keys(bucket)

    async def put(self, subject: str, value: bytes, *, ttl: int | None = None) -> int:
        """Write a message to the bucket, whatever is there."""
        return (await self.js.publish(subject, value, msg_ttl=ttl)).seq

    async def delete(self, subject: str) -> None:
        """Take a key away, as ``nats kv del`` does."""
        await self.js.publish(subject, b"", headers={"KV-Operation": "DEL"})

    async def last(self, subject: str) -> RawStreamMsg | None:
        """The last message at a subject."""
        try:
            return await self.js.get_last_msg(self.stream, subject)
        except NotFoundError:
            return None

    async def consumers(self) -> int:
        """How many consumers the bucket's stream has."""
        return (await self.js.stream_info(self.stream)).state.consumer_count


@asynccontextmanager
async def raw_client(port: int, bucket: str = "microreg") -> AsyncGenerator[Raw]:
    """A client of its own make, for a while."""
    client = await asyncio.wait_for(raw.connect(f"nats://127.0.0.1:{port}"), 10)
    try:
        yield Raw(client, bucket)
    finally:
        await client.close()


@asynccontextmanager
async def pretending(version: str) -> AsyncGenerator[int]:
    """A server that shakes hands as one of another version, and does nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": version, "headers": True, "max_payload": 1048576, "jetstream": True}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


class NatsFaults(ServerFaults):
    """Every fault of the kit over a nats-server that is reached through a proxy."""

    def __init__(self, server: ServerProcess, proxy: Proxy, bucket: str = "microreg") -> None:
        super().__init__(server, proxy)
        self._bucket = bucket

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        """As another program would, without a time to live."""
        async with raw_client(self.server.port, self._bucket) as client:
            subject = client.keys.subject(name, id)
            await (client.delete(subject) if data is None else client.put(subject, data))
