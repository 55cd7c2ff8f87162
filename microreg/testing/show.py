"""Services and events on one short line, for the record of a check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from microreg.events import Change, Snapshot
from microreg.model import Node, Service, Status

__all__ = ["printable", "show"]

_WIDTH = 600


def show(value: object) -> str:
    """Any value on one line of bounded length."""
    text = printable(_show(value))
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text)} characters)"


def printable(text: str) -> str:
    """The text with lone surrogates and line ends escaped, so that any stream takes it, on one line."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\r", "\\r").replace("\n", "\\n")


def _show(value: object) -> str:
    if isinstance(value, Service):
        version = f"@{value.version}" if value.version else ""
        endpoints = f" endpoints {list(value.endpoints)!r}" if value.endpoints else ""
        nodes = ", ".join(map(_node, value.nodes))
        return f"{value.name}{version}{_pairs(value.metadata)}{endpoints} [{nodes}]"
    if isinstance(value, Node):
        return _node(value)
    if isinstance(value, Snapshot):
        return f"snapshot {_show(value.services)}"
    if isinstance(value, Change):
        reason = f" ({value.reason})" if value.reason else ""
        before = f", before: {_show(value.previous)}" if value.previous and value.previous != value.service else ""
        return f"{value.action}{reason} {_show(value.service)}{before}"
    if isinstance(value, tuple | list):
        return "; ".join(map(_show, cast(Iterable[object], value))) or "nothing"
    return value if isinstance(value, str) else repr(value)


def _node(node: object) -> str:
    if not isinstance(node, Node):
        return repr(node)
    status = "" if node.status is Status.PASSING else f" {node.status}"
    return f"{node.id} {node.address}{status}{_pairs(node.metadata)}"


def _pairs(metadata: object) -> str:
    return f" {metadata!r}" if metadata else ""
