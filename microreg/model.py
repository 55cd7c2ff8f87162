"""What is registered: services, their nodes and endpoints, as immutable values.

The shape is go-micro's: a service has a name, a version, metadata, endpoints and nodes.
Identity is ``(name, id)``: a node that changes version, address or anything else is the same node.
Values are built with hardly a check, because records that others wrote are read leniently;
``register`` checks strictly (see :mod:`microreg.rules`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

from msgspec import Struct, field
from msgspec.structs import force_setattr as _set

from microreg.errors import InvalidService

__all__ = ["EMPTY", "Endpoint", "FrozenDict", "Node", "Service", "Status", "Value", "merge", "merge_nodes", "new_id"]

T = TypeVar("T")


class FrozenDict(dict[str, str]):
    """A ``dict`` of strings that cannot change; hashable, and it pickles and copies as itself."""

    __slots__ = ("_hash",)

    def _readonly(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is immutable: build a new one, for example {**metadata, 'key': 'value'}")

    __setitem__ = __delitem__ = __ior__ = _readonly
    clear = pop = popitem = setdefault = update = _readonly  # pyright: ignore[reportAssignmentType]

    def __hash__(self) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
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
    if not isinstance(metadata, Mapping):
        raise InvalidService(f"metadata is of type {type(metadata).__name__}; expected a mapping of str to str")
    return FrozenDict(metadata) if metadata else EMPTY


def _tuple(items: Iterable[T], what: str) -> tuple[T, ...]:
    if not isinstance(items, Iterable):
        raise InvalidService(f"{what} is of type {type(items).__name__}; expected a list, tuple or other iterable")
    return tuple(items)


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


class Value(Struct, frozen=True, gc=False):
    """The type of a request or response, as go-micro describes it: a tree of named, typed fields."""

    name: str
    type: str = ""
    values: tuple[Value, ...] = ()


class Endpoint(Struct, frozen=True, gc=False):
    """Something that a service can be asked: a name, and the types of its request and response."""

    name: str
    request: Value | None = None
    response: Value | None = None
    metadata: FrozenDict = EMPTY

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            request: Value | None = None,
            response: Value | None = None,
            metadata: Mapping[str, str] = EMPTY,
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.metadata) is not FrozenDict:
            _set(self, "metadata", _frozen(self.metadata))


class Node(Struct, frozen=True, gc=False):
    """One running instance: where it is (``host:port``, IPv6 in brackets), who it is, how it is.

    Well-known metadata: ``zone``, ``weight``, and ``port.<scheme>`` for further ports. Without an ``id`` it
    gets a random one.
    """

    address: str
    id: str = field(default_factory=new_id)
    metadata: FrozenDict = EMPTY
    status: Status = Status.PASSING

    if TYPE_CHECKING:

        def __init__(
            self,
            address: str,
            *,
            id: str | None = None,
            metadata: Mapping[str, str] = EMPTY,
            status: Status = Status.PASSING,
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.metadata) is not FrozenDict:
            _set(self, "metadata", _frozen(self.metadata))
        given: object = self.id
        if given is None:
            _set(self, "id", new_id())

    def replace(
        self,
        *,
        address: str | None = None,
        metadata: Mapping[str, str] | None = None,
        status: Status | None = None,
    ) -> Node:
        """The same node (its id stays) with these fields instead; None leaves a field as it is."""
        return Node(
            self.address if address is None else address,
            id=self.id,
            metadata=self.metadata if metadata is None else metadata,
            status=self.status if status is None else status,
        )

    @property
    def host(self) -> str:
        """The host part of the address, without the brackets of IPv6."""
        host = self._split()[0]
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @property
    def port(self) -> int:
        """The port of the address; 0 where a foreign record has none."""
        return _port(self._split()[1])

    def url(self, scheme: str = "http", path: str = "") -> str:
        """``scheme://host:port/path``; IPv6 in brackets, zones escaped (RFC 6874).

        Metadata ``port.<scheme>`` overrides the port of the address.
        """
        host = self.host
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"
        port = _port(self.metadata.get(f"port.{scheme}", "")) or self.port
        slash = "/" if path and not path.startswith("/") else ""
        return f"{scheme}://{host}:{port}{slash}{path}" if port else f"{scheme}://{host}{slash}{path}"

    def _split(self) -> tuple[str, str]:
        """Host, still in brackets, and port; a foreign address may be an IPv6 address and nothing else."""
        host, colon, port = self.address.rpartition(":")
        if not colon or port.endswith("]") or (":" in host and not host.endswith("]")):
            return self.address, ""
        return host, port


def _port(text: str) -> int:
    """A port of a record that somebody else wrote; 0 for what is none."""
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return port if port < 65536 else 0


class Service(Struct, frozen=True, gc=False):
    """A service of one version, with the nodes that offer it. A *record* is a Service with exactly one node."""

    name: str
    version: str = ""
    metadata: FrozenDict = EMPTY
    endpoints: tuple[Endpoint, ...] = ()
    nodes: tuple[Node, ...] = ()

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            version: str = "",
            metadata: Mapping[str, str] = EMPTY,
            endpoints: Iterable[Endpoint] = (),
            nodes: Iterable[Node] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.metadata) is not FrozenDict:
            _set(self, "metadata", _frozen(self.metadata))
        if type(self.endpoints) is not tuple:
            _set(self, "endpoints", _tuple(self.endpoints, "endpoints"))
        if type(self.nodes) is not tuple:
            _set(self, "nodes", _tuple(self.nodes, "nodes"))

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
    names: dict[str, dict[str, Service]] = {}
    for service in records:
        known = names.setdefault(service.name, {})
        if len(service.nodes) == 1:
            known[service.nodes[0].id] = service
        else:
            known |= {record.nodes[0].id: record for record in service.records()}
    return tuple(version for name in sorted(names) for version in merge_nodes(names[name]))


def merge_nodes(records: Mapping[str, Service]) -> tuple[Service, ...]:
    """The same as :func:`merge` for the records of one name, by node id."""
    versions: dict[str, tuple[Service, list[Node]]] = {}
    for node_id in sorted(records):
        record = records[node_id]
        group = versions.get(record.version)
        if group is None:
            versions[record.version] = record, [record.nodes[0]]
        else:
            group[1].append(record.nodes[0])
    return tuple(versions[version][0].with_nodes(*versions[version][1]) for version in sorted(versions))
