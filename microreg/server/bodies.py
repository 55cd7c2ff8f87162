"""Reading what a client sends: bounded in size, and in the time that it may take."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope

from microreg.server.problems import Problem

__all__ = ["read_body", "read_json"]

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds that a body may take to arrive."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises Problem where it is larger than ``limit`` bytes, takes too long, or ends too early."""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit() and int(value[:19]) > limit:
            raise _too_large(limit)
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _read(receive, limit)
    except TimeoutError:
        text = f"the body was not there within {_PATIENCE:g} s"
        raise Problem(408, "request_timeout", text, headers={b"connection": b"close"}) from None


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "bad_request", "the connection ended within the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_json(scope: Scope, receive: Receive, limit: int, kind: type[T]) -> T:
    """The body as JSON of this shape. Raises Problem for anything else."""
    try:
        return msgspec.json.decode(await read_body(scope, receive, limit), type=kind)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid_body", f"the body: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Problem(400, "bad_request", f"the body is not JSON: {error}") from None


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "body_too_large", f"at most {limit} bytes are read of a body", headers={b"connection": b"close"}
    )
