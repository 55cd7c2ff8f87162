"""OpenTelemetry in whole programs: without it, with the global providers, forked; and beside a server that dies."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import microreg
from microreg.integrations.opentelemetry.metrics import DURATION
from microreg.measures import MEASURES
from microreg.testing import ServerProcess
from servers import etcd
from support import ROOT, clean_env, python, run, wait_until
from telemetry import Telemetry

GLOBAL = """
import asyncio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import microreg

reader, exporter, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))

async def main():
    async with microreg.connect("otel+cache+memory://") as registry, microreg.Selector(registry) as selector:
        metrics.set_meter_provider(MeterProvider([reader]))
        trace.set_tracer_provider(tracers)
        async with microreg.connect("otel+memory://") as second:
            await second.list_services()
        async with microreg.announce(registry, "greeter", address="10.0.0.1:80", ttl=60):
            node = await selector.select("greeter")
            found = reader.get_metrics_data().resource_metrics[0].scope_metrics
            print(sorted(metric.name for scope in found for metric in scope.metrics))
            print([span.name for span in exporter.get_finished_spans()])
            print(selector._names._own)

asyncio.run(main())
"""


def test_the_config_string_is_enough_and_the_global_providers_may_come_later() -> None:
    names, spans, own = python(GLOBAL).splitlines()
    assert names == str(sorted([DURATION, *(measure.name for measure in MEASURES)]))
    assert spans == "['list_services', 'register greeter']"
    assert own == "None"


FORKED = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import microreg
from microreg.integrations.opentelemetry.metrics import meters
from telemetry import Telemetry

async def main():
    telemetry = Telemetry()
    async with microreg.connect("cache+memory://") as registry, microreg.Selector(registry) as selector:
        telemetry.instrument(registry)
        async with microreg.announce(registry, "greeter", address="10.0.0.1:80", ttl=60):
            await selector.select("greeter")
            locks = [each._lock for each in meters(telemetry.meter_provider)._steady.values()]
            for lock in locks:
                lock.acquire()  # as a thread does that collects at this moment
            if not (child := os.fork()):
                os._exit(len([name for name in telemetry.metrics() if not name.endswith("duration")]))
            for lock in locks:
                lock.release()
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), telemetry.state())

asyncio.run(main())
"""


def test_a_forked_child_does_not_tell_of_what_is_its_parents() -> None:
    assert python(FORKED, str(ROOT / "tests")) == "0 live\n"


def test_without_a_provider_nothing_is_measured_and_everything_works() -> None:
    code = """
import asyncio, sys, microreg
from microreg.integrations.opentelemetry import instrument

async def main():
    async with microreg.connect("otel+cache+memory://") as registry, microreg.Selector(registry) as selector:
        with instrument(registry):
            async with microreg.announce(registry, "greeter", address="10.0.0.1:80", ttl=60):
                async with selector.acquire("greeter") as node:
                    print(node.address, "opentelemetry.sdk" in sys.modules)

asyncio.run(main())
"""
    assert python(code) == "10.0.0.1:80 False\n"


def test_nothing_but_the_integration_imports_opentelemetry() -> None:
    code = """
import asyncio, sys, microreg
from microreg import measures, sync
from microreg.cli import main

async def run():
    async with microreg.connect("cache+memory://") as registry, microreg.Selector(registry) as selector:
        async with microreg.announce(registry, "greeter", address="10.0.0.1:80", ttl=60):
            await selector.call("greeter", lambda node: asyncio.sleep(0))
            print(measures.measured(registry) != [])

asyncio.run(run())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert python(code) == "True\n[]\n"


# -- an outage ---------------------------------------------------------------------------------------


def test_the_metrics_tell_the_story_of_an_outage() -> None:
    with etcd() as server:
        run(outage(server))


async def outage(server: ServerProcess) -> None:
    telemetry = Telemetry()
    async with microreg.connect(f"etcd://127.0.0.1:{server.port}?timeout=3s") as registry:
        telemetry.instrument(registry)
        announced = microreg.announce(registry, "greeter", address="10.0.0.1:80", ttl=3, drain_delay=0)
        async with announced, registry.watch("greeter") as events, microreg.Selector(registry) as selector:
            await selector.select("greeter")
            await anext(events)
            await wait_until(lambda: resyncing(telemetry) == 0)
            assert telemetry.state() == "live" and telemetry.points("cache.age") == {("greeter",): 0}
            assert telemetry.points("watch.resyncs") == {("etcd",): 0}
            server.kill()
            await wait_until(lambda: telemetry.state() == "lost")
            await wait_until(lambda: resyncing(telemetry) == 2)
            assert failed(telemetry) >= 1
            assert 0 < telemetry.points("cache.age")["greeter",] < 60
            assert telemetry.points("selector.nodes")["greeter", "available"] == 1
            await asyncio.to_thread(server.start)
            await wait_until(lambda: telemetry.state() == "live", timeout=60)
            await wait_until(lambda: events.state == "live", timeout=60)  # the cache's takes more time
            assert telemetry.points("watch.resyncs")["etcd",] >= 1 and resyncing(telemetry) <= 1
    durations = telemetry.points("client.operation.duration")
    failures = {labels[-1] for labels in durations if labels[0] == "register" and len(labels) == 5}
    assert failures and failures <= {"registry_unavailable", "registry_timeout"}
    assert ("register", "etcd", "127.0.0.1", str(server.port)) in durations


def failed(telemetry: Telemetry) -> float:
    """How many renewals failed."""
    return sum(count for labels, count in telemetry.points("announcement.renewals").items() if len(labels) == 2)


def resyncing(telemetry: Telemetry) -> float:
    """How many watches do not hear the registry."""
    return telemetry.points("watches")["etcd", "resyncing"]


# -- the guide ---------------------------------------------------------------------------------------

GUIDE = (ROOT / "docs" / "howto" / "telemetry.md").read_text(encoding="utf-8")


def test_the_program_of_the_guide_prints_what_the_guide_says() -> None:
    found = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", GUIDE.partition("## A whole")[2], re.M | re.S)
    assert found is not None and python(found[1]) == found[2]


def test_the_program_of_the_guide_is_typed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(GUIDE.partition("## A whole")[2].split("```python\n")[1].split("```")[0], encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
