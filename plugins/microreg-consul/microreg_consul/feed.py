"""What keeps a catalog as the agent has it: one name by one blocking query. For all names see ``overview``."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from microreg.catalog import Catalog
from microreg.errors import RegistryUnavailable
from microreg.toolkit import end
from microreg_consul.client import Client
from microreg_consul.queries import answers
from microreg_consul.records import Records
from microreg_consul.standing import Standing

__all__ = ["Feed", "NameFeed"]


class Feed(ABC):
    """Keeps a catalog as the agent has it, in a task of its own, until it is closed or the agent is lost."""

    def __init__(self, client: Client, records: Records, rng: random.Random, over: Callable[[Feed], None]) -> None:
        self.catalog = Catalog()
        self.users = 0
        self._client = client
        self._records = records
        self._rng = rng
        self._over = over
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._keep(), name=f"microreg consul {self}")
        self._task.add_done_callback(self._ended)

    async def ready(self) -> None:
        """Wait until everything was read once. Raises why that cannot be."""
        await asyncio.shield(self._ready)

    def cancel(self) -> None:
        """End the task, without waiting for it."""
        self._task.cancel()

    async def close(self) -> None:
        """End the task and join it."""
        await end(self._task)

    @abstractmethod
    async def _keep(self) -> None:
        """Keep the catalog, and say when it is ``_complete``. Raises when the agent is lost."""

    def _complete(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        why = error if isinstance(error, Exception) else RegistryUnavailable("the queries have ended")
        self._over(self)
        if not self._ready.done():
            self._ready.set_exception(why)
            self._ready.exception()  # seen, also where nobody waits any more
        self.catalog.interrupt(why)


class NameFeed(Feed):
    """One name."""

    def __init__(
        self, name: str, client: Client, records: Records, rng: random.Random, over: Callable[[Feed], None]
    ) -> None:
        self._name = name
        super().__init__(client, records, rng, over)

    async def _keep(self) -> None:
        async with aclosing(answers(partial(self._client.entries, self._name), self._rng)) as found:
            async for entries in found:
                Standing(self._name, entries, self._records).enter(self.catalog)
                self._complete()

    def __str__(self) -> str:
        return self._name
