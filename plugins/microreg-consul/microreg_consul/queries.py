"""Blocking queries, asked again and again by Consul's rules."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from microreg.errors import RegistryUnavailable
from microreg_consul.client import WAIT

__all__ = ["Ask", "answers"]

T = TypeVar("T")

_SOON = 0.02
"""Seconds: who is answered sooner rests for so long, and reads several changes at once."""
_SHORTEST = 1.0
_LONGEST = 0.25
"""Seconds of rest at most between answers that have told nothing new."""


Ask = Callable[[int, float], Awaitable[tuple[int, T]]]
"""Asks for an answer with another index than this one, 0 for any, and waits so many seconds for it."""


async def answers(ask: Ask[T], rng: random.Random) -> AsyncGenerator[T, None]:
    """Every answer that differs from the one before. Raises RegistryUnavailable when the index falls.

    That is how a store looks that was restored or has lost its memory: read it anew. A query may also end without
    any change, at once and any number of times, when something else changes; then the rest before the next one
    grows.

    A query that is given up stands at the agent until its time is over, and with it the connection, of which there
    are not many. So it is not to wait longer than there have been queries.
    """
    time = asyncio.get_running_loop().time
    opened = time()
    index, before = await ask(0, 0.0)
    yield before
    idle = 0
    while True:
        began = time()
        found, answer = await ask(index, min(WAIT, max(_SHORTEST, began - opened)))
        if found < index:
            raise RegistryUnavailable(f"the index of Consul fell from {index} to {found}: it is not the store it was")
        index = found
        changed = answer != before
        soon = time() - began < _SOON
        if changed:
            before = answer
            yield answer
        idle = 0 if changed or not soon else idle + 1
        if soon:
            await asyncio.sleep(rng.uniform(0.5, 1.0) * min(_LONGEST, _SOON * 2.0 ** min(idle, 16)))
