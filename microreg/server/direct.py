"""The hot requests, from their bytes to the bytes of the answer: without a parser, a task or a framework.

A client that keeps its connection sends the same header block again and again: what it means, and that it may pass, is
looked up. Only requests of the plainest form are answered here, and by the functions that answer all others too. What
is odd in any way is left to the application, whose answer would be the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from typing import NamedTuple, TypeVar

from microreg import Registry
from microreg.server.access import SECURITY, Access, note
from microreg.server.api import API
from microreg.server.problems import JSON, Fields, Problem, header_fields, problem
from microreg.server.views import Endpoint

__all__ = ["Direct"]

T = TypeVar("T")

_Client = tuple[str, int] | None

_WORD = rb"([A-Za-z0-9][A-Za-z0-9._~-]*)"
_LINE = re.compile(
    rb"(?:GET /v1/services/%b|PUT /v1/services/%b/nodes/%b(?:\?([A-Za-z0-9=.&]*))?|POST (/[a-z]+)) HTTP/1\.1\r\n"
    % (_WORD, _WORD, _WORD)
)
_LOOKUP, _POST = 1, 5
"""The last group of the line that matched, for these; what is between is a PUT."""
_FIELD = re.compile(rb"([A-Za-z0-9-]+): ?([\x21-\x7e]+(?: +[\x21-\x7e]+)*)\r\n")
_PLAIN = frozenset(b"accept accept-encoding authorization content-length content-type host user-agent".split())
"""Headers that a request may have to be answered here. None of them changes how it is read, but for the length."""
_BLOCKS = 1_000
_BLOCK_BYTES = 2_048
"""Bounds of what is remembered: header blocks, and the bytes of one."""
_END = b"".join(b"%b: %b\r\n" % header for header in SECURITY) + b"\r\n"


class _Route(NamedTuple):
    writes: bool
    call: Callable[[re.Match[bytes], bytes, _Client], Coroutine[object, object, bytes] | None]
    """Makes the answer of the request line and the body; None where it would have to wait."""
    status: int = 200
    kind: bytes = JSON
    refusal: Callable[[Exception], Problem] = problem


class Direct:
    """Answers what it can, for a registry that is prompt. ``posts`` are paths of other views than the native one."""

    def __init__(
        self, registry: Registry, api: API, posts: Mapping[str, Endpoint], access: Access, max_body: int
    ) -> None:
        self._prompt = registry.prompt
        self._access = access
        self._api = api
        self._max_body = max_body
        self._get = _Route(access.writes("GET", "/v1/services"), self._lookup)
        self._put = _Route(access.writes("PUT", "/v1/services"), self._register, 204)
        self._posts = {path.encode(): self._posted(path, each) for path, each in posts.items() if each.prompt}
        self._sizes: dict[tuple[bool, bytes], int] = {}
        access.changed = self._sizes.clear
        self._defaults: Fields = []
        self._heads: dict[tuple[int, bytes], bytes] = {}

    def answer(self, data: bytes, client: _Client, defaults: Fields) -> bytes | None:
        """The answer to exactly one request, ``data``; None where it is for the application to answer.

        ``client`` is who asks, ``defaults`` are headers that are sent before all others.
        """
        line = _LINE.match(data) if self._prompt else None
        if line is None:
            return None
        found = line.lastindex
        route = self._get if found == _LOOKUP else self._put if found != _POST else self._posts.get(line[_POST])
        end = data.find(b"\r\n\r\n", line.end() - 2)
        body = data[end + 4 :]
        if route is None or end < 0 or len(body) != self._size(route, line, data[line.end() : end + 2]):
            return None
        try:
            call = route.call(line, body, client)
        except Exception:
            return None
        if call is None:
            return None
        if defaults is not self._defaults:
            self._defaults = defaults
            self._heads.clear()
        return self._run(route, call, line, client)

    # -- what is asked ---------------------------------------------------------------------------

    def _size(self, route: _Route, line: re.Match[bytes], block: bytes) -> int | None:
        """The bytes of body that these headers announce; None where they are not plain, or may not pass."""
        key = route.writes, block
        size = self._sizes.get(key)
        if size is None:
            headers = _headers(block)
            size = None if headers is None else _length(headers)
            if headers is None or size is None or size > self._max_body:
                return None
            method, target, _ = line[0].decode().split(" ")
            try:
                self._access.check(method, target.partition("?")[0], headers)
            except Problem:
                return None
            if len(self._sizes) >= _BLOCKS:
                self._sizes.clear()
            self._sizes[key] = size
        return size

    def _lookup(self, line: re.Match[bytes], _body: bytes, _client: _Client) -> Coroutine[object, object, bytes]:
        return self._api.lookup(line[1].decode())

    def _register(self, line: re.Match[bytes], body: bytes, _client: _Client) -> Coroutine[object, object, bytes]:
        return self._api.register(line[2].decode(), line[3].decode(), line[4] or b"", body, None)

    def _posted(self, path: str, endpoint: Endpoint) -> _Route:
        prompt = endpoint.prompt
        assert prompt is not None

        def call(_line: re.Match[bytes], body: bytes, client: _Client) -> Coroutine[object, object, bytes] | None:
            return prompt({"client": client}, body)

        return _Route(self._access.writes("POST", path), call, 200, endpoint.kind, endpoint.refusal)

    # -- what is answered ------------------------------------------------------------------------

    def _run(
        self, route: _Route, call: Coroutine[object, object, bytes], line: re.Match[bytes], client: _Client
    ) -> bytes:
        began = time.monotonic() if self._access.logs else 0.0
        address = "" if client is None else client[0]
        status = route.status
        refusal: Callable[[Exception], Problem] = problem
        try:
            self._access.check_rate(address)
            refusal = route.refusal
            body = _now(call)
            head = self._heads.get((status, route.kind)) or self._head(route)
            answer = head + _END if status == 204 else b"%b%d\r\n%b%b" % (head, len(body), _END, body)
        except Exception as error:
            found = refusal(error)
            status, body = found.status, found.document()
            answer = b"%b%b%b" % (self._start(status, found.fields(body)), _END, body)
        finally:
            call.close()
        self._access.answered[status] += 1
        if self._access.logs:
            method, target, _ = line[0].decode().split(" ")
            note(address, method, target.partition("?")[0], status, len(body), time.monotonic() - began)
        return answer

    def _head(self, route: _Route) -> bytes:
        """The answer up to its content length, or to the end of these headers where there is no body."""
        start = self._start(route.status, header_fields(b"", route.status, route.kind))
        head = self._heads[route.status, route.kind] = start.removesuffix(b"0\r\n")
        return head

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        fields = b"".join(b"%b: %b\r\n" % header for header in (*self._defaults, *headers))
        return b"HTTP/1.1 %d %b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), fields)


def _headers(block: bytes) -> Fields | None:
    """The headers in these bytes, names in lower case; None where any of them is not plain, or there twice."""
    found: dict[bytes, bytes] = {}
    at = 0 if len(block) <= _BLOCK_BYTES else -1
    while at != len(block):
        field = _FIELD.match(block, at) if at >= 0 else None
        if field is None:
            return None
        name, value = field[1].lower(), field[2]
        if name in found or (name not in _PLAIN and (name, value.lower()) != (b"connection", b"keep-alive")):
            return None
        found[name] = value
        at = field.end()
    return list(found.items())


def _length(headers: Fields) -> int | None:
    """The content length that they announce, 0 without one; None where it is no number."""
    text = dict(headers).get(b"content-length", b"0")
    return int(text) if text.isdigit() and len(text) < 10 else None


def _now(call: Coroutine[object, object, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    raise RuntimeError("a registry that says it is prompt makes its callers wait")
