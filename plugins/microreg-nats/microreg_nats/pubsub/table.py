"""What was heard of nodes: each is known until it is due, and given up when nothing more was heard of it by then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from microreg.arguments import shown
from microreg.catalog import Catalog
from microreg.errors import InvalidService
from microreg.events import Reason
from microreg.toolkit import Deadlines
from microreg_nats.pubsub import messages
from microreg_nats.pubsub.subjects import REGISTER, UNREGISTER, Subjects

__all__ = ["MAX_NODES", "Table"]

log = logging.getLogger("microreg.nats")

MAX_NODES = 65_536
"""Nodes that are remembered for one name, or for all: a bound for memory, far above any real service."""
_WARNED = 1000

Key = tuple[str, str]


class Table:
    """The nodes that one subscription tells of, as a Catalog.

    ``news`` is called when a node is new or changed, ``doubt`` when one is ``overdue``: call :meth:`bury` or
    :meth:`spare` once it is sure whether it is gone. Malformed messages change nothing, and cost one warning
    for each subject.
    """

    def __init__(self, subjects: Subjects, *, news: Callable[[], None], doubt: Callable[[], None]) -> None:
        self.catalog = Catalog()
        self.overdue: dict[Key, None] = {}
        self._subjects = subjects
        self._news, self._doubt = news, doubt
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Key] = Deadlines(self._due)
        self._count = 0
        self._patient = 0.0
        self._warned: set[int] = set()

    def close(self) -> None:
        """Stop all timers."""
        self._deadlines.close()

    def heard(self, subject: str, data: bytes) -> None:
        """A message on a subject of ours, from whomever."""
        try:
            verb = self._subjects.verb(subject)
            if verb == REGISTER:
                self._register(subject, messages.told(data))
            elif verb == UNREGISTER:
                self._unregister(subject, messages.withdrawn(data))
        except InvalidService as error:
            self._warn(subject, error)

    def bury(self, keys: Iterable[Key]) -> None:
        """What of these is overdue still is gone."""
        for key in keys:
            if key in self.overdue:
                self._drop(key, Reason.EXPIRED)

    def spare(self, least: float, most: float) -> None:
        """Nobody could be heard for a while: all have ``least`` seconds from now to speak again, and at most ``most``.

        Who could not renew meanwhile needs a moment, whatever it says is left; who was unregistered does not speak.
        """
        now = self._loop.time()
        self._patient = now + least if len(self.catalog) else now
        self.overdue.clear()
        for record in self.catalog.records():
            key = record.name, record.nodes[0].id
            due = self._deadlines.get(key) or now
            self._deadlines.set(key, min(max(due, now + least), now + most))

    def _register(self, subject: str, told: messages.Told) -> None:
        record = told.record
        self._check(subject, record.name)
        key = record.name, record.nodes[0].id
        if self._count >= MAX_NODES and self.catalog.get(*key) is None:
            raise InvalidService(f"more than {MAX_NODES} nodes are told of: further ones are ignored")
        self.overdue.pop(key, None)
        self._deadlines.set(key, max(self._loop.time() + told.seconds, self._patient))
        change = self.catalog.put(record)
        if change is not None:
            self._count += change.previous is None
            self._news()

    def _unregister(self, subject: str, key: Key) -> None:
        self._check(subject, key[0])
        self._drop(key, Reason.DEREGISTERED)

    def _check(self, subject: str, name: str) -> None:
        if not self._subjects.fits(subject, name):
            raise InvalidService(f"it is about service {shown(name)}, and belongs elsewhere")

    def _drop(self, key: Key, reason: Reason) -> None:
        self.overdue.pop(key, None)
        self._deadlines.drop(key)
        if self.catalog.remove(*key, reason) is not None:
            self._count -= 1

    def _due(self, key: Key) -> None:
        self.overdue[key] = None
        self._doubt()

    def _warn(self, subject: str, error: InvalidService) -> None:
        if hash(subject) not in self._warned and len(self._warned) < _WARNED:
            self._warned.add(hash(subject))
            text = shown(subject)
            log.warning("skipped a message at %s: %s", text, error, extra={"subject": text, "error": str(error)})
