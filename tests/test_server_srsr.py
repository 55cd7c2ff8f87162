"""srsr's API: types, status codes and rules as its clients know them, and none of its defects."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import httpx
import pytest

from microreg import Node, Service, Status
from microreg.backends.memory import MemoryRegistry
from microreg.errors import ConfigError, ServiceNotFound
from microreg.server import Settings
from microreg.server.srsr import ADDRESS
from serving import Serving, serving
from support import store_of
from timeless import run


async def register(server: Serving, name: str = "greeter", address: str = "http://10.0.0.7:80", port: str = "") -> str:
    """Register as srsrpy does: the id."""
    answer = await server.http.post("/register", json={"name": name, "address": address, "port": port})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document.keys() == {"id", "success"} and document["success"] is True
    return str(document["id"])


async def ask(server: Serving, path: str, **members: object) -> dict[str, object]:
    """The answer to a request that is in order."""
    answer = await server.http.post(path, json=members)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    document: dict[str, object] = answer.json()
    return document


async def lookup(server: Serving, name: str = "greeter") -> object:
    """The address found, or False."""
    found = await ask(server, "/lookup", name=name)
    assert found["success"] is (found["address"] != "")
    return found["address"] or False


def test_an_entry_is_registered_found_renewed_and_withdrawn() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            assert UUID(id).version == 4
            assert await lookup(server) == "http://10.0.0.7:80"
            assert await ask(server, "/heartbeat", id=id) == {"success": True}
            assert await ask(server, "/deregister", id=id) == {"success": True}
            assert await ask(server, "/deregister", id=id) == {"success": False}
            assert await ask(server, "/heartbeat", id=id) == {"success": False}
            assert await lookup(server) is False
            assert await ask(server, "/lookup", name="no such name!") == {"success": False, "address": ""}

    run(main())


def test_an_entry_lives_for_thirty_seconds_after_each_heartbeat() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            for _ in range(5):
                await asyncio.sleep(29)
                assert await ask(server, "/heartbeat", id=id) == {"success": True}
            await asyncio.sleep(29)
            assert await lookup(server)
            await asyncio.sleep(2)
            assert await lookup(server) is False
            assert await ask(server, "/heartbeat", id=id) == {"success": False}

    run(main())


def test_the_time_to_live_can_be_set() -> None:
    async def main() -> None:
        async with serving(Settings(srsr_ttl=2)) as server:
            await register(server)
            await asyncio.sleep(2.1)
            assert await lookup(server) is False

    run(main())
    with pytest.raises(ConfigError, match="srsr_ttl=0"):
        Settings(srsr_ttl=0)


def test_a_native_client_sees_the_entry_and_srsr_sees_native_nodes() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server, "greeter", "https://user@Example.org/base?x=1")
            [service] = await server.registry.get_service("greeter")
            address = {ADDRESS: "https://user@Example.org/base?x=1"}
            assert service == Service("greeter", nodes=[Node("example.org:443", id=id, metadata=address)])
            await server.put("orders", "o1", "10.0.0.9:8080")
            assert await lookup(server, "orders") == "http://10.0.0.9:8080"
            await server.delete("greeter", id)
            assert await ask(server, "/heartbeat", id=id) == {"success": False}

    run(main())


def test_a_node_that_takes_no_calls_is_not_found_and_a_heartbeat_does_not_change_it() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            [service] = await server.registry.get_service("greeter")
            await server.registry.register(service.with_nodes(service.nodes[0].replace(status=Status.DRAINING)))
            await asyncio.sleep(0.1)
            assert await lookup(server) is False
            assert await ask(server, "/heartbeat", id=id) == {"success": True}
            [service] = await server.registry.get_service("greeter")
            assert service.nodes[0].status is Status.DRAINING

    run(main())


def test_every_node_is_found_as_often_as_the_others() -> None:
    async def main() -> None:
        async with serving() as server:
            for number in range(4):
                await register(server, address=f"http://10.0.0.{number}:80")
            found = Counter([await lookup(server) for _ in range(400)])
            assert len(found) == 4 and min(found.values()) > 50

    run(main())


# -- what srsr does wrong ----------------------------------------------------------------------------------


def test_who_leaves_or_expires_takes_nobody_of_the_same_name_along() -> None:
    async def main() -> None:
        async with serving() as server:
            ids = [await register(server, address=f"http://10.0.0.{number}:80") for number in range(3)]
            await ask(server, "/deregister", id=ids[0])
            assert {await lookup(server) for _ in range(50)} == {"http://10.0.0.1:80", "http://10.0.0.2:80"}
            await asyncio.sleep(20)
            await ask(server, "/heartbeat", id=ids[2])
            await asyncio.sleep(20)
            assert {await lookup(server) for _ in range(50)} == {"http://10.0.0.2:80"}

    run(main())


def test_two_entries_of_one_address_do_not_share_their_fate() -> None:
    async def main() -> None:
        async with serving() as server:
            old, new = await register(server), await register(server)
            assert old != new
            await ask(server, "/deregister", id=old)
            assert await lookup(server) and await ask(server, "/heartbeat", id=new) == {"success": True}

    run(main())


def test_heartbeats_that_race_the_timeout_block_nothing() -> None:
    async def main() -> None:
        async with serving(Settings(srsr_ttl=1)) as server:
            ids = [await register(server) for _ in range(40)]

            async def beat(id: str) -> None:
                for _ in range(10):
                    await asyncio.sleep(1.0)
                    await ask(server, "/heartbeat", id=id)

            await asyncio.gather(*map(beat, ids))
            id = await register(server, "other")
            assert await lookup(server, "other")
            assert await ask(server, "/heartbeat", id=id) == {"success": True}

    run(main())


def test_a_heartbeat_that_is_under_way_does_not_bring_a_withdrawn_entry_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            slow = MemoryRegistry.register

            async def register_slowly(self: MemoryRegistry, service: Service, *, ttl: float = 15.0) -> None:
                await asyncio.sleep(1)
                await slow(self, service, ttl=ttl)

            monkeypatch.setattr(MemoryRegistry, "register", register_slowly)
            beat = asyncio.create_task(ask(server, "/heartbeat", id=id))
            await asyncio.sleep(0.5)
            assert await ask(server, "/deregister", id=id) == {"success": True}
            assert await beat == {"success": True}
            with pytest.raises(ServiceNotFound):
                await server.registry.get_service("greeter")

    run(main())


def test_an_id_of_another_service_is_nobodys_business() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            await server.put("other", id)
            assert await ask(server, "/heartbeat", id=id) == {"success": True}
            assert await ask(server, "/deregister", id=id) == {"success": True}
            assert (await server.registry.list_services()) == ("other",)
            assert await ask(server, "/deregister", id=id) == {"success": False}

    run(main())


def test_what_the_store_has_forgotten_the_client_is_told() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            store_of(server.registry).wipe()
            await asyncio.sleep(10)
            assert await ask(server, "/heartbeat", id=id) == {"success": False}

    run(main())


def test_another_server_of_the_same_store_takes_over() -> None:
    async def main() -> None:
        async with serving(url="memory://shared") as server:
            id = await register(server)
            async with serving(url="memory://shared") as other:
                assert await ask(other, "/heartbeat", id=id) == {"success": True}
                assert await lookup(other) == "http://10.0.0.7:80"
                await asyncio.sleep(29)
                assert await ask(other, "/heartbeat", id=id) == {"success": True}
                await asyncio.sleep(29)
                assert await ask(server, "/heartbeat", id=id) == {"success": True}
                assert await ask(other, "/deregister", id=id) == {"success": True}
                await asyncio.sleep(0.1)
            assert await ask(server, "/heartbeat", id=id) == {"success": False}

    run(main())


def test_while_the_store_is_away_nothing_is_said_for_sure() -> None:
    async def main() -> None:
        async with serving() as server:
            id = await register(server)
            store_of(server.registry).down = True
            for path, members in (
                ("/heartbeat", {"id": id}),
                ("/heartbeat", {"id": "another"}),
                ("/lookup", {"name": "greeter"}),
                ("/deregister", {"id": id}),
                ("/register", {"name": "greeter"}),
            ):
                answer = await server.http.post(path, json=members)
                assert answer.status_code == 503 and answer.json()["error"], path
            store_of(server.registry).down = False
            await asyncio.sleep(60)
            await register(server)
            assert await lookup(server)

    run(main())


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "port", "kept", "native"),
    [
        ("", "", "http://127.0.0.1", "127.0.0.1:80"),
        ("", "8080", "http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://x:1", "", "http://x:1", "x:1"),
        ("http://x", "1", "http://x:1", "x:1"),
        ("http://x/path", "", "http://x/path", "x:80"),
        ("https://x", "", "https://x", "x:443"),
        ("grpc://x:9", "", "grpc://x:9", "x:9"),
        ("http://[::1]", "8080", "http://[::1]:8080", "[::1]:8080"),
        ("localhost:4321", "", "localhost:4321", "localhost:4321"),
        ("localhost", "4321", "localhost:4321", "localhost:4321"),
        ("/just/path", "", "/just/path", "127.0.0.1:80"),
        ("HTTP://Host:80/A%20b", "", "HTTP://Host:80/A%20b", "host:80"),
    ],
)
def test_the_address_is_kept_verbatim(address: str, port: str, kept: str, native: str) -> None:
    async def main() -> None:
        async with serving() as server:
            await register(server, address=address, port=port)
            assert await lookup(server) == kept
            [service] = await server.registry.get_service("greeter")
            assert service.nodes[0].address == native

    run(main())


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("10.0.0.1:80", ""),
        ("321.123.321.123:4321", ""),
        ("http://x", "http"),
        ("http://x", "70000"),
        ("http://x", "0"),
        ("http://x", "00"),
        ("http://x", "65536"),
        ("", "0"),
        ("localhost", "0"),
        ("/just/path", "0"),
        ("/just/path", "8080"),
        ("http://x/", "8080"),
        ("http://x/path", "8080"),
        ("http://x?a=1", "8080"),
        ("http://h:0", ""),
        ("http://h:0/path", ""),
        ("https://h:00", ""),
        ("http://127.0.0.1:0", ""),
        ("http://[::1]:0", ""),
        ("localhost:0", ""),
        ("https:80", ""),
        ("http:", "8080"),
        ("http://x", "-1"),
        ("http://h:1", "2"),
        ("http://h:1:2", ""),
        ("http://0.0.0.0:80", ""),
        ("http://", ""),
        ("http://:80", ""),
        ("http://[::1", ""),
        ("http://a b:80", ""),
        ("http://x\n:80", ""),
        ("mailto:somebody", ""),
        ("x", ""),
        ("http://" + "x" * 2000, ""),
        ("http://x:1/" + "x" * 2000, ""),
    ],
)
def test_an_address_that_nobody_could_call_is_refused_with_a_reason(address: str, port: str) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.http.post("/register", json={"name": "greeter", "address": address, "port": port})
            assert answer.status_code == 400
            assert answer.json()["error"] == answer.json()["detail"] != ""
            assert await server.registry.list_services() == ()

    run(main())


def test_an_ipv6_client_gets_an_address_in_brackets_and_forwarded_addresses_are_not_believed() -> None:
    async def main() -> None:
        async with serving(X_Forwarded_For="6.6.6.6") as server:
            transport = httpx.ASGITransport(server.app, client=("fd00::7", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                answer = await http.post("/register", json={"name": "greeter", "port": "81"})
            assert answer.status_code == 200
            assert await lookup(server) == "http://[fd00::7]:81"

    run(main())


# -- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/register", "/deregister", "/lookup", "/heartbeat"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"name"',
        b"{}",
        b'{"name": "", "id": ""}',
        b'{"name": null, "id": null}',
        b'{"name": 5, "id": 5}',
        b'{"name": ["x"], "id": {}}',
        b'{"name": "x", "id": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_body_that_is_no_good_is_400_with_the_reason(path: str, body: bytes) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await server.http.post(path, content=body)
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["error"]

    run(main())


@pytest.mark.parametrize("member", ["name", "address", "port"])
def test_a_number_is_no_string(member: str) -> None:
    async def main() -> None:
        async with serving() as server:
            body = {"name": "greeter", "address": "http://x", "port": "80"} | {member: 80}
            answer = await server.http.post("/register", json=body)
            assert answer.status_code == 400 and answer.json()["error"] == f"{member}: expected a string"

    run(main())


def test_content_type_case_and_unknown_members_do_not_matter() -> None:
    async def main() -> None:
        async with serving() as server:
            body = b'{"Name": "greeter", "ADDRESS": "http://x:1", "more": [1, {"name": 5}], "port": null}'
            answer = await server.http.post("/register", content=body, headers={"Content-Type": "text/html"})
            assert answer.status_code == 200
            assert await lookup(server) == "http://x:1"

    run(main())


def test_other_methods_other_paths_and_large_bodies() -> None:
    async def main() -> None:
        async with serving(Settings(max_body=1000)) as server:
            answer = await server.http.get("/register")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert (await server.http.post("/unregister", json={})).status_code == 404
            answer = await server.http.post("/register/", json={"name": "a"})
            assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:4214/register")
            assert (await server.http.post("/register", content=b"x" * 1001)).status_code == 413

    run(main())


def test_entries_are_bounded_as_all_nodes_are() -> None:
    async def main() -> None:
        async with serving(Settings(max_nodes=2)) as server:
            ids = [await register(server) for _ in range(2)]
            answer = await server.http.post("/register", json={"name": "greeter"})
            assert answer.status_code == 503
            await ask(server, "/deregister", id=ids[0])
            await asyncio.sleep(0.1)
            await register(server)

    run(main())


def test_with_tokens_a_reader_may_look_up_and_nothing_else() -> None:
    async def main() -> None:
        settings = Settings(tokens=("writer-token",), read_tokens=("reader-token",))
        async with serving(settings, Authorization="Bearer reader-token") as server:
            assert await lookup(server) is False
            for path in ("/register", "/heartbeat", "/deregister"):
                assert (await server.http.post(path, json={"name": "greeter", "id": "x"})).status_code == 403

    run(main())
