"""The native API: what each route answers, to good and to bad requests."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import httpx
import pytest

from microreg import Node, Service, Status
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.server import Settings, openapi
from microreg.server.bodies import record_of
from serving import BASE, Serving, record, serving
from support import run, store_of, wait_until

GREETER = record("greeter", "g1", version="1.4.0", metadata={"owner": "team-a"})


def digest(body: bytes) -> str:
    return sha256(body).hexdigest()[:32]


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem, which is one in form too."""
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"] and document["detail"]
    return response.status_code, document["code"]


def test_a_node_is_registered_found_and_withdrawn() -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.http.put("/v1/services/greeter/nodes/g1?ttl=30s", json=GREETER)
            assert (answer.status_code, answer.content) == (204, b"")
            [service] = await server.registry.get_service("greeter")
            node = Node("10.0.0.1:80", id="g1")
            assert service == Service("greeter", "1.4.0", {"owner": "team-a"}, nodes=[node])
            found = await server.http.get("/v1/services/greeter")
            assert found.headers["content-type"] == "application/json"
            assert found.json()["services"][0]["nodes"] == [{"id": "g1", "address": "10.0.0.1:80", "metadata": {}}]
            assert (await server.http.get("/v1/services")).json() == {"services": ["greeter"]}
            for _ in range(2):
                assert (await server.http.delete("/v1/services/greeter/nodes/g1")).status_code == 204
            assert (await server.http.get("/v1/services")).json() == {"services": []}

    run(main())


def test_what_is_not_there_is_a_problem_that_says_whether_that_is_sure() -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.http.get("/v1/services/nobody")
            assert code(answer) == (404, "service_not_found")
            assert (answer.json()["name"], answer.json()["authoritative"]) == ("nobody", True)

    run(main())


