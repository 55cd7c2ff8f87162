"""``http://`` without a server: the config string, the event stream format, what answers mean."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from caching import Store, Vague
from microreg import Node, Registry, Service, connect
from microreg.backends.http.client import Client
from microreg.backends.http.eventstream import Parser, Received
from microreg.backends.http.failures import Superseded, connection_failure, refusal
from microreg.checked import Checked
from microreg.codec import encode
from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RecordTooLarge,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.events import Change, Snapshot
from microreg.layers.cache import cached
from microreg.server import application
from microreg.server.serve import listen, serve
from support import python, run, wait_until
from web import Web

WHERE = "http://127.0.0.1:4214"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user@127.0.0.1", "takes no user"),
        ("http://user:secret@127.0.0.1", "takes no user"),
        ("http://127.0.0.1,127.0.0.2", "expected one host"),
        ("http://127.0.0.1?ca=/x.pem", "option ca is for TLS; write https://"),
        ("http://127.0.0.1?server_name=x", "option server_name is for TLS; write https://"),
        ("https://127.0.0.1?cert=/x.pem", "cert and key belong together"),
        ("http://127.0.0.1?token=a%20b", "option token"),
        ("http://127.0.0.1?token=%C3%BC", "option token"),
        ("http://127.0.0.1?tokn=x", "did you mean token"),
        ("http://127.0.0.1:0", "host 1"),
    ],
)
def test_config_strings_that_cannot_be_meant(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["ca={there}", "cert={there}&key={there}", "ca=/nowhere.pem"])
def test_certificates_that_are_none(option: str, tmp_path: Path) -> None:
    there = tmp_path / "file.pem"
    there.write_text("no certificate")

    async def main() -> None:
        async with connect(f"https://127.0.0.1?{option.format(there=there)}"):
            raise AssertionError("it opened")

    with pytest.raises(ConfigError, match="TLS: .*expected "):
        run(main())


def test_without_its_client_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.backends.http.find_spec", lambda name: None)
    for scheme in ("http", "https"):
        with pytest.raises(ConfigError, match=rf"{scheme}:// needs aiohttp: pip install 'microreg\[http\]'"):
            connect(f"{scheme}://127.0.0.1")


def test_a_token_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "very-secret")
    for token, shown in (("very-secret", "token=***"), ("${REGISTRY_TOKEN}", "token=${REGISTRY_TOKEN}")):
        registry = connect(f"http://127.0.0.1?token={token}")
        assert shown in str(registry.url)
        assert "very-secret" not in f"{registry!r} {registry.url} {registry.options!r}"


def test_loading_the_backend_loads_no_client_library() -> None:
    code = "import sys; from microreg import connect; connect('http://127.0.0.1'); print(*sys.modules)"
    loaded = set(python(code).split())
    assert "microreg.backends.http" in loaded
    assert {"aiohttp", "yarl", "starlette", "uvicorn"} & loaded == set()


def test_the_address_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def where(url: str) -> str:
        registry = connect(url)
        async with registry:
            inner = registry.unwrap(type(registry.inner))  # type: ignore[attr-defined]
            return cast(Client, inner._opened[0])._base  # type: ignore[union-attr]

    assert run(where("http://")) == "http://127.0.0.1:4214/v1"
    assert run(where("http://registry.internal:80")) == "http://registry.internal:80/v1"
    assert run(where("https://example.org:443/discovery/eu%20west")) == "https://example.org:443/discovery/eu%20west/v1"
    assert run(where("http://[::1]")) == "http://[::1]:4214/v1"


def test_what_answers_is_no_server_of_ours() -> None:
    async def main(port: int) -> None:
        async with connect(f"http://127.0.0.1:{port}") as registry:
            with pytest.raises(RegistryUnavailable, match="no microreg server"):
                await registry.list_services()
            with pytest.raises(RegistryUnavailable, match="no microreg server"):
                await registry.get_service("a")
            async with registry.watch("a") as events:
                await wait_until(lambda: events.error)
                assert "no microreg server (it sends " in str(events.error)

    with Web() as web:
        run(main(web.port))


@pytest.mark.parametrize("mode", ["break", "tear"])
def test_answers_that_break_off(mode: str) -> None:
    async def main(port: int) -> None:
        async with connect(f"http://127.0.0.1:{port}") as registry:
            for call in (registry.list_services, lambda: registry.get_service("a")):
                with pytest.raises(RegistryUnavailable, match=f"127.0.0.1:{port}"):
                    await call()
            async with registry.watch("a") as events:
                await wait_until(lambda: isinstance(events.error, RegistryUnavailable))

    with Web(mode=mode) as web:
        run(main(web.port))


@asynccontextmanager
async def answering(head: bytes, *parts: bytes, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """The address of a server that gives everybody this answer. Streams, and no answer at all, end with the client."""
    answering = set[asyncio.Task[None]]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            for part in (b"\r\n\r\n", *parts) if head else ():
                writer.write(part)
                await writer.drain()
            if not head or b"event-stream" in head:
                await reader.read()
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls) as server:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*answering)


NODE = Service("a", nodes=[Node("10.0.0.1:80", id="x")])
PLAIN = b"HTTP/1.1 200 OK\r\nConnection: close"


@pytest.mark.parametrize(
    ("head", "body", "why"),
    [
        (PLAIN, b"<html>sign in here</html>", "no microreg server"),
        (PLAIN, b'{"services":7}', "no microreg server"),
        (PLAIN, b'{"services":[', "no microreg server"),
        (PLAIN, b'{"services":"\xff"}', "no microreg server"),
        (PLAIN + b"\r\nContent-Encoding: gzip", b"no gzip", "127.0.0.1"),
        (PLAIN + b"\r\nContent-Encoding: gzip", gzip.compress(b" " * 3_000_000), "more than 1000000 bytes"),
        (PLAIN, b" " * 3_000_000, "more than 1000000 bytes"),
        (b"HTTP/1.1 204 No Content\r\nConnection: close", b"", "no microreg server"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n", "127.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99", b"cut", "127.0.0.1"),
        (b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://elsewhere/", b"", "redirects to 'http://else"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x", b"", "127.0.0.1"),
        (b"HTTP/1.1 418 Teapot\r\nConnection: close", b"", "no microreg server"),
        (b"SSH-2.0-OpenSSH_9.2", b"", "127.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, b"", "127.0.0.1"),
    ],
)
def test_whatever_answers_every_call_fails_and_says_where(
    head: bytes, body: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microreg.backends.http.client._LARGEST", 1_000_000)

    async def main() -> None:
        async with answering(head, body) as url, connect(url) as registry:
            reads: tuple[Coroutine[object, object, object], ...] = registry.list_services(), registry.get_service("a")
            for call in reads:
                with pytest.raises(RegistryUnavailable, match=why):
                    await call
            if b"204" not in head:  # which is the answer to them
                for write in (registry.register(NODE), registry.deregister(NODE)):
                    with pytest.raises(RegistryUnavailable):
                        await write
            async with registry.watch("a") as events:
                await wait_until(lambda: isinstance(events.error, RegistryUnavailable))
                assert events.state == "resyncing"

    run(main())


def test_answers_that_are_announced_are_waited_for() -> None:
    async def main() -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + PLAIN
        async with answering(early, b'{"services":["a"]}') as url, connect(url) as registry:
            assert await registry.list_services() == ("a",)

    run(main())


def test_a_stream_that_somebody_collects_is_noticed_and_explained() -> None:
    async def main() -> None:
        async with answering(b"") as url, connect(f"{url}?timeout=200ms") as registry, registry.watch("a") as events:
            await wait_until(lambda: isinstance(events.error, RegistryTimeout))
            assert "a proxy collects (buffers)" in str(events.error)

    run(main())


@pytest.mark.parametrize(
    "event",
    [
        b"event: change\ndata: {}\n\n",
        b"event: change\ndata: [\n\n",
        b'event: snapshot\ndata: {"name":7,"services":[]}\n\n',
        b"event: snapshot\ndata: \xff\n\n",
        b"data: " + b"[" * 100_000 + b"\nevent: change\n\n",
    ],
)
def test_events_that_are_none_end_the_stream_and_are_told(event: bytes) -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close"
        async with answering(head, event) as url, connect(url) as registry, registry.watch("a") as events:
            await wait_until(lambda: events.error)
            assert "no microreg server, or a broken one" in str(events.error)

    run(main())


def test_what_cannot_be_decoded_in_an_event_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"
        good = encode(NODE)
        body = b'event: snapshot\ndata: {"name":"a","services":[{"name":7},%s]}\nid: e-1\n\n' % good
        strange = b'event: later\ndata: {}\n\nevent: change\ndata: {"action":"create","service":{"nodes":7}}\n\n'
        async with answering(head, body, strange) as url, connect(url) as registry, registry.watch("a") as events:
            assert await anext(events) == Snapshot([NODE])
            await wait_until(lambda: len(caplog.records) == 2)
            assert events.state == "live"

    run(main())


@pytest.mark.parametrize(
    ("name", "years", "why"),
    [("127.0.0.1", 1, ""), ("127.0.0.1", -1, "expired"), ("192.0.2.1", 1, "IP address mismatch")],
)
def test_certificates_that_are_not_good_any_more(name: str, years: int, why: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    now = datetime.now(UTC)
    certificate = authority.issue_cert(name, not_before=now - timedelta(800), not_after=now + timedelta(365 * years))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))

    async def main() -> None:
        async with answering(PLAIN, b'{"services":[]}', tls=context) as url:
            async with connect(f"{url}?ca={tmp_path / 'ca'}") as registry:
                if not why:
                    assert await registry.list_services() == ()
                    return
                with pytest.raises(RegistryUnavailable, match=rf"TLS: .*{why}.*options ca and server_name"):
                    await registry.list_services()
                async with registry.watch("a") as events:
                    await wait_until(lambda: why in str(events.error))

    run(main())


@pytest.mark.parametrize(
    ("scheme", "answer", "why"),
    [
        (
            "https",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            r"TLS: what answers there does not speak it .*; is it http://\?$",
        ),
        ("http", b"Hello\r\n\r\n", r"no microreg server \(its answer is no HTTP\)"),
    ],
)
def test_a_server_of_another_protocol(scheme: str, answer: bytes, why: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.write_eof()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"{scheme}://127.0.0.1:{port}") as registry:
                with pytest.raises(RegistryUnavailable, match=why):
                    await registry.list_services()

    run(main())


# -- events -----------------------------------------------------------------------------------------


def parsed(data: bytes, *cuts: int) -> list[Received]:
    """The events in these bytes, which arrive cut in pieces."""
    parser, places = Parser(), sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [event for a, b in zip(places, places[1:], strict=False) for event in parser.feed(data[a:b])]


def test_events_of_every_form() -> None:
    assert parsed(b"event: change\ndata: {}\nid: 1\n\n") == [Received(b"change", b"{}", b"1")]
    assert parsed(b"data:a\ndata: b\n\n") == [Received(b"", b"a\nb", b"")]
    assert parsed(b": comment\n\n:\nid: 7\n\n") == [Received(b"", b"", b"7")]
    assert parsed(b"event: x\r\ndata: y\r\n\r\n") == [Received(b"x", b"y", b"")]
    assert parsed(b"retry: 5\nnonsense\nevent: x\n\n") == []
    assert parsed(b"data: not complete\n") == []


lines = st.binary(max_size=40).filter(lambda data: not {10, 13} & {*data})


events_ = st.lists(st.tuples(st.sampled_from([b"change", b"snapshot"]), lines))


@given(events_, st.lists(st.integers(min_value=0), max_size=10))
def test_however_the_bytes_arrive_the_events_are_the_same(events: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(b"event: %s\ndata: %s\nid: 1\n\n" % event for event in events)
    assert parsed(data, *cuts) == [Received(kind, text, b"1") for kind, text in events]


def test_an_event_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.backends.http.eventstream._LARGEST", 1000)
    assert len(parsed(b"data: x\n\n" * 1000)) == 1000
    for chunk in (b"x" * 100, b"data: x\n"):
        parser = Parser()
        with pytest.raises(RegistryUnavailable, match="more than 1000 bytes"):
            for _ in range(200):
                list(parser.feed(chunk))


# -- the one stream ---------------------------------------------------------------------------------


def test_a_client_that_follows_very_many_names_follows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.backends.http.following._MOST", 3)
    asked: list[tuple[Sequence[str] | None, Sequence[str]]] = []
    events = Client.events

    def noted(
        self: Client, names: Sequence[str] | None, snapshot: Sequence[str], last: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        asked.append((names, snapshot))
        return events(self, names, snapshot, last)

    monkeypatch.setattr(Client, "events", noted)

    async def main() -> None:
        async with listening() as url, connect(url) as registry, AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(registry.watch(name)) for name in "abc"]
            for watch in watches:
                assert await anext(watch) == Snapshot()
            assert asked[-1][0] == ["a", "b", "c"]
            last = await stack.enter_async_context(registry.watch("d"))
            assert await anext(last) == Snapshot()
            assert asked[-1] == (None, [])
            await registry.register(NODE)
            assert isinstance(await anext(watches[0]), Change)
            await last.close()
            await wait_until(lambda: asked[-1][0] == ["a", "b", "c"])
            await registry.deregister(NODE)
            assert isinstance(await anext(watches[0]), Change)

    run(main())


@asynccontextmanager
async def listening(registry: Registry | None = None) -> AsyncGenerator[str]:
    """The address of a server of ours, in this process, before this registry or one in memory."""
    stop, ready = asyncio.Event(), asyncio.Event()
    listener = listen("127.0.0.1", 0)
    async with registry or connect("memory://") as store, application(store) as app:
        serving = asyncio.create_task(serve(app, listener, stop.wait, max_connections=100, ready=ready.set))
        await ready.wait()
        yield listener.url
        stop.set()
        await serving


# -- behind a cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "sure"), [(Store, True), (Vague, False)])
def test_a_cache_is_as_sure_that_nothing_is_there_as_what_stands_behind_the_server(
    kind: type[Store], sure: bool
) -> None:
    """The capabilities of ``http://`` are the same whatever that is; its answers say so."""

    async def main() -> None:
        store = kind()
        async with listening(Checked(store)) as url, connect(f"cache+{url}") as registry:
            cache = cached(registry)
            assert cache is not None
            for _ in range(3):
                with pytest.raises(ServiceNotFound) as caught:
                    await registry.get_service("greeter")
                assert caught.value.authoritative is sure
                await wait_until(lambda: cache.follow("greeter").live)
            assert store.gets == (1 if sure else 3)

    run(main())


