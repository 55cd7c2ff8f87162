"""The blocking Selector."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from microreg.arguments import shown
from microreg.errors import ConfigError, RegistryClosed
from microreg.model import Node
from microreg.rules import check_name
from microreg.selector import Selector as AsyncSelector
from microreg.selector.strategies import Strategy
from microreg.sync.mirror import Part
from microreg.sync.portal import Portal
from microreg.sync.registry import Registry, checked

__all__ = ["Selector"]

T = TypeVar("T")
_Errors = type[Exception] | tuple[type[Exception], ...]


class Selector(Part[AsyncSelector]):
    """Picks nodes of services; to be used with ``with``. See :class:`microreg.Selector`.

    A name that was selected before is picked without another thread's help: ``pick``, ``select`` and
    ``call`` then cost what they cost on an event loop.
    """

    def __init__(
        self, registry: Registry, strategy: str | Strategy = "random", *, rng: random.Random | None = None
    ) -> None:
        inner = checked(registry, "a microreg.sync.Selector").inner
        super().__init__(registry, AsyncSelector(inner, strategy, rng=rng))
        self.registry = registry
        self._picks = self.inner.picks

    def pick(self, name: str) -> Node:
        """The next node, without I/O. Raises NoNodeAvailable; the first pick of a name starts to follow it."""
        try:
            pick = self._picks.get(name)
        except TypeError:  # it cannot even be looked up
            check_name(name)
            raise
        if pick is None:
            return self._opened().run(self.inner.pick, name)
        return pick()

    def select(self, name: str, *, timeout: float = 5.0) -> Node:
        """The next node; waits up to ``timeout`` seconds for one. Raises NoNodeAvailable after that."""
        try:
            pick = self._picks.get(name)
        except TypeError:  # it cannot even be looked up
            check_name(name)
            raise
        if pick is None:
            return self._opened().call(self.inner.select, name, timeout=timeout)
        return pick()

    def call(
        self,
        name: str,
        function: Callable[[Node], T],
        *,
        attempts: int = 3,
        timeout: float = 5.0,
        retry_on: _Errors = (OSError, EOFError),
    ) -> T:
        """Call ``function(node)``, a plain function, in this thread; retry as :meth:`microreg.Selector.call` does.

        At most ``attempts`` calls, each on a node not yet tried, and only after an error of ``retry_on``.
        Raises what the last call raised, or NoNodeAvailable where there was no node at all.
        """
        if not callable(function):
            raise ConfigError(f"function {shown(function)}: expected a function that takes a node")
        following = self.inner.retries(name, attempts)
        node = self.select(name, timeout=timeout)
        while True:
            try:
                return function(node)
            except retry_on:
                again = following(node)
                if again is None:
                    raise
                node = again

    def close(self) -> None:
        """Stop following. Waiting ``select`` calls end with RegistryClosed. Closing twice is fine."""
        self._leave(self.inner.close)

    def _opened(self) -> Portal:
        if not self._entered:
            raise RegistryClosed("this Selector is not open: use `with microreg.sync.Selector(...) as selector:`")
        return self.portal
