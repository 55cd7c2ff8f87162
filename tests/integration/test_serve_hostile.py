"""Whatever is sent to `microreg serve`, on any of its routes: the right status, a problem document, and it goes on."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microreg.testing import ServerProcess
from servers import microreg_server

pytestmark = pytest.mark.timeout(180)

INSTANCE = "/registro/1.0/apps/a/x"
ROUTES = {
    "/v1/services": "GET HEAD",
    "/v1/services/a": "GET HEAD",
    "/v1/services/a/nodes/x": "PUT DELETE",
    "/v1/renewals": "POST",
    "/v1/watch": "GET POST",
    "/register": "POST",
    "/heartbeat": "POST",
    "/lookup": "POST",
    "/deregister": "POST",
    "/registro/1.0/apps": "GET HEAD POST",
    "/registro/1.0/apps/a": "GET HEAD POST",
    INSTANCE: "GET HEAD PUT DELETE",
    "/prometheus/sd": "GET HEAD",
    "/metrics": "GET HEAD",
    "/healthz": "GET HEAD",
    "/readyz": "GET HEAD",
    "/openapi.json": "GET HEAD",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
WRITING = [(each, path) for path, methods in ROUTES.items() for each in methods.split() if each in ("PUT", "POST")]

GOOD = b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80"}]}'
BODIES = {
    "nothing": b"",
    "not JSON": b"{",
    "an array": b"[]",
    "null": b"null",
    "a number": b"1",
    "deep arrays": b"[" * 50_000,
    "deep objects": b'{"a":' * 20_000,
    "deep values": b'{"name":"a","endpoints":[{"name":"e","request":' + b'{"values":[' * 5_000,
    "bad UTF-8": b'{"name":"\xff\xfe"}',
    "a lone surrogate": rb'{"name":"\ud800"}',
    "NUL": rb'{"name":"a\u0000b"}',
    "UTF-16": '{"name":"a"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"name":"a"}',
    "wrong types": b'{"name":1,"id":2,"address":3,"port":4,"ip":5,"renewals":6,"names":7,"nodes":8}',
    "other wrong types": b'{"name":[],"id":{},"renewals":[1],"names":[1],"snapshot":{}}',
    "NaN": b'{"name":NaN,"renewals":[{"name":"a","id":"x","ttl":NaN,"digest":""}]}',
    "a number without end": b'{"name":' + b"9" * 5_000 + b"}",
    "no number": b'{"id":"a","ip":"1.2.3.4","port":1e400}',
    "a long name": json.dumps({"name": "a" * 100_000, "id": "a" * 100_000}).encode(),
    "many keys": json.dumps({f"k{number}": number for number in range(20_000)}).encode(),
    "many nodes": b'{"name":"a","nodes":['
    + b",".join(b'{"id":"x%d","address":"h:1"}' % n for n in range(5_000))
    + b"]}",
    "too much": b'{"name":"' + b"a" * 200_000 + b'"}',
    "more behind it": b'{"name":"a"} {"name":"b"}',
}
PATHS = {
    "/..": 404, "/../../etc/passwd": 404, "/%2e%2e/etc/passwd": 404, "/v1/../v1/services": 404,
    "/v1/services/..": 404, "/v1/services/%2e%2e": 404, "/v1/services/a%2fb": 404, "/v1/services//": 404,
    "//v1/services": 404, "/v1/services/": 404, "/v1/services/a/": 404, "/v1/services/a/nodes": 404, "/v1": 404,
    "/v1/services/%00": 422, "/v1/services/a%0d%0aX:y": 422, "/v1/services/%ff": 400, "/v1/services/" + "a" * 300: 422,
    "/v1/services?x=1": 400, "/v1/services/a?%ff=1": 400, "/V1/services": 404, "/v1/services;a=b": 404,
    "/v1/watch?name=": 422, "/v1/watch?name=%ff": 400, "/v1/watch?foo=1": 400, "/v1/watch?name=a&snapshot=b": 422,
    "/v1/watch?" + "name=a&" * 3_000: 400, "/registro/1.0/apps/..": 404, "/registro/1.0/apps/%ff/x": 404,
    "/registro/1.0/apps/a/b/c": 404, "/prometheus/sd?name=%ff": 400, "/prometheus/sd?nam=x": 400,
    "/static/../../etc/passwd": 404, "*": 404,
}  # fmt: skip
POST = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = {
    "both lengths": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "lengths that differ": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nabcde",
    "an endless length": POST + b"Content-Length: 99999999999999999999999999\r\n\r\nabcde",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a folded header": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a NUL in a header": POST + b"X: a\x00b\r\n\r\n",
    "no carriage returns": b"GET /v1/services HTTP/1.1\nHost: localhost\n\n",
    "an endless chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nabc",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
}


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[ServerProcess]:
    with microreg_server("--max-body", "150000") as server:
        yield server
        said = server.log.read_text(errors="replace")
        assert said.count("\n") == 1, f"it said more than where it serves:\n{said[-3000:]}"


@pytest.fixture(name="calls")
def _calls(server: ServerProcess) -> Iterator[Calls]:
    with Calls(server.port) as calls:
        yield calls


class Calls:
    """One connection after the other, each used for as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def status(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        """The status of the answer, which is a problem document where it is no success."""
        self._connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        self._connection.putheader("Host", "localhost")
        for name, value in headers.items():
            self._connection.putheader(name.replace("_", "-"), value)
        self._connection.putheader("Content-Length", str(len(body or b"")))
        try:
            self._connection.endheaders(body)
            answer = self._connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):  # it has said what it thinks of a body that is too large
            self._connection.close()
            return 0
        if answer.getheader("content-type", "").startswith("text/event-stream"):
            self._connection.close()
            return answer.status
        told = answer.read()
        if answer.status >= 400 and method != "HEAD":
            assert answer.getheader("content-type") == "application/problem+json", (method, path, told)
            assert json.loads(told)["status"] == answer.status
        return answer.status


