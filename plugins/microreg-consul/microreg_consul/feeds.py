"""What watches share: for each name a blocking query at most, and two for all names together."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from microreg.catalog import Catalog
from microreg.errors import RegistryUnavailable
from microreg.events import Event
from microreg.toolkit import end
from microreg_consul.client import Client
from microreg_consul.queries import answers
from microreg_consul.records import Records
from microreg_consul.standing import Standing

__all__ = ["Feed", "Feeds"]

_NAMES = 32
"""Names with a query of their own. All processes of a machine share the 200 connections that an agent allows it."""
_LINGER = 1.0
"""Seconds that a feed waits for somebody else to follow it."""


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


class Feeds:
    """The feeds of one client. A feed lives as long as somebody follows it, and a second longer."""

    def __init__(self, client: Client, records: Records, rng: random.Random | None = None) -> None:
        self._client = client
        self._records = records
        self._rng = rng or random.Random()
        self._feeds: dict[str | None, Feed] = {}
        self._running: set[Feed] = set()

    async def close(self) -> None:
        """End every feed."""
        self._feeds.clear()
        await asyncio.gather(*(feed.close() for feed in self._running))

    async def follow(self, name: str | None) -> AsyncGenerator[Event, None]:
        """A source for a Watch. Where very many names are followed, the others share the feed of all names."""
        key = name if name in self._feeds or len(self._feeds) < _NAMES else None
        feed = self._feeds.get(key) or self._open(key)
        feed.users += 1
        try:
            await feed.ready()
            async with aclosing(feed.catalog.changes(name)) as changes:
                async for change in changes:
                    yield change
        finally:
            feed.users -= 1
            if not feed.users:
                asyncio.get_running_loop().call_later(_LINGER, self._drop, feed)

    def _open(self, name: str | None) -> Feed:
        from microreg_consul.overview import Overview  # which is a Feed

        feed: Feed
        if name is None:
            feed = Overview(self._client, self._records, self._rng, self._over)
        else:
            feed = NameFeed(name, self._client, self._records, self._rng, self._over)
        self._running.add(feed)
        self._feeds[name] = feed
        return feed

    def _drop(self, feed: Feed) -> None:
        if not feed.users:
            self._forget(feed)
            feed.cancel()

    def _over(self, feed: Feed) -> None:
        self._forget(feed)
        self._running.discard(feed)

    def _forget(self, feed: Feed) -> None:
        """Whoever comes next opens another one."""
        self._feeds = {name: each for name, each in self._feeds.items() if each is not feed}
