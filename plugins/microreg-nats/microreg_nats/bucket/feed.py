"""What changes in a bucket, as a consumer of its stream tells."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from nats.aio.msg import Msg
from nats.nuid import NUID

from microreg.errors import RegistryError, RegistryTimeout, RegistryUnavailable
from microreg_nats.bucket.api import call
from microreg_nats.session import Session, status

__all__ = ["Feed", "feed"]

_SECOND = 1_000_000_000
_BATCH = 512
_EXPIRES = 30
_HEARTBEAT = 4
_PATIENCE = 11.0
"""Seconds without a word, after two heartbeats that did not come."""
_UNATTENDED = 60
_GOODBYE = 1.0

_names = NUID()


class Feed:
    """Pulls the messages of one consumer, in order; what is not asked for stays at the server.

    ``idle`` is called whenever all messages that came were handled, at least every few seconds; what it raises ends
    the feed.
    """

    def __init__(self, session: Session, stream: str, name: str, idle: Callable[[], None]) -> None:
        self.subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._session = session
        self._idle = idle
        self._waiting: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._error: RegistryError | None = None
        self._wanted = 0
        """How many messages the server may still send."""
        self._sequence = 0

    def hear(self, message: Msg) -> None:
        """A message, a heartbeat, or the end of a request: for the session."""
        code = status(message)
        if not code:
            self._wanted -= 1
            self._waiting.append(message)
        elif code == "408":  # a request is over; so many of it are left
            pending = (message.headers or {}).get("Nats-Pending-Messages", "")
            self._wanted -= int(pending) if pending.isdecimal() else 0
        elif code != "100":
            text = (message.headers or {}).get("Description", "nobody answers")
            self.fail(RegistryUnavailable(f"NATS at {self._session.where} ended the watch: {code} {text}"))
        self._wake.set()

    def fail(self, error: RegistryError) -> None:
        """Nothing more will come: for the session."""
        self._error = self._error or error
        self._wake.set()

    async def messages(self) -> AsyncGenerator[Msg, None]:
        """Every message. Raises when the consumer, the stream or the connection is lost, and when one is missing."""
        async with self._session.receiving(self) as reply:
            while True:
                if self._wanted <= _BATCH // 2:
                    await self._pull(reply)
                self._wake.clear()
                while self._waiting:
                    message = self._waiting.popleft()
                    self._check(message)
                    yield message
                if self._error is not None:
                    raise self._error
                self._idle()
                if self._wanted > _BATCH // 2:
                    await self._word()

    async def _pull(self, reply: str) -> None:
        request = {"batch": _BATCH, "expires": _EXPIRES * _SECOND, "idle_heartbeat": _HEARTBEAT * _SECOND}
        self._wanted = max(0, self._wanted) + _BATCH
        await self._session.publish(self.subject, json.dumps(request).encode(), reply=reply)

    async def _word(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._wake.wait()
        except TimeoutError:
            raise RegistryTimeout(f"NATS at {self._session.where} has said nothing for {_PATIENCE:g} s") from None

    def _check(self, message: Msg) -> None:
        """Raise RegistryUnavailable where messages are missing before this one."""
        sequence = _delivered(message.reply)
        if sequence != self._sequence + 1:
            raise RegistryUnavailable(f"NATS at {self._session.where} left out what had changed")
        self._sequence = sequence


@asynccontextmanager
async def feed(
    session: Session, stream: str, filter: str, start: int, idle: Callable[[], None]
) -> AsyncGenerator[Feed]:
    """What is written to these subjects of a stream, from a sequence on. The consumer is deleted at the end.

    One that is not, since the connection is gone, is deleted by the server a minute after it was last asked.
    """
    name = _names.next().decode()
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "ack_policy": "none",
        "filter_subject": filter,
        "mem_storage": True,
        "num_replicas": 1,
        "max_waiting": 16,
        "inactive_threshold": _UNATTENDED * _SECOND,
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    try:
        await call(session, f"CONSUMER.CREATE.{stream}.{name}.{filter}", body)
        yield Feed(session, stream, name, idle)
    finally:
        with suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await call(session, f"CONSUMER.DELETE.{stream}.{name}", {})


def _delivered(reply: str) -> int:
    """Which message of its consumer this is, as its reply subject says (ADR-15, both forms); 0 for any other."""
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) < 9:
        return 0
    found = tokens[6] if len(tokens) == 9 else tokens[8]  # the longer form has domain and account before the stream
    return int(found) if found.isdecimal() else 0
