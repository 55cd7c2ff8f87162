"""The spans of the OpenTelemetry integration."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
from collections.abc import Sequence

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

import microreg
from microreg import Node, Registry, Selector, Service, Status
from microreg.integrations.httpx import AsyncRegistryTransport
from microreg.integrations.opentelemetry import instrument
from microreg.integrations.opentelemetry import spans as spans_module
from microreg.integrations.opentelemetry.spans import Spans
from microreg.observer import Observer
from microreg.url import RegistryURL
from support import ROOT, store_of, wait_until
from telemetry import Telemetry
from timeless import run

PAIR = Service("greeter", nodes=[Node("10.0.0.1:80", id="n1"), Node("10.0.0.2:80", id="n2")])


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan | trace.Span) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def greeter(registry: Registry, ttl: float = 15.0) -> microreg.Announcement:
    return microreg.announce(registry, "greeter", address="10.0.0.1:80", id="n1", ttl=ttl, drain_delay=0)


# -- calls of the registry ---------------------------------------------------------------------------


def test_every_call_of_the_registry_is_a_span() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            await registry.register(PAIR)
            await registry.get_service("greeter")
            await registry.list_services()
            await registry.deregister(PAIR.with_nodes(PAIR.nodes[0]))
            with pytest.raises(LookupError):
                await registry.get_service("nobody")
            spans = telemetry.spans()
            names = ["register greeter", "get_service greeter", "list_services", "deregister greeter"]
            assert [span.name for span in spans] == [*names, "get_service nobody"]
            assert {span.kind for span in spans} == {SpanKind.CLIENT}
            assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
            common = {"microreg.registry.scheme": "memory", "microreg.operation.name": "register"}
            assert attributes(spans[0]) == common | {"microreg.service.name": "greeter"}
            assert attributes(spans[3])["microreg.node.id"] == "n1"

    run(main())


def test_a_call_that_fails_says_how() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            store_of(registry).down = True
            with pytest.raises(ConnectionError), telemetry.tracer.start_as_current_span("outer") as outer:
                await registry.get_service("greeter")
            inner, _ = telemetry.spans()
            assert parent(inner) == id_of(outer)
            assert inner.status.status_code is StatusCode.ERROR
            assert inner.status.description is not None and "switched off" in inner.status.description
            assert attributes(inner)["error.type"] == "registry_unavailable"
            assert not trace.get_current_span().get_span_context().is_valid

    run(main())


def test_a_renewal_is_a_span_only_within_one_of_the_callers_or_after_a_failure() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            for _ in range(3):
                await registry.register(PAIR)
            assert telemetry.names() == ["register greeter"]
            with telemetry.tracer.start_as_current_span("outer"):
                await registry.register(PAIR)
            assert telemetry.names() == ["register greeter", "outer"]
            changed = PAIR.with_nodes(PAIR.nodes[0].replace(status=Status.WARNING))
            await registry.register(changed)
            await registry.register(changed)
            assert telemetry.names() == ["register greeter"]
            store_of(registry).down = True
            for _ in range(3):  # of the first, nobody knew before that it would fail
                with pytest.raises(ConnectionError):
                    await registry.register(changed)
            store_of(registry).down = False
            for _ in range(3):
                await registry.register(changed)
            assert [span.status.status_code for span in telemetry.spans()] == [
                StatusCode.ERROR,
                StatusCode.ERROR,
                StatusCode.UNSET,
            ]

    run(main())


def test_what_was_written_is_remembered_of_a_bounded_number_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_REMEMBERED", 1)

    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            for _ in range(2):
                for node in PAIR.nodes:
                    await registry.register(PAIR.with_nodes(node))
            await registry.register(PAIR.with_nodes(PAIR.nodes[1]))
            assert len(telemetry.names()) == 4

    run(main())


def test_what_goes_on_in_the_background_is_no_part_of_a_trace_that_has_ended() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            with telemetry.tracer.start_as_current_span("start") as start:
                announcement = await greeter(registry).__aenter__()
            first, _ = telemetry.spans()
            assert parent(first) == id_of(start)
            store_of(registry).down = True
            await wait_until(lambda: announcement.statistics.failed.get("registry_unavailable", 0) > 2, timeout=60)
            store_of(registry).down = False
            await wait_until(lambda: announcement.state == "live", timeout=60)
            failed, *_ = telemetry.spans()
            assert failed.name == "register greeter" and failed.status.status_code is StatusCode.ERROR
            assert parent(failed) is None and failed.context is not None and first.context is not None
            assert failed.context.trace_id != first.context.trace_id
            assert [link.context.span_id for link in failed.links] == [id_of(start)]
            await announcement.drain()

    run(main())


def test_a_call_that_is_cancelled_has_ended_without_an_error() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry:
            telemetry.instrument(registry)
            async with Selector(registry) as selector:
                await registry.register(PAIR)
                calling = asyncio.create_task(selector.call("greeter", lambda _: asyncio.sleep(1e6)))
                await asyncio.sleep(1)
                calling.cancel()
                await asyncio.wait([calling])
                (span,) = [span for span in telemetry.spans() if span.name.startswith("call")]
                assert span.status.status_code is StatusCode.UNSET and "error.type" not in attributes(span)

    run(main())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("etcd://10.0.0.1:2379", {"server.address": "10.0.0.1", "server.port": 2379}),
        ("etcd://user:secret@registry.lan/prefix?token=secret", {"server.address": "registry.lan"}),
        ("https://[::1]:443", {"server.address": "::1", "server.port": 443}),
        ("etcd://10.0.0.1:2379,10.0.0.2:2379", {}),
        ("mdns://127.0.0.1", {}),
        ("memory://name", {}),
        ("dir:///srv", {}),
        ("odd://a:b:c", {}),
    ],
)
def test_the_server_of_a_registry_that_has_one(url: str, server: dict[str, object]) -> None:
    parsed = RegistryURL.parse(url)
    assert spans_module._server(parsed) == {"microreg.registry.scheme": parsed.scheme} | server


# -- calls to nodes ----------------------------------------------------------------------------------


def test_the_span_of_a_call_is_the_current_one_while_the_function_runs() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry, Selector(registry, "round_robin") as selector:
            telemetry.instrument(registry)
            await registry.register(PAIR)
            await selector.select("greeter")
            telemetry.spans()

            async def function(node: Node) -> str:
                with telemetry.tracer.start_as_current_span("GET"):
                    await asyncio.sleep(0)
                if node.id == first:
                    raise ConnectionResetError("reset by the peer")
                return node.id

            first = selector.pick("greeter").id
            with telemetry.tracer.start_as_current_span("work") as work:
                first = "n2" if first == "n1" else "n1"
                assert await selector.call("greeter", function) != first
                assert trace.get_current_span() is work
            get, failed, again, answered, _ = telemetry.spans()
            assert (failed.name, answered.name) == ("call greeter", "call greeter")
            assert parent(get) == id_of(failed) and parent(again) == id_of(answered)
            assert parent(failed) == parent(answered) == id_of(work)
            assert failed.kind is SpanKind.INTERNAL and failed.status.status_code is StatusCode.ERROR
            assert attributes(failed)["error.type"] == "ConnectionResetError"
            last = "1" if first == "n2" else "2"
            assert answered.status.status_code is StatusCode.UNSET and attributes(answered) == {
                "microreg.service.name": "greeter",
                "microreg.node.id": f"n{last}",
                "service.peer.name": "greeter",
                "server.address": f"10.0.0.{last}",
                "server.port": 80,
            }

    run(main())


def test_acquire_and_track_are_spans_too_and_an_error_of_the_callers_own_is_told() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            telemetry.instrument(registry)
            await registry.register(PAIR)
            with pytest.raises(ValueError, match="own"):
                async with selector.acquire("greeter"):
                    assert trace.get_current_span().is_recording()
                    raise ValueError("the caller's own")
            with selector.track("greeter", selector.pick("greeter")) as node:
                assert trace.get_current_span().is_recording()
            with selector.track("greeter", Node("unix:/run/greeter", id="odd")):
                pass
            *_, failed, tracked, odd = telemetry.spans()
            assert attributes(failed)["error.type"] == "ValueError"
            assert attributes(tracked)["microreg.node.id"] == node.id
            assert attributes(odd)["server.address"] == "unix:/run/greeter" and "server.port" not in attributes(odd)

    run(main())


def test_once_it_is_answered_a_call_may_end_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            telemetry.instrument(registry)
            await registry.register(PAIR)
            node = await selector.select("greeter")
            for answered in (True, False):
                telemetry.spans()
                tracked = selector.track("greeter", node)
                own = contextvars.copy_context()
                own.run(tracked.__enter__)
                if answered:
                    own.run(tracked.answered)
                    assert not own.run(trace.get_current_span).is_recording()
                assert telemetry.spans() == []
                thread = threading.Thread(target=tracked.__exit__, args=(None, None, None))
                thread.start()
                thread.join()
                assert telemetry.names() == ["call greeter"]

    run(main())
    assert "Failed to detach" not in caplog.text


def test_what_httpx_does_is_a_part_of_the_call_which_ends_with_the_response() -> None:
    async def main() -> None:
        telemetry = Telemetry()
        inside: list[int] = []

        def answer(request: httpx.Request) -> httpx.Response:
            inside.append(id_of(trace.get_current_span()))
            if len(inside) == 1:
                raise httpx.ConnectError("refused", request=request)
            return httpx.Response(200, stream=httpx.ByteStream(b"hello"))

        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            telemetry.instrument(registry)
            await registry.register(PAIR)
            transport = AsyncRegistryTransport(selector, transport=httpx.MockTransport(answer))
            async with httpx.AsyncClient(mounts={"all://*.microreg": transport}) as client:
                async with client.stream("GET", "http://greeter.microreg/") as response:
                    assert not trace.get_current_span().is_recording()
                    assert len(telemetry.names()) == 2  # the registration, and the call that was refused
                    assert await response.aread() == b"hello"
            (call,) = telemetry.spans()
            assert call.name == "call greeter" and id_of(call) == inside[1] != inside[0]

    run(main())


def test_two_providers_get_the_same_calls_each_in_its_own_trace() -> None:
    async def main() -> None:
        one, two = Telemetry(), Telemetry()
        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            one.instrument(registry)
            two.instrument(registry)
            await registry.register(PAIR)
            async with selector.acquire("greeter"):
                pass
            assert one.names() == two.names() == ["register greeter", "call greeter"]
            assert not trace.get_current_span().get_span_context().is_valid

    run(main())


def test_in_a_thread_a_call_is_part_of_the_threads_trace() -> None:
    telemetry = Telemetry()
    with microreg.sync.connect("memory://") as registry, microreg.sync.Selector(registry) as selector:
        telemetry.instrument(registry)
        registry.register(PAIR)
        with telemetry.tracer.start_as_current_span("work") as work:
            ids = selector.call("greeter", lambda _: trace.get_current_span().get_span_context().span_id)
        call = next(span for span in telemetry.spans() if span.name == "call greeter")
        assert parent(call) == id_of(work) and id_of(call) == ids


class Broken(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("no collector")


def test_an_exporter_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Broken()))

    async def main() -> None:
        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            instrument(registry, tracer_provider=provider)
            async with greeter(registry) as announcement:
                assert await selector.call("greeter", lambda _: asyncio.sleep(0, "done")) == "done"
                assert announcement.state == "live"

    run(main())
    assert "no collector" in caplog.text


def test_the_guide_has_every_span_as_it_is() -> None:
    text = (ROOT / "docs" / "howto" / "telemetry.md").read_text(encoding="utf-8")

    async def main() -> list[ReadableSpan]:
        telemetry = Telemetry()
        async with microreg.connect("memory://") as registry, Selector(registry) as selector:
            telemetry.instrument(registry)
            service = PAIR.with_nodes(PAIR.nodes[0])
            await registry.register(service)
            async with selector.acquire("greeter"):
                pass
            await registry.get_service("greeter")
            await registry.list_services()
            await registry.deregister(service)
        return telemetry.spans()

    rows = re.findall(r"^\| (`.*`) \| (client|internal) \| (.*) \|$", text.partition("## Spans")[2], re.MULTILINE)
    told = {(name, kind): listed for names, kind, listed in rows for name in names.split(", ")}
    for span in run(main()):
        listed = told.pop((f"`{span.name.replace('greeter', '{service}')}`", span.kind.name.lower()))
        known = {*attributes(span), "server.address", "server.port"} - {"microreg.service.name"}
        if listed != "the same, without a node":
            assert set(re.findall("`(.*?)`", listed)) - {"microreg.service.name"} == known
    assert told == {}


def test_spans_are_an_observer() -> None:
    observer: type[Observer] = Spans
    assert {"attempt", "operation"} <= set(dir(observer))
