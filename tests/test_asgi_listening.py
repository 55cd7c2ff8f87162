"""On which ports a process listens, and which of them is the service's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from microreg import ConfigError
from microreg.integrations.asgi import listening
from microreg.integrations.asgi.listening import Listener, choose, listeners
from support import run

HTTP, METRICS, FILE = Listener("0.0.0.0", 8000), Listener("127.0.0.1", 9090), Listener("/run/app.sock", 0)


def test_only_sockets_that_listen_count(tmp_path: Path) -> None:
    before = listeners()
    with (
        socket.socket() as bound,
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        bound.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        path = os.path.relpath(tmp_path / "s")
        unix.bind(path)
        unix.listen()
        expected = {Listener(*tcp.getsockname()), Listener(*server.getsockname()), Listener(path, 0)}
        assert listeners() - before == expected
        assert client.fileno() > 0 and tcp.fileno() > 0  # what was looked at is still open
    assert listeners() - before == set()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6_has_its_wildcard_and_loopback_too() -> None:
    assert Listener("::", 80).wildcard and not Listener("::", 80).loopback
    assert Listener("::1", 80).loopback and not Listener("::1", 80).wildcard
    assert Listener("127.0.0.2", 80).loopback and Listener("0.0.0.0", 80).wildcard
    assert not FILE.wildcard and not FILE.loopback


@pytest.mark.parametrize(
    ("found", "port", "hint", "expected"),
    [
        ({HTTP}, None, "", (HTTP,)),
        ({HTTP}, None, "9999", (HTTP,)),
        ({HTTP}, 8000, "", (HTTP,)),
        ({HTTP, METRICS}, 8000, "9090", (HTTP,)),
        ({HTTP, METRICS}, None, "9090", (METRICS,)),
        ({HTTP, FILE}, None, "", (HTTP,)),
    ],
)
def test_the_port_is_the_one_told_or_the_only_one(
    found: set[Listener], port: int | None, hint: str, expected: tuple[Listener, ...]
) -> None:
    assert choose(found, port, hint) == expected


def test_all_addresses_of_the_port_count() -> None:
    both = {Listener("0.0.0.0", 80), Listener("::", 80)}
    assert set(choose(both | {METRICS}, 80)) == both


@pytest.mark.parametrize(
    ("found", "port", "hint", "expected"),
    [
        ({HTTP, METRICS}, None, "", "listens on port 8000, port 9090: say which is the service's, with port= or $PORT"),
        ({HTTP, METRICS}, None, "80", "port= or $PORT"),
        ({HTTP, METRICS}, None, "http", "port= or $PORT"),
        ({HTTP}, 8080, "8000", "port=8080, but this process listens on port 8000"),
        ({FILE}, None, "", "listens on the Unix socket /run/app.sock only: give address='host:port'"),
    ],
)
def test_where_there_is_no_telling_the_error_says_what_to_do(
    found: set[Listener], port: int | None, hint: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(found, port, hint)
    assert expected in str(caught.value)


class Uvicorn:
    """What uvicorn's Server shows of itself, and the handler that it sets."""

    def __init__(self) -> None:
        self.started = self.should_exit = False
        self.server_state = object()
        self.servers: list[asyncio.Server] = []

    def handle_exit(self, number: int, frame: object) -> None:
        self.should_exit = True


@contextmanager
def serving(server: Uvicorn) -> Generator[None]:
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_uvicorn_only_its_own_sockets_count_once_it_has_started() -> None:
    async def main() -> None:
        server = Uvicorn()
        with serving(server), socket.create_server(("127.0.0.1", 0)):
            assert listeners() == set()
            own = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            async with own:
                server.servers.append(own)
                assert listeners() == set()
                server.started = True
                assert listeners() == {Listener(*own.sockets[0].getsockname())}

    run(main())


def test_a_system_that_does_not_tell_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(listening, "_DESCRIPTORS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no telling on which port this server listens"):
        listeners()
