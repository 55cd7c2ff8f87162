"""The fast path answers as the application does: the same requests by both ways, byte for byte."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from microreg import Registry, connect
from microreg.registry import Layer
from microreg.server import Application, Settings, application
from microreg.server.protocol import BoundedProtocol, bounded
from support import run, wait_until

UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
HOST = b"Host: 127.0.0.1:4214\r\n"
WRITE, READ = b"write-token-1", b"read-token-1"
TOKENS = Settings(tokens=(WRITE.decode(),), read_tokens=(READ.decode(),))


class Wire(asyncio.Transport):
    """The other end of a connection: what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.9", 5000), "sockname": ("10.0.0.1", 4214)}.get(name, default)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@dataclass
class Way:
    """A server, and one connection to it. ``<id>`` in a request is the last entry that srsr's API gave."""

    app: Application
    protocol: BoundedProtocol
    wire: Wire
    id: bytes = b"00000000-0000-4000-8000-000000000000"

    async def ask(self, *segments: bytes) -> bytes:
        """What is answered to these segments, without what is random."""
        begun = len(self.wire.written)
        for segment in segments:
            if not self.wire.closed:
                self.protocol.data_received(segment.replace(b"<id>", self.id))
        for _ in range(30):  # what is answered before the request is complete, if ever
            await asyncio.sleep(0)
        await wait_until(self._is_done, step=0.0)
        answer = bytes(self.wire.written[begun:])
        self.id = next(iter(UUID.findall(answer)), self.id)
        return UUID.sub(b"<uuid>", answer)

    def _is_done(self) -> bool:
        protocol = self.protocol
        incomplete = protocol._in_head or protocol._in_body
        answered = protocol.cycle is None or protocol.cycle.response_complete
        return self.wire.closed or incomplete or (answered and not protocol.pipeline)


@asynccontextmanager
async def way(chosen: Settings | None, *, direct: bool, registry: Registry | None = None) -> AsyncGenerator[Way]:
    """A server that answers hot requests directly, or one that does not."""
    async with registry or connect("memory://") as opened, application(opened, chosen) as app:
        state = ServerState()
        state.default_headers = [(b"date", b"Sat, 21 Nov 2026 18:00:00 GMT")]
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, proxy_headers=False)
        config.load()
        protocol = bounded(10)(config, state, {})
        if not direct:
            protocol._direct = None
        wire = Wire()
        protocol.connection_made(wire)
        yield Way(app, protocol, wire)
        protocol.connection_lost(None)
        await wait_until(lambda: not state.tasks, step=0.0)


async def both(chosen: Settings | None, requests: Sequence[Sequence[bytes]]) -> tuple[list[bytes], int]:
    """The answers, which are the same by both ways, and how many of them were direct."""
    async with way(chosen, direct=True) as fast, way(chosen, direct=False) as slow:
        answers: list[bytes] = []
        directly = 0
        for segments in requests:
            before = fast.protocol.cycle
            answer = await fast.ask(*segments)
            assert answer == await slow.ask(*segments)
            assert fast.wire.closed == slow.wire.closed
            answers.append(answer)
            directly += fast.protocol.cycle is before and bool(answer)
        assert fast.app.access.answered == slow.app.access.answered
        assert await fast.app.hub._registry.list_services() == await slow.app.hub._registry.list_services()
        return answers, directly


def request(line: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """A request of the plainest form."""
    more = b"".join(header + b"\r\n" for header in headers)
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return line + b" HTTP/1.1\r\n" + HOST + more + length + b"\r\n" + body


RECORD = b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80"}]}'
PUT = request(b"PUT /v1/services/a/nodes/x?ttl=60s", RECORD)
GET = request(b"GET /v1/services/a")
REGISTER = request(b"POST /register", b'{"name":"s","port":"80"}')
HEARTBEAT = request(b"POST /heartbeat", b'{"id":"%036d"}' % 0).replace(b"%036d" % 0, b"<id>")
LOOKUP = request(b"POST /lookup", b'{"name":"s"}')


def test_the_hot_requests_are_answered_directly_and_alike() -> None:
    hot = [PUT, PUT, GET, REGISTER, HEARTBEAT, LOOKUP, GET.replace(b"/a", b"/nobody"), HEARTBEAT]
    answers, directly = run(both(None, [[each] for each in hot]))
    assert [answer[9:12] for answer in answers] == [b"204", b"204", b"200", b"200", b"200", b"200", b"404", b"200"]
    assert directly == len(hot)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Connection: keep-alive"],
        [b"connection: Keep-Alive", b"User-Agent: Python (x; y)", b"Accept:*/*", b"Accept-Encoding: identity"],
    ],
)
def test_headers_that_programs_send(headers: list[bytes]) -> None:
    _, directly = run(both(None, [[request(b"GET /v1/services/a", b"", *headers)]]))
    assert directly == 1


