"""The switches of a registry that is used in tests: what can be wrong with it, and what ends that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from microreg.arguments import check_timeout
from microreg.backends.memory import MemoryStore
from microreg.testing.hub import Hub
from microreg.testing.line import Line

__all__ = ["Fault", "FaultSwitches"]


class Fault(AbstractContextManager[None]):
    """A fault that is there since the call that returned it; the end of ``with`` ends it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


class FaultSwitches:
    """What can be done to the store of a test, for all who use it.

    Each fault is there when the call returns; it ends with ``with``, or else with :meth:`restore`, or with the test::

        with faults.down():
            ...
        faults.slow(0.2)
    """

    def __init__(self, hub: Hub, line: Line, store: Callable[[], MemoryStore]) -> None:
        self._hub = hub
        self._line = line
        self._store = store

    @property
    def active(self) -> bool:
        """Whether anything is wrong now."""
        return self._store().down or self._line.cut or self._line.delay > 0

    def down(self) -> Fault:
        """The registry is dead: every call is refused (RegistryUnavailable), every watch loses its source.

        Records go on to expire, and are there again afterwards if they have not.
        """
        store = self._store()
        return self._set(store.down, True, lambda value: setattr(store, "down", value))

    def freeze(self) -> Fault:
        """The registry hangs: no call is answered (RegistryTimeout after the option ``timeout``), no watch hears.

        Calls that nobody has given up by then are answered at the end.
        """
        return self._set(self._line.cut, True, lambda value: setattr(self._line, "cut", value))

    def slow(self, seconds: float) -> Fault:
        """Every call takes so many seconds, and every event comes so much later."""
        delay = check_timeout(seconds)
        return self._set(self._line.delay, delay, lambda value: setattr(self._line, "delay", value))

    def wipe(self) -> None:
        """The registry forgets every record, as a server that restarts without its data."""
        self._hub.switch(lambda: self._store().wipe())

    def restore(self) -> None:
        """All is well again. What was wiped stays away until somebody registers it."""

        def restore() -> None:
            self._store().down = self._line.cut = False
            self._line.delay = 0.0

        self._hub.switch(restore)

    def _set(self, before: bool | float, value: bool | float, assign: Callable[[bool | float], None]) -> Fault:
        self._hub.switch(lambda: assign(value))
        return Fault(lambda: self._hub.switch(lambda: assign(before)))
