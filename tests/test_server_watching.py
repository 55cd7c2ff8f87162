"""The stream of events: snapshots, changes, resuming, and clients that are slow, many or gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from microreg import Node, Service, codec
from microreg.server import Settings, encoding, hub, streams
from serving import Listening, record, serving
from support import store_of, wait_until
from timeless import run


def nodes(data: dict[str, Any]) -> list[str]:
    return sorted(node["id"] for service in data["services"] for node in service["nodes"])


def what(told: tuple[str, Any]) -> tuple[str, str]:
    """Action and node of a change."""
    kind, data = told
    assert kind == "change"
    [node] = data["service"]["nodes"]
    return data["action"], node["id"]


def test_first_what_there_is_and_then_every_change_with_its_reason() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("a", "x")
            await server.put("b", "y")
            async with server.watch("name=a") as stream:
                assert stream.answer["content-type"].startswith("text/event-stream")
                assert stream.answer["microreg-resumed"] == "false"
                [(kind, data)] = await stream.until(1)
                assert (kind, data["name"], nodes(data)) == ("snapshot", "a", ["x"])
                await server.put("a", "x", "10.0.0.2:80")
                await server.put("b", "y", "10.0.0.2:80")
                await server.put("a", "z")
                await server.delete("a", "x")
                told = await stream.until(4)
                assert [what(each) for each in told[1:]] == [("update", "x"), ("create", "z"), ("delete", "x")]
                assert [data["reason"] for _, data in told[1:]] == [None, None, "deregistered"]
                await wait_until(lambda: len(stream.told) > 4, timeout=60)
                assert (what(stream.told[4]), stream.told[4][1]["reason"]) == (("delete", "z"), "expired")

    run(main())


def test_without_a_name_everything() -> None:
    async def main() -> None:
        async with serving() as server:
            async with server.watch() as empty:
                assert await empty.until(1) == [("snapshot", {"name": None, "services": []})]
                for name in "ab":
                    await server.put(name, f"{name}1")
                    await server.put(name, f"{name}2")
                await empty.until(5)
                async with server.watch() as full:
                    [(_, data)] = await full.until(1)
                    assert (data["name"], nodes(data)) == (None, ["a1", "a2", "b1", "b2"])

    run(main())


def test_what_was_acknowledged_is_in_the_snapshot() -> None:
    async def main() -> None:
        async with serving() as server:
            for number in range(20):
                node = f"/v1/services/a/nodes/n{number}"
                await server.http.put(node, json=record("a", f"n{number}"))
                async with server.watch("name=a") as stream:
                    [(_, data)] = await stream.until(1)
                    assert len(nodes(data)) == number % 2 + 1
                if number % 2:
                    await server.http.delete(node)
                    await server.http.delete(f"/v1/services/a/nodes/n{number - 1}")

    run(main())


def test_records_of_a_version_that_differ_stay_what_they_are() -> None:
    async def main() -> None:
        async with serving() as server:
            services = [Service("a", "1", {"by": id}, nodes=[Node("10.0.0.1:80", id=id)]) for id in ("x", "y", "y2")]
            for service in services[:2]:
                await server.registry.register(service)
            await server.registry.register(Service("a", "1", {"by": "y"}, nodes=[Node("10.0.0.1:81", id="z")]))
            async with server.watch("name=a") as stream:
                [(_, data)] = await stream.until(1)
                found = {service["metadata"]["by"]: len(service["nodes"]) for service in data["services"]}
                assert found == {"x": 1, "y": 2}

    run(main())


def test_a_client_that_comes_back_hears_exactly_what_it_missed() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("a", "x")
            async with server.watch("name=a&name=b") as stream:
                await stream.until(2)
                await server.put("a", "y")
                await stream.until(3)
            await server.put("a", "z")
            await server.put("c", "x")
            await server.delete("a", "x")
            async with server.watch("name=a&name=b", Last_Event_ID=stream.last) as again:
                assert again.answer["microreg-resumed"] == "true"
                assert [what(each) for each in await again.until(2)] == [("create", "z"), ("delete", "x")]
                await server.put("b", "y")
                assert what((await again.until(3))[2]) == ("create", "y")
            async with server.watch("name=a", Last_Event_ID=again.last) as current:
                await server.put("a", "last")
                assert [what(each) for each in await current.until(1)] == [("create", "last")]

    run(main())


def test_a_new_name_begins_with_a_snapshot_and_the_others_go_on() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("b", "old")
            async with server.watch("name=a") as stream:
                await stream.until(1)
            await server.put("a", "x")
            query = "name=a&name=b&snapshot=b"
            async with server.watch(query, Last_Event_ID=stream.last) as again:
                change, (kind, data) = await again.until(2)
                assert (what(change), kind, data["name"], nodes(data)) == (("create", "x"), "snapshot", "b", ["old"])

    run(main())


@pytest.mark.parametrize(
    "last",
    ["", "x", "-", "0-0", "nonsense-1", "{epoch}-", "{epoch}-99", "{epoch}--1", "{epoch}-²", f"{{epoch}}-{'9' * 30}"],
)
def test_who_cannot_be_resumed_gets_a_snapshot(last: str) -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("a", "x")
            await server.put("b", "y")
            last_id = last.format(epoch=server.app.hub.epoch).encode("utf-8").decode("latin-1")
            stream = server.watch("name=a&name=b&snapshot=b")
            stream.headers["last-event-id"] = last_id
            async with stream:
                assert stream.answer["microreg-resumed"] == "false"
                assert [data["name"] for _, data in await stream.until(2)] == ["a", "b"]

    run(main())


def test_changes_too_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_RING_CHANGES", 3)

    async def main() -> None:
        async with serving() as server:
            async with server.watch("name=a") as stream:
                await stream.until(1)
            first = server.app.hub.id.decode()
            for number in range(4):
                await server.put("a", f"n{number}")
            async with server.watch("name=a", Last_Event_ID=first) as again:
                assert again.answer["microreg-resumed"] == "false"
                [(kind, data)] = await again.until(1)
                assert (kind, len(nodes(data))) == ("snapshot", 4)
            epoch = server.app.hub.epoch
            async with server.watch("name=a", Last_Event_ID=f"{epoch}-1") as lately:
                assert lately.answer["microreg-resumed"] == "true"
                assert len(await lately.until(3)) == 3

    run(main())


def test_an_id_comes_only_when_everything_before_it_was_sent() -> None:
    async def main() -> None:
        async with serving() as server, server.watch("name=a&name=b&name=c") as stream:
            await stream.until(3)
            assert [bool(event.id) for event in stream.events] == [False, False, True]

    run(main())


def test_a_quiet_stream_gives_signs_of_life_that_keep_it_resumable() -> None:
    async def main() -> None:
        async with serving() as server, server.watch("name=quiet") as stream:
            await stream.until(1)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(3):
                await server.http.put(
                    "/v1/services/loud/nodes/x?ttl=1h",
                    json={
                        "name": "loud",
                        "nodes": [{"id": "x", "address": f"10.0.0.1:{int(loop.time() - began) + 1}"}],
                    },
                )
                heard = len(stream.events)
                await wait_until(lambda heard=heard: len(stream.events) > heard, timeout=30)
                assert stream.last == server.app.hub.id.decode()
            assert loop.time() - began <= 3 * 6

    run(main())


def test_a_change_is_encoded_once_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Service] = []
    before = codec.encode

    def encode(service: Service) -> bytes:
        encoded.append(service)
        return before(service)

    async def main() -> None:
        async with serving() as server:
            await server.put("a", "x")
            streams = [server.watch("name=a" if number % 2 else "") for number in range(50)]
            for stream in streams:
                await stream.__aenter__()
                await stream.until(1)
            del encoded[:]
            await server.put("a", "y")
            for stream in streams:
                await stream.until(2)
            assert len(encoded) == 1
            del encoded[:]
            async with server.watch("name=a") as first, server.watch("name=a") as second, server.watch() as third:
                for stream in (first, second, third):
                    await stream.until(1)
            assert len(encoded) == 1
            for stream in streams:
                await stream.__aexit__(None, None, None)
            assert not server.app.hub.streams

    monkeypatch.setattr(encoding, "encode", encode)
    run(main())


def test_a_client_that_is_far_behind_gets_a_snapshot_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_PENDING", 10)

    async def main() -> None:
        async with serving() as server, server.watch("name=a") as slow, server.watch("name=a") as fast:
            for stream in (slow, fast):
                await stream.until(1)
            slow.stick(True)
            for number in range(30):
                await server.put("a", f"n{number}")
                await fast.until(number + 2)
            slow.stick(False)
            await wait_until(lambda: slow.told[-1][0] == "snapshot" and len(slow.told) > 1)
            assert len(nodes(slow.told[-1][1])) == 30
            assert len(slow.told) < 20
            await server.put("a", "after")
            await wait_until(lambda: slow.told[-1][0] == "change")
            assert what(slow.told[-1]) == ("create", "after")

    run(main())


def test_a_client_that_reads_nothing_is_given_up() -> None:
    async def main() -> None:
        async with serving() as server, server.watch("name=a") as stream:
            await stream.until(1)
            stream.stick(True)
            await server.put("a", "x")
            await wait_until(lambda: stream.ended, timeout=60)
            assert stream.chunks[-1:] == stream.chunks[:1]  # nothing came after the snapshot, not even an end
            assert not server.app.hub.streams

    run(main())


def test_who_goes_is_forgotten() -> None:
    async def main() -> None:
        async with serving() as server:
            async with server.watch("name=a&name=b") as stream, server.watch() as other:
                await stream.until(2)
                assert len(server.app.hub.streams) == 2
                assert not other.ended
            assert not server.app.hub.streams
            assert not server.app.hub._by_name

    run(main())


def test_draining_ends_the_streams_in_order_and_takes_no_new_ones() -> None:
    async def main() -> None:
        async with serving() as server, server.watch("name=a") as stream:
            await stream.until(1)
            await server.put("a", "x")
            server.app.drain()
            await wait_until(lambda: stream.ended)
            assert [kind for kind, _ in stream.told] == ["snapshot", "change"]
            async with server.watch("name=a") as refused:
                assert refused.status == 503
            assert (await server.http.get("/v1/services/a")).status_code == 200

    run(main())


def test_while_the_registry_is_away_nobody_is_told_that_all_is_well() -> None:
    async def main() -> None:
        async with serving() as server, server.watch("name=a") as stream:
            await server.put("a", "x")
            await stream.until(2)
            memory = store_of(server.registry)
            memory.down = True
            await wait_until(lambda: stream.ended, timeout=10)
            async with server.watch("name=a") as refused:
                assert refused.status == 503
            memory.down = False
            await wait_until(lambda: server.app.hub.live, timeout=60)
            async with server.watch("name=a", Last_Event_ID=stream.last) as again:
                assert again.answer["microreg-resumed"] == "true"
                await server.put("a", "y")
                assert [what(each) for each in await again.until(1)] == [("create", "y")]

    run(main())


def test_there_are_no_more_streams_than_allowed() -> None:
    async def main() -> None:
        async with serving(Settings(max_streams=3, max_per_client=2)) as server:

            def from_(client: str) -> Listening:
                stream = server.watch("name=a")
                stream.client = client
                return stream

            async with from_("10.0.0.1"), from_("10.0.0.1"):
                async with from_("10.0.0.1") as third:
                    assert (third.status, third.answer["retry-after"]) == (429, "10")
                async with from_("10.0.0.2") as other:
                    assert other.status == 200
                    async with from_("10.0.0.3") as full:
                        assert full.status == 503
            async with from_("10.0.0.1") as again:
                assert again.status == 200
            async with from_("2001:db8::1"), from_("2001:db8::2"):
                async with from_("2001:db8::3") as third:
                    assert third.status == 429

    run(main())


def test_every_snapshot_is_as_of_now_whatever_was_asked_for_before() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.app.hub.ready()

            async def seen() -> dict[str, list[str]]:
                async with server.watch() as everything, server.watch("name=a&name=c") as some:
                    [(_, whole)] = await everything.until(1)
                    parts = await some.until(2)
                of_all = {service["name"]: nodes({"services": [service]}) for service in whole["services"]}
                assert list(of_all) == sorted(of_all)
                for _, part in parts:
                    assert nodes(part) == of_all.get(part["name"], [])
                return of_all

            assert await seen() == {}
            await server.put("b", "x")
            await server.put("a", "x")
            assert await seen() == {"a": ["x"], "b": ["x"]}
            await server.put("a", "y")
            await server.put("c", "x")
            assert await seen() == {"a": ["x", "y"], "b": ["x"], "c": ["x"]}
            await server.delete("a", "x")
            await server.delete("b", "x")
            assert await seen() == {"a": ["y"], "c": ["x"]}
            await server.delete("a", "y")
            assert await seen() == {"c": ["x"]}

    run(main())


def test_the_names_of_a_stream_and_of_all_streams_are_bounded() -> None:
    async def main() -> None:
        async with serving(Settings(max_streams=300)) as server:
            most = [f"n{number}" for number in range(10_000)]
            async with server.watch(body={"names": [*most, "one-more"]}) as refused:
                assert refused.status == 413
            async with server.watch(body={"names": most}) as first:
                assert first.status == 200 and server.app.hub.followed == 10_000
                async with server.watch(body={"names": most[:5000]}) as second:
                    assert second.status == 200
                    async with server.watch("name=a") as full, server.watch() as everything:
                        assert (full.status, full.answer["retry-after"]) == (503, "10")
                        assert everything.status == 200
            assert server.app.hub.followed == 0 and server.app.hub._by_name == {}

    run(main())


def test_a_long_list_of_names_goes_into_a_body() -> None:
    async def main() -> None:
        async with serving() as server:
            names = [f"name-{number}" for number in range(1000)]
            await server.put("name-7", "x")
            async with server.watch(body={"names": names, "snapshot": []}) as stream:
                told = await stream.until(1000)
                assert {data["name"]: nodes(data) for _, data in told}["name-7"] == ["x"]
            async with server.watch(body={}) as everything:
                [(_, data)] = await everything.until(1)
                assert data["name"] is None
            bad_bodies: list[object] = [{"names": each} for each in ([], "a", [""], [1])]
            for body in [*bad_bodies, {"names": ["a"], "snapshot": ["b"]}, [], 1]:
                async with server.watch(body=body) as bad:
                    assert bad.status == 422

    run(main())


def test_large_snapshots_are_sent_in_pieces() -> None:
    async def main() -> None:
        async with serving() as server:
            for name in range(40):
                many = [Node("10.0.0.1:80", id=f"n{number}", metadata={"k": "v" * 40}) for number in range(50)]
                await server.registry.register(Service(f"s{name}", nodes=many))
            async with server.watch() as stream:
                [(_, data)] = await stream.until(1)
                assert sum(len(service["nodes"]) for service in data["services"]) == 2000
                assert len(stream.chunks) > 2
                assert max(map(len, stream.chunks)) < 100_000

    run(main())
