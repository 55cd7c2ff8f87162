"""What watches share: for each name a blocking query at most, and two for all names together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from microreg.events import Event
from microreg_consul.client import Client
from microreg_consul.feed import Feed, NameFeed
from microreg_consul.overview import Overview
from microreg_consul.records import Records

__all__ = ["Feeds"]

_NAMES = 16
"""Names with a query of their own. All processes of a machine share the 200 connections that an agent allows it."""
_SPARING = 60.0
"""Seconds that a client takes fewer of them after it was turned away."""
_EASED = 3.0
"""Seconds that it takes at least until what was given up is free."""
_LINGER = 1.0
"""Seconds that a feed waits for somebody else to follow it."""


class Feeds:
    """The feeds of one client. A feed lives as long as somebody follows it, and a second longer.

    Whenever the agent turns a connection away, half of the names give up their own queries: programs that watch much
    leave room for those that have to renew what they registered.
    """

    def __init__(self, client: Client, records: Records, rng: random.Random | None = None) -> None:
        self._client = client
        self._records = records
        self._rng = rng or random.Random()
        self._feeds: dict[str | None, Feed] = {}
        self._running: set[Feed] = set()
        self._limit = _NAMES
        self._time = asyncio.get_running_loop().time
        self._turned_away = float("-inf")
        client.turned_away = self._spare

    async def close(self) -> None:
        """End every feed."""
        self._feeds.clear()
        await asyncio.gather(*(feed.close() for feed in self._running))

    async def follow(self, name: str | None) -> AsyncGenerator[Event, None]:
        """A source for a Watch. Where very many names are followed, the others share the feed of all names."""
        if self._time() > self._turned_away + _SPARING:
            self._limit = _NAMES
        key = name if name in self._feeds or len(self._feeds) < self._limit else None
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
        feed: Feed
        if name is None:
            feed = Overview(self._client, self._records, self._rng, self._over)
        else:
            feed = NameFeed(name, self._client, self._records, self._rng, self._over)
        self._running.add(feed)
        self._feeds[name] = feed
        return feed

    def _spare(self) -> None:
        if self._time() > self._turned_away + _EASED:
            self._turned_away = self._time()
            self._limit = max(1, self._limit // 2)
            names = [feed for name, feed in self._feeds.items() if name is not None]
            for feed in names[self._limit :]:
                self._forget(feed)
                feed.cancel()

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
