"""registro's API: routes, JSON, states and times as its clients know them, without its races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest

from microreg import Node, Service, Status
from microreg.backends.memory import MemoryRegistry
from microreg.errors import ServiceNotFound
from microreg.server import Settings, registro
from serving import Serving, serving
from support import store_of
from timeless import run

NOW = 1_795_226_295
APPS = "/registro/1.0/apps"
I1: dict[str, object] = {"id": "i1", "ip": "127.0.0.1", "port": 8080}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """``lastRenewal`` counts from ``NOW``."""
    routes = partial(registro.routes, clock=lambda: NOW + asyncio.get_running_loop().time())
    monkeypatch.setattr(registro, "routes", routes)


@asynccontextmanager
async def app(settings: Settings | None = None, *instances: dict[str, object]) -> AsyncGenerator[Serving]:
    """A server with the application ``web``, and these instances in it."""
    async with serving(settings) as server:
        assert (await server.http.post(APPS, json={"name": "web"})).status_code == 201
        for instance in instances:
            assert (await server.http.post(f"{APPS}/web", json=instance)).status_code == 201
        yield server


async def shown(server: Serving, id: str = "i1") -> tuple[object, object]:
    """State and last renewal of an instance, and that it is listed alike everywhere."""
    answer = await server.http.get(f"{APPS}/web/{id}")
    assert answer.status_code == 200, answer.text
    instance = answer.json()
    assert instance in (await server.http.get(f"{APPS}/web")).json()["instances"]
    [listed] = (await server.http.get(APPS)).json()["applications"]
    assert instance in listed["instances"]
    return instance["status"], instance["lastRenewal"] - NOW


async def native(server: Serving, name: str = "web") -> list[Status]:
    """How everybody else sees the nodes."""
    try:
        return [node.status for service in await server.registry.get_service(name) for node in service.nodes]
    except ServiceNotFound:
        return []


async def put(server: Serving, id: str = "i1") -> int:
    """Renew: the status code."""
    return (await server.http.put(f"{APPS}/web/{id}")).status_code


def test_the_json_is_registros() -> None:
    async def main() -> None:
        async with serving() as server:
            assert (await server.http.get(APPS)).text == '{\n  "applications": []\n}\n'
            answer = await server.http.post(APPS, json={"name": "web"})
            assert (answer.status_code, answer.content) == (201, b"")
            assert (await server.http.get(f"{APPS}/web")).text == '{\n  "name": "web"\n}\n'
            answer = await server.http.post(f"{APPS}/web", json=I1 | {"status": "ignored", "more": [1]})
            assert (answer.status_code, answer.content) == (201, b"")
            one = '{\n  "id": "i1",\n  "ip": "127.0.0.1",\n  "port": 8080,\n  "status": "starting",\n'
            one += f'  "lastRenewal": {NOW}\n}}\n'
            answer = await server.http.get(f"{APPS}/web/i1")
            assert (answer.text, answer.headers["content-type"]) == (one, "application/json")
            await server.http.post(APPS, json={"name": "empty"})
            whole = {"name": "web", "instances": [answer.json()]}
            assert (await server.http.get(f"{APPS}/web")).json() == whole
            listed = await server.http.get(APPS)
            assert listed.json() == {"applications": [{"name": "empty"}, whole]}
            lines = listed.text.splitlines()
            assert lines[:4] == ["{", '  "applications": [', "    {", '      "name": "empty"']
            assert '          "id": "i1",' in lines and lines[-1] == "}"

    run(main())


def test_an_instance_starts_is_up_goes_down_and_comes_back() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            assert await shown(server) == ("starting", 0) and await native(server) == [Status.STARTING]
            await asyncio.sleep(100)
            assert await shown(server) == ("starting", 0)
            assert await put(server) == 204
            assert await shown(server) == ("up", 100) and await native(server) == [Status.PASSING]
            await asyncio.sleep(89)
            assert await shown(server) == ("up", 100)
            await asyncio.sleep(2)
            assert await shown(server) == ("down", 100) and await native(server) == []
            assert await put(server) == 204
            assert await shown(server) == ("up", 191) and await native(server) == [Status.PASSING]
            for _ in range(10):
                await asyncio.sleep(30)
                assert await put(server) == 204
            assert await shown(server) == ("up", 491)

    run(main())


@pytest.mark.parametrize("renewed", [False, True])
def test_an_instance_is_gone_ten_minutes_after_its_last_renewal_and_its_application_stays(renewed: bool) -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            if renewed:
                assert await put(server) == 204
            await asyncio.sleep(599)
            assert await shown(server) == ("down" if renewed else "starting", 0)
            await asyncio.sleep(2)
            assert (await server.http.get(f"{APPS}/web/i1")).status_code == 404
            assert await put(server) == 404
            assert (await server.http.get(f"{APPS}/web")).json() == {"name": "web"}

    run(main())


def test_delete_withdraws_and_the_id_is_free() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            await put(server)
            assert (await server.http.delete(f"{APPS}/web/i1")).status_code == 204
            assert await native(server) == []
            assert (await server.http.get(f"{APPS}/web")).json() == {"name": "web"}
            assert await put(server) == 404
            assert (await server.http.delete(f"{APPS}/web/i1")).status_code == 404
            assert (await server.http.post(f"{APPS}/web", json=I1 | {"port": 81})).status_code == 201
            assert await put(server) == 204
            await asyncio.sleep(95)
            assert (await shown(server))[0] == "down"
            assert (await server.http.delete(f"{APPS}/web/i1")).status_code == 204
            assert (await server.http.get(f"{APPS}/web/i1")).status_code == 404

    run(main())


def test_an_id_that_is_in_use_is_refused_and_one_that_is_down_or_never_began_is_not() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            for _ in range(2):
                assert (await server.http.post(f"{APPS}/web", json=I1)).status_code == 409
                await put(server)
            await asyncio.sleep(91)
            assert (await server.http.post(f"{APPS}/web", json=I1)).status_code == 201
            assert (await shown(server))[0] == "starting"
            await asyncio.sleep(91)
            assert (await server.http.post(f"{APPS}/web", json=I1 | {"port": 81})).status_code == 201
            assert (await server.http.get(f"{APPS}/web/i1")).json()["port"] == 81

    run(main())


def test_two_that_register_one_id_at_once_are_one_winner_and_one_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with app() as server:
            slow(monkeypatch)
            posts = [server.http.post(f"{APPS}/web", json=I1 | {"port": port}) for port in (80, 81, 82)]
            assert sorted(answer.status_code for answer in await asyncio.gather(*posts)) == [201, 409, 409]
            names = [server.http.post(APPS, json={"name": "other"}) for _ in range(3)]
            assert sorted(answer.status_code for answer in await asyncio.gather(*names)) == [201, 409, 409]

    run(main())


def test_a_renewal_that_is_under_way_does_not_bring_a_withdrawn_instance_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            slow(monkeypatch)
            renewal = asyncio.create_task(put(server))
            await asyncio.sleep(0.5)
            assert (await server.http.delete(f"{APPS}/web/i1")).status_code == 204
            assert await renewal == 204
            assert await native(server) == []
            assert (await server.http.get(f"{APPS}/web/i1")).status_code == 404

    run(main())


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write takes a second."""
    real = MemoryRegistry.register

    async def register(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
        await asyncio.sleep(1)
        await real(self, service, ttl=ttl)

    monkeypatch.setattr(MemoryRegistry, "register", register)


def test_all_three_views_show_the_same_services() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            await put(server)
            found = (await server.http.post("/lookup", json={"name": "web"})).json()
            assert found == {"success": True, "address": "http://127.0.0.1:8080"}
            node = Node("127.0.0.1:8080", id="i1", metadata={registro.MARK: "1.0"})
            assert await server.registry.get_service("web") == (Service("web", nodes=[node]),)
            [native_view] = (await server.http.get("/v1/services/web")).json()["services"]
            assert native_view["nodes"][0]["id"] == "i1"

            await server.put("orders", "o1", "[::1]:9000")
            answer = (await server.http.get(f"{APPS}/orders/o1")).json()
            assert answer == {"id": "o1", "ip": "::1", "port": 9000, "status": "up", "lastRenewal": NOW}
            await server.http.post("/register", json={"name": "users", "address": "http://10.0.0.7:80"})
            listed = (await server.http.get(APPS)).json()["applications"]
            sizes = {each["name"]: len(each["instances"]) for each in listed}
            assert sizes == {"orders": 1, "users": 1, "web": 1}

    run(main())


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.STARTING, "starting"),
        (Status.PASSING, "up"),
        (Status.WARNING, "up"),
        (Status.CRITICAL, "down"),
        (Status.DRAINING, "out-of-service"),
    ],
)
def test_a_status_is_shown_as_registros_state(status: Status, state: str) -> None:
    async def main() -> None:
        async with app() as server:
            node = Node("10.0.0.1:80", id="i1", status=status)
            await server.registry.register(Service("web", nodes=[node]), ttl=60)
            await asyncio.sleep(0.1)
            assert (await shown(server))[0] == state

    run(main())


