"""One connection to a NATS server, from the handshake until it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Literal, Protocol

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from microreg.errors import RegistryError, RegistryUnavailable
from microreg.toolkit import end
from microreg_nats.failures import NoResponders, denial, failure, forbidden
from microreg_nats.wire import NatsClient

__all__ = ["Handler", "Listener", "Session", "status"]

log = logging.getLogger("microreg.nats")

Handler = Callable[[Msg], Coroutine[object, object, None]]

_PING = 4.0
_PATIENCE = 8.0
"""Seconds: a server that has not answered a ping by then is gone. A black hole is noticed within 12 s."""
_GOODBYE = 1.0
_AT_ONCE = 0.2


class Listener(Protocol):
    """Who waits for what is sent to a subject of this session's inbox."""

    subject: str
    """What was asked: where the server forbids to publish there, the listener fails."""

    def hear(self, message: Msg) -> None:
        """A message came."""

    def fail(self, error: RegistryError) -> None:
        """Nothing more will come, for this reason."""


class _Question:
    """What was asked, and the answers until the last one."""

    __slots__ = ("answers", "last", "over", "subject")

    def __init__(self, subject: str, last: Callable[[Msg], bool]) -> None:
        self.subject = subject
        self.last = last
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: list[Msg] = []

    def hear(self, message: Msg) -> None:
        if not self.over.done():
            self.answers.append(message)
            if self.last(message) or status(message) == "503":
                self.over.set_result(None)

    def fail(self, error: RegistryError) -> None:
        if not self.over.done():
            self.over.set_exception(error)
            self.over.exception()  # seen, also where nobody waits any more


