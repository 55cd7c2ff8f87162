"""The checks of a service: those that we register, and what any say of a node: whether it is there, and how it is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from microreg.model import Node, Service, Status

__all__ = ["Check", "Entry", "alive", "checked", "checks_of", "checks_to_register", "is_ours", "text"]

Entry = Mapping[str, object]
"""One element of ``/v1/health/service/<name>``: a Node, a Service, and the Checks of both."""
Check = Mapping[str, object]

_TTL = "microreg TTL"
_STATUS = "microreg status"
_AGENT = "serfHealth"
_REAPED = 60.0
"""Seconds: what Consul takes at least for DeregisterCriticalServiceAfter."""
_FOR_EVER = "87600h"
_SEVERITY = (Status.PASSING, Status.WARNING, Status.CRITICAL)


def checks_to_register(record: Service, body: Mapping[str, object], ttl: float) -> list[Check]:
    """The checks of a record that was just written; the first one is the one to renew.

    Its id ends with a digest of what is registered: renewing it fails where something else is, and every change is
    another check. Nodes that want no calls get a second one, always critical, so that go-micro and Consul's own users,
    as in DNS, leave them alone. It is not the one that is renewed: that would be reaped as critical.
    """
    id = f"service:{body['ID']}"
    status = record.nodes[0].status
    digest = hashlib.blake2b(json.dumps([body, ttl], sort_keys=True).encode(), digest_size=4).hexdigest()
    deadline: dict[str, object] = {
        "CheckID": f"{id}:{digest}",
        "Name": _TTL,
        "TTL": f"{math.ceil(ttl * 1000)}ms",
        "Status": "warning" if status is Status.WARNING else "passing",
        "DeregisterCriticalServiceAfter": f"{math.ceil(max(_REAPED, ttl))}s",
    }
    if status.selectable:
        return [deadline]
    told = {"CheckID": f"{id}:status", "Name": _STATUS, "Notes": f"The node says that it is {status}."}
    return [deadline, {**told, "TTL": _FOR_EVER, "Status": "critical"}]


def is_ours(checks: Iterable[Check]) -> bool:
    """Whether microreg has registered them: then every change of the record is another check."""
    return any(check.get("Name") == _TTL for check in checks)


def alive(checks: Sequence[Check]) -> bool:
    """Whether nothing has expired: of the TTL checks one at least is not critical, and the agent is there.

    Of ours the newest counts: one that was replaced may stay in the catalog for a while, as it last was, since the
    agent takes it away there in its own time.
    """
    if any(check.get("CheckID") == _AGENT and _is_critical(check) for check in checks):
        return False
    deadlines = [check for check in checks if _is_deadline(check)]
    newest = max((_index(check) for check in deadlines if check.get("Name") == _TTL), default=0)
    deadlines = [check for check in deadlines if check.get("Name") != _TTL or _index(check) == newest]
    return not deadlines or not all(map(_is_critical, deadlines))


def checked(record: Service, entry: Entry) -> Service | None:
    """The record, its status not better than what the checks of others say; None where it has expired."""
    checks = checks_of(entry)
    if not alive(checks):
        return None
    node = record.nodes[0]
    if node.status not in _SEVERITY:
        return record
    worst = max([_SEVERITY.index(node.status), *map(_severity, checks)])
    if _SEVERITY[worst] is node.status:
        return record
    return record.with_nodes(Node(node.address, id=node.id, metadata=node.metadata, status=_SEVERITY[worst]))


def checks_of(entry: Entry) -> list[Check]:
    """The checks in an entry."""
    checks = entry.get("Checks")
    found = cast("list[object]", checks) if isinstance(checks, list) else []
    return [cast("Check", each) for each in found if isinstance(each, dict)]


def text(part: Mapping[str, object], key: str) -> str:
    """What is there as text, empty where it is none."""
    value = part.get(key)
    return value if isinstance(value, str) else ""


def _severity(check: Check) -> int:
    """How bad it is what a check says; ours repeat what the record says, and may still be those of the one before."""
    if check.get("Name") in (_TTL, _STATUS):
        return 0
    return {"warning": 1, "critical": 2, "maintenance": 2}.get(text(check, "Status"), 0)


def _is_deadline(check: Check) -> bool:
    """Whether somebody has to renew it. Before Consul 1.7 nothing tells which checks these are."""
    kind = text(check, "Type") or ("ttl" if text(check, "CheckID").startswith("service:") else "")
    return kind == "ttl" and check.get("Name") != _STATUS


def _index(check: Check) -> int:
    """When the catalog heard of it last."""
    index = check.get("ModifyIndex")
    return index if isinstance(index, int) else 0


def _is_critical(check: Check) -> bool:
    return check.get("Status") == "critical"
