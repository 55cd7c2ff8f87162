"""Entries of ``/v1/health/service/<name>``, as an agent would answer them for what was registered."""

from __future__ import annotations

from microreg import Service
from microreg_consul.layouts import Layout

__all__ = ["entry", "raw"]


def entry(layout: Layout, record: Service) -> dict[str, object]:
    """What the agent answers once this record was registered in this layout."""
    registered = layout.registration(record)
    return raw(**{"Service": registered.pop("Name"), **registered})


def raw(**service: object) -> dict[str, object]:
    """What the agent answers for a service with these fields."""
    return {"Node": {"Node": "agent-one", "Address": "127.0.0.1"}, "Service": service, "Checks": []}
