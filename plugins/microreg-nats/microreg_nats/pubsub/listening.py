"""Listening: what others say becomes a Catalog, for as long as somebody wants to know.

A *scope* is a service name, or all, that a lookup or a watch needs: one subscription, and a Table of what it tells.
Whoever is interested first asks by a ping, and waits until the answers have settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from microreg import Service
from microreg.errors import RegistryError, RegistryUnavailable
from microreg.events import Event
from microreg.toolkit import end
from microreg_nats.connection import Connection
from microreg_nats.pubsub.subjects import ALL, PING, Subjects
from microreg_nats.pubsub.table import Table
from microreg_nats.session import Session

__all__ = ["Listeners"]

_QUIET = 1 / 3
_LONGEST = 5.0
_LATE = 0.02
_BREATH = 0.05
_STILL = 1.0
_RETURN = 6.0, 30.0
_SOON = 5.0
_KEPT = 30.0


class Scope:
    """What somebody wants to know, and how far we are with it."""

    def __init__(self, name: str | None, connection: Connection, subjects: Subjects, settle: float) -> None:
        self.name = name
        self.users = 0
        self.table = Table(subjects, news=self._heard_news, doubt=self._doubt)
        self.catalog = self.table.catalog
        self.kept: asyncio.TimerHandle | None = None
        self._connection, self._subjects, self._settle = connection, subjects, settle
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._subscription: Subscription | None = None
        self._settled = False
        self._news = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._making_sure: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        """Whether everybody was asked, has answered, and is heard since."""
        return self._settled and self._session is not None and self._session.is_live

    async def ask(self) -> None:
        """Ask who is there, and wait until the answers have settled; whoever asks meanwhile waits for the same."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name=f"microreg nats-pubsub {self.name or '*'}")
            self._asking.add_done_callback(_seen)
        await asyncio.shield(self._asking)

    async def close(self) -> None:
        """Stop listening."""
        self.table.close()
        if self.kept is not None:
            self.kept.cancel()
        await end(*(task for task in (self._asking, self._making_sure) if task is not None))
        session, self._session = self._session, None
        if session is not None and self._subscription is not None:
            session.lost.remove_done_callback(self._lost)
            await session.unsubscribe(self._subscription)

    # -- asking ------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        session = await self._connection.session()
        if session is not self._session:
            await self._listen(session)
        began = self._loop.time()
        await session.publish(self._subjects.of(PING, ALL if self.name is None else self.name), b"", confirm=True)
        await self._settling(self._loop.time() - began)
        if not session.is_live:
            raise session.reason
        self._settled = True

    async def _listen(self, session: Session) -> None:
        self._settled = False
        self._subscription = await session.subscribe(self._subjects.all_about(self.name), self._heard)
        self._session = session
        self.table.spare(*_RETURN)
        session.lost.add_done_callback(self._lost)

    async def _settling(self, trip: float) -> None:
        """Until nobody has answered for a while, or nobody new any more; ``trip`` is the way to the server and back.

        An answer takes two such trips, and the ping has made one of them. What is heard before that was said unasked.
        """
        now = self._loop.time()
        quiet = self._settle * _QUIET
        first = self._settle if next(self.catalog.records(self.name), None) is None else quiet
        until, latest = now + first + trip, now + self._settle * _LONGEST + trip
        while until < latest:
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                if self._loop.time() - until < _LATE:  # else this loop is late itself: answers may wait unread
                    return
            until = max(self._loop.time(), now + trip) + quiet

    def _heard_news(self) -> None:
        self._news.set()

    # -- hearing -----------------------------------------------------------------------------------

    async def _heard(self, message: Msg) -> None:
        self.table.heard(message.subject, message.data)

    def _lost(self, lost: asyncio.Future[None]) -> None:
        session = self._session
        if session is not None and session.lost is lost:
            self._session, self._settled = None, False
            self.catalog.interrupt(session.reason)

    def _doubt(self) -> None:
        if self._making_sure is None or self._making_sure.done():
            self._making_sure = asyncio.create_task(self._make_sure(), name="microreg nats-pubsub expiry")
            self._making_sure.add_done_callback(_seen)

    async def _make_sure(self) -> None:
        """Nodes are due. They are gone, unless it is the server that says nothing, or nobody can be heard at all."""
        while self.table.overdue and self._session is not None:  # else who listens again spares them for a while
            overdue, began = tuple(self.table.overdue), self._loop.time()
            await self._session.flush()
            await asyncio.sleep(_BREATH)  # a server that stood still has the words of many to hand on
            if self._session is not None:
                await self._session.flush()
            if self._loop.time() - began < _STILL:
                self.table.bury(overdue)
            else:
                self.table.spare(*_RETURN)


class Listeners:
    """The scopes that are in use, each shared by everybody who needs it."""

    def __init__(self, connection: Connection, subjects: Subjects, settle: float) -> None:
        self._connection, self._subjects, self._settle = connection, subjects, settle
        self._loop = asyncio.get_running_loop()
        self._scopes: dict[str | None, Scope] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop listening to anything."""
        scopes, self._scopes = self._scopes, {}
        for scope in scopes.values():
            await scope.close()
        await end(*self._ending)

    async def services(self, name: str) -> tuple[Service, ...]:
        """What is known of this name: at once where it is watched, else asked for now."""
        await self._connection.session()
        for known in (name, None):
            scope = self._scopes.get(known)
            if scope is not None and scope.live and (services := scope.catalog.services(name)):
                return services
        async with self._scope(name) as scope:
            await scope.ask()
            return scope.catalog.services(name)

    async def names(self) -> tuple[str, ...]:
        """The names of all nodes that answer now, or that are watched."""
        await self._connection.session()
        async with self._scope(None) as scope:
            if not (scope.live and scope.catalog.names()):
                await scope.ask()
            return tuple({name for each in self._scopes.values() if each.live for name in each.catalog.names()})

    async def changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        """The source of a watch: what is known once the answers have settled, then every change."""
        async with self._scope(name) as scope:
            await self._connected()
            if not scope.live:
                await scope.ask()
            async with aclosing(scope.catalog.changes(name)) as events:
                async for event in events:
                    yield event

    async def _connected(self) -> None:
        """Wait a while for a connection that was lost: whoever comes back at once is asked at once."""
        try:
            await self._connection.session()
        except RegistryUnavailable:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SOON):
                    await self._connection.connected()
                    return
            raise

    @asynccontextmanager
    async def _scope(self, name: str | None) -> AsyncGenerator[Scope, None]:
        """Use a scope. Where its connection is lost, it stays for who comes back for it."""
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = Scope(name, self._connection, self._subjects, self._settle)
        if scope.kept is not None:
            scope.kept.cancel()
            scope.kept = None
        scope.users += 1
        lost = False
        try:
            yield scope
        except RegistryError:
            lost = True
            raise
        finally:
            scope.users -= 1
            if not scope.users and self._scopes.get(name) is scope:
                if lost and len(scope.catalog):
                    scope.kept = self._loop.call_later(_KEPT, self._forget, scope)
                else:
                    del self._scopes[name]
                    await scope.close()

    def _forget(self, scope: Scope) -> None:
        del self._scopes[scope.name]
        task = asyncio.create_task(scope.close(), name="microreg nats-pubsub close")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _seen(task: asyncio.Task[None]) -> None:
    """What a task raised was told to who waited for it; if nobody does any more, it is of no use."""
    if not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, RegistryError):
            raise error
