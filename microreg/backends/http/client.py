"""Calls to the server: connections, TLS, the token, and what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from hashlib import sha256
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from microreg.backends.http.failures import Superseded, connection_failure, is_broken, refusal, stranger
from microreg.errors import RegistryError
from microreg.model import Service
from microreg.net import join_address
from microreg.tls import client_context
from microreg.toolkit import Sockets, decode_all
from microreg.url import RegistryURL, TLSOptions

__all__ = ["Client", "Renewal"]

_CONNECTIONS = 64
_DONE = 204
_LONGEST_QUERY = 2000
_LARGEST = 256 * 1024 * 1024
"""Bytes of an answer."""
_EVENTS = "text/event-stream"
_Key = tuple[str, str]
T = TypeVar("T")


class _Names(msgspec.Struct):
    services: list[str]


class _Services(msgspec.Struct):
    services: list[msgspec.Raw]


class _Node(msgspec.Struct):
    name: str
    id: str


class _Unknown(msgspec.Struct):
    unknown: list[_Node]


class _Info(msgspec.Struct):
    version: str = ""


class _About(msgspec.Struct):
    info: _Info


class Renewal(msgspec.Struct):
    """A node, how long it is to live from now on, and which record the server is believed to have."""

    name: str
    id: str
    ttl: float
    digest: str


class Client:
    """The server's API, one method for each route. Belongs to the running loop.

    A method raises an error of the tree, and nothing else; who calls bounds its time.
    """

    def __init__(self, url: RegistryURL, default_port: int, options: TLSOptions) -> None:
        (host, port), *_ = url.hosts(default_port)
        path = f"/{quote(url.path, safe='/')}" if url.path else ""
        self.where = f"{url.scheme}://{join_address(host, port)}{path}"
        self._base = f"{self.where.replace('%', '%25') if '%' in host else self.where}/v1"
        self._warned = set[str]()
        self._server_name = options.server_name or None
        token: str = getattr(options, "token", "")
        self._sockets = Sockets()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                ssl=client_context(options) if url.scheme == "https" else True,
                ttl_dns_cache=10,
                socket_factory=self._sockets.make,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "microreg", **({"Authorization": f"Bearer {token}"} if token else {})},
            trust_env=False,
            read_bufsize=2**18,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._sockets.close()

    async def put(self, key: _Key, body: bytes, ttl: float, stamp: str) -> str:
        """Register a node with the record in ``body``; its digest. Nothing where the node was written again since."""
        with suppress(Superseded):
            await self._call("PUT", f"{_node(key)}?ttl={ttl:.3f}", body, {"Microreg-Write": stamp}, good=_DONE)
        return sha256(body).hexdigest()[:32]

    async def delete(self, key: _Key, stamp: str) -> None:
        """Deregister a node."""
        with suppress(Superseded):
            await self._call("DELETE", _node(key), None, {"Microreg-Write": stamp}, good=_DONE)

    async def services(self, name: str) -> tuple[Service, ...]:
        """The services of a name."""
        answer = await self._call("GET", f"/services/{_escaped(name)}")
        found = self._read(answer, _Services).services
        return tuple(decode_all(((f"{self.where} {name}", bytes(each)) for each in found), self._warned))

    async def names(self) -> tuple[str, ...]:
        """The names that are registered."""
        return tuple(self._read(await self._call("GET", "/services"), _Names).services)

    async def about(self) -> tuple[str, str]:
        """The version of the server, and the Date of its answer; empty where it does not say so."""
        url = URL(f"{self._base.removesuffix('/v1')}/openapi.json", encoded=True)
        try:
            async with self._session.get(url, allow_redirects=False, server_hostname=self._server_name) as response:
                body = await response.read()
                if response.status != 200:
                    raise refusal(self.where, response, body)
                return self._read(body, _About).info.version, response.headers.get("Date", "")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, RegistryError):
                raise
            raise connection_failure(self.where, error) from error

    async def renew(self, renewals: Sequence[Renewal]) -> set[_Key]:
        """Renew these; returns those whose record the server does not know."""
        body = msgspec.json.encode({"renewals": renewals})
        answer = await self._call("POST", "/renewals", body)
        return {(each.name, each.id) for each in self._read(answer, _Unknown).unknown}

    @asynccontextmanager
    async def events(
        self, names: Sequence[str] | None, snapshot: Sequence[str], last: str
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The stream of events of these names, or of all. A long list of names goes into the body of a POST."""
        headers = {"Accept": _EVENTS, "Accept-Encoding": "identity"}
        if last:
            headers["Last-Event-ID"] = last
        pairs = [*(("name", name) for name in names or ()), *(("snapshot", name) for name in snapshot)]
        query = "&".join(f"{key}={_escaped(name)}" for key, name in pairs)
        body = None
        if len(query) > _LONGEST_QUERY:
            query, body = "", msgspec.json.encode({"names": names, "snapshot": snapshot})
        path = f"/watch?{query}" if query else "/watch"
        try:
            async with self._request("GET" if body is None else "POST", path, body, headers) as response:
                if response.status != 200:
                    raise refusal(self.where, response, await self._whole(response))
                if response.content_type != _EVENTS:
                    raise stranger(self.where, f"it sends {response.content_type}")
                try:
                    yield response
                finally:
                    _cut(response)
        except RegistryError:  # some of which are OSErrors
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise connection_failure(self.where, error) from error

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        good: int = 200,
    ) -> bytes:
        """The body of an answer with the status ``good``. Calls that meet a dead connection go again."""
        again = True
        while True:
            try:
                async with self._request(method, path, body, headers or {}) as response:
                    answer = await self._whole(response)
                    if response.status != good:
                        raise refusal(self.where, response, answer)
                    return answer
            except RegistryError:  # some of which are OSErrors
                raise
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if not again or not is_broken(error):
                    raise connection_failure(self.where, error) from error
                again = False

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        kind = {} if body is None else {"Content-Type": "application/json"}
        return self._session.request(
            method,
            URL(self._base + path, encoded=True),
            data=body,
            headers={**kind, **headers},
            allow_redirects=False,
            server_hostname=self._server_name,
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of an answer, which must not fill the memory, whoever it is that answers."""
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > _LARGEST:
                _cut(response)
                raise stranger(self.where, f"it sends more than {_LARGEST} bytes")
        return b"".join(parts)

    def _read(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise stranger(self.where, str(error)) from None


def _node(key: _Key) -> str:
    return f"/services/{_escaped(key[0])}/nodes/{_escaped(key[1])}"


def _cut(response: aiohttp.ClientResponse) -> None:
    """End the connection of a stream at once: closing it in order takes TLS a round trip, for which nobody waits."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


def _escaped(text: str) -> str:
    """As one part of a path, also where it consists of dots."""
    return quote(text, safe="") if text.strip(".") else "%2E" * len(text)
