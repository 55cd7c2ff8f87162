"""The server on a real socket of loopback, in this process: what bytes can do to it, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trustme

from microreg import connect
from microreg.cli import main as command
from microreg.cli.serve import _address, _room, _warn
from microreg.cli.serve import serve as command_serve
from microreg.errors import ConfigError
from microreg.server import Settings, application, protocol
from microreg.server.serve import listen, serve
from serving import record
from support import run, wait_until


@dataclass
class Running:
    port: int
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def ask(self, data: bytes, *, patience: float = 30.0) -> bytes:
        """Send these bytes on a connection of their own; everything that comes until the server ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(patience):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def lives(self) -> None:
        """It answers others, whatever was done to it."""
        assert b"200 OK" in await self.ask(get("/v1/services"))


@asynccontextmanager
async def running(
    settings: Settings | None = None, max_connections: int = 100, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Running]:
    """A server that serves."""
    stop, ready = asyncio.Event(), asyncio.Event()
    listener = listen("127.0.0.1", 0, tls)
    port = listener.sockets[0].getsockname()[1]
    async with connect("memory://") as registry, application(registry, settings) as app:
        serving = serve(app, listener, stop.wait, max_connections=max_connections, ready=ready.set)
        task = asyncio.create_task(serving)
        await ready.wait()
        try:
            yield Running(port, stop, task)
        finally:
            stop.set()
            await task


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]).encode()