def test_an_answer_is_encoded_once_for_each_change() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("a", "1")
            first = await server.http.get("/v1/services/a")
            assert (await server.http.get("/v1/services/a")).content == first.content
            await server.put("a", "1", "10.0.0.9:80")
            assert b"10.0.0.9:80" in (await server.http.get("/v1/services/a")).content

    run(main())


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/", 404, "not_found"),
        ("GET", "/v1/services/a/b", 404, "not_found"),
        ("GET", "/v1/services//nodes/x", 404, "not_found"),
        ("GET", "/v1/services/a/nodes/x/", 404, "not_found"),
        ("POST", "/v1/services", 405, "method_not_allowed"),
        ("GET", "/v1/services/a/nodes/x", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/services", 405, "method_not_allowed"),
        ("TRACE", "/v1/services/a", 405, "method_not_allowed"),
        ("POST", "/openapi.json", 405, "method_not_allowed"),
        ("GET", "/v1/services?wanted=a", 400, "bad_request"),
        ("GET", "/v1/services/%FF", 400, "bad_request"),
        ("GET", "/v1/services/%00", 422, "invalid_service"),
        ("GET", f"/v1/services/{'x' * 256}", 422, "invalid_service"),
        ("DELETE", "/v1/services/a/nodes/%0a", 422, "invalid_service"),
        ("PUT", "/v1/services/a/nodes/x?ttl=15s&ttl=16s", 400, "bad_request"),
        ("PUT", "/v1/services/a/nodes/x?ttl=soon", 422, "invalid_service"),
        ("PUT", "/v1/services/a/nodes/x?ttl=0", 422, "invalid_service"),
        ("PUT", "/v1/services/a/nodes/x?ttl=2d", 422, "invalid_service"),
        ("PUT", "/v1/services/a/nodes/x?%FF=1", 400, "bad_request"),
        ("GET", "/v1/watch?nam=a", 400, "bad_request"),
        ("GET", "/v1/watch?name=", 422, "invalid_service"),
        ("GET", "/v1/watch?name=a&snapshot=b", 422, "invalid_service"),
    ],
)
def test_bad_paths_methods_and_queries(method: str, path: str, status: int, word: str) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.http.request(method, httpx.URL(BASE + path), content=json.dumps(GREETER))
            assert code(answer) == (status, word)
            if status == 405:
                assert answer.headers["allow"]

    run(main())


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 422, "invalid_service"),
        (b"{", 422, "invalid_service"),
        (b"[]", 422, "invalid_service"),
        (b"\xff\xfe", 422, "invalid_service"),
        (b"[" * 50_000, 422, "invalid_service"),
        (b'{"name":"a","nodes":[]}', 422, "invalid_service"),
        (b'{"name":"b","nodes":[{"id":"x","address":"10.0.0.1:80"}]}', 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"y","address":"10.0.0.1:80"}]}', 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"x","address":"nowhere"}]}', 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"x","address":"h:1"},{"id":"z","address":"h:1"}]}', 422, "invalid_service"),
        (json.dumps(record("a", "x", metadata={"k": "v" * 1025})).encode(), 422, "invalid_service"),
        (json.dumps(record("a", "x", metadata={f"k{n}": "v" for n in range(65)})).encode(), 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80"},null]}', 422, "invalid_service"),
        (b'{"name":"a","endpoints":[null],"nodes":[{"id":"x","address":"10.0.0.1:80"}]}', 422, "invalid_service"),
        (b'{"name":"a","metadata":{"k":null},"nodes":[{"id":"x","address":"10.0.0.1:80"}]}', 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80","metadata":{"k":null}}]}', 422, "invalid_service"),
        (
            b'{"name":"a","endpoints":[{"name":"e","metadata":{"k":null}}],"nodes":[{"id":"x","address":"a:80"}]}',
            422,
            "invalid_service",
        ),
        (
            b'{"name":"a","endpoints":[{"name":"e","response":{"name":"r","type":"t","values":'
            b'[{"name":"v","values":[null]}]}}],"nodes":[{"id":"x","address":"a:80"}]}',
            422,
            "invalid_service",
        ),
        (b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80","status":5}]}', 422, "invalid_service"),
        (b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80","st\\u0061tus":"down"}]}', 422, "invalid_service"),
        (b" " * 100_001, 413, "body_too_large"),
    ],
)
def test_bad_records(body: bytes, status: int, word: str) -> None:
    async def main() -> None:
        async with serving(Settings(max_body=100_000)) as server:
            answer = await server.http.put("/v1/services/a/nodes/x", content=body)
            assert code(answer) == (status, word)
            assert (await server.http.get("/v1/services")).json() == {"services": []}

    run(main())


@pytest.mark.parametrize("status", ["CRITICAL", "down", "draining ", "Passing", "", "x" * 1000])
@pytest.mark.parametrize("known", [False, True])
def test_a_status_that_nobody_knows_is_refused_and_changes_nothing(status: str, known: bool) -> None:
    async def main() -> None:
        async with serving() as server:
            if known:
                await server.put("a", "x")
            body = {"name": "a", "nodes": [{"id": "x", "address": "10.0.0.2:80", "status": status}]}
            answer = await server.http.put("/v1/services/a/nodes/x", json=body)
            assert code(answer) == (422, "invalid_service")
            told = answer.json()["detail"]
            assert repr(status[:80]) in told and "starting, passing, warning, critical, draining" in told
            assert len(told) < 300
            found = (await server.http.get("/v1/services/a")).json()
            if known:
                assert [node["address"] for node in found["services"][0]["nodes"]] == ["10.0.0.1:80"]
            else:
                assert found["code"] == "service_not_found"

    run(main())


@pytest.mark.parametrize("status", [*Status, None])
def test_every_status_is_stored_and_keys_that_are_not_known_are_ignored(status: Status | None) -> None:
    async def main() -> None:
        async with serving() as server:
            node = {"id": "x", "address": "10.0.0.1:80", "status": status, "state": "down"}
            body = {"name": "a", "nodes": [node], "endpoints": None, "colour": "blue"}
            assert (await server.http.put("/v1/services/a/nodes/x", json=body)).status_code == 204
            [service] = await server.registry.get_service("a")
            assert service.nodes[0].status is (status or Status.PASSING)

    run(main())


def test_only_a_body_that_is_new_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []

    def counted(name: str, id: str, body: bytes) -> Service:
        looked.append(body)
        return record_of(name, id, body)

    monkeypatch.setattr("microreg.server.records.record_of", counted)

    async def main() -> None:
        async with serving() as server:
            body = json.dumps(record("a", "x")).encode()
            for _ in range(3):
                assert (await server.http.put("/v1/services/a/nodes/x", content=body)).status_code == 204
            renewals = [{"name": "a", "id": "x", "digest": digest(body)}] * 3
            answer = await server.http.post("/v1/renewals", json={"renewals": renewals})
            assert answer.json() == {"unknown": []} and looked == [body]

    run(main())


def test_a_record_that_is_too_large_says_how_large() -> None:
    async def main() -> None:
        endpoints = [{"name": f"e{n}", "metadata": {f"k{m}": "v" * 1000 for m in range(60)}} for n in range(2)]
        async with serving() as server:
            answer = await server.http.put("/v1/services/a/nodes/x", json=record("a", "x", endpoints=endpoints))
            assert code(answer) == (413, "record_too_large")
            assert answer.json()["size"] > answer.json()["limit"] == 65536

    run(main())


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b", "ü", "a%2Fb", "a?b", "a#b", "*"])
def test_names_of_others_are_found_as_they_are(name: str) -> None:
    async def main() -> None:
        async with serving() as server:
            from microreg.backends.http.client import _escaped

            store_of(server.registry).catalog.put(Service(name, nodes=[Node("10.0.0.1:80", id="x")]))
            call = Serving(server.registry, server.app, server.http)
            raw = f"/v1/services/{_escaped(name)}"
            answer = await _raw_get(call, raw)
            assert json.loads(answer)["services"][0]["name"] == name

    run(main())


async def _raw_get(server: Serving, raw: str) -> bytes:
    """A GET of exactly this path: clients of HTTP put paths right."""
    parts: list[bytes] = []

    async def send(message: dict[str, object]) -> None:
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        parts.append(body)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    await server.app(scope, receive, send)  # type: ignore[arg-type]
    return b"".join(parts)


def test_renewals_of_many_nodes_in_one_request() -> None:
    async def main() -> None:
        async with serving() as server:
            bodies = {id: json.dumps(record("a", id)).encode() for id in ("x", "y", "z")}
            for id, body in bodies.items():
                await server.http.put(f"/v1/services/a/nodes/{id}?ttl=1s", content=body)
            renewals = [{"name": "a", "id": id, "ttl": 60, "digest": digest(body)} for id, body in bodies.items()]
            renewals[2]["digest"] = digest(b"another record")
            renewals.append({"name": "b", "id": "x", "digest": "no digest"})
            answer = await server.http.post("/v1/renewals", json={"renewals": renewals})
            assert answer.status_code == 200
            assert answer.json() == {"unknown": [{"name": "a", "id": "z"}, {"name": "b", "id": "x"}]}
            # z, which was not renewed, is gone after its second; so it is unknown to the next renewal too.
            await wait_until(lambda: server.app.hub.nodes == 2)
            renewals[2]["digest"] = digest(bodies["z"])
            answer = await server.http.post("/v1/renewals", json={"renewals": renewals[:3]})
            assert answer.json() == {"unknown": [{"name": "a", "id": "z"}]}

    run(main())


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b"\xff", 400, "bad_request"),
        (b"{}", 422, "invalid_body"),
        (b"[]", 422, "invalid_body"),
        (b'{"renewals":{}}', 422, "invalid_body"),
        (b'{"renewals":[{"name":"a"}]}', 422, "invalid_body"),
        (b'{"renewals":[{"name":"a","id":"x","digest":"","ttl":0.5}]}', 422, "invalid_service"),
        (b'{"renewals":[{"name":"a","id":"x","digest":"","ttl":1e400}]}', 422, "invalid_body"),
        (json.dumps({"renewals": [{"name": "a", "id": "x", "digest": ""}] * 10_001}).encode(), 413, "too_many"),
    ],
)
def test_bad_renewals(body: bytes, status: int, word: str) -> None:
    async def main() -> None:
        async with serving() as server:
            assert code(await server.http.post("/v1/renewals", content=body)) == (status, word)

    run(main())


