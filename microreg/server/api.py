"""The native API, under ``/v1``: an ASGI application of its own, since its routes are the hot ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec
from starlette.types import Receive, Scope, Send

from microreg import Registry, Service
from microreg.codec import encode
from microreg.errors import ConfigError, InvalidService
from microreg.rules import DEFAULT_TTL, check_ttl
from microreg.server.bodies import read_body, read_json
from microreg.server.problems import Problem, reply
from microreg.server.records import Records, Stamp
from microreg.server.watching import Watching
from microreg.url import parse_duration

__all__ = ["API", "READING"]

READING = frozenset({"/v1/watch"})
"""Paths for which a POST only reads."""

_STAMP = b"microreg-write"
_MAX_RENEWALS = 10_000
_KEPT = 32 * 1024 * 1024
"""Bytes of answers that are kept as long as they are true."""


class _Call(NamedTuple):
    """One request."""

    scope: Scope
    receive: Receive
    send: Send
    words: Sequence[str]
    """The parts of the path that name something."""


_Handler = Callable[[_Call], Awaitable[None]]


class _Renewal(msgspec.Struct):
    name: str
    id: str
    digest: str
    ttl: float = DEFAULT_TTL


class _Renewals(msgspec.Struct):
    renewals: list[_Renewal]


class API:
    """``/v1`` over a registry."""

    def __init__(self, registry: Registry, records: Records, watching: Watching, max_body: int) -> None:
        self._registry = registry
        self._records = records
        self._max_body = max_body
        self._answers: dict[str, tuple[tuple[Service, ...], bytes]] = {}
        self._kept = 0
        # How many words a path has, and every second one of them; those in between are names.
        self._routes: dict[tuple[object, ...], dict[str, _Handler]] = {
            (2, b"services"): {"GET": self._get, "HEAD": self._get},
            (4, b"services", b"nodes"): {"PUT": self._put, "DELETE": self._delete},
            (1, b"renewals"): {"POST": self._renew},
            (1, b"services"): {"GET": self._list, "HEAD": self._list},
            (1, b"watch"): {"GET": self._watch, "POST": self._watch},
        }
        self._watching = watching

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises what is to be told of as a problem."""
        handler, words = self._route(scope)
        await handler(_Call(scope, receive, send, words))

    def _route(self, scope: Scope) -> tuple[_Handler, Sequence[str]]:
        """The handler, and what the path names. A ``/`` in a name is escaped, so the path is split as it came."""
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        words = raw.partition(b"?")[0].split(b"/")[2:]
        methods = self._routes.get((len(words), *words[::2]))
        if methods is None or b"" in words:
            raise Problem(404, "not_found", "there is nothing at this path; see /openapi.json")
        handler = methods.get(scope["method"])
        if handler is None:
            allowed = ", ".join(methods)
            headers = {b"allow": allowed.encode()}
            raise Problem(405, "method_not_allowed", f"this path takes {allowed}", headers=headers)
        return handler, [_unquoted(word) for word in words[1::2]]

    async def _list(self, call: _Call) -> None:
        _query(call.scope["query_string"])
        names = await self._registry.list_services()
        await reply(call.send, msgspec.json.encode({"services": names}))

    async def _get(self, call: _Call) -> None:
        _query(call.scope["query_string"])
        await reply(call.send, await self.lookup(call.words[0]))

    async def lookup(self, name: str) -> bytes:
        """The services of a name, as JSON."""
        return self._answer(name, await self._registry.get_service(name))

    def _answer(self, name: str, services: tuple[Service, ...]) -> bytes:
        """The services as JSON. While the registry gives the same objects, the same bytes."""
        known = self._answers.get(name)
        if known is not None and len(known[0]) == len(services):
            if all(a is b for a, b in zip(known[0], services, strict=True)):
                return known[1]
        body = b'{"services":[%s]}' % b",".join(map(encode, services))
        self._kept += len(body) - (0 if known is None else len(known[1]))
        if self._kept > _KEPT:
            self._answers.clear()
            self._kept = len(body)
        self._answers[name] = services, body
        return body

    async def _put(self, call: _Call) -> None:
        name, id = call.words
        query, stamp = call.scope["query_string"], _stamp(call.scope)
        body = await read_body(call.scope, call.receive, self._max_body)
        await reply(call.send, await self.register(name, id, query, body, stamp), status=204)

    async def register(self, name: str, id: str, query: bytes, body: bytes, stamp: Stamp | None) -> bytes:
        """Register or renew a node for the time that the query says. There is nothing more to answer."""
        await self._records.put(name, id, body, _ttl(query), stamp)
        return b""

    async def _delete(self, call: _Call) -> None:
        _query(call.scope["query_string"])
        name, id = call.words
        await self._records.withdraw(name, id, _stamp(call.scope))
        await reply(call.send, status=204)

    async def _renew(self, call: _Call) -> None:
        _query(call.scope["query_string"])
        given = (await read_json(call.scope, call.receive, self._max_body, _Renewals)).renewals
        if len(given) > _MAX_RENEWALS:
            raise Problem(413, "too_many", f"{len(given)} renewals; at most {_MAX_RENEWALS} in one request")
        renewals = [(each.name, each.id, check_ttl(each.ttl), _digest(each.digest)) for each in given]
        unknown = await self._records.renew(renewals)
        await reply(call.send, msgspec.json.encode({"unknown": [{"name": name, "id": id} for name, id in unknown]}))

    async def _watch(self, call: _Call) -> None:
        await self._watching.answer(call.scope, call.receive, call.send)


def _unquoted(part: bytes) -> str:
    try:
        return (unquote_to_bytes(part) if b"%" in part else part).decode()
    except UnicodeDecodeError:
        raise Problem(400, "bad_request", "the path's percent escapes are not UTF-8") from None


def _query(text: bytes, *known: str) -> dict[str, str]:
    """The parameters of the query, each once. Raises Problem for any that is not known."""
    if not text:
        return {}
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise Problem(400, "bad_request", "the query is not name=value&name=value in UTF-8") from None
    for key, value in pairs:
        if key not in known or key in found:
            names = ", ".join(known) or "none"
            raise Problem(400, "bad_request", f"query parameter {key[:80]!r}: known here, once: {names}")
        found[key] = value
    return found


@lru_cache(maxsize=256)
def _ttl(query: bytes) -> float:
    """The time to live that a query says, in seconds. Most queries are the same."""
    text = _query(query, "ttl").get("ttl")
    if text is None:
        return DEFAULT_TTL
    with suppress(ConfigError):
        return check_ttl(parse_duration(text))
    raise InvalidService(f"ttl {text[:80]!r}: expected a duration such as 15s, 2m or 90, of 1 second to a day")


def _digest(text: str) -> bytes:
    with suppress(ValueError):
        return bytes.fromhex(text)
    return b""


def _stamp(scope: Scope) -> Stamp | None:
    """Who writes, and the number of the write: ``Microreg-Write: <client>-<number>``."""
    for key, value in scope["headers"]:
        if key == _STAMP:
            client, dash, number = value.decode("latin-1").rpartition("-")
            digits = number.isascii() and number.isdigit() and len(number) <= 18
            if not dash or not 0 < len(client) <= 64 or not digits:
                raise Problem(400, "bad_request", "Microreg-Write: expected <client>-<number>, the number counting up")
            return client, int(number)
    return None
