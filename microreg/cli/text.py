"""Registered things as text: for people (nothing in it can steer the terminal) and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from microreg import codec
from microreg.model import Service, Status

__all__ = ["STATUS_STYLE", "NodeRow", "join", "json_line", "node_json", "pairs", "rows", "safe", "services_json"]

STATUS_STYLE: Mapping[str, str] = {
    Status.STARTING: "cyan",
    Status.PASSING: "green",
    Status.WARNING: "yellow",
    Status.CRITICAL: "red",
    Status.DRAINING: "magenta",
}
"""The colour of each status."""

NodeRow = tuple[str, str, str, str, str, str]
"""version, id, address, status, metadata and endpoints of one node."""


# Characters that JSON may hold raw, and that steer a terminal: DEL, C1 controls, line separators, bidi controls.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _Nodes(msgspec.Struct):
    nodes: list[msgspec.Raw]


def safe(text: str) -> str:
    """Text from somewhere else with everything that is not printable shown as an escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def pairs(metadata: Mapping[str, str]) -> str:
    """Metadata as ``key=value key=value``, sorted; a value with spaces or quotes is quoted."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in sorted(metadata.items()))


def join(texts: Iterable[str]) -> str:
    """Texts separated by commas."""
    return ",".join(texts)


def rows(services: Iterable[Service]) -> list[NodeRow]:
    """One row for each node, in the order of ``get_service``."""
    return [
        (
            service.version,
            node.id,
            node.address,
            str(node.status),
            pairs(node.metadata),
            join(endpoint.name for endpoint in service.endpoints),
        )
        for service in services
        for node in service.nodes
    ]


def services_json(services: Iterable[Service]) -> str:
    """A JSON array of services, each as :mod:`microreg.codec` writes it."""
    return _harmless("[" + ",".join(codec.encode(service).decode() for service in services) + "]")


def node_json(record: Service) -> msgspec.Raw:
    """The one node of a record as the codec writes it."""
    return msgspec.json.decode(codec.encode(record), type=_Nodes).nodes[0]


def json_line(**fields: object) -> str:
    """One JSON object without line ends; a Service is written as the codec does."""
    document = {
        key: msgspec.Raw(codec.encode(value)) if isinstance(value, Service) else value for key, value in fields.items()
    }
    return _harmless(msgspec.json.encode(document).decode())


def _harmless(document: str) -> str:
    """The same JSON with characters that steer a terminal escaped; they can stand in strings only."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _quoted(text: str) -> str:
    if text and text.isprintable() and not set(text) & {" ", '"', "'"}:
        return text
    return msgspec.json.encode(text).decode()
