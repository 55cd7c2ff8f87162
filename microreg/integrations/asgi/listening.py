"""On which addresses this process accepts connections: asked of the server, or of the sockets themselves.

Nobody is connected to: an answer on a port does not say whose it is. Another program may have taken the port,
and then the server's own attempt is about to fail.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol, cast

from microreg import ConfigError

__all__ = ["Listener", "choose", "listeners"]

_DESCRIPTORS = "/dev/fd"


class Listener(NamedTuple):
    """A listening socket. ``port`` is 0 for one that is not TCP, and ``host`` then its path."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.port > 0 and ipaddress.ip_address(self.host).is_loopback

    @property
    def wildcard(self) -> bool:
        """Whether it accepts on every address of this machine."""
        return self.port > 0 and ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        return f"port {self.port}" if self.port else f"the Unix socket {self.host}"


def listeners() -> frozenset[Listener]:
    """Where this process listens now: the sockets of its uvicorn server, or else all that it has.

    Raises ConfigError on systems that do not tell a process which sockets it has (Windows), unless uvicorn serves.
    """
    server = _uvicorn()
    found = _of_process() if server is None else _of_server(server)
    return frozenset(found)


def choose(found: Iterable[Listener], port: int | None, hint: str = "") -> tuple[Listener, ...]:
    """The listeners of the one port to announce: ``port``, or the only one, or the one that ``hint`` ($PORT) says.

    Raises ConfigError where there is none, or no telling which.
    """
    every = sorted(found, key=lambda listener: listener.port)
    told = ", ".join(dict.fromkeys(map(str, every)))
    ports = {listener.port for listener in every} - {0}
    if port is not None and port not in ports:
        raise ConfigError(f"port={port}, but this process listens on {told}: give the port that the server listens on")
    if not ports:
        raise ConfigError(f"this process listens on {told} only: give address='host:port', where others reach it")
    if port is None and len(ports) > 1 and hint.isdecimal() and int(hint) in ports:
        port = int(hint)
    if port is None and len(ports) > 1:
        raise ConfigError(f"this process listens on {told}: say which is the service's, with port= or $PORT")
    return tuple(listener for listener in every if listener.port == (port or max(ports)))


class _Server(Protocol):
    """What uvicorn's Server shows of itself."""

    started: bool
    servers: list[_Listening]


class _Listening(Protocol):
    """asyncio.Server, of any loop."""

    @property
    def sockets(self) -> Iterable[socket.socket]: ...


def _uvicorn() -> _Server | None:
    """The uvicorn server of this process: it handles SIGTERM with a method of its own."""
    owner: object = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    known = all(hasattr(owner, name) for name in ("started", "should_exit", "server_state"))
    return cast(_Server, owner) if known else None


def _of_server(server: _Server) -> Iterator[Listener]:
    for listening in server.servers if server.started else ():
        yield from filter(None, map(_listener, listening.sockets))


def _of_process() -> Iterator[Listener]:
    try:
        descriptors = [int(name) for name in os.listdir(_DESCRIPTORS) if name.isdecimal()]
    except OSError:
        raise ConfigError(f"without {_DESCRIPTORS} there is no telling on which port this server listens") from None
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as copy:
                    if copy.type == socket.SOCK_STREAM and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found = _listener(copy)
                        if found is not None:
                            yield found


def _listener(sock: socket.socket) -> Listener | None:
    name: object = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        host, port, *_ = cast("tuple[str, int]", name)
        return Listener(host, port)
    if isinstance(name, str | bytes):
        return Listener(os.fsdecode(name), 0)
    return None
