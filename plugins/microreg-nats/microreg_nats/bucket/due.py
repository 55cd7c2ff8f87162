"""By when a watch must have heard of each record again: a purge takes them away, and tells nobody."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from microreg.errors import RegistryUnavailable

__all__ = ["Due"]

_GRACE = 5.0
"""Seconds for which a renewal, or the marker of an expiry, may be on its way."""
_EVERY = 2.0
_SECONDS = re.compile(r"(\d{1,9})s?")


class Due:
    """When the time to live of each record is over. What is there no more by then has left without a marker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}
        self._looked = clock()

    def lives(self, subject: str, headers: Mapping[str, str]) -> None:
        """A record was heard of, with these headers. One without a time to live is never due."""
        match = _SECONDS.fullmatch(headers.get("Nats-TTL", ""))
        if match is None:
            self._at.pop(subject, None)
        else:
            self._at[subject] = self._clock() + int(match[1]) + _GRACE

    def ends(self, subject: str) -> None:
        """There is no record any more, and that was told."""
        self._at.pop(subject, None)

    def check(self) -> None:
        """Raise RegistryUnavailable where nothing was heard of a record in time: read again. Looks now and then."""
        now = self._clock()
        if now < self._looked + _EVERY:
            return
        self._looked = now
        overdue = next((subject for subject, at in self._at.items() if at < now), None)
        if overdue is not None:
            raise RegistryUnavailable(f"what stood at {overdue} was taken away, and nobody was told: a purge?")
