"""Errors on the wire: ``application/problem+json`` (RFC 9457) with the error tree's ``code``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.types import Send

from microreg.errors import (
    InvalidService,
    PermissionDenied,
    RecordTooLarge,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)

__all__ = ["JSON", "Fields", "Problem", "header_fields", "problem", "reply"]

log = logging.getLogger("microreg.server")

JSON = b"application/json"
Fields = list[tuple[bytes, bytes]]
_PROBLEM = b"application/problem+json"
_UNTOLD: tuple[tuple[type[RegistryError], str], ...] = (
    (PermissionDenied, "the registry behind this server refuses the server's own credentials"),
    (RegistryTimeout, "the registry behind this server did not answer in time; calling again is always right"),
    (RegistryUnavailable, "the registry behind this server cannot be reached; calling again is always right"),
    (Unsupported, "the registry behind this server cannot do that"),
    (RegistryError, "the registry behind this server failed; its log says why"),
)
"""What clients are told of errors whose texts are about the inside: hosts, files, users."""


class Problem(Exception):
    """An answer that is no success. ``code`` is one of the error tree's, or of HTTP's own: see docs/reference/http.md.

    ``members`` are further members of the document, ``headers`` of the response. Raise it anywhere in a route.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        members: Mapping[str, object] | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})

    def document(self) -> bytes:
        """The problem as JSON."""
        title = HTTPStatus(self.status).phrase
        known = {"title": title, "status": self.status, "code": self.code, "detail": self.detail}
        return msgspec.json.encode(known | self.members)

    def fields(self, body: bytes) -> Fields:
        """The headers of an answer with its document."""
        return header_fields(body, self.status, _PROBLEM, self.headers)

    async def send(self, send: Send) -> None:
        """Answer with it."""
        await reply(send, self.document(), status=self.status, kind=_PROBLEM, headers=self.headers)


def problem(error: Exception) -> Problem:
    """What a client is told of this error. What is not the client's own doing is logged, and told in general words."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ServiceNotFound):
        members: dict[str, object] = {"name": error.name, "authoritative": error.authoritative}
        return Problem(error.http_status, error.code, str(error), members=members)
    if isinstance(error, RecordTooLarge):
        return Problem(error.http_status, error.code, str(error), members={"size": error.size, "limit": error.limit})
    if isinstance(error, InvalidService):
        return Problem(error.http_status, error.code, str(error))
    if isinstance(error, RegistryError):
        log.warning("the registry failed: %s", error, extra={"error": str(error)})
        detail = next(text for kind, text in _UNTOLD if isinstance(error, kind))
        headers = {b"retry-after": b"1"} if error.http_status == 503 else None
        return Problem(error.http_status, error.code, detail, headers=headers)
    log.error("a request failed: %s", error, exc_info=error)
    return Problem(500, RegistryError.code, "this is a bug in the server; its log says more")


async def reply(
    send: Send,
    body: bytes = b"",
    *,
    status: int = 200,
    kind: bytes = JSON,
    headers: Mapping[bytes, bytes] | None = None,
) -> None:
    """Answer with a whole body."""
    fields = header_fields(body, status, kind, headers)
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": fields}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def header_fields(body: bytes, status: int, kind: bytes, headers: Mapping[bytes, bytes] | None = None) -> Fields:
    """The headers of an answer with a whole body; the length comes last."""
    fields = list(headers.items()) if headers else []
    if status != 204:
        fields += [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    return fields
