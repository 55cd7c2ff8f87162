"""What clients registered by way of this server: the record behind each renewal, and which write was the last."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct

from microreg import Node, Registry, Service
from microreg.events import Action, Change
from microreg.server.bodies import record_of
from microreg.server.hub import Hub
from microreg.server.problems import Problem
from microreg.server.settings import Settings

__all__ = ["Records", "Stamp"]

_GRAVE = 120.0
"""Seconds for which a write that comes after its node's DELETE is known to be late."""
_AT_ONCE = 64

_Key = tuple[str, str]
Stamp = tuple[str, int]
"""Which client writes, and its number for this write; it counts up."""


class _Entry(Struct, gc=False):
    """What stands for a node: a record, or nothing where it was withdrawn."""

    stamp: Stamp | None
    record: Service | None = None
    digest: bytes = b""
    withdrawn: bool = False


class Records:
    """Writes to a registry for clients that are elsewhere. The hub tells it of nodes that are gone."""

    def __init__(self, registry: Registry, hub: Hub, settings: Settings) -> None:
        self._registry = registry
        self._hub = hub
        self._settings = settings
        self._entries: dict[_Key, _Entry] = {}
        self._graves: deque[tuple[float, _Key, _Entry]] = deque()
        self._names: dict[str, int] = {}
        self._nodes = 0

    async def put(self, name: str, id: str, body: bytes, ttl: float, stamp: Stamp | None) -> None:
        """Register or renew a node with this record. Raises Problem for a write that comes too late, or is too many."""
        key = name, id
        known = self._entries.get(key)
        _check_order(known, stamp)
        digest = sha256(body).digest()[:16]
        if known is not None and known.record is not None and known.digest == digest:
            known.stamp = stamp or known.stamp
            await self._register(key, known.record, ttl)
            return
        await self._write(record_of(name, id, body), digest, ttl, stamp)

    async def add(self, record: Service, ttl: float) -> None:
        """Register a node with a record that was made here. Raises Problem where there are too many."""
        await self._write(record, b"", ttl, None)

    async def _write(self, record: Service, digest: bytes, ttl: float, stamp: Stamp | None) -> None:
        name, id = key = record.name, record.nodes[0].id
        known = self._entries.get(key)
        if known is None or known.record is None:
            self._check_room(name)
        entry = _Entry(stamp, None, digest)
        self._set(key, entry)
        try:
            await self._register(key, record, ttl)
        except BaseException:
            self._bury(key, entry)
            raise
        if self._entries.get(key) is entry:  # nobody has written or withdrawn it meanwhile
            self._set(key, _Entry(stamp, record, digest))
            self._hub.expect(name, id, record)

    async def withdraw(self, name: str, id: str, stamp: Stamp | None) -> None:
        """Deregister a node, and know the writes that come later than this one, but were sent before."""
        key = name, id
        _check_order(self._entries.get(key), stamp)
        entry = _Entry(stamp, withdrawn=True)
        self._set(key, entry)
        self._bury(key, entry)
        await self._registry.deregister(Service(name, nodes=[Node("", id=id)]))
        if self._entries.get(key) is entry:
            self._hub.expect(name, id, None)

    async def renew(self, renewals: Iterable[tuple[str, str, float, bytes]]) -> list[_Key]:
        """Renew nodes: name, id, ttl in seconds and digest of each. Returns those whose record is not the known one."""
        unknown: list[_Key] = []
        known: list[tuple[Service, float]] = []
        for name, id, ttl, digest in renewals:
            entry = self._entries.get((name, id))
            if entry is None or entry.record is None or entry.digest != digest:
                unknown.append((name, id))
            else:
                known.append((entry.record, ttl))
        for start in range(0, len(known), _AT_ONCE):
            await self._together(known[start : start + _AT_ONCE])
        return unknown

    async def _together(self, renewals: list[tuple[Service, float]]) -> None:
        if self._registry.prompt:
            for record, ttl in renewals:
                await self._register((record.name, record.nodes[0].id), record, ttl)
            await asyncio.sleep(0)  # others have their turn, for there may be thousands
            return
        calls = [self._register((record.name, record.nodes[0].id), record, ttl) for record, ttl in renewals]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def gone(self, change: Change) -> None:
        """Forget the record of a node that is gone: whoever renews it has to send it again."""
        if change.action is Action.DELETE:
            key = change.service.name, change.node.id
            entry = self._entries.get(key)
            if entry is not None and entry.record is not None:
                self._set(key, None)

    async def _register(self, key: _Key, record: Service, ttl: float) -> None:
        """Register; and withdraw again what was withdrawn meanwhile: a store may take two calls in any order."""
        await self._registry.register(record, ttl=ttl)
        entry = self._entries.get(key)
        if entry is not None and entry.withdrawn:
            await self._registry.deregister(record)

    def _bury(self, key: _Key, entry: _Entry) -> None:
        """Remember for a while which write was the last of a node without a record."""
        now = asyncio.get_running_loop().time()
        self._graves.append((now + _GRAVE, key, entry))
        while self._graves[0][0] < now:
            _, old, dead = self._graves.popleft()
            if self._entries.get(old) is dead:
                del self._entries[old]

    def _set(self, key: _Key, entry: _Entry | None) -> None:
        before = self._entries.get(key)
        step = (entry is not None and entry.record is not None) - (before is not None and before.record is not None)
        if entry is None:
            del self._entries[key]
        else:
            self._entries[key] = entry
        if step:
            self._nodes += step
            count = self._names[key[0]] = self._names.get(key[0], 0) + step
            if not count:
                del self._names[key[0]]

    def _check_room(self, name: str) -> None:
        settings = self._settings
        for count, limit, what in (
            (self._nodes, settings.max_nodes, "nodes"),
            (0 if name in self._names else len(self._names), settings.max_services, "services"),
        ):
            if count >= limit:
                raise Problem(
                    503,
                    "registry_unavailable",
                    f"this server has {count} {what}, and takes no more; see --max-{what}",
                    headers={b"retry-after": b"10"},
                )


def _check_order(known: _Entry | None, stamp: Stamp | None) -> None:
    """Raise Problem where the same client has written this node later than it sent this."""
    if known is not None and known.stamp is not None and stamp is not None:
        client, number = known.stamp
        if client == stamp[0] and number > stamp[1]:
            raise Problem(409, "superseded", "this write came late: the client has written this node again since")
