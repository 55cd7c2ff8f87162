"""registro's API, for its clients, under ``/registro/1.0``: applications, and instances that renew themselves.

An application is a service, an instance a node. Registering lets it live for ten minutes as ``starting``; each renewal
makes it ``up`` for 90 seconds. When these are over it is gone for everybody else; here it is shown as ``down`` for the
rest of the ten minutes, and a renewal brings it back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import json
from starlette.routing import Route
from starlette.types import Scope

from microreg import Node, Service, Status
from microreg.errors import InvalidService, ServiceNotFound
from microreg.events import Reason
from microreg.net import join_address
from microreg.rules import check_service
from microreg.server.problems import Problem
from microreg.server.views import Clients, Endpoint, Server, Shared, fields, text

__all__ = ["MARK", "routes"]

MARK = "registro"
"""Metadata of a node that one of registro's clients registered: the version of the API."""

_BASE = "/registro/1.0"
_UP = 90.0
_KEPT = 600.0
_SLICE = 500
_STATES = {
    Status.STARTING: "starting",
    Status.PASSING: "up",
    Status.WARNING: "up",
    Status.CRITICAL: "down",
    Status.DRAINING: "out-of-service",
}

_Key = tuple[str, str]


def routes(server: Server, clock: Callable[[], float] = time.time) -> list[Route]:
    """registro's routes. ``clock`` gives the seconds since 1970 that ``lastRenewal`` is told in."""
    view = _View(server, clock)
    limit = server.settings.max_body
    of_instance = {"GET": view.instance, "PUT": view.renew, "DELETE": view.withdraw}
    return [
        Route(f"{_BASE}/apps", Endpoint(limit, {"GET": view.apps, "POST": view.create})),
        Route(f"{_BASE}/apps/{{app}}", Endpoint(limit, {"GET": view.app, "POST": view.register})),
        Route(f"{_BASE}/apps/{{app}}/{{id}}", Endpoint(limit, of_instance)),
    ]


class _Down(NamedTuple):
    """An instance that has not renewed itself in time; ``renewed`` in seconds since 1970."""

    record: Service
    renewed: int


