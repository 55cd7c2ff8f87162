"""Composites whose parts can be given any trouble, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from microreg.checked import Checked
from microreg.errors import RegistryError
from microreg.layers.fallback import FallbackOptions, FallbackRegistry
from microreg.layers.mirror import MirrorRegistry
from microreg.model import Endpoint, Node, Service
from microreg.options import Duration, Options
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing.faulty import FaultyMemory
from microreg.testing.line import Line
from microreg.url import RegistryURL

__all__ = ["TROUBLES", "Odd", "fallback", "mirror", "one", "plain"]


TROUBLES = ("down", "up", "cut", "healed", "slow", "fast")
"""What an ``Odd`` suffers, each followed by its end."""


def one(name: str = "orders", id: str = "a", **more: str) -> Service:
    """A service of one node."""
    return Service(name, "1", more, [Endpoint("Place")], [Node("10.0.0.1:80", id=id)])


class Odd(FaultyMemory):
    """A part: a store at the end of a line (``line``), which may refuse (``refusal``), and remembers its writes."""

    def __init__(self, name: str, seed: int = 1) -> None:
        options = Options(timeout=Duration(5.0))
        super().__init__(RegistryURL.parse(f"memory://{name}"), options, Line(random.Random(seed)))
        self.refusal: RegistryError | None = None
        self.refuses = frozenset[str]()
        """Only these names; all where it is empty."""
        self.written: list[tuple[float, str, str, float]] = []
        """Moment, verb, node id and ttl of each attempt."""

    def _refuse(self, name: str) -> None:
        if self.refusal is not None and (not self.refuses or name in self.refuses):
            raise self.refusal

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self.written.append((asyncio.get_running_loop().time(), "register", service.nodes[0].id, ttl))
        self._refuse(service.name)
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        self.written.append((asyncio.get_running_loop().time(), "deregister", service.nodes[0].id, 0.0))
        self._refuse(service.name)
        await super().deregister(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        self._refuse(name)
        return await super().get_service(name)

    def suffer(self, trouble: str) -> None:
        """One of the troubles begins, or ends."""
        match trouble:
            case "down" | "up":
                self.store.down = trouble == "down"
            case "cut" | "healed":
                self.line.cut = trouble == "cut"
            case "slow" | "fast":
                self.line.delay, self.line.jitter = (0.5, 3.0) if trouble == "slow" else (0.0, 0.0)
            case _:
                raise ValueError(f"trouble {trouble!r}: expected one of {TROUBLES}")

    def ids(self, name: str = "orders") -> set[str]:
        """The ids of the nodes in the store, whatever the line does."""
        return {node.id for service in self.store.catalog.services(name) for node in service.nodes}


Kind = Literal["mirror", "fallback"]


@asynccontextmanager
async def _composed(kind: Kind, parts: list[Odd], query: str) -> AsyncGenerator[Checked]:
    url = RegistryURL.parse(f"{kind}:{'|'.join(str(part.url) for part in parts)}{query}")
    checked = [Checked(part) for part in parts]
    if kind == "mirror":
        registry = Checked(MirrorRegistry(checked, url, Options(), rng=random.Random(3)))
    else:
        registry = Checked(FallbackRegistry(checked, url, FallbackOptions(merge="merge=true" in query)))
    async with registry:
        yield registry


@asynccontextmanager
async def mirror(parts: int = 2) -> AsyncGenerator[tuple[Checked, list[Odd]]]:
    """An open mirror and its parts."""
    made = [Odd(f"part-{number}", number) for number in range(1, parts + 1)]
    async with _composed("mirror", made, "") as registry:
        yield registry, made


@asynccontextmanager
async def fallback(parts: int = 2, *, merge: bool = False) -> AsyncGenerator[tuple[Checked, list[Odd]]]:
    """An open fallback and its parts."""
    made = [Odd(f"part-{number}", number) for number in range(1, parts + 1)]
    async with _composed("fallback", made, "#merge=true" if merge else "") as registry:
        yield registry, made


@asynccontextmanager
async def plain(part: Odd) -> AsyncGenerator[Registry]:
    """Another client of a part's store, with a line of its own."""
    async with Checked(Odd(part.url.location)) as registry:
        yield registry
