"""What the tests of the OpenTelemetry integration share: providers that keep in memory what arrives there."""

from __future__ import annotations

from typing import cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from microreg import Registry, sync
from microreg.integrations.opentelemetry import Instrumentation, instrument


class Telemetry:
    """Providers of its own, and what has arrived there."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracer_provider.get_tracer("test")

    def instrument(self, registry: Registry | sync.Registry) -> Instrumentation:
        return instrument(registry, meter_provider=self.meter_provider, tracer_provider=self.tracer_provider)

    def metrics(self) -> dict[str, Metric]:
        """What is collected now, by name."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric, by those of its attributes; of a histogram the counts."""
        metric = self.metrics().get(f"microreg.{name}")
        found: dict[tuple[str, ...], float] = {}
        for point in () if metric is None else metric.data.data_points:
            key = tuple(str(value) for value in dict(point.attributes or {}).values())
            assert key not in found
            found[key] = point.value if isinstance(point, NumberDataPoint) else cast(float, point.count)
        return found

    def state(self, name: str = "greeter") -> str:
        """The state of the one announcement of this name; empty where there is none."""
        states = [key[1] for key, count in self.points("announcements").items() if key[0] == name and count]
        assert len(states) <= 1
        return "".join(states)

    def spans(self) -> list[ReadableSpan]:
        """What has ended since the last time."""
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def names(self) -> list[str]:
        """The names of these."""
        return [span.name for span in self.spans()]
