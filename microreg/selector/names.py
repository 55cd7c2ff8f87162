"""Names: those that a Selector follows, each with its pool, from when it is opened until it is closed."""

from __future__ import annotations

import asyncio

from microreg import process
from microreg.checked import Checked
from microreg.errors import RegistryClosed, WrongLoop
from microreg.layers.cache import CacheLayer, cached
from microreg.options import Options
from microreg.registry import Registry
from microreg.rules import check_name
from microreg.selector.choosing import Chooser
from microreg.selector.membership import Rules
from microreg.selector.pool import Index, Pool
from microreg.selector.reports import Reports
from microreg.selector.settings import Settings
from microreg.selector.vacant import Vacant

__all__ = ["Names"]


class Names:
    """The pools of the names that are followed. Only the loop that opened it can follow another.

    An uncached registry is wrapped in a cache that ends with this.
    """

    def __init__(self, registry: Registry, chooser: Chooser, settings: Settings) -> None:
        self.pools: dict[str, Pool] = {}
        self.index: Index = {}
        self._registry = registry
        self._chooser = chooser
        self._settings = settings
        self._vacant = Vacant(self.pools)
        self._cache: CacheLayer | None = None
        self._own: CacheLayer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = ""  # why no call is possible any more

    def open(self) -> None:
        """Belong to the running loop from now on. Raises RegistryClosed where this was opened before."""
        if self._cache is not None or self._over:
            raise RegistryClosed("this Selector was used before; make another")
        self._loop = asyncio.get_running_loop()
        self.rules: Rules = self._settings.rules(self._loop)
        self._reports = Reports(self._loop, self.rules.clock, self._registry.unwrap(Checked))
        process.in_child(self, Names._after_fork)
        self._cache = cached(self._registry)
        if self._cache is None:
            self._cache = self._own = CacheLayer(self._registry, self._registry.url, Options())

    async def close(self) -> None:
        """Follow nothing any more; whoever waits for a node gets RegistryClosed. Closing twice is fine."""
        self._over = self._over or "was closed; make another"
        pools = list(self.pools.values())
        self._let_go()
        for pool in pools:
            pool.close()
        if self._own is not None:
            await self._own.stop()

    def opened(self) -> Reports:
        """What takes reports. Raises RegistryClosed before ``open`` and after ``close``."""
        if self._over:
            raise RegistryClosed(f"this Selector {self._over}")
        if self._loop is None:
            raise RegistryClosed("this Selector is not open: use `async with Selector(registry) as selector:`")
        return self._reports

    def known(self, name: str) -> Pool | None:
        """The pool of a name that is followed. Raises InvalidService for what cannot be a name."""
        if not isinstance(name, str) or name not in self.pools:
            check_name(name)
        return self.pools.get(name)

    def pool(self, name: str) -> Pool:
        """The pool of a name, which is followed from now on. Raises InvalidService, RegistryClosed and WrongLoop."""
        pool = self.known(name)
        if pool is None:
            self.opened()
            self.check_loop(name)
            assert self._cache is not None
            pool = Pool(name, self._cache, self.rules, self.index, self._publish)
            pool.start()
            self.pools[name] = pool
            self._vacant.make_room()
        return pool

    def check_loop(self, name: str) -> None:
        """Raise WrongLoop unless the loop that runs here is the one that can follow a name."""
        if process.running_loop() is not self._loop:
            raise WrongLoop(
                f"no node of {name!r} is known yet, and only the loop that opened this Selector can follow it: "
                "select() the name once there"
            )

    def _publish(self, pool: Pool) -> None:
        self._chooser.publish(pool, self.rules)
        self._vacant.note(pool)

    def _after_fork(self) -> None:
        self._over = process.FORKED
        self._let_go()

    def _let_go(self) -> None:
        self.pools.clear()
        self._chooser.picks.clear()
        self.index.clear()
        self._vacant.clear()
        if self._loop is not None:
            self._reports.stop()