@pytest.mark.parametrize(
    "segments",
    [
        [request(b"GET /v1/services/a", b"", header)]
        for header in (
            *(b"Connection: close", b"Expect: 100-continue", b"Upgrade: h2c", b"Transfer-Encoding: chunked"),
            *(b"Host: 10.0.0.1", b"Content-Length: 1", b"Content-Length: +1", b"Origin: http://evil.example"),
            *(b"Sec-Fetch-Site: cross-site", b"X-Odd: \xff", b"X-Odd : 1", b"X-Odd:\t1", b" folded", b"X-Odd: a\x00b"),
        )
    ]
    + [[PUT, GET], [PUT + GET], [PUT[:20], PUT[20:]], [PUT[:-10], PUT[-10:] + GET], [GET + b"\r\n"], [b"\r\n" + GET]]
    + [[GET.replace(b"1.1\r", b"1.0\r")], [GET.replace(b"\r\n", b"\n")], [GET.replace(HOST, b"")]]
    + [[b"RUBBISH\r\n\r\n"], [GET + b"RUBBISH\r\n\r\n"]]
    + [[GET.replace(b"GET", method)] for method in (b"HEAD", b"get", b"DELETE", b"GET ")]
    + [[GET.replace(b"/a ", b"/%b " % name)] for name in (b"%61", b"..", b"a/", b"/a", b"a?b=c", b"a#b", b"\xc3\xa4")]
    + [[PUT.replace(b"ttl=60s", query)] for query in (b"ttl=0.1", b"ttl=1d", b"ttl=60s&ttl=60s", b"tt=60s", b"")],
    ids=repr,
)
def test_odd_requests_are_answered_alike(segments: list[bytes]) -> None:
    answers, _ = run(both(None, [[PUT], segments, [GET]]))
    assert answers[0][9:12] == b"204"


def tokens(value: bytes) -> list[list[bytes]]:
    auth = b"Authorization: " + value
    lines = (b"PUT /v1/services/a/nodes/x", RECORD), (b"GET /v1/services/a", b""), (b"POST /lookup", b'{"name":"a"}')
    return [[request(line, body, auth)] for line, body in lines] * 2


@pytest.mark.parametrize(
    ("value", "statuses", "direct"),
    [
        (b"Bearer " + WRITE, [204, 200, 200], 6),
        (b"Bearer " + READ, [403, 404, 200], 4),
        (b"Bearer wrong-token", [401, 401, 401], 0),
        (b"Basic " + WRITE, [401, 401, 401], 0),
    ],
)
def test_tokens_count_on_the_fast_path_too(value: bytes, statuses: list[int], direct: int) -> None:
    answers, directly = run(both(TOKENS, tokens(value)))
    assert [int(answer[9:12]) for answer in answers] == statuses * 2
    assert directly == direct


def test_a_token_that_is_not_known_any_more_is_refused_at_once() -> None:
    async def main() -> None:
        async with way(TOKENS, direct=True) as server:
            ask = request(b"GET /v1/services/a", b"", b"Authorization: Bearer " + READ)
            assert (await server.ask(ask))[9:12] == b"404"
            server.app.access.trust((WRITE.decode(),), ())
            assert (await server.ask(ask))[9:12] == b"401"

    run(main())


def test_the_rate_counts_every_request_once() -> None:
    answers, directly = run(both(Settings(rate=0.01), [[GET], [PUT], [REGISTER], [GET]]))
    assert [answer[9:12] for answer in answers] == [b"404", b"429", b"429", b"429"]
    assert directly == 4


def test_the_limits_count_on_the_fast_path_too() -> None:
    second = PUT.replace(b"/nodes/x", b"/nodes/y").replace(b'"x"', b'"y"')
    answers, _ = run(both(Settings(max_nodes=1), [[PUT], [second], [REGISTER]]))
    assert [answer[9:12] for answer in answers] == [b"204", b"503", b"503"]
    answers, _ = run(both(Settings(max_body=20), [[PUT]]))
    assert answers[0][9:12] == b"413"


def test_the_access_log_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="microreg.server.access")
    chosen = Settings(access_log=True, rate=100)
    run(both(chosen, [[PUT], [GET], [LOOKUP], [GET.replace(b"/a", b"/nobody")], [PUT.replace(b"=60s", b"=0.1")]]))
    entries = [entry for entry in caplog.records if entry.name == "microreg.server.access"]
    fields = [{**cast(Any, entry).request, "ms": 0} for entry in entries]
    assert len(fields) == 10 and fields[::2] == fields[1::2]
    assert fields[0]["client"] == "10.0.0.9" and fields[0]["path"] == "/v1/services/a/nodes/x"


