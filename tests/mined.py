"""A small store with a server of its own, and a backend for it: what a stranger's backend and its server are like.

``python mined.py PORT FOLDER`` serves JSON lines over TCP; records are in one file, and survive a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from microreg import Registry, Service, Watch, merge
from microreg.codec import encode
from microreg.toolkit import decode_all, poll
from microreg.url import Duration, Options, RegistryURL, option

__all__ = ["MineOptions", "MineRegistry", "Store"]

Answer = str | dict[str, str] | None


class Store:
    """The server: records by key, each until it expires, in ``folder/records.json``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "records.json"
        self._records: dict[str, tuple[str, float]] = {}
        if self._path.exists():
            self._records = json.loads(self._path.read_text(encoding="utf-8"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a line with an array of strings is a request, a line with JSON is its answer."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                verb, *arguments = json.loads(line)
                if verb == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                answer: Answer = getattr(self, f"_{verb}")(*arguments)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    def _put(self, key: str, value: str, ttl: str) -> None:
        self._records[key] = value, time.time() + float(ttl)
        self._save()

    def _delete(self, key: str) -> None:
        self._records.pop(key, None)
        self._save()

    def _read(self, prefix: str) -> dict[str, str]:
        now = time.time()
        return {key: value for key, (value, end) in self._records.items() if end > now and key.startswith(prefix)}

    def _echo(self, text: str) -> str:
        return text

    def _env(self) -> dict[str, str]:
        return dict(os.environ)

    def _save(self) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self._records), encoding="utf-8")
        draft.replace(self._path)


async def _main(port: int, folder: Path) -> None:
    server = await asyncio.start_server(Store(folder).serve, "127.0.0.1", port, limit=1 << 24)
    print(f"serving {port}", flush=True)  # noqa: T201
    await server.serve_forever()


@dataclass(frozen=True, slots=True, kw_only=True)
class MineOptions(Options):
    """What may stand behind the ``?`` of the config string."""

    interval: Duration = option(Duration(0.05), "seconds between two readings of a watch")


class MineRegistry(Registry):
    """``mine://127.0.0.1:4000``: a connection for each call, and watches that poll."""

    Options = MineOptions
    capabilities = frozenset({"complete_list", "authoritative"})

    def __init__(self, url: RegistryURL, options: MineOptions) -> None:
        super().__init__(url, options)
        self._address, self._interval, self._warned = url.location.rpartition(":"), options.interval, set[str]()

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        await self._ask("put", _key(service), encode(service).decode(), str(ttl))

    async def deregister(self, service: Service) -> None:
        await self._ask("delete", _key(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge(await self._read(f"{name}/"))

    async def list_services(self) -> tuple[str, ...]:
        return tuple(service.name for service in merge(await self._read("")))

    def watch(self, name: str | None = None) -> Watch:
        read = partial(self._read, "" if name is None else f"{name}/")
        return Watch(lambda: poll(read, self._interval))

    async def _read(self, prefix: str) -> list[Service]:
        records = cast("dict[str, str]", await self._ask("read", prefix))
        return decode_all([(key, value.encode()) for key, value in records.items()], self._warned)

    async def _ask(self, *request: str) -> Answer:
        reader, writer = await asyncio.open_connection(self._address[0], int(self._address[2]), limit=1 << 24)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the server has hung up")
        return cast(Answer, json.loads(line))


def _key(service: Service) -> str:
    return f"{service.name}/{service.nodes[0].id}"


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
