"""Nodes that a test lets appear, and that are gone when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TypedDict, Unpack

from microreg.announce import announce
from microreg.announce.announcement import Announcement
from microreg.announce.probe import Check
from microreg.model import Endpoint, Service
from microreg.registry import Registry
from microreg.sync import Announcement as SyncAnnouncement
from microreg.sync import Registry as SyncRegistry
from microreg.sync import announce as announce_sync

__all__ = ["AnnounceOptions", "Announced", "SyncAnnounced"]

_PATIENCE = 10.0


class AnnounceOptions(TypedDict, total=False):
    """What :func:`microreg.announce` takes; ``drain_delay`` is 0 if it is not given, so that tests end at once."""

    port: int | None
    address: str | None
    version: str
    metadata: Mapping[str, str] | None
    endpoints: Iterable[Endpoint]
    id: str | None
    ttl: float
    interval: float | None
    check: Check | None
    drain_delay: float


class Announced:
    """``orders = await announced("orders", port=8080)``: a node appears, and goes with the test.

    It takes what :func:`microreg.announce` takes, without the registry, and returns the announcement when the node is
    there, or the registry has said that it cannot be (``announcement.error``; it goes on trying). ``await
    orders.drain()`` lets it leave sooner.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._all: list[Announcement] = []

    async def __call__(self, service: Service | str, **options: Unpack[AnnounceOptions]) -> Announcement:
        options.setdefault("drain_delay", 0.0)
        announcement = announce(self._registry, service, **options)
        await announcement.__aenter__()
        self._all.append(announcement)
        await announcement.changed(timeout=_PATIENCE)
        return announcement

    async def close(self) -> None:
        """Let all leave, at once."""
        announcements, self._all = self._all, []
        await asyncio.gather(*(announcement.drain() for announcement in announcements))


class SyncAnnounced:
    """The same for programs without an event loop: ``orders = announced("orders", port=8080)``.

    The registry lets all leave when it is closed.
    """

    def __init__(self, registry: SyncRegistry) -> None:
        self._registry = registry

    def __call__(self, service: Service | str, **options: Unpack[AnnounceOptions]) -> SyncAnnouncement:
        options.setdefault("drain_delay", 0.0)
        announcement = announce_sync(self._registry, service, **options)
        announcement.__enter__()
        announcement.changed(timeout=_PATIENCE)
        return announcement
