"""Runs the HTTP registry: sockets, TLS, uvicorn, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from microreg.errors import ConfigError
from microreg.net import join_address
from microreg.server.app import Application
from microreg.server.credentials import Credentials
from microreg.server.protocol import bounded

__all__ = ["Listener", "listen", "renew", "serve"]

_DRAIN = 5
"""Seconds that open requests may take once the server is to end."""
_BACKLOG = 2048
_HANDSHAKE = 10.0
"""Seconds that a client may take for the handshake of TLS."""
_UNANSWERED = 30_000
"""Milliseconds after which the kernel gives a connection up whose other side confirms nothing."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Sockets that are bound, and what clients find there."""

    sockets: tuple[socket.socket, ...]
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        """Where it listens, as clients write it."""
        host, port = self.sockets[0].getsockname()[:2]
        return f"{'http' if self.tls is None else 'https'}://{join_address(host, port)}"

    def close(self) -> None:
        """Close the sockets."""
        for each in self.sockets:
            each.close()


def listen(host: str, port: int, tls: ssl.SSLContext | None = None) -> Listener:
    """Bind to every address of ``host``. Raises ConfigError where that is not possible."""
    bound: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if not port and bound:  # the port that the first one was given
                address = (address[0], bound[0].getsockname()[1], *address[2:])
            bound.append(_bound(family, address))
    except OSError as error:
        for each in bound:
            each.close()
        advice = "; --listen HOST:0 takes a port that is free" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}{advice}") from None
    return Listener(tuple(bound), tls)


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """What the name of a host means: a family, and an address of it, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own, which says when it is ready, and does not wait a minute for TLS."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._is_ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        patience = None if tls is None else _HANDSHAKE
        self.servers = [
            await loop.create_server(
                self._protocol, sock=each, ssl=tls, backlog=_BACKLOG, ssl_handshake_timeout=patience
            )
            for each in sockets or ()
        ]
        self.started = True
        self._is_ready()

    def _protocol(self) -> asyncio.Protocol:
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def renew(app: Application, listener: Listener, credentials: Credentials) -> int:
    """Read tokens and certificate again, while serving; how many streams end, since their token is not known any more.

    Other streams, and connections, go on. Raises ConfigError where a file is no good; then all is as it was.
    """
    tokens, read_tokens = credentials.tokens()
    credentials.context()  # the running one would keep half of a certificate and a key that do not fit
    if listener.tls is not None:
        credentials.load(listener.tls)
    app.access.trust(tokens, read_tokens)
    strangers = [stream for stream in app.hub.streams if not app.access.admits(stream.scope)]
    for stream in strangers:
        stream.end()
    return len(strangers)


async def serve(
    app: Application,
    listener: Listener,
    stop: Callable[[], Awaitable[object]],
    *,
    max_connections: int,
    ready: Callable[[], None],
    proxies: str = "",
) -> None:
    """Serve an application until ``stop()`` returns; then streams end, open requests are answered, and it returns.

    ``ready`` is called when requests are answered. ``proxies`` are the addresses, separated by commas, whose
    ``X-Forwarded-For`` is believed.
    """
    config = uvicorn.Config(
        app,
        http=bounded(max_connections),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_DRAIN,
        backlog=_BACKLOG,
    )
    config.load()
    if listener.tls is not None:
        config.ssl = listener.tls
    server = _Server(config, ready)
    running = asyncio.create_task(server.serve(list(listener.sockets)), name="microreg server")
    asked = asyncio.ensure_future(stop())
    with _silence():
        try:
            await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            server.force_exit = True
            raise
        finally:
            asked.cancel()
            app.drain()
            server.should_exit = True
            await running


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """What uvicorn would say of requests is in problem documents, and said by microreg's own loggers."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
