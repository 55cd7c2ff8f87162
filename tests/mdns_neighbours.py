"""Helpers of the tests of mdns://127.0.0.1: neighbours that say anything, and watches folded into a catalog."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from microreg.backends.mdns import MdnsRegistry
from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.own import Own, Want, packets
from microreg.backends.mdns.sockets import PORT, asking_socket, shared_socket
from microreg.backends.mdns.station import Station
from microreg.catalog import Catalog
from microreg.events import Change
from microreg.model import Node, Service
from microreg.registry import Registry
from microreg.watch import Watch
from support import wait_until

URL = "mdns://127.0.0.1?settle=100ms"
GROUP = "224.0.0.251", PORT


def unique(name: str = "host") -> str:
    return f"{name}-{os.urandom(5).hex()}"


def service(name: str, id: str = "a", port: int = 8080) -> Service:
    return Service(name, nodes=[Node(f"127.0.0.1:{port}", id=id)])


@contextmanager
def neighbour() -> Generator[socket.socket]:
    """A socket on port 5353 of loopback, as any program may have one."""
    with shared_socket(Link("lo", 0, "127.0.0.1")) as sock:
        yield sock


@contextmanager
def asker() -> Generator[socket.socket]:
    """A socket with a port of its own on loopback, for one-shot questions."""
    with asking_socket(Link("lo", 0, "127.0.0.1")) as sock:
        yield sock


def station(registry: Registry) -> Station:
    mdns = registry.unwrap(MdnsRegistry)
    assert mdns is not None and mdns._station is not None
    return mdns._station


def forged(record: Service, revision: int, ttl: int = 60) -> bytes:
    [packet] = packets([Own(record, ttl, revision).answer(Want.ALL)])
    return packet


def ahead(hours: float = 1.0) -> int:
    """A revision that only a wrong clock, or a forger, has."""
    return int((time.time() + hours * 3600) * 1000)


def doubts(registry: Registry) -> int:
    return len(station(registry).browser._nodes._doubts)


class Fold:
    """A watch, folded into a catalog by a task."""

    def __init__(self, events: Watch) -> None:
        self.catalog = Catalog()
        self.changes: list[Change] = []
        self._events = events
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Fold:
        await self._events.__aenter__()
        self.catalog.apply(await anext(self._events))
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._events.close()
        assert self._task is not None
        await self._task

    async def until(self, holds: Callable[[Fold], bool], timeout: float = 5.0, *, step: float = 0.005) -> None:
        """Wait until this holds."""
        await wait_until(lambda: holds(self), timeout, step=step, what=lambda: f"{len(self.changes)} changes")

    async def _follow(self) -> None:
        async for event in self._events:
            self.catalog.apply(event)
            if isinstance(event, Change):
                self.changes.append(event)
