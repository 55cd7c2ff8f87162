"""The metrics of the OpenTelemetry integration."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import weakref
from contextlib import AsyncExitStack

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

import microreg
from microreg import Node, Registry, Selector, Service, measures
from microreg.checked import Checked
from microreg.errors import ConfigError, NoNodeAvailable
from microreg.integrations.opentelemetry import instrument, resource_attributes
from microreg.integrations.opentelemetry.metrics import DURATION, meters
from microreg.layers.cache import CacheLayer
from microreg.measures import MEASURES
from microreg.selector import RetryBudget
from support import ROOT, store_of, wait_until
from telemetry import Telemetry
from timeless import run


def greeter(registry: Registry, id: str = "n1", ttl: float = 15.0, name: str = "greeter") -> microreg.Announcement:
    return microreg.announce(registry, name, address="10.0.0.1:80", id=id, ttl=ttl, drain_delay=0)


# -- what each metric tells --------------------------------------------------------------------------


def test_an_announcement_tells_its_state_and_its_renewals() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            assert telemetry.points("announcements") == {}
            async with greeter(registry) as announcement:
                assert telemetry.state() == "live"
                assert telemetry.points("announcement.renewals") == {("greeter",): 1}
                await asyncio.sleep(11)
                assert telemetry.points("announcement.renewals") == {("greeter",): 3}
                store_of(registry).down = True
                await wait_until(lambda: announcement.state == "lost", timeout=10)
                assert telemetry.state() == "lost"
                assert telemetry.points("announcement.renewals")["greeter", "registry_unavailable"] >= 1
                store_of(registry).down = False
                await wait_until(lambda: announcement.state == "live", timeout=60)
                assert telemetry.state() == "live"
            assert telemetry.points("announcements") == telemetry.points("announcement.renewals") == {}

    run(main())


def test_an_announcement_that_never_was_live_is_seen() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            store_of(registry).down = True
            async with greeter(registry) as announcement:
                await asyncio.sleep(30)
                assert telemetry.state() == "registering"
                failures = announcement.statistics.failed["registry_unavailable"]
                told = {("greeter",): 0, ("greeter", "registry_unavailable"): failures}
                assert failures > 3 and telemetry.points("announcement.renewals") == told

    run(main())


def test_a_renewal_that_is_withheld_is_one_that_failed() -> None:
    async def main() -> None:
        hang = asyncio.Event()

        async def check() -> None:
            await hang.wait()

        async with microreg.connect("memory://") as registry:
            async with microreg.announce(registry, "greeter", address="10.0.0.1:80", check=check) as announcement:
                await asyncio.sleep(6)
                assert announcement.statistics.failed == {"registry_timeout": 1}
                assert announcement.statistics.written == 0
                hang.set()

    run(main())


def test_a_counter_does_not_fall_when_one_of_several_goes() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry, AsyncExitStack() as stack:
            telemetry.instrument(registry)
            await stack.enter_async_context(greeter(registry, "n1", ttl=3600))
            async with greeter(registry, "n2", ttl=3):
                await asyncio.sleep(30)
                before = telemetry.points("announcement.renewals")
                assert before["greeter",] > 20
                assert telemetry.points("announcements")["greeter", "live"] == 2
            assert telemetry.points("announcement.renewals") == before
            assert telemetry.points("announcements")["greeter", "live"] == 1
            await stack.aclose()
            assert telemetry.points("announcement.renewals") == {}
            await stack.enter_async_context(greeter(registry, "n3"))
            assert telemetry.points("announcement.renewals") == {("greeter",): 1}

    run(main())


def test_watches_tell_whether_they_hear_the_registry_and_how_often_they_had_to_read_it_again() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            async with registry.watch() as everything, registry.watch("greeter") as one:
                await asyncio.gather(anext(everything), anext(one))
                assert telemetry.points("watches") == {("memory", "live"): 2, ("memory", "resyncing"): 0}
                assert telemetry.points("watch.resyncs") == {("memory",): 0}
                store_of(registry).down = True
                await wait_until(lambda: one.state == everything.state == "resyncing")
                await asyncio.sleep(60)
                assert telemetry.points("watches") == {("memory", "live"): 0, ("memory", "resyncing"): 2}
                assert telemetry.points("watch.resyncs") == {("memory",): 0}
                store_of(registry).down = False
                await wait_until(lambda: one.state == everything.state == "live", timeout=20)
                assert telemetry.points("watch.resyncs") == {("memory",): 2}
            assert telemetry.points("watches") == {("memory", "live"): 0, ("memory", "resyncing"): 0}
            assert telemetry.points("watch.resyncs") == {("memory",): 2}
        assert telemetry.points("watches") == telemetry.points("watch.resyncs") == {}

    run(main())


def test_the_cache_tells_how_old_what_it_knows_is() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("cache+memory://") as registry:
            telemetry.instrument(registry)
            await registry.register(Service("greeter", nodes=[Node("10.0.0.1:80")]), ttl=3600)
            await registry.get_service("greeter")
            await asyncio.sleep(100)
            assert telemetry.points("cache.age") == {("greeter",): 0}
            store_of(registry).down = True
            await asyncio.sleep(100)
            assert telemetry.points("cache.age") == {("greeter",): pytest.approx(100, abs=6)}

    run(main())


def test_of_many_names_the_stalest_of_a_cache_and_the_busiest_of_a_selector_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "_MOST_NAMES", 2)

    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("cache+memory://") as registry:
            telemetry.instrument(registry)
            cache = registry.unwrap(CacheLayer)
            assert cache is not None
            for name in "abcd":
                await registry.register(Service(name, nodes=[Node("10.0.0.1:80")]))
                await registry.get_service(name)
            await wait_until(lambda: all(cache.freshness(name).kind == "live" for name in "abcd"))
            assert cache.names == ("a", "b", "c", "d")
            assert len(telemetry.points("cache.age")) == 2
            async with Selector(registry) as selector:
                for name in "abcd":
                    await selector.select(name)
                for name in "cbc":
                    selector.report(selector.pick(name), latency=0.1)
                assert telemetry.points("selector.ejections").keys() == {("b",), ("c",)}

    run(main())


def test_a_selector_tells_how_calls_went_and_what_nodes_there_are() -> None:
    called: list[Node] = []

    async def function(node: Node) -> None:
        called.append(node)
        if len(called) == 1:
            raise ConnectionRefusedError

    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            async with Selector(registry, "round_robin") as selector:
                with pytest.raises(NoNodeAvailable):
                    selector.pick("greeter")
                with pytest.raises(NoNodeAvailable):
                    await selector.select("greeter", timeout=1)
                nodes = [Node(f"10.0.0.{number}:80", id=f"n{number}") for number in range(4)]
                await registry.register(Service("greeter", nodes=nodes), ttl=3600)
                await selector.select("greeter")
                for _ in range(4):
                    await selector.call("greeter", function)
                assert telemetry.points("selector.retries") == {("greeter", "made"): 1, ("greeter", "refused"): 0}
                for _ in range(5):
                    selector.report(nodes[1], error=OSError())
                await asyncio.sleep(0.1)
                outcomes = {("greeter", "answered"): 4, ("greeter", "failed"): 6, ("greeter", "unavailable"): 2}
                assert telemetry.points("selector.calls") == outcomes
                assert telemetry.points("selector.ejections") == {("greeter",): 1}
                nodes_now = {("greeter", "available"): 3, ("greeter", "ejected"): 1}
                assert telemetry.points("selector.nodes") == nodes_now
            assert selector.statistics == {} and telemetry.points("selector.calls") == {}

    run(main())


def test_two_selectors_are_added_up() -> None:
    async def refuse(_: Node) -> None:
        raise ConnectionRefusedError

    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("cache+memory://") as registry:
            telemetry.instrument(registry)
            nodes = [Node(f"10.0.0.{number}:80", id=f"n{number}") for number in range(2)]
            await registry.register(Service("greeter", nodes=nodes), ttl=3600)
            none = RetryBudget(share=0, least=0)
            async with Selector(registry) as one, Selector(registry, retry_budget=none) as other:
                for selector in (one, other):
                    with pytest.raises(ConnectionRefusedError):
                        await selector.call("greeter", refuse)
                assert telemetry.points("selector.retries") == {("greeter", "made"): 1, ("greeter", "refused"): 1}
                assert telemetry.points("selector.calls")["greeter", "failed"] == 3
                assert telemetry.points("selector.nodes")["greeter", "available"] == 4

    run(main())


def test_the_duration_of_every_call_is_told_with_its_outcome() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            service = Service("greeter", nodes=[Node("10.0.0.1:80")])
            await registry.register(service)
            await registry.register(service)
            await registry.get_service("greeter")
            with pytest.raises(LookupError):
                await registry.get_service("nobody")
            await registry.list_services()
            await registry.deregister(service)
            store_of(registry).down = True
            with pytest.raises(ConnectionError):
                await registry.list_services()
            assert telemetry.points("client.operation.duration") == {
                ("register", "memory"): 2,
                ("get_service", "memory"): 2,
                ("list_services", "memory"): 1,
                ("deregister", "memory"): 1,
                ("list_services", "memory", "registry_unavailable"): 1,
            }
            (point, *_) = telemetry.metrics()[DURATION].data.data_points
            assert isinstance(point, HistogramDataPoint)
            assert 0 < point.sum < 5 and point.explicit_bounds[0] == 0.001

    run(main())


def test_the_metrics_are_named_as_the_conventions_want_it() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("cache+memory://") as registry:
            telemetry.instrument(registry)
            async with greeter(registry), Selector(registry) as selector:
                await selector.select("greeter")
                metrics = telemetry.metrics()
        assert metrics.keys() == {measure.name for measure in MEASURES} | {DURATION}
        for name, metric in metrics.items():
            unit = metric.unit or ""
            assert unit == "s" or (unit.startswith("{") and unit.endswith("}")), name
            assert metric.description and name.islower() and not name.endswith(("total", "seconds"))
            ids = [value for point in metric.data.data_points for value in (point.attributes or {}).values()]
            assert "n1" not in ids and "10.0.0.1:80" not in ids

    run(main())


# -- what is instrumented, how often, and for how long -----------------------------------------------


def test_what_is_instrumented_twice_is_measured_once_until_the_last_one_ends() -> None:
    async def main() -> None:
        telemetry, other = Telemetry(), Telemetry()
        async with microreg.connect("memory://") as registry:
            first, second, third = map(Telemetry.instrument, (telemetry, telemetry, other), [registry] * 3)
            async with greeter(registry):
                for each in (telemetry, other):
                    assert each.points("announcement.renewals") == {("greeter",): 1}
                    assert each.names() == ["register greeter"]
                first.close()
                first.close()
                assert telemetry.state() == "live"
                await registry.list_services()
                assert telemetry.names() == other.names() == ["list_services"]
                with second:
                    third.close()
                    await registry.list_services()
                    assert telemetry.names() == ["list_services"] and other.names() == []
                checked = registry.unwrap(Checked)
                assert checked is not None and checked.observers == ()
                assert telemetry.points("announcements") == other.points("announcements") == {}

    run(main())


def test_it_keeps_nothing_alive_and_forgets_what_is_gone() -> None:
    telemetry = Telemetry()

    async def main() -> None:
        registry = microreg.connect("cache+memory://")
        async with registry:
            telemetry.instrument(registry)
            await registry.register(Service("greeter", nodes=[Node("10.0.0.1:80")]))
            await registry.get_service("greeter")
            assert telemetry.points("cache.age")
        gone = weakref.ref(registry)
        del registry
        await asyncio.sleep(0.1)
        gc.collect()
        assert gone() is None
        assert [name for name in telemetry.metrics() if name != DURATION] == []
        async with microreg.connect("memory://") as another:
            telemetry.instrument(another)
        assert len(meters(telemetry.meter_provider)._observed) == 1

    run(main())


def test_a_composite_is_measured_with_all_its_parts() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("mirror:memory://a|static://users=10.0.0.1:80") as registry:
            telemetry.instrument(registry)
            async with registry.watch("greeter") as events:
                await anext(events)
                counted = telemetry.points("watches")
                assert counted["mirror", "live"] == counted["memory", "live"] == 1
            await registry.list_services()
            assert ("list_services", "memory") in telemetry.points("client.operation.duration")

    run(main())


@pytest.mark.parametrize("wrong", [None, "memory://", object()])
def test_only_a_registry_can_be_instrumented(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"takes a registry that connect\(\) made, got"):
        instrument(wrong)  # type: ignore[arg-type]


def test_the_resource_of_an_announced_node() -> None:
    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            plain = greeter(registry)
            assert resource_attributes(plain) == {"service.name": "greeter", "service.instance.id": "n1"}
            async with microreg.announce(registry, "greeter", port=80, version="1.2.0") as announcement:
                assert resource_attributes(announcement) == {
                    "service.name": "greeter",
                    "service.instance.id": announcement.node.id,
                    "service.version": "1.2.0",
                }
            await plain.drain()

    run(main())


# -- otel+ -------------------------------------------------------------------------------------------


def test_behind_the_layer_a_hot_lookup_still_does_not_suspend() -> None:
    async def main() -> None:
        async with microreg.connect("otel+cache+memory://") as registry:
            await registry.register(Service("greeter", nodes=[Node("10.0.0.1:80")]))
            await registry.get_service("greeter")
            cache = registry.unwrap(CacheLayer)
            assert cache is not None
            await wait_until(lambda: cache.freshness("greeter").kind == "live")
            with pytest.raises(StopIteration):
                registry.get_service("greeter").send(None)

    run(main())


def test_without_opentelemetry_the_config_string_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "microreg.integrations.opentelemetry", None)
    with pytest.raises(ConfigError, match=r"^otel\+ needs OpenTelemetry: pip install 'microreg\[otel\]' \("):
        microreg.connect("otel+memory://")


# -- threads and loops -------------------------------------------------------------------------------


def test_two_loops_in_two_threads_are_measured_together_and_the_facade_too() -> None:
    telemetry = Telemetry()
    ready, done = threading.Barrier(3, timeout=10), threading.Event()

    async def announced(id: str) -> None:
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            async with greeter(registry, id):
                ready.wait()
                await wait_until(done.is_set, timeout=20)

    threads = [threading.Thread(target=asyncio.run, args=[announced(id)]) for id in ("n1", "n2")]
    for thread in threads:
        thread.start()
    with microreg.sync.connect("memory://") as registry:
        telemetry.instrument(registry)
        with microreg.sync.announce(registry, "greeter", port=80, drain_delay=0) as announcement:
            ready.wait()
            assert telemetry.points("announcements")["greeter", "live"] == 3
            assert telemetry.points("announcement.renewals") == {("greeter",): 3}
            assert announcement.statistics.written == 1
            assert resource_attributes(announcement)["service.instance.id"] == announcement.node.id
            with microreg.sync.Selector(registry) as selector:
                assert selector.call("greeter", lambda node: node.port) == 80
                assert telemetry.points("selector.calls")["greeter", "failed"] == 0
                assert selector.statistics.keys() == {"greeter"}
        done.set()
        for thread in threads:
            thread.join()
    assert telemetry.points("announcements") == {}


def test_it_can_be_read_while_everything_changes() -> None:
    telemetry = Telemetry()
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                telemetry.metrics()
        except BaseException as error:
            failures.append(error)

    async def main() -> None:
        async with microreg.connect("cache+memory://") as registry, Selector(registry) as selector:
            telemetry.instrument(registry)
            for number in range(30):
                async with registry.watch(f"s{number}"), greeter(registry, name=f"s{number}"):
                    await selector.select(f"s{number}")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    run(main())
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


class Broken(MetricExporter):
    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: object) -> MetricExportResult:
        raise RuntimeError("no collector")

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: object) -> None:
        return None


def test_an_exporter_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    periodic = PeriodicExportingMetricReader(Broken(), export_interval_millis=3_600_000)
    provider = MeterProvider([periodic, InMemoryMetricReader()], shutdown_on_exit=False)

    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            with instrument(registry, meter_provider=provider):
                async with greeter(registry) as announcement:
                    periodic.collect()
                    assert announcement.state == "live"

    run(main())
    provider.shutdown()
    assert "no collector" in caplog.text


# -- the guide ---------------------------------------------------------------------------------------


def test_the_guide_has_every_metric_as_it_is() -> None:
    text = (ROOT / "docs" / "howto" / "telemetry.md").read_text(encoding="utf-8")
    rows = [
        f"| `{each.name}` | {each.kind}, `{each.unit}` | {_listed(each.attributes)} | {each.about} |"
        for each in MEASURES
    ]
    assert re.findall(r"^\| `microreg\..*(?:sum|counter|gauge), .*$", text, re.M) == rows
    assert f"| `{DURATION}` | histogram, `s` |" in text
    alerts = re.findall(r"expr: .*\((microreg_\w+)", text)
    assert len(alerts) == 3 and set(alerts) <= {measure.prometheus for measure in MEASURES}


def _listed(attributes: tuple[str, ...]) -> str:
    return ", ".join(f"`{attribute}`" for attribute in attributes)
