"""What the tests of announce() share: a memory registry that misbehaves on demand, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import microreg
from microreg.announce.announcement import Announcement, State
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.events import Action, Change, Reason
from microreg.model import Node, Service, Status
from microreg.options import Options
from microreg.registry import Registry
from microreg.url import RegistryURL

Fault = Callable[[str, Service], Awaitable[None]]


class Store(MemoryRegistry):
    """A memory registry that notes its calls and does what a test has in mind before it obeys."""

    def __init__(self) -> None:
        super().__init__(RegistryURL.parse("memory://"), Options())
        self.calls: list[tuple[float, str, Service]] = []
        self.fault: Fault | None = None
        self.host: str | None = "127.0.0.1"

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        await self._note("register", service)
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        await self._note("deregister", service)
        await super().deregister(service)

    async def _note(self, verb: str, service: Service) -> None:
        self.calls.append((now(), verb, service))
        if self.fault is not None:
            await self.fault(verb, service)

    def advertised_host(self) -> str | None:
        return self.host

    def node(self) -> Node | None:
        records = list(self.store.catalog.records("greeter"))
        return records[0].nodes[0] if records else None

    def times(self, verb: str = "register") -> list[float]:
        return [time for time, what, _ in self.calls if what == verb]


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[Checked, Store]]:
    store = Store()
    async with Checked(store) as registry:
        yield registry, store


def greeter(registry: Registry, **more: object) -> Announcement:
    arguments: dict[str, object] = {"port": 8080, "id": "n1", "rng": random.Random(7)}
    return microreg.announce(registry, "greeter", **(arguments | more))  # type: ignore[arg-type]


def fails(error: Exception, *verbs: str) -> Fault:
    async def fault(verb: str, _: Service) -> None:
        if not verbs or verb in verbs:
            raise error

    return fault


async def hangs(_verb: str, _service: Service) -> None:
    await asyncio.sleep(1e6)


@asynccontextmanager
async def watched(registry: Registry) -> AsyncGenerator[list[tuple[float, Change]]]:
    """What a watcher of the name hears after its Snapshot, and when."""
    seen: list[tuple[float, Change]] = []
    ready = asyncio.Event()

    async def follow() -> None:
        async with registry.watch("greeter") as events:
            async for event in events:
                ready.set()
                if isinstance(event, Change):
                    seen.append((now(), event))

    task = asyncio.create_task(follow())
    await ready.wait()
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


def told(seen: list[tuple[float, Change]]) -> list[tuple[Action, Status, Reason | None]]:
    return [(change.action, change.node.status, change.reason) for _, change in seen]


def state(announcement: Announcement) -> State:
    return announcement.state  # a call, so that a type checker expects another answer next time


def states(announcement: Announcement) -> list[State]:
    return [transition.state for transition in announcement.history]
