"""The floor: a bare ASGI function on microreg's own server, which decodes and encodes the same, and keeps dicts.

``python benchmarks/http_bare.py`` says where it listens, as ``microreg serve`` does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

import msgspec
import uvicorn
import uvloop

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode
_decode_pairs = msgspec.json.Decoder(dict[str, str]).decode


class Node(msgspec.Struct):
    id: str
    address: str = ""
    metadata: dict[str, str] = {}


class Service(msgspec.Struct):
    name: str
    version: str = ""
    metadata: dict[str, str] = {}
    endpoints: list[dict[str, object]] = []
    nodes: list[Node] = []


class Renewal(msgspec.Struct):
    name: str
    id: str
    digest: str
    ttl: float = 15.0


_decode = msgspec.json.Decoder(Service).decode
_decode_renewals = msgspec.json.Decoder(dict[str, list[Renewal]]).decode

services: dict[str, dict[str, Service]] = {}
entries: dict[str, dict[str, str]] = {}
watchers: list[Send] = []


async def answer(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    """One request."""
    method, path = scope["method"], scope["path"]
    if path == "/v1/watch":
        await watch(receive, send)
        return
    if method == "GET":
        await reply(send, _encode({"services": list(services[path[13:]].values())}))
        return
    body = await read(receive)
    if method == "PUT":
        await put(path, body, send)
    elif path == "/v1/renewals":
        renewals = _decode_renewals(body)["renewals"]
        unknown = [{"name": each.name, "id": each.id} for each in renewals if each.id not in services[each.name]]
        await reply(send, _encode({"unknown": unknown}))
    else:
        await reply(send, _encode(srsr(path, _decode_pairs(body))))


async def read(receive: Callable[[], Awaitable[Message]]) -> bytes:
    """The body, which may come in pieces."""
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


async def put(path: str, body: bytes, send: Send) -> None:
    """Keep a record, and tell those who watch."""
    _, _, _, name, _, id = path.split("/")
    services.setdefault(name, {})[id] = _decode(body)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    if name == "seen":
        event = b"event: change\ndata: %b\n\n" % body
        for each in watchers:
            await each({"type": "http.response.body", "body": event, "more_body": True})


def srsr(path: str, given: dict[str, str]) -> dict[str, object]:
    """What srsr answers."""
    if path == "/heartbeat":
        return {"success": given["id"] in entries}
    if path == "/lookup":
        return {"success": True, "address": next(iter(services[given["name"]].values())).nodes[0].address}
    id = str(uuid4())
    entries[id] = given
    services.setdefault(given["name"], {})[id] = Service(given["name"], nodes=[Node(id, given["address"])])
    return {"id": id, "success": True}


async def watch(receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    """A stream that ends when its client goes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"event: snapshot\ndata: {}\n\n", "more_body": True})
    watchers.append(send)
    while (await receive())["type"] != "http.disconnect":
        pass
    watchers.remove(send)


async def reply(send: Send, body: bytes) -> None:
    """A whole body."""
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        answer,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    print(f"bare ASGI at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
