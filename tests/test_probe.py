"""Health checks against real servers on loopback, and functions of every kind."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import cast

import pytest

from microreg.announce.probe import Check, probe
from microreg.errors import ConfigError
from support import run

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: bytes | None, host: str = "127.0.0.1") -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A server that reads a request and answers with these bytes; None: it never answers."""
    requests: list[bytes] = []
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await over.wait()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.1 2000 Odd\r\n\r\n", False),
        (b"HTTP/1.1 2\r\n\r\n", False),
        (b"HTTP/1.1\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"200 OK\r\n", False),
        (b"\x00\xff\xfe\r\n\r\n", False),
        (b"", False),
        (b"HTTP/1.1 200 " + b"x" * 200_000, False),
    ],
)
def test_http_is_healthy_by_its_status_line(answer: bytes, healthy: bool) -> None:
    async def main() -> None:
        async with serving(answer) as (port, requests):
            assert await probe(f"http://127.0.0.1:{port}/health?deep=1")() is healthy
            assert requests[0].startswith(f"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())
            assert b"Connection: close\r\n" in requests[0]

    run(main())


def test_http_without_a_path_asks_for_the_root() -> None:
    async def main() -> None:
        async with serving(b"HTTP/1.1 200 OK\r\n\r\n") as (port, requests):
            assert await probe(f"http://localhost:{port}")()
            assert requests[0].startswith(b"GET / HTTP/1.1\r\n")

    run(main())


def test_http_over_ipv6() -> None:
    async def main() -> None:
        async with serving(b"HTTP/1.1 200 OK\r\n\r\n", "::1") as (port, requests):
            assert await probe(f"http://[::1]:{port}/")()
            assert f"\r\nHost: [::1]:{port}\r\n".encode() in requests[0]
            assert await probe(f"tcp://[::1]:{port}")()

    run(main())


def test_a_server_that_never_answers_hangs_until_the_caller_gives_up() -> None:
    async def main() -> None:
        async with serving(None) as (port, requests):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await probe(f"http://127.0.0.1:{port}/")()
            assert len(requests) == 1

    run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        with socket.socket() as bound:  # so that nobody else gets the port
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            assert await probe(f"http://127.0.0.1:{port}/")() is False
            assert await probe(f"tcp://127.0.0.1:{port}")() is False

    run(main())


def test_tcp_is_healthy_when_it_accepts() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert await probe(f"tcp://127.0.0.1:{server.getsockname()[1]}")() is True

    run(main())


def test_a_connection_that_is_closed_at_once_is_no_http_answer() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def main() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await probe(f"http://127.0.0.1:{port}/")() is False

    run(main())


# -- functions ---------------------------------------------------------------------------------------


def later(value: object) -> Check:
    async def check() -> object:
        await asyncio.sleep(0)
        if isinstance(value, BaseException):
            raise value
        return value

    return cast(Check, check)


def now(value: object) -> Check:
    def check() -> object:
        if isinstance(value, BaseException):
            raise value
        return value

    return cast(Check, check)


class Odd:
    def __bool__(self) -> bool:
        raise TypeError("neither true nor false")


@pytest.mark.parametrize("kind", [now, later])
@pytest.mark.parametrize(
    ("value", "healthy"),
    [
        (True, True),
        (None, True),
        ("pong", True),
        (False, False),
        (0, False),
        ("", False),
        (Odd(), False),
        (ValueError("broken"), False),
        (TimeoutError("database"), False),
        (SystemExit(3), False),
        (pytest.skip.Exception("no database"), False),
    ],
)
def test_functions_plain_and_async(kind: Callable[[object], Check], value: object, healthy: bool) -> None:
    async def main() -> None:
        assert await probe(kind(value))() is healthy

    run(main())


def test_ctrl_c_in_a_function_and_the_end_of_its_coroutine_go_on() -> None:
    asked = probe(now(KeyboardInterrupt()))()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cast(Coroutine[object, object, bool], asked))
    ended: list[BaseException] = []

    async def check() -> None:
        try:
            await asyncio.sleep(0)
        except BaseException as error:
            ended.append(error)
            raise

    begun = cast(Coroutine[object, object, bool], probe(check)())
    begun.send(None)
    begun.close()
    assert isinstance(ended[0], GeneratorExit) and inspect.getcoroutinestate(begun) == inspect.CORO_CLOSED


def test_a_function_that_is_cancelled_from_inside_is_a_failure_and_a_cancelled_call_is_none() -> None:
    async def main() -> None:
        inner = asyncio.get_running_loop().create_future()

        async def check() -> None:
            await inner

        call = asyncio.ensure_future(probe(check)())
        await asyncio.sleep(0)
        inner.cancel()
        assert await call is False
        call = asyncio.ensure_future(probe(later(True))())
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()

    run(main())


# -- URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [
        "",
        "nonsense",
        "https://127.0.0.1/",
        "HTTP://127.0.0.1/",
        "http:/127.0.0.1",
        "http://",
        "http:///health",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://::1/",
        "http://127.0.0.1/two words",
        "http://127.0.0.1/a\r\nX-Evil: 1",
        "http://127.0.0.1/caf\u00e9",
        "tcp://127.0.0.1",
        "tcp://:80",
        "udp://127.0.0.1:80",
        b"http://127.0.0.1/",
        5,
        None,
    ],
)
def test_urls_that_cannot_be_asked(check: Check) -> None:
    with pytest.raises(ConfigError, match=r"check .*(expected http://host:port/path|percent-encoded)"):
        probe(check)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        probe("http://user:hunter2@127.0.0.1/")
    assert "hunter2" not in str(caught.value) and re.search(r"127\.0\.0\.1", str(caught.value))


def test_a_url_that_fails_says_why_once_until_it_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    status = b"404 Not Found"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        writer.close()

    async def main() -> str:
        nonlocal status
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"
        ask = probe(f"{url}?token=secret")
        assert [await ask(), await ask()] == [False, False]
        status = b"200 OK"
        assert await ask()
        server.close()
        await server.wait_closed()
        assert [await ask(), await ask()] == [False, False]
        return url

    url = run(main())
    told, refused = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == f"the check {url} fails: it answered 'HTTP/1.1 404 Not Found', not a status from 200 to 399"
    assert refused.startswith(f"the check {url} fails: ")
