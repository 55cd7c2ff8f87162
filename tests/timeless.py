"""``from timeless import run``: ``support.run`` in virtual time, in which an hour of waiting is over at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TypeVar

import support
from microreg.testing.virtual import VirtualLoop

__all__ = ["run"]

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Runs ``main`` in virtual time, for as long as it takes, and returns what it returns."""
    return support.run(main, timeout=None, loop_factory=VirtualLoop)