def put(body: bytes, *headers: str) -> bytes:
    head = ["PUT /v1/services/a/nodes/x HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def problem(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer that is a problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    document = json.loads(body)
    assert head.split()[1] == str(document["status"]).encode()
    return document["status"], document["code"]


BODY = json.dumps(record("a", "x")).encode()
NONSENSE = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
    (b"\x00" * 100 + b"\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /v1/services HTTP/9.9\r\n\r\n", 400),
    (b"BREW /v1/services HTTP/1.1\r\n\r\n", 400),
    (b"GET /v1/services HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"GET /v1/services HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n", 400),
    (put(b"zz\r\n", "Transfer-Encoding: chunked"), 400),
    (put(b"-5\r\n", "Transfer-Encoding: chunked"), 400),
    (put(b"5\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
    (put(BODY, "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    (put(BODY, "Content-Length: -1"), 400),
    (put(BODY, "Content-Length: 1", "Content-Length: 2"), 400),
    (get("/" + "a" * 40_000), 431),
    (get("/v1/services", "X: " + "a" * 40_000), 431),
    (get("/v1/services", *(f"X{n}: {'a' * 1000}" for n in range(40))), 431),
]


def test_nonsense_gets_an_answer_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running() as server:
            for data, status in NONSENSE:
                answer = await server.ask(data)
                assert problem(answer)[0] == status, data[:60]
            await server.lives()

    run(main())
    assert "Traceback" not in caplog.text


def test_bodies_are_read_up_to_a_limit_however_they_come() -> None:
    async def main() -> None:
        async with running(Settings(max_body=1000)) as server:
            chunk = b"%x\r\n%s\r\n" % (len(BODY), BODY)
            assert b"204" in await server.ask(put(chunk + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
            assert b"204" in await server.ask(put(BODY, f"Content-Length: {len(BODY)}"))
            assert problem(await server.ask(put(b"", "Content-Length: 1001"))) == (413, "body_too_large")
            assert problem(await server.ask(put(b"", f"Content-Length: {'9' * 30}")))[0] in (400, 413)
            endless = put((b"3e8\r\n" + b" " * 1000 + b"\r\n") * 3, "Transfer-Encoding: chunked")
            assert problem(await server.ask(endless)) == (413, "body_too_large")
            await server.lives()

    run(main())


def test_who_says_nothing_or_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_PATIENCE", 0.2)

    async def main() -> None:
        async with running() as server:
            assert await server.ask(b"") == b""
            assert problem(await server.ask(b"GET /v1/services HTTP/1.1\r\nHost: loc")) == (408, "request_timeout")
            assert problem(await server.ask(put(b"{", "Content-Length: 100"))) == (408, "request_timeout")
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/v1/services").replace(b"close", b"keep-alive") + b"GET /v1/serv")
            async with asyncio.timeout(30):
                assert b"200 OK" in await reader.readuntil(b'"services":[]}')
                assert b"408" in await reader.read()
            writer.close()
            await server.lives()

    run(main())


def test_who_takes_too_long_for_the_handshake_of_tls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.server.serve._HANDSHAKE", 1.0)
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def main() -> None:
        async with running(tls=context) as server:
            for begun in (b"\x16\x03\x01", get("/healthz")[:2]):
                assert b"HTTP" not in await server.ask(begun)  # which waits for the end
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
            writer.write(get("/healthz"))
            assert b"200 OK" in await reader.read()
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    run(main())


def test_a_connection_that_is_used_is_kept() -> None:
    async def main() -> None:
        async with running() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            keep = get("/v1/services").replace(b"Connection: close\r\n", b"")
            for requests in (1, 1, 5):  # the last ones without waiting for an answer
                writer.write(keep * requests)
                for _ in range(requests):
                    assert b"200 OK" in await reader.readuntil(b'"services":[]}')
            writer.close()

    run(main())


def test_more_connections_than_allowed_are_refused() -> None:
    async def main() -> None:
        async with running(max_connections=3) as server:
            pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
            for _, writer in pairs[:1]:
                writer.write(b"GET /v1/services HTTP/1.1\r\n")
            await until(server, b"", b"HTTP/1.1 503")
            for _, writer in pairs:
                writer.close()

            await until(server, get("/v1/services"), b"HTTP/1.1 200 OK")

    async def until(server: Running, asked: bytes, wanted: bytes) -> None:
        """Ask until this is the answer: the server hears of connections a little later."""

        async def answered() -> bytes:
            answer = await server.ask(asked)
            return answer if answer.startswith(wanted) else b""

        answer: bytes = await wait_until(answered)
        assert wanted in answer

    run(main())


def test_it_ends_in_order() -> None:
    async def main() -> None:
        async with running() as server:
            stream = asyncio.create_task(server.ask(get("/v1/watch?name=a")))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(put(BODY[:10], f"Content-Length: {len(BODY)}"))
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.sleep(0.05)
            server.stop.set()
            events = await stream
            assert b"event: snapshot" in events and events.endswith(b"0\r\n\r\n")
            assert await idle.read() == b""
            with pytest.raises(OSError):
                await server.ask(get("/v1/services"))
            assert not server.task.done()
            writer.write(BODY[10:])
            assert b"204" in await reader.read()
            await server.task
            writer.close()
            idle_writer.close()

    run(main())


def test_where_it_cannot_listen() -> None:
    first = listen("127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    assert first.url == f"http://127.0.0.1:{port}"
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
        listen("127.0.0.1", port)
    first.close()
    with pytest.raises(ConfigError, match="cannot listen on no.such.host.invalid"):
        listen("no.such.host.invalid", 80)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4214", ("127.0.0.1", 4214)),
        (":4214", ("0.0.0.0", 4214)),
        ("[::]:80", ("::", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_where_to_listen(text: str, address: tuple[str, int]) -> None:
    assert _address(text) == address


@pytest.mark.parametrize("text", ["", "4214", "127.0.0.1", "::1:80", "host:port", "127.0.0.1:99999", "http://x:80"])
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        _address(text)


def test_every_setting_is_an_option_with_the_same_default() -> None:
    called = {"tokens": "token_file", "read_tokens": "read_token_file", "hosts": "allow_host"}
    called["srsr_ttl"] = "srsr_timeout"
    options = inspect.signature(command_serve).parameters
    for field in dataclasses.fields(Settings):
        option = options[called.get(field.name, field.name)]
        if option.default is not None:
            assert option.default == field.default, field.name
    assert Settings().max_per_client == Settings().max_streams  # which it is where the option is not given


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "room"),
    [
        (100_000, 100_000, None, 5000),
        (1024, 100_000, 5064, 5000),
        (1024, 2048, 2048, 1984),
        (64, 64, 64, 1),
        (1024, -1, 5064, 5000),
        (-1, -1, None, 5000),
    ],
)
def test_connections_are_as_many_as_files_may_be_open(
    soft: int,
    hard: int,
    raised: int | None,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resource = pytest.importorskip("resource")
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: done.append(limits))
    assert _room(5000) == room
    assert done == ([] if raised is None else [(raised, hard)])
    assert ("see ulimit -n" in capsys.readouterr().err) == (room < 5000)


@pytest.mark.parametrize(("limit", "room"), [(100_000, 30_000), (2048, 1984)])
def test_who_asks_for_no_number_of_connections_is_not_told(
    limit: int, room: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    assert _room(None) == room and capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="--max-connections: expected at least 1, got 0"):
        _room(0)


def test_where_the_limit_of_open_files_cannot_be_raised_there_is_less_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")

    def refused(_: int, limits: tuple[int, int]) -> None:
        raise ValueError(f"not allowed: {limits}")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refused)
    assert _room(5000) == 960
    assert "at most 960 connections at once, not 5000" in capsys.readouterr().err


def test_without_the_web_framework_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("microreg.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    assert command(["serve", "--listen", "127.0.0.1:0"]) == 2
    assert "the server needs uvicorn: pip install 'microreg[server]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "tokens", "tls", "told"),
    [
        ("127.0.0.1", False, False, []),
        ("::1", False, False, []),
        ("localhost", False, False, []),
        ("10.0.0.1", True, True, []),
        ("10.0.0.1", False, True, ["no tokens"]),
        ("0.0.0.0", True, False, ["tokens included"]),
        ("::", False, False, ["no tokens", "no TLS"]),
        ("registry.internal", False, False, ["no tokens", "no TLS"]),
    ],
)
def test_listening_to_others_says_what_it_means(
    host: str, tokens: bool, tls: bool, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _warn(host, tokens, tls)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert words in line and host in line
