"""py-consul's calls over an aiohttp session of our own.

Its own asyncio client is not used. It makes an SSLContext per client, for plain HTTP too (34 ms); knows no server
name; drops the client certificate with ``verify=False``; ends every request, a blocking query as well, at 300 s, and
keeps a hundred connections, behind which calls wait while as many queries stand; and lets CONSUL_HTTP_TOKEN override
the token that it is given.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
from consul import base
from consul.exceptions import ACLPermissionDenied

from microreg.toolkit import Sockets

__all__ = ["Consul", "session"]

T = TypeVar("T")

_FILTERED = "X-Consul-Results-Filtered-By-ACLs"
"""Agents say so since 1.11."""
_IDLE = 2.0
"""Seconds after which a connection that is not used is closed: all of a machine share those that an agent allows."""


def session(tls: ssl.SSLContext | None, sockets: Sockets) -> aiohttp.ClientSession:
    """The connections to an agent, in the running loop. How many there are at once is up to who asks."""
    connector = aiohttp.TCPConnector(limit=0, ssl=tls or True, keepalive_timeout=_IDLE, socket_factory=sockets.make)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},  # the agent is near: packing costs more than it saves
    )


class Consul(base.Consul):
    """py-consul's client of one agent. Nothing comes from the environment.

    A request is given up when nothing was heard for ``patience`` seconds, however long it takes in all. One that is
    ``consistent`` is answered with what the servers agree on; py-consul cannot ask so for health.
    """

    def __init__(
        self,
        connections: aiohttp.ClientSession,
        address: tuple[str, int],
        *,
        patience: float,
        tls: bool,
        server_name: str,
        token: str,
        dc: str,
        consistent: bool = False,
    ) -> None:
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience, sock_read=patience)
        self._server_name = server_name or None
        self._always = "consistent" if consistent else ""
        host, port = address
        shown = f"[{host}]" if ":" in host else host
        super().__init__(shown, port, scheme="https" if tls else "http", dc=dc, verify=True)
        self.token = token or None  # CONSUL_HTTP_TOKEN has overridden it

    def http_connect(self, host: str, port: int, scheme: str, verify: object = True, cert: object = None) -> Transport:
        """What the base class asks for."""
        return Transport(f"{scheme}://{host}:{port}", self._connections, self._timeout, self._server_name, self._always)


class Transport(base.HTTPClient):
    """Requests over a session."""

    def __init__(
        self,
        base_uri: str,
        connections: aiohttp.ClientSession,
        timeout: aiohttp.ClientTimeout,
        server_name: str | None,
        always: str = "",
    ) -> None:
        super().__init__()
        self.base_uri = base_uri
        self._connections = connections
        self._timeout = timeout
        self._server_name = server_name
        self._always = always

    def uri(self, path: str, params: base.Params | None = None) -> str:
        """The URL, with what is always asked."""
        uri = super().uri(path, params)
        return uri if not self._always else f"{uri}{'&' if '?' in uri else '?'}{self._always}"

    def get(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: base.Params | None = None,
        headers: dict[str, str] | None = None,
        raw: bool = False,
    ) -> Awaitable[T]:
        """Read; everything is text here, whatever ``raw`` says."""
        return self._request(callback, "GET", self.uri(path, params), headers)

    def put(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: base.Params | None = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]:
        """Write."""
        return self._request(callback, "PUT", self.uri(path, params), headers, data)

    def delete(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: base.Params | None = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]:
        """Delete."""
        return self._request(callback, "DELETE", self.uri(path, params), headers, data)

    def post(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: base.Params | None = None,
        data: str = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]:
        """Post."""
        return self._request(callback, "POST", self.uri(path, params), headers, data)

    async def close(self) -> None:
        """Nothing: the session belongs to whoever made it."""

    async def _request(
        self,
        callback: Callable[[base.Response], T],
        method: str,
        uri: str,
        headers: dict[str, str] | None,
        data: str | bytes = "",
    ) -> T:
        async with self._connections.request(
            method,
            uri,
            headers=headers,
            data=data or None,
            allow_redirects=False,
            server_hostname=self._server_name,
            timeout=self._timeout,
        ) as response:
            text = await response.text("utf-8", "replace")
        if response.headers.get(_FILTERED) == "true" and text.strip() in ("[]", "{}"):
            raise ACLPermissionDenied("Permission denied: ACLs have filtered out everything that was asked for")
        return callback(base.Response(response.status, response.headers, text))