def test_what_others_registered_is_renewed_by_them_and_may_be_withdrawn() -> None:
    async def main() -> None:
        async with app() as server:
            await server.put("web", "i1")
            assert (await server.http.post(f"{APPS}/web", json=I1)).status_code == 409
            assert await put(server) == 403
            await asyncio.sleep(16)
            assert (await server.http.get(f"{APPS}/web/i1")).status_code == 404
            await server.put("web", "i1")
            assert (await server.http.delete(f"{APPS}/web/i1")).status_code == 204
            assert await native(server) == []

    run(main())


def test_a_draining_instance_is_not_renewed() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            await put(server)
            [service] = await server.registry.get_service("web")
            await server.registry.register(service.with_nodes(service.nodes[0].replace(status=Status.DRAINING)))
            await asyncio.sleep(0.1)
            assert await shown(server) == ("out-of-service", 0)
            assert await put(server) == 403

    run(main())


def test_an_instance_that_is_withdrawn_elsewhere_is_not_down() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            await put(server)
            await server.delete("web", "i1")
            assert (await server.http.get(f"{APPS}/web/i1")).status_code == 404

    run(main())


def test_another_server_of_the_same_store_takes_over() -> None:
    async def main() -> None:
        async with serving(url="memory://shared") as server, serving(url="memory://shared") as other:
            await server.http.post(APPS, json={"name": "web"})
            await server.http.post(f"{APPS}/web", json=I1)
            for each in (other, server, other):
                await asyncio.sleep(60)
                assert await put(each) == 204
            await asyncio.sleep(0.1)
            assert [await shown(each) for each in (server, other)] == [("up", 120), ("up", 180)]
            await asyncio.sleep(91)
            assert [(await shown(each))[0] for each in (server, other)] == ["down", "down"]
            assert await put(server) == 204
            await asyncio.sleep(0.1)
            assert (await shown(other))[0] == "up"

    run(main())


