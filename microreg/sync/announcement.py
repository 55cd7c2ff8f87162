"""The blocking Announcement, and ``announce()``."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, cast

from microreg.announce import announce as announce_async
from microreg.announce.announcement import Announcement as AsyncAnnouncement
from microreg.announce.announcement import RenewalStatistics, State, Transition
from microreg.errors import RegistryError
from microreg.model import Node, Service
from microreg.registry import Registry as AsyncRegistry
from microreg.sync.mirror import Part, blocking
from microreg.sync.registry import Registry, checked
from microreg.sync.workers import off_loop

__all__ = ["Announcement", "announce"]

P = ParamSpec("P")


class Announcement(Part[AsyncAnnouncement]):
    """Keeps one node registered from ``with`` to its end; made by :func:`announce`.

    What :class:`microreg.Announcement` promises holds here. Leaving drains, after Ctrl-C too; another
    Ctrl-C ends that at once.
    """

    wait_live = blocking(AsyncAnnouncement.wait_live)
    changed = blocking(AsyncAnnouncement.changed)
    update = blocking(AsyncAnnouncement.update)

    def __init__(self, registry: Registry, inner: AsyncAnnouncement) -> None:
        super().__init__(registry, inner)
        self.registry = registry
        self.ttl = inner.ttl

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self.inner.state

    @property
    def error(self) -> RegistryError | None:
        """Why the last attempt failed; None where it did not."""
        return self.inner.error

    @property
    def history(self) -> tuple[Transition, ...]:
        """The last 64 transitions, oldest first."""
        return self.inner.history

    @property
    def statistics(self) -> RenewalStatistics:
        """How its writes and renewals went so far. Any thread may ask."""
        return self.inner.statistics

    @property
    def service(self) -> Service:
        """The record as it should be now: a Service with exactly this node, ``critical`` while its check fails."""
        return self.inner.service

    @property
    def node(self) -> Node:
        """The node of :attr:`service`."""
        return self.inner.node

    def drain(self) -> None:
        """Leave: status ``draining``, deregister, wait until watchers have heard; at most 5 s in all.

        Done when it returns, also with the store down. When the call is interrupted the leaving goes on, and
        the end of ``with`` waits for it. Calling it again waits for the first.
        """
        self._leave(self.inner.drain)


def _blocking(
    function: Callable[Concatenate[AsyncRegistry, P], AsyncAnnouncement],
) -> Callable[Concatenate[Registry, P], Announcement]:
    def announce(registry: Registry, *args: P.args, **kwargs: P.kwargs) -> Announcement:
        check = kwargs.get("check")
        if callable(check):
            kwargs["check"] = off_loop(check)

        def make() -> AsyncAnnouncement:
            made = function(registry.inner, *args, **kwargs)
            registry.announcements.add(made)
            return made

        return Announcement(registry, checked(registry, "microreg.sync.announce()").portal.run(make))

    update_wrapper(announce, function)
    return cast("Callable[Concatenate[Registry, P], Announcement]", announce)


announce = _blocking(announce_async)
