"""The client of the demo: finds services through a Selector and asks them over HTTP, one call after another."""

from __future__ import annotations

import asyncio
import json

from microreg.cli.demo.journal import Journal
from microreg.errors import RegistryError
from microreg.model import Node
from microreg.selector import Selector

__all__ = ["keep_calling"]

_PAUSE = 0.05
"""Seconds between two calls."""
_PATIENCE = 1.0
"""Seconds that one request may take."""
_ATTEMPTS = 3
_FIRST_NODE = 15.0


async def keep_calling(selector: Selector, name: str, journal: Journal) -> None:
    """Call the service for ever, and write down each request and each call."""

    async def ask(node: Node) -> None:
        began = journal.now
        try:
            await _ask(node)
        except Exception as error:
            journal.attempt(node.id, began, type(error).__name__)
            raise
        journal.attempt(node.id, began)

    await selector.select(name, timeout=_FIRST_NODE)
    while True:
        try:
            await selector.call(name, ask, attempts=_ATTEMPTS)
        except (RegistryError, OSError, EOFError, ValueError) as error:
            journal.call(f"{type(error).__name__}: {error}")
        else:
            journal.call()
        await asyncio.sleep(_PAUSE)


async def _ask(node: Node) -> None:
    """One GET. Raises OSError, EOFError or TimeoutError where there is no answer, ValueError for a wrong one."""
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection(node.host, node.port)
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {node.address}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if not head:
        raise EOFError(f"{node.address} closed the connection without an answer")
    if not head.startswith(b"HTTP/1.1 200 ") or json.loads(body).get("node") != node.id:
        raise ValueError(f"{node.address} is not {node.id}: {head[:60]!r}")
