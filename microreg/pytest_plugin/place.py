"""Place: which registry a test has, in memory or a real one, and what it opens there."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest

if TYPE_CHECKING:
    import microreg
    import microreg.sync
    from microreg.testing.announced import Announced, SyncAnnounced
    from microreg.testing.fake import FakeStore

__all__ = ["INI", "OPTION", "Opened", "Place", "is_virtual", "of_test"]

R = TypeVar("R", "microreg.Registry", "microreg.sync.Registry")
A = TypeVar("A", "Announced", "SyncAnnounced")

OPTION = "--microreg-registry"
INI = "microreg_registry"


@dataclass(frozen=True, slots=True)
class Opened(Generic[R, A]):
    """The registry of a test, open, and the factory of its nodes."""

    registry: R
    announced: A


@dataclass(frozen=True, slots=True)
class Place:
    """Which registry a test has: its config string and, where it is in memory, the store itself."""

    url: str
    store: FakeStore | None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Opened[microreg.Registry, Announced]]:
        """The registry for an ``async def`` test; its nodes are withdrawn at the end."""
        from microreg import connect
        from microreg.testing.announced import Announced

        async with connect(self.url) as registry:
            announced = Announced(registry)
            try:
                yield Opened(registry, announced)
            finally:
                await announced.close()

    @contextmanager
    def opened_sync(self) -> Generator[Opened[microreg.sync.Registry, SyncAnnounced]]:
        """The same for a plain test."""
        from microreg.sync import connect
        from microreg.testing.announced import SyncAnnounced

        with connect(self.url) as registry:
            yield Opened(registry, SyncAnnounced(registry))


@contextmanager
def of_test(request: pytest.FixtureRequest) -> Generator[Place]:
    """The place of a test: a store of its own, or for one marked so the real registry. Skips where there is none."""
    if request.node.get_closest_marker("real_registry") is not None:
        url = request.config.getoption(OPTION) or request.config.getini(INI)
        if not url:
            pytest.skip(f"needs a real registry: pytest {OPTION} URL, or {INI} in the ini file")
        yield Place(_namespaced(url), None)
        return
    from microreg.testing.fake import FakeStore

    loop = request.getfixturevalue("virtual_time").loop if is_virtual(request) else None
    with FakeStore(loop=loop) as store:
        yield Place(store.url, store)


def is_virtual(request: pytest.FixtureRequest) -> bool:
    """Whether the test is in virtual time."""
    return "virtual_time" in request.fixturenames


def _namespaced(url: str) -> str:
    """The same store, in a namespace that no other test has, nor the same one in another process."""
    from microreg.url import RegistryURL

    parsed = RegistryURL.parse(url)
    if "namespace" in parsed.layers:
        return url
    first = "#" if parsed.parts else "?"
    return f"namespace+{url}{'&' if first in url else first}namespace.prefix=test-{os.urandom(6).hex()}"
