"""Registered things as text: for people (nothing in it can steer the terminal) and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import msgspec

from microreg import codec
from microreg.model import Service, Status

__all__ = [
    "STATUS_STYLE",
    "NodeRow",
    "join",
    "json_line",
    "json_text",
    "node_json",
    "pairs",
    "rows",
    "safe",
    "safe_json",
    "services_json",
    "similar",
]

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

_CLOSE = 5


class _Nodes(msgspec.Struct):
    nodes: list[msgspec.Raw]


def safe(text: str) -> str:
    """Text from somewhere else with everything that is not printable shown as an escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def similar(name: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that look like this one, the most alike first; capitals count as small letters."""
    folded = {each.casefold(): each for each in sorted(names, reverse=True)}
    return [folded[each] for each in get_close_matches(name.casefold(), folded, _CLOSE)]


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
    return safe_json("[" + ",".join(codec.encode(service).decode() for service in services) + "]")


def node_json(record: Service) -> msgspec.Raw:
    """The one node of a record as the codec writes it."""
    return msgspec.json.decode(codec.encode(record), type=_Nodes).nodes[0]


def json_line(**fields: object) -> str:
    """One JSON object without line ends; a Service is written as the codec does."""
    document = {
        key: msgspec.Raw(codec.encode(value)) if isinstance(value, Service) else value for key, value in fields.items()
    }
    return safe_json(msgspec.json.encode(document).decode())


def json_text(document: object) -> str:
    """A document of JSON on several lines, for programs and for reading."""
    return safe_json(json.dumps(document, indent=2, ensure_ascii=False))


def safe_json(document: str) -> str:
    """The same JSON with everything that is not printable escaped, as :func:`safe` does, so that it steers no terminal.

    Between strings, JSON has nothing of that kind but line ends, which stay.
    """
    if document.isprintable():
        return document
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in document)


def _quoted(text: str) -> str:
    if text and text.isprintable() and not set(text) & {" ", '"', "'"}:
        return text
    return msgspec.json.encode(text).decode()
