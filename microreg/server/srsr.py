"""srsr's API, for its clients: POST ``/register``, ``/heartbeat``, ``/lookup`` and ``/deregister``.

A client's entry is a node. Its id is the client's, and its metadata has the address as the client gave it, under
``srsr.address``: that is what a lookup answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Coroutine
from urllib.parse import urlsplit
from uuid import uuid4

from msgspec import json
from starlette.routing import Route
from starlette.types import Scope

from microreg import Node, Service
from microreg.errors import InvalidService, ServiceNotFound
from microreg.net import join_address, split_address
from microreg.server.problems import Problem
from microreg.server.views import Clients, Endpoint, Server, fields, text

__all__ = ["ADDRESS", "READING", "routes"]

ADDRESS = "srsr.address"
"""Metadata of a node: the address that an srsr client gave."""
READING = frozenset({"/lookup"})
"""Paths for which a POST only reads."""

_JSON = b"application/json; charset=utf-8"
_TRUE, _FALSE = b'{"success":true}', b'{"success":false}'
_NOBODY = b'{"success":false,"address":""}'
_KEPT = 1024
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ODD = re.compile(r"[\s\x00-\x1f\x7f]")
_Answer = Callable[[Scope, dict[str, object]], Coroutine[object, object, bytes]]
_COMMON = re.compile(r"(https?)://([0-9.]{7,15})(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?(?:/[A-Za-z0-9/._-]*)?")
_PORTS = {"https": 443, "wss": 443}


def routes(server: Server, rng: random.Random | None = None) -> list[Route]:
    """The four routes. ``rng`` chooses among the nodes of a name."""
    view = _View(server, rng or random.Random())
    answers: dict[str, _Answer] = {
        "/register": view.register,
        "/heartbeat": view.heartbeat,
        "/lookup": view.lookup,
        "/deregister": view.deregister,
    }
    waits = {"/heartbeat": view.waits, "/deregister": view.waits}
    limit = server.settings.max_body
    return [Route(path, _endpoint(answer, limit, waits.get(path))) for path, answer in answers.items()]


def _endpoint(answer: _Answer, limit: int, waits: Callable[[dict[str, object]], bool] | None) -> Endpoint:
    async def post(scope: Scope, body: bytes) -> tuple[int, bytes]:
        return 200, await answer(scope, fields(body))

    def prompt(scope: Scope, body: bytes) -> Coroutine[object, object, bytes] | None:
        given = fields(body)
        return None if waits is not None and waits(given) else answer(scope, given)

    return Endpoint(limit, {"POST": post}, kind=_JSON, worded=True, prompt=prompt)


class _View:
    def __init__(self, server: Server, rng: random.Random) -> None:
        self._server = server
        self._ttl = server.settings.srsr_ttl
        self._rng = rng
        self._clients: Clients[str] = Clients(server, ADDRESS, lambda record: record.nodes[0].id)
        self._answers: dict[str, tuple[tuple[Service, ...], tuple[bytes, ...]]] = {}

    async def register(self, scope: Scope, given: dict[str, object]) -> bytes:
        """A new entry, with an id of its own, whatever else has its address: who leaves takes nobody with it."""
        name = text(given, "name", required=True)
        client = scope["client"][0] if scope.get("client") else "127.0.0.1"
        url = _url(text(given, "address"), text(given, "port"), client)
        node = Node(_reachable(url, client), id=str(uuid4()), metadata={ADDRESS: url})
        await self._clients.add(Service(name, nodes=[node]), self._ttl)
        return b'{"id":"%s","success":true}' % node.id.encode()

    def waits(self, given: dict[str, object]) -> bool:
        """Whether a request about an entry may have to wait for more than the registry."""
        return not self._clients.settled(text(given, "id", required=True))

    async def heartbeat(self, _: Scope, given: dict[str, object]) -> bytes:
        """Renews an entry; false for one that is not there, so that the client can register again."""
        id = text(given, "id", required=True)
        async with self._clients.turn(id):
            record = await self._clients.find(id)
            if record is None:
                return _FALSE
            await self._clients.renew(record, self._ttl)
            return _TRUE

    async def deregister(self, _: Scope, given: dict[str, object]) -> bytes:
        """Takes this entry away, and no other of its name."""
        id = text(given, "id", required=True)
        async with self._clients.turn(id):
            record = await self._clients.find(id)
            if record is None:
                return _FALSE
            await self._clients.withdraw(record)
            return _TRUE

    async def lookup(self, _: Scope, given: dict[str, object]) -> bytes:
        """Any node of the name that takes calls, each as likely as the others."""
        name = text(given, "name", required=True)
        try:
            services = await self._server.registry.get_service(name)
        except (ServiceNotFound, InvalidService):
            return _NOBODY
        choices = self._choices(name, services)
        return self._rng.choice(choices) if choices else _NOBODY

    def _choices(self, name: str, services: tuple[Service, ...]) -> tuple[bytes, ...]:
        """What a lookup may answer. Kept while the registry gives the same objects."""
        known = self._answers.get(name)
        if known is not None and len(known[0]) == len(services):
            if all(a is b for a, b in zip(known[0], services, strict=True)):
                return known[1]
        if len(self._answers) >= _KEPT:
            self._answers.clear()
        nodes = [node for service in services for node in service.nodes if node.status.selectable]
        found = tuple(json.encode({"success": True, "address": _address(node)}) for node in nodes)
        self._answers[name] = services, found
        return found


def _address(node: Node) -> str:
    return node.metadata.get(ADDRESS) or node.url()


# -- addresses ---------------------------------------------------------------------------------------------


def _url(address: str, port: str, client: str) -> str:
    """The address by srsr's rule: the client's own where it gave none, and the port, if any, behind it."""
    url = address or f"http://{_host(client)}"
    if port:
        if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
            raise _refused(f"port {port[:80]!r}: expected a number from 1 to 65535, as a string")
        if re.search(r"[/?#]", url.partition("://")[2] or url):
            raise _refused(f"address {url[:80]!r}: a port cannot be put behind a path; write it into the address")
        url += f":{port}"
    if _ODD.search(url):
        raise _refused("address: it contains a blank or a control character")
    if not url.startswith("/") and not _SCHEME.match(url):
        raise _refused(f"address {url[:80]!r}: expected a URL, such as http://{url[:80]}")
    return url


def _reachable(url: str, client: str) -> str:
    """``host:port`` of the URL, for those who do not know srsr. A path alone is on the client's own host."""
    common = _COMMON.fullmatch(url)
    if common is not None:
        return f"{common[2]}:{common[3] or _PORTS.get(common[1], 80)}"  # register looks at it
    if not url.startswith("/") and "://" not in url:
        host, port = split_address(url)  # localhost:4321
        if host.lower() in ("http", "https"):
            raise _refused(f"address {url!r}: expected a host, as in {host}://10.0.0.7:{port}")
        return join_address(host, port)
    try:
        parts = urlsplit(url)
        name, number = parts.hostname, parts.port
    except ValueError:
        raise _refused(f"address {url[:80]!r}: expected one host, and at most one port") from None
    if parts.netloc or parts.scheme:
        return join_address(name or "", _PORTS.get(parts.scheme, 80) if number is None else number)
    return join_address(client, 80)


def _host(client: str) -> str:
    return f"[{client.replace('%', '%25')}]" if ":" in client else client


def _refused(detail: str) -> Problem:
    return Problem(400, "invalid_service", detail)