def test_a_connection_is_kept_for_as_long_as_something_is_asked() -> None:
    async def main() -> None:
        async with way(None, direct=True) as server:
            protocol, loop = server.protocol, asyncio.get_running_loop()
            armed: list[asyncio.TimerHandle | None] = [protocol._waiting]  # for the first request
            for _ in range(2):
                await server.ask(GET)
                armed += [protocol._waiting, protocol.timeout_keep_alive_task]
            assert [timer is not None for timer in armed] == [True, False, True, False, True]
            protocol._answered = loop.time() - protocol.timeout_keep_alive + 1
            protocol.timeout_keep_alive_handler()
            again = protocol.timeout_keep_alive_task
            assert not server.wire.closed and again is not None and again.when() <= loop.time() + 1
            protocol._answered -= 1
            protocol.timeout_keep_alive_handler()
            assert server.wire.closed

    run(main())


def test_who_reads_nothing_is_not_answered_directly() -> None:
    async def main() -> None:
        async with way(None, direct=True) as server:
            server.protocol.pause_writing()
            server.protocol.data_received(GET)
            assert not server.wire.written and server.protocol.cycle is not None
            server.protocol.resume_writing()
            await wait_until(lambda: server.wire.written)

    run(main())


def test_trailers_are_no_headers() -> None:
    head = LOOKUP.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b'c\r\n{"name":"s"}\r\n0\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n'
    answers, _ = run(both(None, [[head + body]]))
    assert answers[0][9:12] == b"200"


class Waiting(Layer):
    """A registry that is elsewhere: its calls wait."""

    async def get_service(self, name: str) -> Any:
        await asyncio.sleep(0)
        return await super().get_service(name)


def test_a_registry_that_is_elsewhere_has_no_fast_path() -> None:
    async def main() -> None:
        inner = connect("memory://")
        async with way(None, direct=True, registry=Waiting(inner, inner.url, inner.options)) as server:
            assert (await server.ask(PUT))[9:12] == b"204" and (await server.ask(GET))[9:12] == b"200"
            assert server.protocol.cycle is not None

    run(main())


METHODS = [b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"]
PATHS = [
    *(b"/v1/services/a", b"/v1/services/a/nodes/x", b"/v1/services/a/nodes/x?ttl=5s", b"/v1/services/b/nodes/y"),
    *(b"/v1/services", b"/v1/renewals", b"/register", b"/heartbeat", b"/lookup", b"/deregister", b"/no", b"/healthz"),
    *(b"/v1/services/-a", b"/v1/services/a/nodes/a b", b"/v1/services/%61", b"/v1/services/a?x=1", b"/v1/services/"),
]
BODIES = [
    *(b"", RECORD, RECORD.replace(b"80", b"81"), RECORD.replace(b'"a"', b'"b"').replace(b'"x"', b'"y"'), RECORD[:-1]),
    *(b'{"name":"a"}', b'{"name":"s","port":"80"}', b'{"id":"x"}', b"[]", b"\xff", b'{"name":1}', b'{"name":"s"}'),
]
HEADERS = [
    *(b"Connection: keep-alive", b"Connection: close", b"Accept: */*", b"Content-Type: text/x", b"Origin: null"),
    *(b"Expect: 100-continue", b"Content-Length: 3", b"X-Other: 1", b"Microreg-Write: c-1", b"Host: evil.example"),
]
asked = st.builds(
    lambda method, path, body, headers: request(method + b" " + path, body, *headers),
    st.sampled_from(METHODS),
    st.sampled_from(PATHS),
    st.sampled_from(BODIES),
    st.lists(st.sampled_from(HEADERS), max_size=2),
)
hot = st.sampled_from([PUT, GET, REGISTER, HEARTBEAT, LOOKUP])


@st.composite
def in_segments(draw: st.DrawFn) -> list[bytes]:
    """A request or two, whole or cut somewhere."""
    data = b"".join(draw(st.lists(hot | asked, min_size=1, max_size=2)))
    cut = draw(st.none() | st.integers(1, len(data) - 1))
    return [data] if cut is None or b"<id>" in data else [data[:cut], data[cut:]]


@given(st.lists(in_segments(), max_size=6), st.sampled_from([None, Settings(max_nodes=2), Settings(max_body=60)]))
@example([[PUT], [GET], [PUT], [REGISTER], [LOOKUP], [HEARTBEAT], [GET]], None)
@settings(max_examples=60, deadline=None)
def test_both_ways_answer_alike(requests: list[list[bytes]], chosen: Settings | None) -> None:
    answers, _ = run(both(chosen, requests))
    assert len(answers) == len(requests)
