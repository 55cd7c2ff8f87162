"""OpenTelemetry: metrics and spans of a registry, and of all announcements, Selectors and caches that work on it.

::

    from microreg.integrations.opentelemetry import instrument

    async with microreg.connect() as registry:
        instrument(registry)

Or, in the config string, ``otel+etcd://…``. Needs ``microreg[otel]``, which is OpenTelemetry's API alone: what is
measured goes where the program's SDK sends it, and nowhere while there is none. Without this module nothing is
measured: microreg counts only where it does I/O, or was told how a call went.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self
from weakref import ref

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider, get_tracer_provider

from microreg import Announcement, ConfigError, Registry, sync
from microreg.checked import Checked
from microreg.integrations.opentelemetry.metrics import meters
from microreg.integrations.opentelemetry.spans import Sink, Spans
from microreg.measures import registries

__all__ = ["Instrumentation", "instrument", "resource_attributes"]


class Instrumentation:
    """What :func:`instrument` has begun, until ``close()`` or the end of ``with``; closing twice is fine.

    It need not be kept, and keeps nothing alive: a registry that is closed or gone is not told of any more.
    """

    def __init__(
        self, found: tuple[Checked, ...], meter_provider: MeterProvider | None, tracer_provider: TracerProvider | None
    ) -> None:
        self._meters = meters(meter_provider)
        self._meters.add(self, found)
        self._found = tuple(map(ref, found))
        everywhere = tracer_provider is None or tracer_provider is get_tracer_provider()
        self._sink = Sink(None if everywhere else tracer_provider, self._meters.duration)
        for registry in found:
            spans = self._spans(registry) or Spans(registry.url, self._sink)
            if not spans.holders:
                registry.observers = (*registry.observers, spans)
            spans.holders += 1

    def close(self) -> None:
        """Measure no more."""
        self._meters.discard(self)
        found, self._found = self._found, ()
        for each in found:
            registry = each()
            spans = None if registry is None else self._spans(registry)
            if registry is not None and spans is not None:
                spans.holders -= 1
                if not spans.holders:
                    registry.observers = tuple(other for other in registry.observers if other is not spans)

    def _spans(self, registry: Checked) -> Spans | None:
        """Those that go where this one's go, too."""
        own = (each for each in registry.observers if isinstance(each, Spans) and each.sink == self._sink)
        return next(own, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def instrument(
    registry: Registry | sync.Registry,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Instrumentation:
    """Measure a registry, and the announcements, Selectors and caches that work on it, now or later.

    It goes on until the registry is closed, or the returned object. Providers that are not given are the global
    ones, which may be set later. What is instrumented twice with the same providers is measured once. Raises
    ConfigError for what is no registry that ``connect()`` made.
    """
    inner = registry.inner if isinstance(registry, sync.Registry) else registry
    found = tuple(registries(inner)) if isinstance(inner, Registry) else ()
    if not found:
        raise ConfigError(f"instrument() takes a registry that connect() made, got {type(registry).__name__}")
    return Instrumentation(found, meter_provider, tracer_provider)


def resource_attributes(announcement: Announcement | sync.Announcement) -> dict[str, str]:
    """What the node of an announcement is for OpenTelemetry: the attributes for the ``Resource`` of your SDK.

    ``service.name``, ``service.instance.id`` (the id of the node) and, where it has one, ``service.version``.
    """
    service, node = announcement.service, announcement.node
    found = {"service.name": service.name, "service.instance.id": node.id}
    return found | ({"service.version": service.version} if service.version else {})
