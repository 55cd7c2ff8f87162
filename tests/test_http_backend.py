"""``http://`` without a server: the config string, the event stream format, what answers mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microreg import connect
from microreg.backends.http.client import Client
from microreg.backends.http.eventstream import Parser, Received
from microreg.backends.http.failures import connection_failure, refusal
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
        (404, b"<html>", RegistryUnavailable, "no microreg server; is the path right"),
        (404, b'["code"]', RegistryUnavailable, "no microreg server"),
        (418, b"\xff", RegistryError, "418 Reason"),
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
