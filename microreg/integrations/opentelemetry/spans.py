"""The spans: of a registry's calls, and of those to its nodes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from opentelemetry import context, trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from microreg import ConfigError, InvalidService, Node, RegistryError, Service, ServiceNotFound, __version__
from microreg.net import split_address
from microreg.url import RegistryURL

__all__ = ["Sink", "Spans"]

T = TypeVar("T")

_REMEMBERED = 1000
"""Nodes of which it is known what was last written, so that a renewal is told from a change."""

_HERE = frozenset({"memory", "mdns", "static"})
"""Registries that no server holds: what stands in the place of its host is none."""


@dataclass(frozen=True)
class Sink:
    """Where spans and durations go."""

    tracer_provider: TracerProvider | None
    """None is the global one, which may be set later."""
    duration: Histogram


class Spans:
    """Makes spans for one registry, and records how long its calls take. Implements ``microreg.observer.Observer``.

    A renewal, that is a ``register`` that repeats what was last written, is recorded but gets no span, except within
    one of the caller's. A task that goes on in the background inherits the span in which it was started; once that
    has ended, what the task does is a trace of its own, with a link.
    """

    def __init__(self, url: RegistryURL, sink: Sink) -> None:
        self.sink = sink
        self.holders = 0
        """How many want these spans."""
        self._tracer = trace.get_tracer("microreg", __version__, sink.tracer_provider)
        self._server = _server(url)
        self._written: OrderedDict[tuple[str, str], Service] = OrderedDict()

    async def operation(self, verb: str, of: Service | str, call: Coroutine[object, object, T]) -> T:
        """See ``Observer``."""
        common = {"microreg.operation.name": verb, **self._server}
        records = of.records() if isinstance(of, Service) else ()
        plain = verb == "register" and self._repeats(records) and not trace.get_current_span().is_recording()
        span = trace.INVALID_SPAN if plain else self._begin(verb, of, common)
        current = _Current(span)
        begun = time.perf_counter()
        error: BaseException | None = None
        try:
            return await call
        except BaseException as caught:
            error = caught
            raise
        finally:
            current.end()
            kind = _failed(span, error)
            span.end()
            self.sink.duration.record(time.perf_counter() - begun, common | ({"error.type": kind} if kind else {}))
            self._note(records, written=verb == "register" and error is None)

    def attempt(self, name: str, node: Node) -> _Attempt:
        """See ``Observer``."""
        return _Attempt(self, name, node)

    def start(self, name: str, kind: SpanKind, attributes: dict[str, str | int]) -> Span:
        """A span in the caller's, or in none where that has ended."""
        outer = trace.get_current_span()
        known = outer.get_span_context()
        ended = known.is_valid and not known.is_remote and known.trace_flags.sampled and not outer.is_recording()
        if not ended:
            return self._tracer.start_span(name, kind=kind, attributes=attributes)
        return self._tracer.start_span(name, context.Context(), kind=kind, attributes=attributes, links=[Link(known)])

    def _begin(self, verb: str, of: Service | str, common: dict[str, str | int]) -> Span:
        name = of.name if isinstance(of, Service) else of
        attributes = common | ({"microreg.service.name": name} if name else {})
        if isinstance(of, Service) and len(of.nodes) == 1:
            attributes["microreg.node.id"] = of.nodes[0].id
        return self.start(f"{verb} {name}".rstrip(), SpanKind.CLIENT, attributes)

    def _repeats(self, records: tuple[Service, ...]) -> bool:
        return all(self._written.get(_key(record)) == record for record in records)

    def _note(self, records: tuple[Service, ...], *, written: bool) -> None:
        for record in records:
            self._written.pop(_key(record), None)
            if written:
                self._written[_key(record)] = record
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)


class _Current:
    """A span is the current one until ``end``; in another task or thread, that does nothing."""

    __slots__ = ("_token",)

    def __init__(self, span: Span) -> None:
        self._token: Token[context.Context] | None = None
        if span is not trace.INVALID_SPAN:
            self._token = context.attach(trace.set_span_in_context(span))

    def end(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            with suppress(ValueError):  # context.detach() would log an error
                token.var.reset(token)


class _Attempt:
    """The span of one call to a node, and the current one until the answer begins."""

    __slots__ = ("_current", "_name", "_node", "_span", "_spans")

    def __init__(self, spans: Spans, name: str, node: Node) -> None:
        self._spans = spans
        self._name = name
        self._node = node

    def __enter__(self) -> None:
        node = self._node
        attributes: dict[str, str | int] = {
            "microreg.service.name": self._name,
            "microreg.node.id": node.id,
            "service.peer.name": self._name,
            **_address(node),
        }
        self._span = self._spans.start(f"call {self._name}", SpanKind.INTERNAL, attributes)
        self._current = _Current(self._span)

    def answered(self) -> None:
        """See ``Attempt``."""
        self._current.end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.end()
        _failed(self._span, error)
        self._span.end()


def _failed(span: Span, error: BaseException | None) -> str:
    """Note an error in the span; its name, which is the code of microreg's own, and the class of others.

    A name that is not found is an answer, and a cancellation nobody's fault.
    """
    if not isinstance(error, Exception) or isinstance(error, ServiceNotFound):
        return ""
    kind = error.code if isinstance(error, RegistryError) else type(error).__qualname__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, str(error)))
    return kind


def _key(record: Service) -> tuple[str, str]:
    return record.name, record.nodes[0].id


def _server(url: RegistryURL) -> dict[str, str | int]:
    """What is known of where a registry is: its host and port, if it is one server that the config string names."""
    found: dict[str, str | int] = {"microreg.registry.scheme": url.scheme}
    if url.location and url.scheme not in _HERE:
        with suppress(ConfigError):  # not every backend has hosts there
            one, same = url.hosts(1), url.hosts(2)
            if len(one) == 1:
                found["server.address"], port = one[0]
                found |= {"server.port": port} if one == same else {}
    return found


def _address(node: Node) -> dict[str, str | int]:
    with suppress(InvalidService):  # others may have registered anything
        host, port = split_address(node.address)
        return {"server.address": host, "server.port": port}
    return {"server.address": node.address}
