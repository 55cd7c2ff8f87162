"""Listening: what others announce becomes a Catalog, for as long as somebody wants to know.

A *scope* is a service name, or all, that a lookup or a watch needs. It is asked for when it opens, polled
after that (announcements may all be lost), and refreshed before its nodes run out (RFC 6762 section 5.2).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from microreg.backends.mdns.lookup import Desk, Inquiry
from microreg.backends.mdns.names import SERVICE_TYPE, Key, key_of, subtype
from microreg.backends.mdns.nodes import Nodes
from microreg.backends.mdns.responder import Responder
from microreg.backends.mdns.transport import Transport
from microreg.backends.mdns.wire import PTR, Message, Question, encode
from microreg.catalog import Catalog
from microreg.errors import RegistryClosed
from microreg.events import Event, Reason
from microreg.model import Service

__all__ = ["Browser"]

_SUPPRESS = 0.3
_POLLS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


def _closed() -> RegistryClosed:
    return RegistryClosed("the registry was closed")


class _Scope:
    """What somebody wants to know, and how far we are with it."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.question = Question(SERVICE_TYPE if name is None else subtype(name), PTR)
        self.users = 0
        self.inquiry: Inquiry | None = None
        self.synced = False
        self.asked = float("-inf")
        self.polls = 0
        self.timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.inquiry is not None:
            self.inquiry.close()
        if self.timer is not None:
            self.timer.cancel()


class Browser:
    """What is known of all nodes that somebody asks for, our own included."""

    def __init__(
        self,
        transport: Transport,
        desk: Desk,
        responder: Responder,
        settle: float,
        rng: random.Random,
    ) -> None:
        self.catalog = Catalog()
        self._transport = transport
        self._desk = desk
        self._settle = settle
        self._responder = responder
        self._loop = asyncio.get_running_loop()
        self._scopes: dict[str | None, _Scope] = {}
        self._questions: dict[Question, list[_Scope]] = {}
        self._wanted: set[bytes] = set()
        self._closed = False
        self._nodes = Nodes(
            self.catalog, desk, rng, wants=self._wants, owns=responder.owns, due=self._refresh, news=self._news
        )
        responder.told, responder.gone = self.put, self.gone

    def close(self) -> None:
        """Stop asking and listening; lookups and watches that are under way raise RegistryClosed."""
        self._closed = True
        self.catalog.interrupt(_closed())
        for scope in self._scopes.values():
            scope.close()
        self._nodes.close()

    # -- what users need -------------------------------------------------------------------------

    async def services(self, name: str) -> tuple[Service, ...]:
        """What is known of this name: at once where it is watched, else asked for now."""
        if self._live(name) and (services := self.catalog.services(name)):
            return services
        async with self._scope(name, fresh=True):
            return self.catalog.services(name)

    async def names(self) -> tuple[str, ...]:
        """The names of all nodes that answer now, or that are watched."""
        if not (self._live(None) and self.catalog.names()):
            async with self._scope(None, fresh=True):
                return self.catalog.names()
        return self.catalog.names()

    async def changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        """The source of a watch: what is known once the answers have settled, then every change."""
        async with self._scope(name), aclosing(self.catalog.changes(name)) as events:
            async for event in events:
                yield event

    def suspect(self, key: Key) -> None:
        """A call to this node failed: ask whether it is there."""
        self._nodes.suspect(key)

    # -- what comes in ---------------------------------------------------------------------------

    def heard(self, message: Message, *, answer: bool = False) -> None:
        """A response: somebody announces, says goodbye or, if it is an ``answer``, answers a question of ours."""
        if self._scopes:
            self._nodes.heard(message, answer=answer)

    def overheard(self, message: Message) -> None:
        """A question of somebody else: its answers will come by multicast, so we need not ask the same."""
        if not message.empty:
            return
        for question in set(message.questions):
            for scope in self._questions.get(question, ()):
                scope.asked = self._loop.time()

    def ask_all(self) -> None:
        """The network has changed: ask for all that is wanted, now and as if it had just begun to be."""
        for scope in self._scopes.values():
            self._desk.ask([scope.question])
            if scope.timer is not None:
                scope.timer.cancel()
                scope.polls = 0
                scope.asked = self._loop.time()
                self._schedule_poll(scope)

    def put(self, record: Service) -> None:
        """A node of our own is registered or changed."""
        if self._wants(record.name.encode()):
            self._nodes.forget(key_of(record))
            self.catalog.put(record)

    def gone(self, key: Key, reason: Reason) -> None:
        """A node of our own has left."""
        self.catalog.remove(*key, reason)

    # -- scopes ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _scope(self, name: str | None, *, fresh: bool = False) -> AsyncGenerator[None, None]:
        """Want to know of a name (or all), from when the answers have settled; ``fresh``: asked for now."""
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = _Scope(name)
            self._questions.setdefault(scope.question, []).append(scope)
            if name is not None:
                self._wanted.add(name.encode())
            for record in self._responder.records(name):
                self.put(record)
        scope.users += 1
        try:
            if (scope.inquiry is None or scope.inquiry.settled.done()) and (fresh or not self._live(name)):
                answered = next(self.catalog.records(name), None) is not None
                scope.inquiry = Inquiry(self._desk, scope.question, self._settle, answered=answered)
            if scope.inquiry is not None:
                await asyncio.shield(scope.inquiry.settled)
            if self._closed:
                raise _closed()
            self._transport.check()
            if not scope.synced:
                scope.synced = True
                self._schedule_poll(scope)
            yield
        finally:
            scope.users -= 1
            if not scope.users:
                self._release(scope)

    def _release(self, scope: _Scope) -> None:
        scope.close()
        del self._scopes[scope.name]
        self._questions[scope.question].remove(scope)
        if not self._questions[scope.question]:
            del self._questions[scope.question]
        if scope.name is not None:
            self._wanted.discard(scope.name.encode())
        for record in tuple(self.catalog.records(scope.name)):
            if not self._wants(record.name.encode()):
                key = key_of(record)
                self._nodes.forget(key)
                self.catalog.remove(*key)

    def _wants(self, name: bytes) -> bool:
        return name in self._wanted or None in self._scopes

    def _live(self, name: str | None) -> bool:
        """Whether all there is of this name is known already."""
        return any(scope.synced for each in (name, None) if (scope := self._scopes.get(each)))

    def _news(self, name: str) -> None:
        for each in (name, None):
            scope = self._scopes.get(each)
            if scope is not None and scope.inquiry is not None:
                scope.inquiry.news()

    def _refresh(self, name: str) -> None:
        """A node of this name wants refreshing: one question refreshes all, here and at other listeners."""
        scope = self._scopes.get(None) or self._scopes.get(name)
        if scope is not None:
            self._ask_unless(scope, _SUPPRESS)

    def _schedule_poll(self, scope: _Scope) -> None:
        interval = _POLLS[min(scope.polls, len(_POLLS) - 1)]
        scope.polls += 1
        scope.timer = self._loop.call_later(interval, self._poll, scope, interval)

    def _poll(self, scope: _Scope, interval: float) -> None:
        self._ask_unless(scope, interval / 2)
        self._schedule_poll(scope)

    def _ask_unless(self, scope: _Scope, lately: float) -> None:
        """Ask all who listen, unless somebody did so in the last ``lately`` seconds."""
        now = self._loop.time()
        if now - scope.asked >= lately:
            scope.asked = now
            self._transport.send(encode([scope.question]))
