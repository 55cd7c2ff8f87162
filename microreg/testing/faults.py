"""What can be done to a store, so that it can be seen what its users suffer. A backend's tests supply it.

:class:`Faults` is the whole interface: override what you can do to your store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from microreg.backends.memory import MemoryRegistry, MemoryStore
from microreg.errors import ConfigError
from microreg.registry import Registry
from microreg.testing.needs import FAULTS
from microreg.testing.proxy import Proxy
from microreg.testing.server import ServerProcess
from microreg.toolkit import in_thread

__all__ = ["Faults", "MemoryFaults", "ServerFaults"]


class Faults:
    """Override what you can do to your store; checks that need another fault are skipped, visibly.

    ====================== ================================================================================
    ``kill`` ``restart``   both, or neither; they offer ``wipe`` too
    ``freeze`` ``thaw``    both, or neither
    ``wipe``               only where the store can forget without ``kill`` and ``restart(wipe=True)``
    ``black_hole`` ``slow`` ``skew``  async context managers: all is well again when they are left
    ``write_raw``          where the store keeps bytes that other programs may write
    ====================== ================================================================================

    A method returns when the fault has taken effect. Whatever happens in a check, what was killed is restarted
    and what was frozen thaws. Only one check runs meanwhile, and it uses one fault at a time.
    """

    async def kill(self) -> None:
        """The store dies at once (kill -9): it refuses connections, and those that are open break."""
        raise NotImplementedError

    async def restart(self, *, wipe: bool = False) -> None:
        """The store is back after ``kill``: with what it keeps over a restart, or without any of its data."""
        raise NotImplementedError

    async def freeze(self) -> None:
        """The store stands still (SIGSTOP): connections stay open, nothing answers."""
        raise NotImplementedError

    async def thaw(self) -> None:
        """The store goes on after ``freeze`` (SIGCONT), also with the calls that were made meanwhile."""
        raise NotImplementedError

    async def wipe(self) -> None:
        """The store forgets everything, as a server that is killed and started again without its data."""
        await self.kill()
        await self.restart(wipe=True)

    def black_hole(self) -> AbstractAsyncContextManager[None]:
        """Packets to and from the store vanish, without a reset of any connection."""
        raise NotImplementedError

    def slow(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Every call reaches the store this many seconds late and is applied then, heard by its caller or not."""
        raise NotImplementedError

    def skew(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """The wall clock of clients that are opened and used meanwhile is wrong by this many seconds."""
        raise NotImplementedError

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        """Another program writes these bytes where the record of this node would be; None takes them away."""
        raise NotImplementedError

    # -- for the checks ----------------------------------------------------------------------------

    @asynccontextmanager
    async def down(self) -> AsyncGenerator[None]:
        """The store is dead, and back at the end."""
        try:
            await self.kill()
            yield
        finally:
            await self.restart()

    @asynccontextmanager
    async def frozen(self) -> AsyncGenerator[None]:
        """The store stands still, and goes on at the end."""
        try:
            await self.freeze()
            yield
        finally:
            await self.thaw()

    @property
    def offered(self) -> frozenset[str]:
        """The faults that this class overrides."""
        found = {name for name in FAULTS if self._overrides(name)}
        for name, other in (("kill", "restart"), ("freeze", "thaw")):
            if not self._overrides(other):
                found.discard(name)
        if "kill" in found:
            found.add("wipe")
        return frozenset(found)

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(Faults, name)


class MemoryFaults(Faults):
    """The switches of a memory store. ``client`` gives one more client of it, not open yet."""

    def __init__(self, client: Callable[[], Registry]) -> None:
        self._client = client
        self._dead = AsyncExitStack()

    async def kill(self) -> None:
        """The store refuses every call and drops every watch; expiry goes on."""
        store = await self._dead.enter_async_context(self._store())
        store.down = True

    async def restart(self, *, wipe: bool = False) -> None:
        """The store answers again, with what has not expired."""
        async with self._store() as store:
            if wipe:
                store.wipe()
            store.down = False
        await self._dead.aclose()

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


class ServerFaults(Faults):
    """What can be done to a server in a process of its own, and to the network before it.

    Clients reach the server through the proxy; without one, ``black_hole`` and ``slow`` are not offered. Add
    ``write_raw`` in a subclass. The server and the proxy must run when a check begins.
    """

    def __init__(self, server: ServerProcess, proxy: Proxy | None = None) -> None:
        self.server = server
        self._proxy = proxy

    @property
    def proxy(self) -> Proxy:
        """The proxy before the server. Raises ConfigError where there is none."""
        if self._proxy is None:
            raise ConfigError(f"{self.server!r} has no proxy before it: give ServerFaults one")
        return self._proxy

    @property
    def offered(self) -> frozenset[str]:
        """What this class overrides; without a proxy, only what needs none."""
        return super().offered - (frozenset({"black_hole", "slow"}) if self._proxy is None else frozenset())

    async def kill(self) -> None:
        """SIGKILL. The proxy refuses connections as well, and hands on the resets of those that are open."""
        if self._proxy is not None:
            self._proxy.refuse = True
        await in_thread(self.server.kill)

    async def restart(self, *, wipe: bool = False) -> None:
        """Start it on the same ports, and wait until it is ready."""
        await in_thread(self.server.restart, wipe=wipe)
        if self._proxy is not None:
            self._proxy.refuse = False

    async def freeze(self) -> None:
        """SIGSTOP."""
        await in_thread(self.server.freeze)

    async def thaw(self) -> None:
        """SIGCONT."""
        await in_thread(self.server.thaw)

    @asynccontextmanager
    async def black_hole(self) -> AsyncGenerator[None]:
        """The proxy holds back everything. What the clients sent is delivered at the end, as TCP would."""
        self.proxy.black_hole = True
        try:
            yield
        finally:
            self.proxy.black_hole = False

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncGenerator[None]:
        """The proxy holds back all bytes for so long, each way.

        At the end the connections of the clients end: what they ask for next does not wait behind what is still
        on its way, and that arrives late at the server all the same.
        """
        self.proxy.delay = seconds
        try:
            yield
        finally:
            self.proxy.delay = 0.0
            await in_thread(self.proxy.hang_up)
