"""What can be done to a store, so that it can be seen what its users suffer. A backend's tests supply it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from microreg.backends.memory import MemoryRegistry, MemoryStore
from microreg.errors import ConfigError
from microreg.registry import Registry
from microreg.testing.check import FAULTS

__all__ = ["Faults", "MemoryFaults"]


class Faults:
    """Override what you can do to your store; checks that need another fault are skipped, visibly.

    A fault that lasts is a context manager: the store is as before when it is left, whatever happened inside.
    Faults are used from the event loop of the check, and only one check runs meanwhile.
    """

    def down(self) -> AbstractAsyncContextManager[None]:
        """The store is killed (kill -9), and back at the end with what it keeps over a restart."""
        raise NotImplementedError

    def freeze(self) -> AbstractAsyncContextManager[None]:
        """The store stands still (SIGSTOP … SIGCONT): connections stay open, nothing answers."""
        raise NotImplementedError

    def black_hole(self) -> AbstractAsyncContextManager[None]:
        """Packets to and from the store vanish, without a reset of any connection."""
        raise NotImplementedError

    def slow(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Every call reaches the store this many seconds late and is applied then, heard by its caller or not."""
        raise NotImplementedError

    async def wipe(self) -> None:
        """The store forgets everything, as a server that is killed and started again without its data."""
        raise NotImplementedError

    @property
    def offered(self) -> frozenset[str]:
        """The faults that this class overrides."""
        return frozenset(name for name in FAULTS if getattr(type(self), name) is not getattr(Faults, name))


class MemoryFaults(Faults):
    """The switches of a memory store. ``client`` gives one more client of it, not open yet."""

    def __init__(self, client: Callable[[], Registry]) -> None:
        self._client = client

    @asynccontextmanager
    async def down(self) -> AsyncGenerator[None]:
        """The store refuses every call and drops every watch; expiry goes on."""
        async with self._store() as store:
            store.down = True
            try:
                yield
            finally:
                store.down = False

    async def wipe(self) -> None:
        """The store forgets every record."""
        async with self._store() as store:
            store.wipe()

    @asynccontextmanager
    async def _store(self) -> AsyncGenerator[MemoryStore]:
        async with self._client() as registry:
            memory = registry.unwrap(MemoryRegistry)
            if memory is None:
                raise ConfigError(f"{registry.url} has no memory store to break")
            yield memory.store