def test_a_name_that_has_left_is_asked_for_once_before_the_watch_is_believed() -> None:
    async def main() -> None:
        store = Store()
        async with listening(Checked(store)) as url, connect(f"cache+{url}") as registry:
            cache = cached(registry)
            assert cache is not None
            service = Service("greeter", nodes=[Node("10.0.0.1:80", id="n1")])
            await registry.register(service)
            await registry.get_service("greeter")
            await wait_until(lambda: cache.follow("greeter").live)
            await registry.deregister(service)
            await wait_until(lambda: not cache.services("greeter"))
            gets = store.gets
            for _ in range(3):
                with pytest.raises(ServiceNotFound):
                    await registry.get_service("greeter")
            assert store.gets == gets + 1

    run(main())


# -- answers ----------------------------------------------------------------------------------------


def answer(status: int, body: bytes = b"", **headers: str) -> RegistryError:
    response = SimpleNamespace(status=status, reason="Reason", headers=headers)
    return refusal(WHERE, cast(aiohttp.ClientResponse, response), body)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b'{"code":"service_not_found","name":"a","authoritative":true}', ServiceNotFound, "'a'"),
        (413, b'{"code":"record_too_large","detail":"D","size":7,"limit":5}', RecordTooLarge, "D"),
        (422, b'{"code":"invalid_service","detail":"D"}', InvalidService, "D"),
        (401, b'{"code":"permission_denied","detail":"D"}', PermissionDenied, r"D; in the config string: \?token="),
        (403, b'{"code":"permission_denied","detail":"D"}', PermissionDenied, "D$"),
        (503, b'{"code":"registry_unavailable","detail":"D"}', RegistryUnavailable, "D"),
        (504, b'{"code":"registry_timeout","detail":"D"}', RegistryTimeout, "D"),
        (501, b'{"code":"unsupported","detail":"D"}', Unsupported, "D"),
        (429, b'{"code":"too_many_requests","detail":"D"}', RegistryUnavailable, "D"),
        (400, b'{"code":"bad_request","detail":"D"}', RegistryError, "D"),
        (500, b'{"code":"registry_error","detail":"D"}', RegistryUnavailable, "D"),
        (502, b"<html>nginx</html>", RegistryUnavailable, "502 Reason"),
        (401, b"<html>proxy</html>", PermissionDenied, "401 Reason"),
        (407, b"", PermissionDenied, "407 Reason"),
        (404, b"<html>", RegistryUnavailable, r"no microreg server .*is the path right"),
        (404, b'["code"]', RegistryUnavailable, "no microreg server"),
        (418, b"\xff", RegistryUnavailable, r"no microreg server \(418 Reason\)"),
        (409, b'{"code":"superseded","detail":"D"}', Superseded, "D"),
        (409, b"<html>", RegistryUnavailable, "no microreg server"),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, kind: type[RegistryError], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        raise answer(status, body)
    assert type(caught.value) is kind


def test_a_redirect_is_not_followed_but_told() -> None:
    with pytest.raises(RegistryUnavailable, match="redirects to 'https://elsewhere.example/v1'"):
        raise answer(308, Location="https://elsewhere.example/v1")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), RegistryUnavailable),
        (aiohttp.ClientPayloadError("cut"), RegistryUnavailable),
        (ConnectionResetError("reset"), RegistryUnavailable),
        (TimeoutError(), RegistryTimeout),
    ],
)
def test_what_a_broken_connection_means(error: Exception, kind: type[RegistryError]) -> None:
    found = connection_failure(WHERE, error)
    assert type(found) is kind
    assert WHERE in str(found)
