"""What the APIs of other registries share: their clients' nodes among the services, and their kind of JSON.

A view stores nothing of its own: a client's registration is a node like any other, and a mark in the node's metadata
says whose client it is. What is kept here is found again from the registry's watch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from microreg import Registry, Service
from microreg.errors import InvalidService
from microreg.events import Action, Change, Reason
from microreg.server.bodies import read_body
from microreg.server.hub import Hub
from microreg.server.problems import JSON, Problem, problem, reply
from microreg.server.records import Records
from microreg.server.settings import Settings

__all__ = ["Answer", "Clients", "Endpoint", "Prompt", "Server", "Shared", "Turns", "fields", "text"]

K = TypeVar("K", bound=Hashable)

_LATE = 120.0
"""Seconds for which a client's node that was withdrawn is not taken from a watch that is late."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a view works on."""

    registry: Registry
    hub: Hub
    records: Records
    settings: Settings
    answered: Mapping[int, int]
    """How many requests were answered, by status code."""


class Turns(Generic[K]):
    """One at a time for each key: of two requests for one node, the second one sees what the first one did."""

    def __init__(self) -> None:
        self._queues: dict[K, deque[asyncio.Future[None]]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether somebody has a turn."""
        return key in self._queues

    def __call__(self, key: K) -> _Turn[K]:
        """Wait for the turn, and have it for the block of ``async with``."""
        return _Turn(self._queues, key)


class _Turn(Generic[K]):
    __slots__ = ("_key", "_queues")

    def __init__(self, queues: dict[K, deque[asyncio.Future[None]]], key: K) -> None:
        self._queues = queues
        self._key = key

    async def __aenter__(self) -> None:
        queue = self._queues.get(self._key)
        if queue is None:
            self._queues[self._key] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was this one's turn already
                self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        queue = self._queues[self._key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[self._key]


class Shared(Generic[K]):
    """Answers that take long to make. They are made one at a time, so that everybody else is served in between.

    Everybody who asked for the same before it was begun gets the same. ``make`` gives the others a turn now and then.
    """

    def __init__(self, make: Callable[[K], Awaitable[bytes]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._asked = 0
        self._waiting = 0
        self._last: tuple[K, int, bytes] | None = None

    async def __call__(self, key: K) -> bytes:
        """What ``make`` gives for this key, begun after this call."""
        self._asked += 1
        self._waiting += 1
        asked = self._asked
        try:
            async with self._lock:
                if self._last is None or self._last[0] != key or self._last[1] < asked:
                    begun = self._asked
                    self._last = key, begun, await self._make(key)
                return self._last[2]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._last = None


class Clients(Generic[K]):
    """The nodes that carry a mark, by what their clients know of them.

    ``key_of`` gives that for a record. ``gone`` is told of every node that somebody else than its client took away,
    or its ttl. Every method that writes is to be called in a turn of its key.
    """

    def __init__(
        self,
        server: Server,
        mark: str,
        key_of: Callable[[Service], K],
        gone: Callable[[K, Service, Reason | None], None] | None = None,
    ) -> None:
        self._server = server
        self._mark = mark
        self._key_of = key_of
        self._gone = gone
        self._nodes: dict[K, tuple[str, str]] = {}
        self._left: dict[K, float] = {}
        self.turn: Turns[K] = Turns()
        server.hub.catalog.subscribe(None, self._heard)

    async def find(self, key: K) -> Service | None:
        """The record of a client's node, None where there is none.

        Raises RegistryUnavailable where the registry is not watched, for nobody can know then.
        """
        record = self._get(key)
        if record is None:
            await self._server.hub.ready()
            record = self._get(key)
            if record is None:
                self._nodes.pop(key, None)
        return record

    def settled(self, key: K) -> bool:
        """Whether there is a node of this client, and nobody has its turn: ``find`` has to wait for nothing then."""
        return key not in self.turn and self._get(key) is not None

    def _get(self, key: K) -> Service | None:
        node = self._nodes.get(key)
        return None if node is None else self._server.hub.catalog.get(*node)

    async def add(self, record: Service, ttl: float) -> None:
        """Register a new node for ``ttl`` seconds. Raises Problem where there are too many."""
        key, node = self._key_of(record), (record.name, record.nodes[0].id)
        await self._server.records.add(record, ttl)
        self._left.pop(key, None)
        self._nodes[key] = node

    async def renew(self, record: Service, ttl: float) -> None:
        """Let a node live for ``ttl`` more seconds, with this record."""
        await self._server.registry.register(record, ttl=ttl)
        node = record.name, record.nodes[0].id
        if self._server.hub.catalog.get(*node) is not record:
            self._server.hub.expect(*node, record)

    async def withdraw(self, record: Service) -> None:
        """Deregister a node, whoever registered it."""
        await self._server.records.withdraw(record.name, record.nodes[0].id, None)
        key = self._key_of(record)
        self._nodes.pop(key, None)
        now = asyncio.get_running_loop().time()
        self._left.pop(key, None)
        self._left[key] = now + _LATE
        while self._left[oldest := next(iter(self._left))] < now:
            del self._left[oldest]

    def _heard(self, change: Change) -> None:
        record = change.service
        marked = self._mark in record.nodes[0].metadata
        if not marked and not self._nodes:
            return  # nobody uses this API
        key, node = self._key_of(record), (record.name, change.node.id)
        known = self._nodes.get(key)
        if known is not None and known != node:
            return  # a node with the same id, of another service
        if change.action is Action.DELETE:
            if self._nodes.pop(key, None) is not None and self._gone is not None:
                self._gone(key, record, change.reason)
        elif not marked:
            self._nodes.pop(key, None)  # somebody has registered another node in its place
        elif known is None and self._left.get(key, 0.0) <= asyncio.get_running_loop().time():
            self._nodes[key] = node


# -- their JSON --------------------------------------------------------------------------------------------


Answer = Callable[[Scope, bytes], Awaitable[tuple[int, bytes]]]
"""Answers one request: its body, to status and body."""

Prompt = Callable[[Scope, bytes], Coroutine[object, object, bytes] | None]
"""The same for a POST that succeeds, as long as it has to wait for nothing but the registry; or else None."""


class Endpoint:
    """One path, as an ASGI application. What these clients were told with 400 is 400: not 422.

    Errors are problem documents; with ``worded``, the text is under ``error`` too, where such clients look for it.
    """

    def __init__(
        self,
        limit: int,
        methods: Mapping[str, Answer],
        *,
        kind: bytes = JSON,
        worded: bool = False,
        prompt: Prompt | None = None,
    ) -> None:
        self.kind = kind
        self.prompt = prompt
        self._limit = limit
        self._methods = dict(methods)
        if "GET" in methods:
            self._methods["HEAD"] = methods["GET"]
        self._worded = worded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = self._methods.get(scope["method"])
            if answer is None:
                allowed = ", ".join(self._methods)
                headers = {b"allow": allowed.encode()}
                raise Problem(405, "method_not_allowed", f"this path takes {allowed}", headers=headers)
            status, body = await answer(scope, await read_body(scope, receive, self._limit))
        except Exception as error:
            await self.refusal(error).send(send)
        else:
            await reply(send, body, status=status, kind=self.kind)

    def refusal(self, error: Exception) -> Problem:
        """What these clients are told of an error."""
        found = problem(error)
        if isinstance(error, InvalidService):
            found.status = 400
        if self._worded:
            found.members["error"] = found.detail
        return found


def fields(body: bytes) -> dict[str, object]:
    """The members of a JSON object, their names in lower case: Go's decoders take any case. Raises Problem."""
    try:
        found = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Problem(400, "bad_request", f"the body: expected a JSON object; {error}") from None
    return {name.lower(): value for name, value in found.items()}


def text(given: Mapping[str, object], name: str, *, required: bool = False) -> str:
    """A member that is a string; null and nothing are an empty one. Raises Problem."""
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise Problem(400, "bad_request", f"{name}: expected a string")
    if required and not value:
        raise Problem(400, "bad_request", f"{name}: it is missing or empty; expected a string")
    return value or ""
