"""From what Consul says of a service instance to a record, whoever registered it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple, cast

from microreg.codec import decode, lenient_text
from microreg.errors import InvalidService
from microreg.model import Node, Service
from microreg_consul.layouts import MORE, OWN_KEYS, GoMicro, Layout, told, unescape
from microreg_consul.tags import unpack

__all__ = ["Records"]

log = logging.getLogger("microreg.consul")

_WARNED = 1000
_SHOWN = 200
_OWN, _GO_MICRO = Layout(), GoMicro()


class _Instance(NamedTuple):
    """The fields of an entry that matter, of the types that they should have."""

    name: str
    id: str
    address: str
    tags: list[str]
    meta: dict[str, str]


class Records:
    """Reads entries of ``/v1/health/service/<name>``. What is no record is skipped, with one warning for each."""

    def __init__(self) -> None:
        self._warned: set[int] = set()

    def read(self, entry: object) -> Service | None:
        """The record in this entry, as JSON was decoded; None where it is malformed.

        Both layouts are read, and what anybody else registered: a node by its address, id and Meta. The status is
        what the record says, passing where it says none; what the checks say is not looked at.
        """
        try:
            return _record(_instance(entry))
        except InvalidService as error:
            self._warn(entry, error)
            return None

    def _warn(self, entry: object, error: InvalidService) -> None:
        where = f"{_shown(entry, 'Service', 'ID')} on {_shown(entry, 'Node', 'Node')}"
        if hash(where) not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(hash(where))
            log.warning("skipped the service %s: %s", where, error, extra={"service": where, "error": str(error)})


def _instance(entry: object) -> _Instance:
    service, node = _part(entry, "Service"), _part(entry, "Node")
    return _Instance(
        lenient_text(_text(service, "Service"), "service name"),
        lenient_text(_text(service, "ID"), "service ID"),
        _address(_text(service, "Address") or _text(node, "Address"), service.get("Port")),
        _list(service.get("Tags")),
        _dict(service.get("Meta")),
    )


def _record(found: _Instance) -> Service:
    if rest := told(found.meta):
        return _own(found, _said(rest, found, _OWN))
    if rest := told(found.meta, MORE):
        return _foreign(found, _said(rest, found, _GO_MICRO))
    return _foreign(found, Service(found.name, nodes=[Node("", id=found.id)]))


def _said(rest: str, found: _Instance, layout: Layout) -> Service:
    """What the JSON in Meta says. Raises InvalidService where it says it of another node."""
    said = decode(rest)
    id = said.nodes[0].id if said.nodes else ""
    if said.name != found.name or found.id != layout.service_id(said.name, id):
        raise InvalidService(f"its Meta is of node {id!r} of service {said.name!r}")
    return said


def _own(found: _Instance, said: Service) -> Service:
    """A record in microreg's layout: what the JSON says, and the metadata that stands plainly beside it."""
    node = said.nodes[0]
    metadata = {unescape(key): value for key, value in found.meta.items() if not key.startswith(OWN_KEYS)}
    metadata.update(node.metadata)
    return said.with_nodes(Node(found.address, id=node.id, metadata=metadata, status=node.status))


def _foreign(found: _Instance, said: Service) -> Service:
    """A record in go-micro's layout, and what anybody else registered; ``said`` is what only we write."""
    tagged = unpack(found.tags)
    metadata = {key: value for key, value in found.meta.items() if not key.startswith(OWN_KEYS)} | tagged.metadata
    version = metadata.get("version", "") if tagged.version is None else tagged.version
    node = said.nodes[0]
    nodes = [Node(found.address, id=node.id, metadata=metadata, status=node.status)]
    return Service(found.name, version, said.metadata, tagged.endpoints, nodes)


def _address(host: str, port: object) -> str:
    if port is not None and (type(port) is not int or not 0 <= port < 65536):
        raise InvalidService("its Port is no number from 0 to 65535")
    if host:
        lenient_text(host, "its Address")
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _part(entry: object, key: str) -> Mapping[str, object]:
    if not isinstance(entry, dict):
        raise InvalidService("it is no object")
    part = cast("dict[str, object]", entry).get(key)
    if not isinstance(part, dict | None):
        raise InvalidService(f"its {key} is no object")
    return cast("dict[str, object]", part or {})


def _text(part: Mapping[str, object], key: str) -> str:
    text = part.get(key)
    if not isinstance(text, str | None):
        raise InvalidService(f"its {key} is no text")
    return text or ""


def _list(tags: object) -> list[str]:
    if not isinstance(tags, list | None):
        raise InvalidService("its Tags are no list")
    found = cast("list[object]", tags or [])
    return [tag for tag in found if isinstance(tag, str)]


def _dict(meta: object) -> dict[str, str]:
    if not isinstance(meta, dict | None):
        raise InvalidService("its Meta is no object")
    found = cast("dict[str, object]", meta or {})
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _shown(entry: object, part: str, key: str) -> str:
    """A text that anybody may have registered, as a log has it: bounded and printable."""
    try:
        text = _text(_part(entry, part), key) or "?"
    except InvalidService:
        return "?"
    return ascii(text[:_SHOWN]) if len(text) > _SHOWN or not text.isprintable() else text
