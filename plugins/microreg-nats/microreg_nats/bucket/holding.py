"""What one client holds in a bucket: how nodes are written, renewed and withdrawn.

Every write is conditional on the last message that was seen at the node's key. One that is late, since the network
or the server held it back, finds another there, and does nothing: neither does it bring back a node that was
withdrawn, nor withdraw one that was registered again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable

from microreg import toolkit
from microreg.errors import RegistryUnavailable
from microreg.toolkit import Holding
from microreg_nats.bucket.api import WrongSequence
from microreg_nats.bucket.stream import Bucket

__all__ = ["Holdings"]

log = logging.getLogger("microreg.nats")

_ATTEMPTS = 16
_APART = 0.001
_LONGEST = 0.05


class _Holding(Holding):
    """One node: its record as it was last written, and where in the stream."""

    __slots__ = ("revision", "sent", "value", "warned")

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        """Of the last message that was seen at the key; 0: none was."""
        self.value: bytes | None = None
        """What stands there as far as is known."""
        self.sent: bytes | None = None
        """What was sent and may have been written, though no answer came."""
        self.warned = False

    @property
    def is_empty(self) -> bool:
        return self.value is self.sent is None


class Holdings:
    """All nodes that one client has registered."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._nodes: toolkit.Holdings[str, _Holding] = toolkit.Holdings(_Holding)
        self._rng = random.Random()
        self._time = asyncio.get_running_loop().time

    def __len__(self) -> int:
        """How many nodes are remembered: those that are held, and a few that have expired."""
        return len(self._nodes)

    async def write(self, subject: str, value: bytes, ttl: float) -> None:
        """Put the record, for ``ttl`` seconds, rounded up to whole ones."""
        seconds = math.ceil(ttl)
        async with self._nodes.hold(subject) as held:
            held.until = self._time() + seconds
            held.sent = value
            await self._settle(subject, held, lambda revision: self._bucket.put(subject, value, seconds, revision))
            held.value, held.sent = value, None

    async def withdraw(self, subject: str) -> None:
        """Take away the record, whoever wrote it. A marker stays for a while, also where there was none."""
        async with self._nodes.hold(subject) as held:
            held.until = 0.0
            await self._settle(subject, held, lambda revision: self._bucket.withdraw(subject, revision))
            held.value = held.sent = None

    async def _settle(self, subject: str, held: _Holding, write: Callable[[int], Awaitable[int]]) -> None:
        """Write on the condition that the subject is as it was last seen; look and write again where it is not."""
        for attempt in range(_ATTEMPTS):
            try:
                held.revision = await write(held.revision)
                return
            except WrongSequence as error:
                if held.revision == 0 and error.last is not None:
                    held.revision = error.last
                    continue
            if attempt:  # somebody writes as fast as we do: not in step with us
                await asyncio.sleep(self._rng.uniform(0, min(_APART * 2.0**attempt, _LONGEST)))
            held.revision, found = await self._bucket.last(subject)
            if found not in (None, held.value, held.sent) and held.value is not None and not held.warned:
                held.warned = True
                log.warning(
                    "%s is registered by somebody else too; the last writer wins. Give each node an id of its own",
                    subject,
                )
        raise RegistryUnavailable(f"{subject} was changed by others each time it was written")
