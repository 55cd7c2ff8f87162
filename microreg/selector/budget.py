"""The retry budget: what keeps retries from becoming a storm when a whole service is down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from microreg.errors import ConfigError

__all__ = ["Budget", "RetryBudget"]

_MOST = 1_000_000
"""What a share or a number of retries may be at most; more than that is no budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many retries there may be for one name: ``share`` of its calls, and ``least`` a second for who calls rarely.

    What is not used is kept for about ten seconds, so that a burst of failures finds it. Where the budget is used
    up, the error is raised instead.
    """

    share: float = 0.2
    least: float = 3.0

    def __post_init__(self) -> None:
        try:
            sound = 0 <= self.share <= _MOST and 0 <= self.least <= _MOST
        except TypeError:  # no numbers
            sound = False
        if not sound:
            raise ConfigError(f"{self}: expected numbers from 0 to {_MOST:,}")


_WINDOW = 10.0


class Budget:
    """What is left of a RetryBudget for one name. Threads may use it at once; it is then off by a little."""

    __slots__ = ("_at", "_left", "_settings")

    def __init__(self, settings: RetryBudget, now: float) -> None:
        self._settings = settings
        self._at = now
        self._left = settings.least * _WINDOW

    def left(self, now: float) -> float:
        """How many retries are left now."""
        faded = math.exp(min(0.0, self._at - now) / _WINDOW)
        self._left = self._left * faded + self._settings.least * _WINDOW * (1 - faded)
        self._at = now
        return self._left

    def call(self, now: float) -> None:
        """A call begins."""
        self._left = self.left(now) + self._settings.share

    def retry(self, now: float) -> bool:
        """Whether one may be retried; takes it off."""
        if self.left(now) < 1:
            return False
        self._left -= 1
        return True