def raw(port: int, data: bytes) -> bytes:
    """Everything that is answered to these bytes, until the server ends the connection or says no more for a second."""
    parts: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(data)
        connection.settimeout(20)
        try:
            while part := connection.recv(65536):
                parts.append(part)
                connection.settimeout(1.0)
        except (TimeoutError, ConnectionError):
            pass
    return b"".join(parts)


def test_methods_that_a_route_does_not_take(calls: Calls) -> None:
    for path, known in ROUTES.items():
        for method in METHODS:
            if method not in known.split():
                assert calls.status(method, path) == 405, (method, path)


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_no_route_takes(calls: Calls, what: str) -> None:
    for method, path in WRITING:
        if path != INSTANCE:  # its PUT reads none
            status = calls.status(method, path, BODIES[what])
            asked = path == "/lookup" and what in ("NUL", "a long name", "many nodes")  # nobody has that name
            assert status in ({0, 413} if what == "too much" else {200, 413} if asked else {400, 404, 413, 422}), path
    assert calls.status("GET", "/healthz") == 200


def test_keys_that_come_twice_are_one_and_the_record_is_whole(calls: Calls) -> None:
    twice = GOOD.replace(b'{"name":"a"', b'{"name":"b","name":"a"')
    assert calls.status("PUT", "/v1/services/a/nodes/x?ttl=60", twice) == 204
    assert calls.status("GET", "/v1/services/a") == 200
    assert calls.status("GET", "/v1/services/b") == 404


def test_paths_that_are_none(calls: Calls) -> None:
    assert {path: calls.status("GET", path) for path in PATHS} == PATHS


@pytest.mark.parametrize("what", SMUGGLED)
def test_requests_that_two_servers_would_read_in_two_ways(server: ServerProcess, what: str) -> None:
    answer = raw(server.port, SMUGGLED[what] + b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.1 ") == 1  # what comes behind it is read as nothing


def test_fields_behind_a_body_are_nobodys(server: ServerProcess) -> None:
    chunks = b"c\r\n" + b'{"name":"a"}' + b"\r\n0\r\n"
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = raw(server.port, head + chunks + b"Host: elsewhere\r\nOrigin: http://elsewhere\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def memory(server: ServerProcess) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_who_reads_nothing_costs_little_and_holds_nobody_up(server: ServerProcess, calls: Calls) -> None:
    metadata = {f"k{number}": "v" * 800 for number in range(50)}
    for number in range(100):
        record = {"name": "big", "nodes": [{"id": f"n{number}", "address": "10.0.0.1:80", "metadata": metadata}]}
        path = f"/v1/services/big/nodes/n{number}?ttl=600"
        assert calls.status("PUT", path, json.dumps(record).encode()) == 204
    before = memory(server)
    with ExitStack() as stack:
        for path in ("/v1/services/big", "/prometheus/sd", "/registro/1.0/apps", "/v1/watch", "/v1/watch?name=big"):
            for _ in range(30):
                each = stack.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.connect(("127.0.0.1", server.port))
                each.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode() * 20)
        began = time.monotonic()
        for _ in range(20):
            assert calls.status("GET", "/healthz") == 200
        assert time.monotonic() - began < 20
        # 150 clients are owed 4 MB each, and those that asked 20 times as much again.
        assert memory(server) - before < 200


words = st.sampled_from("a x v1 services nodes apps registro 1.0 watch .. %2f %00 %ff".split())
paths = st.sampled_from([*ROUTES, *PATHS]) | st.lists(words, max_size=6).map(lambda parts: "/" + "/".join(parts))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
members = st.sampled_from(["name", "id", "address", "port", "ip", "nodes", "renewals", "ttl", "digest", "names", "x"])
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(members, inner, max_size=6), max_leaves=8
)
queries = st.sampled_from(["", "?name=a", "?ttl=5s", "?ttl=x", "?name=%ff", "?&&"])
bodies = documents.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200) | st.just(GOOD)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(METHODS), paths, bodies, queries)
def test_any_request_gets_an_answer(server: ServerProcess, method: str, path: str, body: bytes, query: str) -> None:
    with Calls(server.port) as calls:
        assert calls.status(method, path + query, body) < 500


sound = b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
requests = st.sampled_from([*SMUGGLED.values(), sound])
spoils = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, spoils)
def test_any_bytes_at_all_leave_it_well(server: ServerProcess, good: bytes, spoiled: list[tuple[int, bytes]]) -> None:
    data = bytearray(good)
    for at, other in spoiled:
        data[at : at + len(other)] = other
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(bytes(data))
        connection.shutdown(socket.SHUT_WR)  # half open: it ends what it has to say, and the connection
        with ExitStack() as stack:
            stack.callback(connection.close)
            try:
                answer = connection.recv(65536)
            except ConnectionError:
                answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    with Calls(server.port) as calls:
        assert calls.status("GET", "/healthz") == 200