def test_after_the_store_has_forgotten_all_a_renewal_brings_an_instance_back() -> None:
    async def main() -> None:
        async with app(None, I1) as server:
            await put(server)
            await server.app.hub.ready()
            store_of(server.registry).wipe()
            await asyncio.sleep(10)
            assert (await shown(server))[0] == "down"
            assert await put(server) == 204
            assert await native(server) == [Status.PASSING]

    run(main())


# -- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nobody", None, 404),
        ("POST", "/nobody", b'{"id":"a","ip":"h","port":1}', 404),
        ("GET", "/web/nobody", None, 404),
        ("PUT", "/web/nobody", None, 404),
        ("DELETE", "/web/nobody", None, 404),
        ("GET", "/a%20b/%E2%80%A8", None, 404),
        ("POST", "", b'{"name":"web"}', 409),
        ("POST", "", b"", 400),
        ("POST", "", b"{}", 400),
        ("POST", "", b'{"name":""}', 400),
        ("POST", "", b'{"name":5}', 400),
        ("POST", "", b'{"name":"a/b"}', 400),
        ("POST", "", b"[" * 100_000, 400),
        ("POST", "/web", b"{", 400),
        ("POST", "/web", b'{"ip":"h","port":1}', 400),
        ("POST", "/web", b'{"id":"a","port":1}', 400),
        ("POST", "/web", b'{"id":"a","ip":"h"}', 400),
        ("POST", "/web", b'{"id":"a","ip":"h","port":0}', 400),
        ("POST", "/web", b'{"id":"a","ip":"h","port":true}', 400),
        ("POST", "/web", b'{"id":"a","ip":"h","port":"1"}', 400),
        ("POST", "/web", b'{"id":"a","ip":"h","port":70000}', 400),
        ("POST", "/web", b'{"id":"a","ip":"0.0.0.0","port":1}', 400),
        ("POST", "/web", b'{"id":"a","ip":"not an ip","port":1}', 400),
        ("POST", "/web", b'{"id":"a/b","ip":"h","port":1}', 400),
        ("DELETE", "", None, 405),
        ("DELETE", "/web", None, 405),
        ("PUT", "/web", None, 405),
        ("POST", "/web/i1", None, 405),
        ("GET", "/{app}/{id}", None, 404),
    ],
)
def test_bad_requests_are_refused_with_a_problem(method: str, path: str, body: bytes | None, status: int) -> None:
    async def main() -> None:
        async with app() as server:
            answer = await server.http.request(method, APPS + path, content=body)
            assert problem(answer) == status
            assert (await server.http.get(APPS)).json() == {"applications": [{"name": "web"}]}

    run(main())


def problem(answer: httpx.Response) -> int:
    """The status of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code and answer.json()["detail"]
    return answer.status_code


def test_applications_and_instances_are_bounded() -> None:
    async def main() -> None:
        async with app(Settings(max_services=1, max_nodes=1), I1) as server:
            assert (await server.http.post(APPS, json={"name": "two"})).status_code == 503
            assert (await server.http.post(f"{APPS}/web", json=I1 | {"id": "i2"})).status_code == 503

    run(main())


def test_a_list_of_thousands_lets_others_in_between() -> None:
    async def main() -> None:
        async with serving() as server:
            nodes = [Node(f"10.0.{number >> 8}.{number & 255}:80", id=f"n{number}") for number in range(1200)]
            await server.registry.register(Service("many", nodes=nodes), ttl=60)
            listing = asyncio.create_task(server.http.get(APPS))
            turns = 0
            while not listing.done():
                turns += 1
                await asyncio.sleep(0)
            [listed] = (await listing).json()["applications"]
            assert len(listed["instances"]) == 1200 and turns > 2

    run(main())
