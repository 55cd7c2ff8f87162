"""What the commands that announce a node share: their options, and what they tell of the announcement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from microreg.address import address_problem
from microreg.announce import announce
from microreg.announce.announcement import Announcement, State, Transition
from microreg.cli.common import duration, option
from microreg.cli.errors import redacted, write_error
from microreg.cli.text import safe
from microreg.errors import ConfigError
from microreg.model import Status
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL

__all__ = [
    "CheckOption",
    "IdOption",
    "MetaOption",
    "TtlOption",
    "VersionOption",
    "announcement_of",
    "metadata_of",
    "told",
]

VersionOption = Annotated[str, option("--version", None, "Version of the service.")]
IdOption = Annotated[str | None, option("--id", None, "Id of this node; not given: a random one.")]
MetaOption = Annotated[
    list[str] | None, option("--metadata", "KEY=VALUE", "Metadata of this node; may be repeated.", "--meta")
]
TtlOption = Annotated[
    str | None,
    option("--ttl", "DURATION", f"How long the record outlives this process, 1s to 1d; not given: {DEFAULT_TTL:g}s."),
]
CheckOption = Annotated[
    str | None,
    option("--check", "URL", "http://host:port/path or tcp://host:port; the node is critical while it fails."),
]


def announcement_of(
    registry: Registry,
    name: str,
    port: int | None,
    address: str | None,
    *,
    version: str,
    node_id: str | None,
    meta: Sequence[str] | None,
    ttl: str | None,
    check: str | None,
    drain_delay: float = 0.5,
) -> Announcement:
    """The announcement that these options describe. A port in ``address`` counts before ``port``."""
    seconds = duration("--ttl", ttl)
    announcement = announce(
        registry,
        name,
        port=port if address is None or address_problem(address) else None,
        address=address,
        version=version,
        metadata=metadata_of(meta or ()),
        id=node_id,
        ttl=DEFAULT_TTL if seconds is None else seconds,
        check=check,
        drain_delay=drain_delay,
    )
    if registry.url.scheme == "memory":
        write_error("microreg: warning: memory:// lives in this process, and no other program finds it there")
    return announcement


def metadata_of(items: Sequence[str]) -> dict[str, str]:
    """The metadata that ``--metadata`` was given. Raises ConfigError for what is no pair, or given twice."""
    metadata: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--metadata: expected KEY=VALUE, got {item[:60]!r}")
        if key in metadata:
            raise ConfigError(f"--metadata: {key!r} is given twice")
        metadata[key] = value
    return metadata


def told(announcement: Announcement, transition: Transition) -> tuple[str, str]:
    """A transition for people: the state, and of what it is, where, and why."""
    record, node, error = announcement.service, announcement.node, transition.error
    shown = transition.state is State.LIVE and transition.status is not Status.PASSING
    status = f" ({transition.status})" if shown else ""
    why = f": {redacted(str(error))}" if error else ""
    where = f"{record.name} {node.id} at {node.address} in {announcement.registry.url}"
    return f"{transition.state}{status}", safe(where + why)
