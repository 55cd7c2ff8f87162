"""Observer: who hears of the calls of a registry, and of those that are made to its nodes; for telemetry."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from microreg.model import Node, Service

__all__ = ["Attempt", "Observer"]

T = TypeVar("T")


class Attempt(AbstractContextManager[object, None], Protocol):
    """One call to a node, from its beginning to its end or its error."""

    def answered(self) -> None:
        """The answer has begun: what follows may be read later, by another task."""


class Observer(Protocol):
    """What ``Checked.observers`` are. An error of one is the caller's: it had better raise none."""

    def operation(
        self, verb: str, of: Service | str, call: Coroutine[object, object, T]
    ) -> Coroutine[object, object, T]:
        """What is awaited in place of ``call``, which asks the store: for a service, a name, or all names ("")."""
        ...

    def attempt(self, name: str, node: Node) -> Attempt:
        """A call to a node of a name is about to begin. Any thread may say so."""
        ...
