"""For Prometheus: ``/prometheus/sd``, which tells it what to scrape, and ``/metrics``, what there is to know of this
server. For those who watch over the server: ``/healthz`` and ``/readyz``.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from msgspec import json
from starlette.routing import Route
from starlette.types import Scope

from microreg import Registry, Service, Status, __version__
from microreg.errors import RegistryError
from microreg.events import Action, Change
from microreg.measures import MEASURES, measured
from microreg.net import address_problem
from microreg.rules import check_name
from microreg.server.problems import JSON, Problem
from microreg.server.views import Endpoint, Server, Shared

__all__ = ["routes"]

_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_LABEL = re.compile(r"[^A-Za-z0-9_]")
_SLICE = 500


def routes(server: Server) -> list[Route]:
    """The routes."""
    view = _View(server)
    limit = server.settings.max_body
    kinds = {"/prometheus/sd": (view.targets, JSON), "/metrics": (view.metrics, _TEXT)}
    kinds |= {"/healthz": (view.health, JSON), "/readyz": (view.readiness, JSON)}
    return [Route(path, Endpoint(limit, {"GET": answer}, kind=kind)) for path, (answer, kind) in kinds.items()]


class _View:
    def __init__(self, server: Server) -> None:
        self._hub = server.hub
        self._registry = server.registry
        self._answered = server.answered
        self._statuses: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self._began = time.time()
        self._targets: Shared[tuple[str, ...]] = Shared(self._list)
        self._metrics: Shared[None] = Shared(self._report)
        self._hub.catalog.subscribe(None, self._heard)

    async def health(self, _: Scope, __: bytes) -> tuple[int, bytes]:
        """Whether the server runs: it answers."""
        return 200, b'{"status":"ok"}'

    async def readiness(self, _: Scope, __: bytes) -> tuple[int, bytes]:
        """Whether it can do its work: it watches the registry, and is not about to end."""
        try:
            await self._hub.ready(0.0)
        except RegistryError:
            raise Problem(503, "registry_unavailable", "the registry is not watched, or the server ends") from None
        return 200, b'{"status":"ready"}'

    # -- service discovery ---------------------------------------------------------------------------------

    async def targets(self, scope: Scope, _: bytes) -> tuple[int, bytes]:
        """Every node, or those of the names in the query, as a target group of its own.

        The list is always whole. When it is not known it is an error, at which Prometheus keeps the one it has.
        """
        names = _names(scope["query_string"])
        await self._hub.ready()
        return 200, await self._targets(names)

    async def _list(self, names: tuple[str, ...]) -> bytes:
        catalog = self._hub.catalog
        records = [record for name in names for record in catalog.records(name)] if names else list(catalog.records())
        groups: list[bytes] = []
        for number, record in enumerate(records, 1):
            group = _group(record)
            if group is not None:
                groups.append(json.encode(group))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return b"[%s]" % b",\n".join(groups)

    # -- metrics -------------------------------------------------------------------------------------------

    async def metrics(self, _: Scope, __: bytes) -> tuple[int, bytes]:
        """This server's metrics, in Prometheus' text format."""
        return 200, await self._metrics(None)

    async def _report(self, _: None) -> bytes:
        lines: list[str] = []
        for name, kind, about, label, samples in (*self._of_registry(), *_of_process(self._began)):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            for number, (value, count) in enumerate(tuple(samples.items()), 1):
                labels = f'{{{label}="{_escaped(value)}"}}' if label else ""
                lines.append(f"{name}{labels} {count!r}")
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
        lines += _of_measures(self._registry)
        return ("\n".join(lines) + "\n").encode()

    def _of_registry(self) -> Iterator[_Family]:
        hub = self._hub
        statuses = {str(status): self._statuses[status] for status in Status}
        changes = {str(action): self._changes[action] for action in Action}
        yield "microreg_nodes", "gauge", "Nodes that are registered.", "status", statuses
        yield "microreg_services", "gauge", "Services that have a node.", "", {"": len(hub.names)}
        yield "microreg_service_nodes", "gauge", "Nodes of a service.", "service", hub.names
        yield "microreg_changes_total", "counter", "Changes of nodes that were heard.", "action", changes
        yield "microreg_registry_up", "gauge", "Whether the registry behind is watched.", "", {"": int(hub.live)}
        yield "microreg_watchers", "gauge", "Watches that clients have open.", "", {"": len(hub.streams)}
        yield "microreg_watches_total", "counter", "Watches that were opened.", "resumed", hub.opened
        yield "microreg_watches_stuck_total", "counter", "Watches whose client read nothing.", "", {"": hub.stuck}
        yield "microreg_changes_kept", "gauge", "Changes over which a watch can be resumed.", "", {"": hub.kept}
        codes = {str(code): self._answered[code] for code in sorted(self._answered)}
        yield "microreg_http_responses_total", "counter", "Requests that were answered.", "code", codes
        yield "microreg_info", "gauge", "The version of microreg.", "version", {__version__: 1}

    def _heard(self, change: Change) -> None:
        self._changes[change.action] += 1
        if change.action is not Action.DELETE:
            self._statuses[change.node.status] += 1
        if change.previous is not None:
            self._statuses[change.previous.nodes[0].status] -= 1


_Family = tuple[str, str, str, str, Mapping[str, float]]
"""Name, type, help, a label, and the samples by its value; a metric without a label has one sample."""


def _of_process(began: float) -> Iterator[_Family]:
    """What the client libraries of Prometheus tell of a process, as far as the system says."""
    yield "process_start_time_seconds", "gauge", "When the server began, since 1970.", "", {"": round(began, 3)}
    yield "process_cpu_seconds_total", "counter", "CPU time, of user and system.", "", {"": time.process_time()}
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield "process_resident_memory_bytes", "gauge", "Resident memory.", "", {"": size}
        yield "process_open_fds", "gauge", "Open file descriptors.", "", {"": len(os.listdir("/proc/self/fd"))}


def _of_measures(registry: Registry) -> Iterator[str]:
    """What OpenTelemetry would be told of the registry behind, in lines, under the names that its exporters make."""
    things = measured(registry)
    for measure in MEASURES:
        total = measure.total(map(measure.read, things))
        if total:
            kind = "counter" if measure.kind == "counter" else "gauge"
            yield f"# HELP {measure.prometheus} {measure.about}\n# TYPE {measure.prometheus} {kind}"
        for labels, value in total.items():
            pairs = zip(measure.labels, labels, strict=True)
            told = ",".join(f'{label}="{_escaped(text)}"' for label, text in pairs if text)
            yield f"{measure.prometheus}{{{told}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# -- target groups -----------------------------------------------------------------------------------------


def _group(record: Service) -> dict[str, object] | None:
    """The target group of a node, on ``port.metrics`` where it has that; None where nobody could call its address."""
    node = record.nodes[0]
    target = node.url("metrics").removeprefix("metrics://")
    if address_problem(target):
        return None
    labels = {
        "__meta_microreg_service": record.name,
        "__meta_microreg_version": record.version,
        "__meta_microreg_id": node.id,
        "__meta_microreg_status": str(node.status),
        **_metadata("__meta_microreg_service_metadata_", record.metadata),
        **_metadata("__meta_microreg_metadata_", node.metadata),
    }
    return {"targets": [target], "labels": labels}


def _metadata(prefix: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata as labels: what a label's name cannot have is ``_`` there, and of two that are one then, one counts."""
    return {prefix + _LABEL.sub("_", key): metadata[key] for key in sorted(metadata)}


def _names(query: bytes) -> tuple[str, ...]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=2000, errors="strict")
    except ValueError:
        raise Problem(400, "bad_request", "the query is not name=value&name=value in UTF-8") from None
    for key, _ in pairs:
        if key != "name":
            raise Problem(400, "bad_request", f"query parameter {key[:80]!r}: known here: name")
    for _, name in pairs:
        check_name(name)  # or else a name that was left empty would mean no targets
    return tuple(dict.fromkeys(name for _, name in pairs))