class _View:
    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self._server = server
        self._clock = clock
        self._clients: Clients[_Key] = Clients(server, MARK, _key, self._gone)
        self._renewed: dict[_Key, tuple[float, int]] = {}
        self._apps: set[str] = set()
        self._down: dict[str, dict[str, _Down]] = {}
        self._removals: deque[tuple[float, _Key, _Down]] = deque()
        self._lists: Shared[str | None] = Shared(self._list)

    # -- applications --------------------------------------------------------------------------------------

    async def apps(self, _: Scope, __: bytes) -> tuple[int, bytes]:
        """All applications with their instances."""
        await self._server.hub.ready()
        return 200, await self._lists(None)

    async def _list(self, name: str | None) -> bytes:
        """The application of this name as JSON, or all."""
        if name is not None:
            return await self._shown(name, await self._nodes(name), depth=0) + b"\n"
        self._prune()
        parts: list[bytes] = []
        for number, app in enumerate(sorted({*self._server.hub.names, *self._apps, *self._down}), 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            nodes = [record.nodes[0] for record in self._server.hub.catalog.records(app)]
            parts.append(await self._shown(app, nodes, depth=2))
        return b'{\n  "applications": %s\n}\n' % _list(parts, depth=1)

    async def create(self, _: Scope, body: bytes) -> tuple[int, bytes]:
        """A new application, without instances. It is known until the server ends."""
        name = text(fields(body), "name", required=True)
        check_service(Service(name, nodes=[Node("127.0.0.1:1", id="any")]))
        if await self._exists(name) or name in self._apps:  # somebody may have made it while this one looked
            raise Problem(409, "conflict", f"there is an application {name!r} already")
        limit = self._server.settings.max_services
        if len(self._apps) >= limit:
            raise Problem(503, "registry_unavailable", f"there are {limit} applications; see --max-services")
        self._apps.add(name)
        return 201, b""

    async def app(self, scope: Scope, _: bytes) -> tuple[int, bytes]:
        """One application with its instances."""
        name: str = scope["path_params"]["app"]
        if not await self._exists(name):
            raise _absent(f"application {name!r}")
        return 200, await self._lists(name)

    async def _nodes(self, app: str) -> list[Node]:
        try:
            services = await self._server.registry.get_service(app)
        except (ServiceNotFound, InvalidService):
            return []
        return [node for service in services for node in service.nodes]

    async def _exists(self, app: str) -> bool:
        return self._known(app) or bool(await self._nodes(app))

    def _known(self, app: str) -> bool:
        self._prune()
        return app in self._apps or app in self._down

    # -- instances -----------------------------------------------------------------------------------------

    async def register(self, scope: Scope, body: bytes) -> tuple[int, bytes]:
        """A new instance of an application, starting. One that is down, or never began, does not stand in its way."""
        app: str = scope["path_params"]["app"]
        if not await self._exists(app):
            raise _absent(f"application {app!r}")
        record = _record(app, fields(body))
        key = _key(record)
        async with self._clients.turn(key):
            if await self._is_live(key):
                raise Problem(409, "conflict", f"there is an instance {key[1]!r} of {app!r} already")
            await self._clients.add(record, _KEPT)
            self._forget(key)
            self._note(key)
            self._apps.add(app)
        return 201, b""

    async def instance(self, scope: Scope, _: bytes) -> tuple[int, bytes]:
        """One instance."""
        key = _asked(scope)
        await self._server.hub.ready()
        record = await self._find(key)
        if record is not None:
            return 200, _indented(self._document(record.nodes[0], app=key[0])) + b"\n"
        return 200, _indented(_document_of(self._down_at(key))) + b"\n"

    async def renew(self, scope: Scope, _: bytes) -> tuple[int, bytes]:
        """The instance is up, for 90 seconds from now."""
        key = _asked(scope)
        async with self._clients.turn(key):
            record = await self._find(key)
            if record is None:
                await self._clients.add(_up(self._down_at(key).record), _UP)
            elif MARK not in record.nodes[0].metadata or record.nodes[0].status is Status.DRAINING:
                raise Problem(403, "permission_denied", f"instance {key[1]!r} is not renewed in this way")
            else:
                await self._clients.renew(_up(record), _UP)
            self._forget(key)
            self._note(key)
        return 204, b""

    async def withdraw(self, scope: Scope, _: bytes) -> tuple[int, bytes]:
        """The instance is gone, for everybody, and its id free."""
        key = _asked(scope)
        async with self._clients.turn(key):
            record = await self._find(key) or self._down_at(key).record
            await self._clients.withdraw(record)
            self._forget(key)
        return 204, b""

    async def _find(self, key: _Key) -> Service | None:
        return await self._clients.find(key) or self._server.hub.catalog.get(*key)

    async def _is_live(self, key: _Key) -> bool:
        record = await self._find(key)
        if record is None:
            return False
        heard = self._renewed.get(key)
        late = heard is not None and asyncio.get_running_loop().time() > heard[0] + _UP
        return not (late and record.nodes[0].status is Status.STARTING)

    # -- time ----------------------------------------------------------------------------------------------

    def _note(self, key: _Key) -> None:
        self._renewed[key] = asyncio.get_running_loop().time(), int(self._clock())

    def _forget(self, key: _Key) -> None:
        """Nothing is known any more of what the instance was."""
        self._renewed.pop(key, None)
        of_app = self._down.get(key[0], {})
        of_app.pop(key[1], None)
        if not of_app:
            self._down.pop(key[0], None)

    def _gone(self, key: _Key, record: Service, reason: Reason | None) -> None:
        """The registry has the instance no more: unless it was withdrawn, it is down."""
        _, renewed = self._renewed.pop(key, (0.0, int(self._clock() - _UP)))
        if reason is Reason.DEREGISTERED or not record.nodes[0].status.selectable:
            return
        self._prune()
        if len(self._removals) < self._server.settings.max_nodes:
            down = self._down.setdefault(key[0], {})[key[1]] = _Down(record, renewed)
            self._removals.append((asyncio.get_running_loop().time() + _KEPT - _UP, key, down))

    def _prune(self) -> None:
        """Those who are down for too long are known no more."""
        now = asyncio.get_running_loop().time()
        while self._removals and self._removals[0][0] <= now:
            _, key, down = self._removals.popleft()
            if self._down.get(key[0], {}).get(key[1]) is down:
                self._forget(key)

    def _down_at(self, key: _Key) -> _Down:
        self._prune()
        down = self._down.get(key[0], {}).get(key[1])
        if down is None:
            raise _absent(f"instance {key[1]!r} of {key[0]!r}")
        return down

    # -- JSON ----------------------------------------------------------------------------------------------

    async def _shown(self, app: str, nodes: Iterable[Node], depth: int) -> bytes:
        """One application, its instances sorted by id. Those that are left out have none."""
        documents = {id: _document_of(down) for id, down in self._down.get(app, {}).items()}
        documents |= {node.id: self._document(node, app) for node in nodes}
        parts: list[bytes] = []
        for number, id in enumerate(sorted(documents)):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            parts.append(_indented(documents[id], depth + 2))
        pad = b"  " * depth
        tail = b',\n%s  "instances": %s' % (pad, _list(parts, depth + 1)) if parts else b""
        return b'{\n%s  "name": %s%s\n%s}' % (pad, json.encode(app), tail, pad)

    def _document(self, node: Node, app: str) -> dict[str, object]:
        """An instance. What was not registered here renews itself elsewhere: it is alive at this moment."""
        _, renewed = self._renewed.get((app, node.id), (0.0, int(self._clock())))
        return _fields(node, _STATES[node.status], renewed)


def _document_of(down: _Down) -> dict[str, object]:
    return _fields(down.record.nodes[0], "down", down.renewed)


def _fields(node: Node, state: str, renewed: int) -> dict[str, object]:
    return {"id": node.id, "ip": node.host, "port": node.port, "status": state, "lastRenewal": renewed}


def _record(app: str, given: dict[str, object]) -> Service:
    id, ip, port = text(given, "id", required=True), text(given, "ip", required=True), given.get("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise Problem(400, "bad_request", "port: expected a number from 1 to 65535")
    node = Node(join_address(ip, port), id=id, metadata={MARK: "1.0"}, status=Status.STARTING)
    return Service(app, nodes=[node])


def _up(record: Service) -> Service:
    node = record.nodes[0]
    return record if node.status.selectable else record.with_nodes(node.replace(status=Status.PASSING))


def _key(record: Service) -> _Key:
    return record.name, record.nodes[0].id


def _asked(scope: Scope) -> _Key:
    return scope["path_params"]["app"], scope["path_params"]["id"]


def _absent(what: str) -> Problem:
    return Problem(404, "service_not_found", f"there is no {what}")


def _indented(document: object, depth: int = 0) -> bytes:
    """JSON as registro writes it: two blanks for each level, the first line not indented."""
    return json.format(json.encode(document), indent=2).replace(b"\n", b"\n" + b"  " * depth)


def _list(parts: list[bytes], depth: int) -> bytes:
    if not parts:
        return b"[]"
    pad = b"\n" + b"  " * (depth + 1)
    return b"[" + pad + (b"," + pad).join(parts) + b"\n" + b"  " * depth + b"]"
