"""How fresh an answer of the cache is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from microreg.errors import RegistryError

__all__ = ["Freshness"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh what the cache knows of a name is.

    - ``live``: a watch keeps it true. Also said of a name that the store says has no node.
    - ``cached``: a lookup found it; its watch has not spoken yet.
    - ``stale``: what was last known, because the store is away, or has lost most nodes at once.
    - ``disk``: what the snapshot file says, because the store has not answered since the start.
    - ``unknown``: nothing is known.

    ``age`` is the seconds since it was known to be true: 0 for ``live`` and ``unknown``, and at most five seconds
    too many for ``stale``. ``error`` is why it is not live, where something went wrong.
    """

    kind: Literal["live", "cached", "stale", "disk", "unknown"]
    age: float = 0.0
    error: RegistryError | None = None

    def __str__(self) -> str:
        age = f", {self.age:.0f} s old" if self.age else ""
        return f"{self.kind}{age}{f': {self.error}' if self.error else ''}"
