"""Programs on the same subjects that are not microreg's, and what can be done to a server that stores nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import time
from typing import Self, cast
from unittest.mock import patch

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingHeard

from microreg.testing import ServerFaults

__all__ = [
    "BARE",
    "MYSERVICE",
    "MYSERVICE_UNREGISTER",
    "MYSERVICE_WARNING",
    "Peer",
    "PubSubFaults",
    "Theirs",
    "passing",
]

_MYSERVICE = (
    b'{"net":"tcp","add":"127.0.0.1:10000","url":"http://127.0.0.1:10000/x","name":"myservice","v":"1.2.3","h":"vm",'
    b'"kv":{"zone":"a"}'
)
MYSERVICE = _MYSERVICE + b',"t":{"Registered":1795226155642,"Duration":20000}}'
"""What a program of eddieraa/registry says at ``registry.register.myservice``."""
MYSERVICE_WARNING = _MYSERVICE + b',"t":{"Registered":1795226158144,"Duration":20000},"status":"warning"}'
MYSERVICE_UNREGISTER = _MYSERVICE + b"}"
BARE = b'{"name":"bare","h":"vm","t":{"Registered":1795226155643,"Duration":20000}}'
"""What it says of a service with nothing but a name."""


class PubSubFaults(ServerFaults):
    """Every fault of the kit but those of a store: there is nothing to wipe, and no bytes to write."""

    @property
    def offered(self) -> frozenset[str]:
        return super().offered - {"wipe"}

    @asynccontextmanager
    async def skew(self, seconds: float) -> AsyncGenerator[None]:
        with patch("microreg_nats.pubsub.station.time", lambda: time() + seconds):
            yield


@dataclass(frozen=True)
class Theirs:
    """A service as eddieraa/registry knows it."""

    name: str
    address: str = ""
    version: str = ""
    kv: dict[str, str] = field(default_factory=dict[str, str])
    status: str = "passing"
    host: str = "vm"
    due: float = 0.0
    """In seconds of the wall clock, which is what it goes by."""

    @property
    def key(self) -> str:
        """What it tells services apart by."""
        return self.name + self.address

    def encoded(self, duration: float | None = None) -> bytes:
        """In the order of its fields, what is empty left out; with times it is a register."""
        fields: dict[str, object] = {"net": "tcp", "add": self.address, "name": self.name, "v": self.version}
        fields |= {"h": self.host, "kv": self.kv}
        if duration is not None:
            fields["t"] = {"Registered": int(time() * 1000), "Duration": int(duration * 1000)}
            fields["status"] = "" if self.status == "passing" else self.status
        return json.dumps({key: value for key, value in fields.items() if value}, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """As its receivers read a register."""
        said = json.loads(data)
        times = cast("dict[str, int]", said.get("t") or {})
        due = (times.get("Registered", 0) + times.get("Duration", 0) * 1.5) / 1000
        kv, status = said.get("kv") or {}, said.get("status", "passing")
        return cls(said["name"], said.get("add", ""), said.get("v", ""), kv, status, said.get("h", ""), due)


def passing(service: Theirs) -> bool:
    """Its PassingFilter."""
    return service.status == "passing"


class Peer:
    """A program that uses eddieraa/registry: what was observed of it, the parts that others can see."""

    def __init__(self, port: int, *, main: str = "registry", interval: float = 20.0) -> None:
        self.observed: dict[str, Theirs] = {}
        self.heard: list[tuple[str, bytes]] = []
        """Everything that was said since :meth:`overhear`: subject and data."""
        self._port, self._main, self._interval = port, main, interval
        self._own: dict[str, Theirs] = {}
        self._looping: set[asyncio.Task[None]] = set()
        self._client: Client

    async def __aenter__(self) -> Self:
        self._client = await nats.connect(f"nats://127.0.0.1:{self._port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._looping:
            task.cancel()
        await asyncio.gather(*self._looping, return_exceptions=True)
        await self._client.close()

    # -- as a provider -----------------------------------------------------------------------------

    async def register(self, service: Theirs) -> None:
        """Told at once, at every interval, and at every ping."""

        async def pinged(_: Msg) -> None:
            await self._announce(service.key)

        async def again() -> None:
            while service.key in self._own:
                await asyncio.sleep(self._interval)
                await self._announce(service.key)

        self._own[service.key] = service
        await self._client.subscribe(f"{self._main}.ping.{service.name}", cb=pinged)
        await self._announce(service.key)
        self._looping.add(asyncio.create_task(again()))

    async def set_status(self, service: Theirs, status: str) -> None:
        """Told at once."""
        self._own[service.key] = replace(self._own[service.key], status=status)
        await self._announce(service.key)

    async def unregister(self, service: Theirs) -> None:
        """Told at once, and forgotten."""
        del self._own[service.key]
        await self.say(f"{self._main}.unregister.{service.name}", service.encoded())

    async def _announce(self, key: str) -> None:
        service = self._own.get(key)
        if service is not None:
            await self.say(f"{self._main}.register.{service.name}", service.encoded(self._interval))

    # -- as a consumer -----------------------------------------------------------------------------

    async def observe(self, name: str) -> None:
        """Remember what is said of a service, or of all whose name is one token: ``*``."""
        await self._client.subscribe(f"{self._main}.register.{name}", cb=self._registered)
        await self._client.subscribe(f"{self._main}.unregister.{name}", cb=self._unregistered)
        await self._client.flush()

    async def get_service(self, name: str, accepts: Callable[[Theirs], bool] = lambda _: True) -> Theirs | None:
        """What is remembered, or else the first that answers within 100 ms."""
        known = [each for each in self.services(name) if accepts(each)]
        if known:
            return known[0]
        await self.observe(name)
        answers = await self._client.subscribe(f"{self._main}.register.{name}")
        try:
            await self.say(f"{self._main}.ping.{name}", b"")
            async with asyncio.timeout(0.1):
                while not accepts(found := Theirs.decoded((await answers.next_msg()).data)):
                    pass
                return found
        except (TimeoutError, NothingHeard):
            return None
        finally:
            await answers.unsubscribe()

    def services(self, name: str) -> list[Theirs]:
        """What is remembered of a name, and not due."""
        return [each for each in self.observed.values() if each.name == name and each.due > time()]

    def ports(self, name: str) -> set[int]:
        """Those of the same."""
        return {int(each.address.rpartition(":")[2]) for each in self.services(name)}

    async def _registered(self, message: Msg) -> None:
        said = Theirs.decoded(message.data)
        known = self.observed.get(said.key)
        self.observed[said.key] = said if known is None or known.due < time() else replace(known, due=said.due)

    async def _unregistered(self, message: Msg) -> None:
        said = Theirs.decoded(message.data)
        self.observed.pop(said.key, None)

    # -- by hand -----------------------------------------------------------------------------------

    async def say(self, subject: str, data: bytes = b"") -> None:
        """One message, which is at the server when this returns."""
        await self._client.publish(subject, data)
        await self._client.flush()

    async def overhear(self) -> None:
        """Write down everything that is said from now on."""

        async def hear(message: Msg) -> None:
            self.heard.append((message.subject, message.data))

        await self._client.subscribe(">", cb=hear)
        await self._client.flush()

    def subjects(self) -> list[str]:
        """Where something was said, in order, since the last time this was asked."""
        subjects = [subject for subject, _ in self.heard]
        self.heard.clear()
        return subjects
