"""Crowd: things that are noted as long as somebody else has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import ref

__all__ = ["Crowd"]

T = TypeVar("T")


class Crowd(Generic[T]):
    """Objects, held weakly and told apart by identity, in the order in which they came.

    Unlike a ``WeakSet`` it may be read from any thread while another one changes it.
    """

    def __init__(self) -> None:
        self._refs: dict[int, ref[T]] = {}

    def add(self, thing: T) -> None:
        """Note a thing; once is enough."""
        refs, key = self._refs, id(thing)
        refs[key] = ref(thing, lambda _: refs.pop(key, None))

    def __iter__(self) -> Iterator[T]:
        for each in tuple(self._refs.values()):
            thing = each()
            if thing is not None:
                yield thing
