"""What a registry does with a bucket, in the running loop: ``held`` writes, ``bucket`` and ``following`` read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from microreg.errors import RegistryUnavailable
from microreg.events import Reason
from microreg.url import RegistryURL
from microreg_nats.bucket.api import gone
from microreg_nats.bucket.due import Due
from microreg_nats.bucket.feed import Feed, feed
from microreg_nats.bucket.holding import Holdings
from microreg_nats.bucket.stream import Bucket
from microreg_nats.connection import Connection

if TYPE_CHECKING:
    from microreg_nats.bucket import BucketOptions

__all__ = ["Store"]

Changed = tuple[str, bytes | None, Reason]
"""A subject, what stands there from now on, and why where that is nothing."""


class Store:
    """One client of one bucket."""

    def __init__(self, url: RegistryURL, options: BucketOptions) -> None:
        self._connection = Connection(url, options)
        self.bucket = Bucket(self._connection, url, options.bucket, replicas=options.replicas, storage=options.storage)
        self.held = Holdings(self.bucket)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    @property
    def connection(self) -> Connection:
        """The way to the server."""
        return self._connection

    @asynccontextmanager
    async def following(self, filter: str) -> AsyncGenerator[tuple[dict[str, bytes], AsyncGenerator[Changed, None]]]:
        """The records of these subjects, and then everything that happens to them.

        Both are of one connection and one stream; the latter raises when either is lost.
        """
        opened = await self.bucket.opened()
        try:
            found = await self.bucket.snapshot(opened, filter)
            due = Due(asyncio.get_running_loop().time)
            for subject, headers in found.headers.items():
                due.lives(subject, headers)
            found.headers.clear()
            async with feed(opened.session, self.bucket.stream, filter, found.up_to + 1, due.check) as changes:
                await self.bucket.confirm(opened)
                yield found.values, _changed(changes, due)
        except RegistryUnavailable:  # perhaps since the bucket is gone
            self.bucket.forget(opened)
            raise


async def _changed(changes: Feed, due: Due) -> AsyncGenerator[Changed, None]:
    async with aclosing(changes.messages()) as messages:
        async for message in messages:
            headers = message.headers or {}
            reason = gone(headers)
            if reason is None:
                due.lives(message.subject, headers)
                yield message.subject, message.data, Reason.REMOVED
            else:
                due.ends(message.subject)
                yield message.subject, None, reason
