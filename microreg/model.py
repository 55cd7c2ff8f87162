"""What is registered: services, their nodes and endpoints, as immutable values.

The shape is go-micro's: a service has a name, a version, metadata, endpoints and nodes.
Identity is ``(name, id)``: a node that changes version, address or anything else is the same node.
Values are built without checks, because records that others wrote are read leniently;
``register`` checks strictly (see :mod:`microreg.rules`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Self

__all__ = ["EMPTY", "Endpoint", "FrozenDict", "Node", "Service", "Status", "Value", "merge", "new_id"]

_set = object.__setattr__


class FrozenDict(dict[str, str]):
    """A ``dict`` of strings that cannot change; hashable, and it pickles and copies as itself."""

    __slots__ = ("_hash",)

    def _readonly(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is immutable: build a new one, for example {**metadata, 'key': 'value'}")

    __setitem__ = __delitem__ = __ior__ = _readonly
    clear = pop = popitem = setdefault = update = _readonly

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash: int = hash(frozenset(self.items()))
            return self._hash

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenDict, (dict(self),)


EMPTY = FrozenDict()
"""The metadata of everything that has none."""


def _frozen(metadata: Mapping[str, str]) -> FrozenDict:
    if type(metadata) is FrozenDict:
        return metadata
    return FrozenDict(metadata) if metadata else EMPTY


def new_id() -> str:
    """A random node id: 96 bits, 24 lower-case hexadecimal digits, never reused after a fork."""
    return os.urandom(12).hex()


class Status(StrEnum):
    """How a node is. Only ``passing`` and ``warning`` nodes are selected."""

    STARTING = "starting"
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    DRAINING = "draining"

    @property
    def selectable(self) -> bool:
        """Whether calls may go to a node of this status."""
        return self is Status.PASSING or self is Status.WARNING


@dataclass(frozen=True, slots=True)
class Value:
    """The type of a request or response, as go-micro describes it: a tree of named, typed fields."""

    name: str
    type: str = ""
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, init=False)
class Endpoint:
    """Something that a service can be asked: a name, and the types of its request and response."""

    name: str
    request: Value | None
    response: Value | None
    metadata: FrozenDict

    def __init__(
        self,
        name: str,
        request: Value | None = None,
        response: Value | None = None,
        metadata: Mapping[str, str] = EMPTY,
    ) -> None:
        _set(self, "name", name)
        _set(self, "request", request)
        _set(self, "response", response)
        _set(self, "metadata", _frozen(metadata))


@dataclass(frozen=True, slots=True, init=False)
class Node:
    """One running instance: where it is (``host:port``, IPv6 in brackets), who it is, how it is.

    Well-known metadata: ``zone``, ``weight``, and ``port.<scheme>`` for further ports.
    """

    address: str
    id: str
    metadata: FrozenDict
    status: Status

    def __init__(
        self,
        address: str,
        *,
        id: str | None = None,
        metadata: Mapping[str, str] = EMPTY,
        status: Status = Status.PASSING,
    ) -> None:
        _set(self, "address", address)
        _set(self, "id", new_id() if id is None else id)
        _set(self, "metadata", _frozen(metadata))
        _set(self, "status", status)

    @property
    def host(self) -> str:
        """The host part of the address, without the brackets of IPv6."""
        host, colon, _port = self.address.rpartition(":")
        host = host if colon else self.address
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @property
    def port(self) -> int:
        """The port of the address; 0 where a foreign record has none."""
        port = self.address.rpartition(":")[2]
        return int(port) if port.isascii() and port.isdigit() else 0

    def url(self, scheme: str = "http", path: str = "") -> str:
        """``scheme://host:port/path``; IPv6 in brackets, zones escaped (RFC 6874).

        Metadata ``port.<scheme>`` overrides the port of the address.
        """
        host = self.host
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"
        port = self.metadata.get(f"port.{scheme}") or self.port
        slash = "/" if path and not path.startswith("/") else ""
        return f"{scheme}://{host}:{port}{slash}{path}" if port else f"{scheme}://{host}{slash}{path}"


@dataclass(frozen=True, slots=True, init=False)
class Service:
    """A service of one version, with the nodes that offer it. A *record* is a Service with exactly one node."""

    name: str
    version: str
    metadata: FrozenDict
    endpoints: tuple[Endpoint, ...]
    nodes: tuple[Node, ...]

    def __init__(
        self,
        name: str,
        version: str = "",
        metadata: Mapping[str, str] = EMPTY,
        endpoints: Iterable[Endpoint] = (),
        nodes: Iterable[Node] = (),
    ) -> None:
        _set(self, "name", name)
        _set(self, "version", version)
        _set(self, "metadata", _frozen(metadata))
        _set(self, "endpoints", tuple(endpoints))
        _set(self, "nodes", tuple(nodes))

    def with_nodes(self, *nodes: Node) -> Service:
        """The same service with these nodes instead."""
        return Service(self.name, self.version, self.metadata, self.endpoints, nodes)

    def records(self) -> tuple[Service, ...]:
        """One Service per node, which is how services are stored."""
        return (self,) if len(self.nodes) == 1 else tuple(self.with_nodes(node) for node in self.nodes)


def merge(records: Iterable[Service]) -> tuple[Service, ...]:
    """What ``get_service`` answers for these records: one Service per name and version.

    Names, versions and nodes are sorted; metadata and endpoints of a version are those of its smallest
    node id, so the answer never depends on the order of arrival. Of two records of one ``(name, id)``
    the later one counts.
    """
    latest = {(record.name, node.id): (record, node) for record in records for node in record.nodes}
    groups: dict[tuple[str, str], tuple[Service, list[Node]]] = {}
    for key in sorted(latest):
        record, node = latest[key]
        groups.setdefault((record.name, record.version), (record, []))[1].append(node)
    return tuple(groups[key][0].with_nodes(*groups[key][1]) for key in sorted(groups))
