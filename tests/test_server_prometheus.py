"""What Prometheus reads: its HTTP service discovery, and the metrics of the server; and the two health checks."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from microreg import Node, Selector, Service, Status, announce
from microreg.backends.memory import MemoryRegistry
from microreg.server import Settings
from serving import Serving, serving
from support import run, store_of, wait_until

_SAMPLE = re.compile(r'([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (-?[0-9.e+-]+)')


async def targets(server: Serving, query: str = "") -> list[dict[str, object]]:
    """The target groups, after the rules of HTTP service discovery: 200, JSON, a list of groups of strings."""
    answer = await server.http.get(f"/prometheus/sd{query}", headers={"X-Prometheus-Refresh-Interval-Seconds": "60"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    groups: list[dict[str, object]] = json.loads(answer.content.decode("utf-8"))
    for group in groups:
        assert group.keys() == {"targets", "labels"}
        labels = group["labels"]
        assert isinstance(labels, dict) and isinstance(group["targets"], list)
        assert all(re.fullmatch("__meta_microreg_[a-zA-Z0-9_]+", name) for name in labels)
        assert all(isinstance(value, str) for value in [*labels.values(), *group["targets"]])
    return groups


async def metrics(server: Serving) -> dict[str, float]:
    """The samples, after the rules of the text format: every family is described before its samples."""
    answer = await server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text.endswith("\n")
    samples: dict[str, float] = {}
    family = ""
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == family and kind in ("gauge", "counter")
        elif line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in samples
        else:
            found = _SAMPLE.fullmatch(line)
            assert found and found[1] == family, line
            samples[found[1] + (found[2] or "")] = float(found[3])
    return samples


def test_without_targets_the_list_is_empty() -> None:
    async def main() -> None:
        async with serving() as server:
            assert (await server.http.get("/prometheus/sd")).content == b"[]"

    run(main())


def test_every_node_is_a_group_with_what_is_known_of_it() -> None:
    async def main() -> None:
        async with serving() as server:
            metadata = {"zone": "a", "team.name": 'x"\n', "team-name": "y"}
            node = Node("10.0.0.1:80", id="o1", metadata=metadata, status=Status.CRITICAL)
            await server.registry.register(Service("orders", "1.2", {"owner": "ü"}, nodes=[node]))
            await server.registry.register(Service("users", nodes=[Node("[::1]:80", id="u1")]))
            await wait_until(lambda: server.app.hub.nodes == 2)
            groups = sorted(await targets(server), key=lambda group: str(group["targets"]))
            assert groups[0] == {
                "targets": ["10.0.0.1:80"],
                "labels": {
                    "__meta_microreg_service": "orders",
                    "__meta_microreg_version": "1.2",
                    "__meta_microreg_id": "o1",
                    "__meta_microreg_status": "critical",
                    "__meta_microreg_service_metadata_owner": "ü",
                    "__meta_microreg_metadata_zone": "a",
                    "__meta_microreg_metadata_team_name": 'x"\n',
                },
            }
            assert groups[1]["targets"] == ["[::1]:80"]
            assert await targets(server, "?name=users&name=nobody") == [groups[1]]
            assert await targets(server, "?name=nobody") == []

    run(main())


@pytest.mark.parametrize(
    ("address", "port", "target"),
    [
        ("10.0.0.1:80", "9100", "10.0.0.1:9100"),
        ("[::1]:80", "9100", "[::1]:9100"),
        ("10.0.0.1:80", "none", "10.0.0.1:80"),
        ("10.0.0.1:80", "", "10.0.0.1:80"),
    ],
)
def test_metrics_may_be_on_a_port_of_their_own(address: str, port: str, target: str) -> None:
    async def main() -> None:
        async with serving() as server:
            node = Node(address, id="o1", metadata={"port.metrics": port})
            await server.registry.register(Service("orders", nodes=[node]))
            await wait_until(lambda: server.app.hub.nodes == 1)
            [group] = await targets(server)
            assert group["targets"] == [target]

    run(main())


def test_an_address_that_nobody_could_scrape_is_left_out() -> None:
    async def main() -> None:
        async with serving() as server:
            store = server.registry.unwrap(MemoryRegistry)
            assert store is not None
            for number, address in enumerate(["", "unix:/run/x", "10.0.0.1", "a b:1", "h:1/path"]):
                await store.register(Service("foreign", nodes=[Node(address, id=f"n{number}")]), ttl=15)
            await server.put("ours", "o1")
            assert [group["targets"] for group in await targets(server)] == [["10.0.0.1:80"]]

    run(main())


def test_while_the_registry_is_away_it_is_an_error_and_never_an_empty_list() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.put("orders", "o1")
            assert (await server.http.get("/readyz")).json() == {"status": "ready"}
            store_of(server.registry).down = True
            await wait_until(lambda: not server.app.hub.live)
            for path in ("/prometheus/sd", "/readyz"):
                answer = await server.http.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "registry_unavailable")
            assert (await server.http.get("/healthz")).json() == {"status": "ok"}
            assert (await metrics(server))["microreg_registry_up"] == 0
            store_of(server.registry).down = False
            await wait_until(lambda: server.app.hub.live)
            assert len(await targets(server)) == 1

    run(main())


def test_a_server_that_is_about_to_end_is_healthy_and_not_ready() -> None:
    async def main() -> None:
        async with serving() as server:
            await wait_until(lambda: server.app.hub.live)
            server.app.drain()
            assert (await server.http.get("/healthz")).status_code == 200
            assert (await server.http.get("/readyz")).status_code == 503

    run(main())


def test_thousands_of_nodes_let_others_in_between() -> None:
    async def main() -> None:
        async with serving() as server:
            nodes = [Node(f"10.0.{number >> 8}.{number & 255}:80", id=f"n{number}") for number in range(1200)]
            await server.registry.register(Service("many", nodes=nodes), ttl=60)
            await wait_until(lambda: server.app.hub.nodes == 1200)
            reading = asyncio.create_task(targets(server))
            turns = 0
            while not reading.done():
                turns += 1
                await asyncio.sleep(0)
            assert len(await reading) == 1200 and turns > 2

    run(main())


def test_the_metrics_count_nodes_services_and_changes() -> None:
    async def main() -> None:
        async with serving() as server:
            before = await metrics(server)
            assert before['microreg_nodes{status="passing"}'] == before["microreg_services"] == 0
            node = Node("10.0.0.1:80", id="o1", status=Status.STARTING)
            await server.app.hub.ready()
            await server.registry.register(Service("orders", nodes=[node]))
            await wait_until(lambda: server.app.hub.nodes == 1)
            await server.put("orders", "o2")
            await server.registry.register(Service("orders", nodes=[node.replace(status=Status.PASSING)]))
            await server.put("users", "u1")
            await server.delete("orders", "o2")
            await wait_until(lambda: server.app.hub.sequence >= 5)
            after = await metrics(server)
            assert after['microreg_nodes{status="passing"}'] == 2 and after['microreg_nodes{status="starting"}'] == 0
            assert after["microreg_services"] == 2 and after['microreg_service_nodes{service="orders"}'] == 1
            changes = [after[f'microreg_changes_total{{action="{each}"}}'] for each in ("create", "update", "delete")]
            assert changes == [3, 1, 1]
            assert after["process_cpu_seconds_total"] > 0 and after["process_start_time_seconds"] > 1e9
            async with server.watch():
                assert (await metrics(server))["microreg_watchers"] == 1

    run(main())


def test_the_metrics_count_answers_and_watches() -> None:
    async def main() -> None:
        async with serving() as server:
            await server.app.hub.ready()
            await server.put("orders", "o1")
            for _ in range(2):
                assert (await server.http.get("/v1/services/nobody")).status_code == 404
            async with server.watch("name=orders") as first:
                await first.until(1)
            async with server.watch("name=orders", last_event_id=first.last):
                told = await metrics(server)
            assert told['microreg_http_responses_total{code="404"}'] == 2
            assert told['microreg_http_responses_total{code="204"}'] == 1
            assert told['microreg_http_responses_total{code="200"}'] == 2  # those of the watches: they have begun
            for resumed in ("true", "false"):
                assert told[f'microreg_watches_total{{resumed="{resumed}"}}'] == 1
            assert told["microreg_watches_stuck_total"] == 0 and told["microreg_changes_kept"] == 1

    run(main())


def test_the_metrics_are_those_of_telemetry_where_they_are_about_the_registry_behind() -> None:
    async def main() -> None:
        async with serving(url="cache+memory://") as server:
            await server.app.hub.ready()
            told = await metrics(server)
            assert told['microreg_watches{microreg_registry_scheme="memory",microreg_watch_state="live"}'] == 1
            assert told['microreg_watch_resyncs_total{microreg_registry_scheme="memory"}'] == 0
            assert not [name for name in told if "announcement" in name or "selector" in name]
            async with (  # of the program that the application is mounted in
                announce(server.registry, "orders", address="10.0.0.1:80", drain_delay=0),
                Selector(server.registry) as selector,
            ):
                await selector.select("orders")
                told = await metrics(server)
            live = 'microreg_service_name="orders",microreg_announcement_state="live"'
            assert told[f"microreg_announcements{{{live}}}"] == 1
            assert told['microreg_announcement_renewals_total{microreg_service_name="orders"}'] == 1
            assert told['microreg_cache_age_seconds{microreg_service_name="orders"}'] == 0

    run(main())


def test_names_that_others_chose_are_escaped() -> None:
    async def main() -> None:
        async with serving() as server:
            store = server.registry.unwrap(MemoryRegistry)
            assert store is not None
            await store.register(Service('a"b\\c', nodes=[Node("h:1", id="x")]), ttl=15)
            await wait_until(lambda: server.app.hub.nodes == 1)
            assert (await metrics(server))['microreg_service_nodes{service="a\\"b\\\\c"}'] == 1
            [group] = await targets(server)
            assert group["labels"]["__meta_microreg_service"] == 'a"b\\c'  # type: ignore[index]

    run(main())


@pytest.mark.parametrize("path", ["/prometheus/sd", "/metrics", "/healthz", "/readyz"])
def test_they_are_for_reading(path: str) -> None:
    async def main() -> None:
        settings = Settings(tokens=("writer-token",), read_tokens=("reader-token",))
        async with serving(settings) as server:
            await wait_until(lambda: server.app.hub.live)
            reader = {"Authorization": "Bearer reader-token"}
            for method, status in (("GET", 200), ("HEAD", 200), ("POST", 405)):
                headers = {"Authorization": "Bearer writer-token"} if method == "POST" else reader
                answer = await server.http.request(method, path, headers=headers)
                assert answer.status_code == status
            bare = await server.http.get(path)
            assert bare.status_code == (200 if path.endswith("z") else 401)

    run(main())


@pytest.mark.parametrize("query", ["?service=a", "?name=%FF", "?name=a&x", "?name=", "?name=a&name", "?name=%00"])
def test_a_query_that_is_not_understood_is_refused(query: str) -> None:
    async def main() -> None:
        async with serving() as server:
            assert (await server.http.get(f"/prometheus/sd{query}")).status_code == 400

    run(main())