def test_a_put_that_comes_after_the_delete_it_was_sent_before_changes_nothing() -> None:
    async def main() -> None:
        async with serving() as server:
            assert (await server.put("a", "x", Microreg_Write="c-1")).status_code == 204
            delete = await server.http.delete("/v1/services/a/nodes/x", headers={"Microreg-Write": "c-3"})
            assert delete.status_code == 204
            assert code(await server.put("a", "x", Microreg_Write="c-2")) == (409, "superseded")
            assert (await server.http.get("/v1/services")).json() == {"services": []}
            for later in ("c-4", "d-1"):  # the client's next write, and another client's
                assert (await server.put("a", "x", Microreg_Write=later)).status_code == 204

    run(main())


@pytest.mark.parametrize("how", ["register", "change", "again", "renewals"])
def test_a_write_that_is_under_way_brings_no_withdrawn_node_back(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as server:
            if how != "register":
                await server.put("a", "x")
            register, entered, go = server.registry.register, asyncio.Event(), asyncio.Event()

            async def slow(service: Service, *, ttl: float) -> None:
                entered.set()
                await go.wait()
                await register(service, ttl=ttl)

            monkeypatch.setattr(server.registry, "register", slow)
            address = "10.0.0.2:80" if how == "change" else "10.0.0.1:80"
            request = server.http.build_request("PUT", "/v1/services/a/nodes/x", json=record("a", "x", address))
            if how == "renewals":
                renewal = {"name": "a", "id": "x", "digest": digest(request.content)}
                request = server.http.build_request("POST", "/v1/renewals", json={"renewals": [renewal]})
            call = server.http.send(request)
            under_way = asyncio.create_task(call)
            await entered.wait()
            assert (await server.http.delete("/v1/services/a/nodes/x")).status_code == 204
            go.set()
            assert (await under_way).status_code in (200, 204)
            assert (await server.http.get("/v1/services")).json() == {"services": []}

    run(main())


@pytest.mark.parametrize("stamp", ["c", "c-", "-1", "c-x", "c-1x", f"{'c' * 65}-1", f"c-{'1' * 19}", "c-²"])
def test_a_bad_stamp_is_a_problem(stamp: str) -> None:
    async def main() -> None:
        async with serving() as server:
            headers = {b"Microreg-Write": stamp.encode("latin-1")}
            answer = await server.http.put("/v1/services/a/nodes/x", json=record("a", "x"), headers=headers)
            assert code(answer) == (400, "bad_request")

    run(main())


def test_more_nodes_and_services_than_there_is_room_for() -> None:
    async def main() -> None:
        async with serving(Settings(max_nodes=3, max_services=2)) as server:
            assert [(await server.put(name, "x")).status_code for name in "ab"] == [204, 204]
            assert code(await server.put("c", "x")) == (503, "registry_unavailable")
            assert (await server.put("a", "y")).status_code == 204
            full = await server.put("a", "z")
            assert code(full) == (503, "registry_unavailable")
            assert full.headers["retry-after"] == "10"
            assert (await server.put("a", "y", "10.0.0.2:80")).status_code == 204  # one that is there may change
            await server.http.delete("/v1/services/a/nodes/y")
            assert (await server.put("a", "z")).status_code == 204
            await server.http.delete("/v1/services/b/nodes/x")
            assert (await server.put("c", "x")).status_code == 204

    run(main())


def test_what_expires_makes_room() -> None:
    async def main() -> None:
        async with serving(Settings(max_nodes=1)) as server:
            await server.http.put("/v1/services/a/nodes/x?ttl=1", json=record("a", "x"))
            assert (await server.put("a", "y")).status_code == 503
            await wait_until(lambda: server.app.hub.sequence and not server.app.hub.nodes)
            assert (await server.put("a", "y")).status_code == 204

    run(main())


@pytest.mark.parametrize("error", [RegistryUnavailable("etcd at 10.9.8.7: refused"), PermissionDenied("user root")])
def test_what_is_wrong_inside_is_not_told_outside(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as server:
            await _fails(server, error, monkeypatch)
            answer = await server.http.get("/v1/services")
            assert code(answer) == (error.http_status, error.code)  # type: ignore[attr-defined]
            assert "10.9.8.7" not in answer.text and "root" not in answer.text

    run(main())


def test_a_bug_is_a_problem_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as server:
            await _fails(server, ZeroDivisionError("secret place"), monkeypatch)
            answer = await server.http.get("/v1/services")
            assert code(answer) == (500, "registry_error")
            assert "secret" not in answer.text and "Zero" not in answer.text

    run(main())
    assert "secret place" in caplog.text


async def _fails(server: Serving, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing() -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(server.registry, "list_services", failing)


def test_the_document_describes_every_route() -> None:
    document = json.loads(openapi.document())
    assert document["openapi"].startswith("3.1")
    operations = [(path, method) for path, methods in document["paths"].items() for method in methods]
    assert operations == [
        ("/v1/services", "get"),
        ("/v1/services/{name}", "get"),
        ("/v1/services/{name}/nodes/{id}", "put"),
        ("/v1/services/{name}/nodes/{id}", "delete"),
        ("/v1/renewals", "post"),
        ("/v1/watch", "get"),
        ("/v1/watch", "post"),
    ]

    async def main() -> None:
        async with serving() as server:
            assert (await server.http.get("/openapi.json")).json() == document

    run(main())
