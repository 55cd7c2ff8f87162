"""Telling: our own nodes are announced, and answer pings, for as long as they are renewed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from microreg import Service
from microreg.errors import PermissionDenied, RecordTooLarge, RegistryError
from microreg.toolkit import Deadlines, end
from microreg_nats.connection import Connection
from microreg_nats.pubsub import messages
from microreg_nats.pubsub.subjects import ALL, PING, REGISTER, UNREGISTER, Subjects
from microreg_nats.session import Session

__all__ = ["Responder"]

log = logging.getLogger("microreg.nats")

_PAUSE = 0.02
_AGAIN = 0.3
"""Seconds after which those at the address of a node that left are told of once more."""

Key = tuple[str, str]


@dataclass(slots=True)
class _Own:
    """A node of ours: until when it is told, in ``loop.time()``, in which session last, and if that time ran out."""

    record: Service
    expires: float
    told: int
    lapsed: bool = False


class Responder:
    """Our own nodes. Only ``put`` renews one; what answers a ping says how long it has left.

    Pings are answered at once, and those that come within the next 20 ms together: many listeners that come
    back at the same moment are one answer for each node.
    """

    def __init__(self, connection: Connection, subjects: Subjects, clock: Callable[[], float]) -> None:
        self._connection, self._subjects, self._clock = connection, subjects, clock
        self._host = socket.gethostname()
        self._loop = asyncio.get_running_loop()
        self._names: dict[str, dict[str, _Own]] = {}
        self._expiry: Deadlines[Key] = Deadlines(self._lapse)
        self._session: Session | None = None
        self._ears: dict[str, Subscription] = {}
        self._turn = asyncio.Lock()
        self._pinged: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Take back what is still told of, since nobody will answer for it, where the server can be reached."""
        self._expiry.close()
        if self._task is not None:
            await end(self._task)
        names, self._names = self._names, {}
        session = self._session
        if session is not None and session.is_live:
            with suppress(RegistryError, TimeoutError):
                async with asyncio.timeout(self._connection.goodbye):
                    for own in (own for nodes in names.values() for own in nodes.values()):
                        await self._take_back(session, own.record)
                    await session.flush()

    async def put(self, record: Service, ttl: float) -> None:
        """Tell of a node for ``ttl`` seconds from now, and answer for it until then. Raises RecordTooLarge."""
        session = await self._connection.session()
        message = self._message(record, ttl)
        _check_size(record, len(message), session.client.max_payload)
        await self._listen(session, record.name)
        before = self._own(record)
        own = self._keep(record, ttl, session)
        try:
            await session.publish(self._subjects.of(REGISTER, record.name), message, confirm=True)
        except PermissionDenied:
            self._drop(record)
            raise
        await self._confirmed(own, ttl, session)
        if before is not None and before.record.nodes[0].address != record.nodes[0].address:
            await self._moved(session, before.record)

    async def leave(self, record: Service) -> None:
        """Take a node back, also one of somebody else: listeners forget it until they hear of it again."""
        own = self._drop(record)
        session = await self._connection.session()
        await self._take_back(session, own.record if own is not None else record, confirm=True)
        if record.name not in self._names:
            await self._unlisten(record.name)

    # -- what we have ------------------------------------------------------------------------------

    def _own(self, record: Service) -> _Own | None:
        return self._names.get(record.name, {}).get(record.nodes[0].id)

    def _keep(self, record: Service, ttl: float, session: Session) -> _Own:
        expires = self._loop.time() + ttl
        own = _Own(record, expires, session.generation)
        self._names.setdefault(record.name, {})[record.nodes[0].id] = own
        self._expiry.set((record.name, record.nodes[0].id), expires)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="microreg nats-pubsub answers")
        return own

    async def _confirmed(self, own: _Own, ttl: float, session: Session) -> None:
        """Only now has anybody heard it, after as long as the server stood still: the ttl counts from here."""
        now = self._own(own.record)
        if now is own or (now is None and own.lapsed):
            self._keep(own.record, ttl, session)
            await self._listen(session, own.record.name)

    def _drop(self, record: Service) -> _Own | None:
        name, id = record.name, record.nodes[0].id
        nodes = self._names.get(name, {})
        own = nodes.pop(id, None)
        if own is not None:
            self._expiry.drop((name, id))
            if not nodes:
                del self._names[name]
        return own

    def _lapse(self, key: Key) -> None:
        """Not renewed in time. Listeners know when that is; the next ping finds nobody."""
        own = self._names[key[0]][key[1]]
        own.lapsed = True
        self._drop(own.record)

    # -- what we say -------------------------------------------------------------------------------

    def _message(self, record: Service, seconds: float) -> bytes:
        return messages.register(record, seconds, host=self._host, now=self._clock())

    async def _tell(self, session: Session, own: _Own) -> None:
        left = own.expires - self._loop.time()
        if left > 0 and self._own(own.record) is own:  # it may have left or changed since it was picked
            own.told = session.generation
            with suppress(RecordTooLarge):  # for another server than before; who renews it is told
                await session.publish(self._subjects.of(REGISTER, own.record.name), self._message(own.record, left))

    async def _take_back(self, session: Session, record: Service, *, confirm: bool = False) -> None:
        message = messages.unregister(record, host=self._host)
        await session.publish(self._subjects.of(UNREGISTER, record.name), message, confirm=confirm)
        await self._tell_others_at(session, record)

    async def _moved(self, session: Session, before: Service) -> None:
        """Who knows nodes by their address would keep the old one; we know it by its id, and hear nothing of this."""
        message = messages.unregister(before, host=self._host, by_address=True)
        await session.publish(self._subjects.of(UNREGISTER, before.name), message)
        await self._tell_others_at(session, before)

    async def _tell_others_at(self, session: Session, record: Service) -> None:
        """Who knows nodes by their address has just forgotten all that are there.

        They are told again a moment later: who reads each subject by itself may hear of the end last.
        """
        others = [
            own
            for own in self._names.get(record.name, {}).values()
            if own.record.nodes[0].address == record.nodes[0].address
        ]
        for own in others:
            await self._tell(session, own)
        if others:
            self._loop.call_later(_AGAIN, self._answer_soon, record.name)

    # -- what we are asked -------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            session = await self._connection.connected()
            session.lost.add_done_callback(lambda _: self._wake.set())
            with suppress(RegistryError):
                await self._serve(session)
            await asyncio.sleep(_PAUSE)

    async def _serve(self, session: Session) -> None:
        """Answer pings; first tell what was last told over another connection, since nobody may have heard it."""
        for name in tuple(self._names):
            with suppress(PermissionDenied):  # who renews it is told
                await self._listen(session, name)
        for own in [own for nodes in self._names.values() for own in nodes.values()]:
            if own.told != session.generation:
                await self._tell(session, own)
        while session.is_live:
            await self._wake.wait()
            self._wake.clear()
            pinged, self._pinged = self._pinged, {}
            for name in tuple(self._names if ALL in pinged else pinged):
                await self._answer(session, name)
            await asyncio.sleep(_PAUSE)

    async def _answer(self, session: Session, name: str) -> None:
        nodes = self._names.get(name)
        if nodes is None and name != ALL:
            await self._unlisten(name)
        for own in tuple(nodes.values()) if nodes else ():
            await self._tell(session, own)

    async def _asked(self, name: str, _: Msg) -> None:
        self._answer_soon(name)

    def _answer_soon(self, name: str) -> None:
        self._pinged[name] = None
        self._wake.set()

    async def _listen(self, session: Session, name: str) -> None:
        """Hear pings of this name and those of all names, before anything is told of it."""
        if session is self._session and name in self._ears:
            return
        async with self._turn:
            if not session.is_live:
                raise session.reason
            if session is not self._session:
                ears = await self._listen_to_all(session)  # which may be cancelled: then the next call does it
                self._session, self._ears = session, ears
            if name not in self._ears:
                ear = partial(self._asked, name)
                self._ears[name] = await session.subscribe(self._subjects.of(PING, name), ear)

    async def _listen_to_all(self, session: Session) -> dict[str, Subscription]:
        try:
            return {ALL: await session.subscribe(self._subjects.of(PING, ALL), partial(self._asked, ALL))}
        except PermissionDenied as error:
            log.warning("nobody who asks for all services gets an answer from here: %s", error)
            return {}

    async def _unlisten(self, name: str) -> None:
        async with self._turn:
            if name not in self._names and self._session is not None:
                ear = self._ears.pop(name, None)
                if ear is not None:
                    await self._session.unsubscribe(ear)


def _check_size(record: Service, size: int, limit: int) -> None:
    if size > limit:
        raise RecordTooLarge(
            f"the message about node {record.nodes[0].id!r} of service {record.name!r} has {size} bytes; the server "
            f"takes {limit} (max_payload): carry less metadata or fewer endpoints",
            size=size,
            limit=limit,
        )
