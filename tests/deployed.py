"""An ASGI application as it is deployed in tests: ``uvicorn deployed:app``. It is a node of the service in $SERVICE."""

from __future__ import annotations

import asyncio
import os

from microreg.integrations.asgi import Announced, Message, Receive, Scope, Send

_WORK = 0.02
"""Seconds that a request takes."""


async def work(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with the number of the process, after a moment."""
    if scope["type"] != "http":
        return
    more = True
    while more:
        message = await receive()
        more = bool(message.get("more_body"))
    await asyncio.sleep(_WORK)
    await _answer(send, str(os.getpid()).encode())


async def _answer(send: Send, body: bytes) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


app = Announced(work, os.environ.get("SERVICE", "orders"))
