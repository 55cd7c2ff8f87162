"""What a watch tells: first one Snapshot, then Changes, one per node.

Made for ``match``::

    async for event in events:
        match event:
            case Snapshot(services): ...
            case Change(Action.DELETE, service, node, Reason.EXPIRED): ...
            case Change(action, service, node): ...
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from microreg.model import Node, Service, merge

__all__ = ["Action", "Change", "Event", "Reason", "Snapshot"]


class Action(StrEnum):
    """What happened to a node. The words are go-micro's."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Reason(StrEnum):
    """Why a node is gone.

    ``deregistered`` and ``expired`` where the store tells (capability ``reasons``), ``removed`` where it
    says that the node is gone but not why, ``lost`` where the node was missing when the store was read
    again after a gap.
    """

    DEREGISTERED = "deregistered"
    EXPIRED = "expired"
    REMOVED = "removed"
    LOST = "lost"


class Snapshot:
    """Everything that is registered (of one name, or of all) at one moment.

    Build it from any services; ``records`` keeps one Service per node exactly as written,
    ``services`` is the merged form that ``get_service`` returns, made when first asked for.
    """

    __match_args__ = ("services",)
    __slots__ = ("_services", "records")

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self.records: tuple[Service, ...] = tuple(record for service in services for record in service.records())
        self._services: tuple[Service, ...] | None = None

    @classmethod
    def of(cls, records: Iterable[Service]) -> Snapshot:
        """The same from what is known to be records, Services of exactly one node: many times faster."""
        snapshot = cls()
        snapshot.records = tuple(records)
        return snapshot

    @property
    def services(self) -> tuple[Service, ...]:
        """One Service per name and version, sorted (see :func:`microreg.model.merge`)."""
        if self._services is None:
            self._services = merge(self.records)
        return self._services

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return sorted(self.records, key=_identity) == sorted(other.records, key=_identity)

    def __hash__(self) -> int:
        return hash(frozenset(self.records))

    def __repr__(self) -> str:
        return f"Snapshot({self.services!r})"


def _identity(record: Service) -> tuple[str, str]:
    return record.name, record.nodes[0].id


class Change(Struct, frozen=True, gc=False):
    """One node appeared, changed or went.

    ``service`` is the node's record (a Service with exactly this node; for a delete the last one known),
    ``node`` is ``service.nodes[0]``, ``reason`` is set for a delete, ``previous`` is the record before.
    """

    action: Action
    service: Service
    node: Node
    reason: Reason | None = None
    previous: Service | None = None

    @classmethod
    def put(cls, record: Service, previous: Service | None = None) -> Change:
        """The node of ``record`` is now as written: a create, or an update where ``previous`` is known."""
        action = Action.CREATE if previous is None else Action.UPDATE
        return cls(action, record, record.nodes[0], None, previous)

    @classmethod
    def gone(cls, record: Service, reason: Reason = Reason.REMOVED) -> Change:
        """The node of ``record`` is gone."""
        return cls(Action.DELETE, record, record.nodes[0], reason, record)


Event = Snapshot | Change
"""What a watch yields."""