class Session:
    """One connection. It is made and closed by a :class:`microreg_nats.connection.Connection`.

    When the connection is lost, ``lost`` is done, everything that waits for an answer fails, and all subscriptions
    are over; nothing of it goes on in the next session.
    """

    def __init__(self, client: NatsClient, where: str, generation: int) -> None:
        self.client = client
        self.where = where
        """The server's address."""
        self.generation = generation
        """Counts the sessions of a connection."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is over; ``reason`` says why."""
        self.reason: RegistryError = RegistryUnavailable(f"the connection to NATS at {where} is over")
        self._connected = False
        self._inbox = ""
        self._tokens = count()
        self._listeners: dict[str, Listener] = {}
        self._denied: set[tuple[str, str]] = set()
        self._flushing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_live(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return not self.lost.done()

    # -- what it is used for ---------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        reply: str = "",
        confirm: bool = False,
    ) -> None:
        """Send one message; ``confirm`` waits until the server has it, and raises PermissionDenied if it refuses."""
        self._check()
        self._denied.discard(("publish", subject.lower()))
        await self._sent(subject, payload, headers, reply)
        if confirm:
            await self.flush()
            self.refused("publish", subject)

    async def request(self, subject: str, payload: bytes = b"", *, headers: dict[str, str] | None = None) -> Msg:
        """The answer to one message. Raises NoResponders, PermissionDenied, and RegistryUnavailable when lost."""
        return (await self.request_all(subject, payload, headers=headers, last=_first))[0]

    async def request_all(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        last: Callable[[Msg], bool],
    ) -> list[Msg]:
        """All answers to one message, up to and with the one that ``last`` says is the last."""
        question = _Question(subject, last)
        with self.listening(question) as reply:
            await self._sent(subject, payload, headers, reply)
            await question.over
        if status(question.answers[-1]) == "503":
            raise NoResponders(f"NATS at {self.where}: nobody answers at {subject}")
        return question.answers

    @contextmanager
    def listening(self, listener: Listener) -> Generator[str]:
        """A subject to which one answers; the listener hears that meanwhile."""
        self._check()
        token = str(next(self._tokens))
        self._listeners[token] = listener
        try:
            yield self._inbox + token
        finally:
            del self._listeners[token]

    @asynccontextmanager
    async def receiving(self, listener: Listener) -> AsyncGenerator[str]:
        """A subject to which messages of other subjects can be delivered; the listener hears them meanwhile."""

        async def hear(message: Msg) -> None:
            listener.hear(message)

        with self.listening(listener):
            reply = self.client.new_inbox()
            subscription = await self.subscribe(reply, hear)
            try:
                yield reply
            finally:
                await self.unsubscribe(subscription)

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Hear what is sent to a subject, until the session is over. Raises PermissionDenied if it is forbidden."""
        self._check()
        self._denied.discard(("subscription", subject.lower()))
        try:
            subscription = await self.client.subscribe(  # pyright: ignore[reportUnknownMemberType]
                subject, cb=handler
            )
        except errors.Error as error:
            raise failure(error, self.where) from error
        try:
            await self.flush()
            self.refused("subscription", subject)
        except BaseException:
            await self.unsubscribe(subscription)
            raise
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; nothing happens where it is over already."""
        if self.is_live:
            with suppress(errors.Error):
                await subscription.unsubscribe()

    async def flush(self) -> None:
        """Wait until the server has had everything that was sent before. Who waits at the same time shares a ping."""
        self._check()
        if self._flushing is None:
            self._flushing = self._start(self._flush(), "flush")
        await self._until_lost(self._flushing)

    def refused(self, kind: Literal["publish", "subscription"], subject: str) -> None:
        """Raise PermissionDenied where the server has refused this; it has said so by the end of a ``flush``."""
        what = (kind, subject.lower())
        if what in self._denied:
            self._denied.discard(what)
            raise forbidden(kind, subject, self.where)

    # -- its life, which the connection leads ----------------------------------------------------

    async def begin(self) -> None:
        """What follows the handshake. Raises what it means when nats-py has overlooked that the server hung up."""
        if not self.client.is_connected:
            raise failure(errors.UnexpectedEOF(), self.where)
        self._inbox = self.client.new_inbox() + "."
        self._connected = True
        await self.subscribe(self._inbox + "*", self._answered)
        self._start(self._watch_over(), "ping")

    async def close(self, goodbye: float = _GOODBYE) -> None:
        """End the connection, politely where it is not lost, which may take ``goodbye`` seconds."""
        polite = self.is_live
        self.over(RegistryUnavailable(f"the connection to NATS at {self.where} was closed"))
        await end(*self._tasks)
        if polite:
            with suppress(TimeoutError, OSError, errors.Error):
                async with asyncio.timeout(goodbye):
                    await self.client.close()
        self.client.abort()
        with suppress(TimeoutError, OSError, errors.Error):
            async with asyncio.timeout(_AT_ONCE):  # nats-py waits for ever where a handshake of TLS has failed
                await self.client.close()
        await self.client.join()

    def over(self, reason: RegistryError) -> None:
        """The connection is lost, for this reason."""
        if self.lost.done():
            return
        self.reason = reason
        self.lost.set_result(None)
        for listener in tuple(self._listeners.values()):
            listener.fail(reason)

    async def on_error(self, error: Exception) -> None:
        """What nats-py tells: for its ``error_cb``. Until the connection stands, an error is raised at once."""
        if not self._connected:
            raise error
        refused = denial(error)
        if refused is not None:
            self._deny(refused)
        elif isinstance(error, errors.SlowConsumerError):
            self.over(RegistryUnavailable("what NATS sent was not heard in time, and some of it was dropped"))
        elif isinstance(error, errors.Error | OSError):
            self.over(failure(error, self.where))
        else:
            log.error("what NATS sent could not be handled", exc_info=error)

    async def on_closed(self) -> None:
        """nats-py has given the connection up: for its ``closed_cb`` and ``disconnected_cb``."""
        self.over(failure(self.client.last_error or errors.ConnectionClosedError(), self.where))

    # -- how it is done ----------------------------------------------------------------------------

    async def _sent(self, subject: str, payload: bytes, headers: dict[str, str] | None, reply: str) -> None:
        try:
            await self.client.publish(subject, payload, reply, headers)
        except (errors.Error, OSError) as error:
            raise failure(error, self.where) from error

    async def _answered(self, message: Msg) -> None:
        listener = self._listeners.get(message.subject[len(self._inbox) :])
        if listener is not None:
            listener.hear(message)

    async def _flush(self) -> None:
        self._flushing = None
        await self.client.roundtrip()

    async def _watch_over(self) -> None:
        while self.is_live:
            await asyncio.sleep(_PING)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.client.roundtrip()
            except (errors.Error, OSError) as error:  # TimeoutError is an OSError
                self.over(failure(error, self.where))
                return

    async def _until_lost(self, work: asyncio.Task[None]) -> None:
        """Wait for a task that others may share. Raises ``reason`` when the connection is lost before it is done."""
        await asyncio.wait([work, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if not work.done() or work.cancelled():
            raise self.reason
        if (error := work.exception()) is not None:
            raise failure(error, self.where) from error

    def _start(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"microreg nats {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _deny(self, what: tuple[str, str]) -> None:
        self._denied.add(what)
        log.info("NATS refused", extra={"kind": what[0], "subject": what[1]})
        for listener in tuple(self._listeners.values()):
            if ("publish", listener.subject.lower()) == what:
                listener.fail(forbidden("publish", listener.subject, self.where))

    def _check(self) -> None:
        if self.lost.done():
            raise self.reason


def status(message: Msg) -> str:
    """The status that a message has instead of being one; empty for a real one.

    What others have stored may have any header: the server says which message that is.
    """
    headers = message.headers or {}
    is_stored = "Nats-Sequence" in headers or message.reply.startswith("$JS.ACK.")
    return "" if is_stored else headers.get("Status", "")


def _first(_: Msg) -> bool:
    return True
