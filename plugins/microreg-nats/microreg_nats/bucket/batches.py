"""Reading many records at once: the direct batch get of JetStream (its ADR-31), in bounded pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from microreg.errors import RegistryUnavailable
from microreg_nats.bucket.api import gone
from microreg_nats.session import Session, status

__all__ = ["Batches", "Found"]

_MESSAGES = 1000
_BYTES = 4 * 1024 * 1024
_AT_ONCE = 8
"""Batches of so many bytes, so many at once: a server hangs up where more than 64 MiB wait for one client."""


@dataclass(slots=True)
class Found:
    """What was read: the value at each subject, and up to which sequence of the stream that is all (0: unknown)."""

    values: dict[str, bytes] = field(default_factory=dict[str, bytes])
    up_to: int = 0
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """What was written with each value."""

    def take(self, messages: Sequence[Msg]) -> int:
        """Add what is in a piece; the sequence of its last message. What was renewed meanwhile comes again, later."""
        headers: Mapping[str, str] = {}
        for message in messages:
            headers = message.headers or {}
            subject = headers.get("Nats-Subject", "")
            if gone(headers) is None:
                self.values[subject] = message.data
                self.headers[subject] = headers
            else:
                self.values.pop(subject, None)
                self.headers.pop(subject, None)
        return int(headers.get("Nats-Sequence", "0"))


class Batches:
    """Reads the records of a stream that keeps one message for each subject."""

    def __init__(self, stream: str) -> None:
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._large: set[str] = set()
        """Filters that match more subjects than the server looks up at once (1,024)."""

    async def read(self, session: Session, filter: str) -> Found:
        """What stands at the subjects of this filter."""
        if filter not in self._large:
            found = await self._last_of_each(session, filter)
            if found is not None:
                return found
            self._large.add(filter)
        found = await self._one_after_the_other(session, filter)
        if len(found.values) <= _MESSAGES // 2:
            self._large.discard(filter)
        return found

    def is_large(self, filter: str) -> bool:
        """Whether it was found to match very many subjects."""
        return filter in self._large

    async def _last_of_each(self, session: Session, filter: str) -> Found | None:
        """The records as of one moment, where they fit into one piece; None where there are too many subjects."""
        found = Found()
        request: dict[str, object] = {"multi_last": [filter], "max_bytes": _BYTES}
        while True:
            messages, end = await self._piece(session, request)
            code = status(end)
            if code == "413":
                return None
            if code == "404":
                return found
            request["seq"] = found.take(messages) + 1
            headers = end.headers or {}
            found.up_to = int(headers.get("Nats-UpTo-Sequence", "0"))
            if not messages or headers.get("Nats-Num-Pending", "0") == "0":
                return found

    async def _one_after_the_other(self, session: Session, filter: str) -> Found:
        """The records in the order in which they were written, until there is none any more."""
        found = Found()
        request: dict[str, object] = {"next_by_subj": filter, "batch": _MESSAGES, "max_bytes": _BYTES}
        while True:
            request["seq"] = found.up_to + 1
            messages, end = await self._piece(session, request)
            if status(end) == "404" or not messages:
                return found
            found.up_to = found.take(messages)

    async def _piece(self, session: Session, request: Mapping[str, object]) -> tuple[list[Msg], Msg]:
        async with self._turn:
            *messages, end = await session.request_all(self._subject, json.dumps(request).encode(), last=_ends)
        if status(end) not in ("204", "404", "413"):
            text = (end.headers or {}).get("Description", "")
            raise RegistryUnavailable(f"NATS at {session.where} broke off a batch: {status(end)} {text}")
        return messages, end


def _ends(message: Msg) -> bool:
    """A batch ends with a message that is nothing but a status."""
    return not message.data and status(message) != ""
