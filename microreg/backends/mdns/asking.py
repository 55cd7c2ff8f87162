"""Asking for single nodes: those that are due together in one packet, and many of one name by one question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from microreg.backends.mdns.lookup import Desk
from microreg.backends.mdns.names import Key, subtype
from microreg.backends.mdns.wire import PTR, SRV, TXT, Question

__all__ = ["Asking"]

_GATHER = 0.005
_AGAIN = 0.03
_BATCH = 20
_AT_ONCE = 1000
_PACKETS = 8


class Asking:
    """Gathers questions for 5 ms, and sends eight packets of them at most every 30 ms.

    ``label`` gives the instance of a node, None where it is of no interest any more.
    """

    def __init__(self, desk: Desk, label: Callable[[Key], bytes | None]) -> None:
        self._desk = desk
        self._label = label
        self._loop = asyncio.get_running_loop()
        self._due: dict[Key, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, key: Key, times: int) -> None:
        """Ask for a node, this often in a row."""
        self._due[key] = max(times, self._due.get(key, 0))
        self._arm(_GATHER)

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay, self._flush)

    def _flush(self) -> None:
        self._timer = None
        due = {key: self._due.pop(key) for key in list(islice(self._due, _AT_ONCE))}
        for number, (keys, questions) in enumerate(self._packets(due)):
            if number < _PACKETS:
                self._desk.ask(questions)
            self._due.update({key: left for key in keys if (left := due[key] - (number < _PACKETS))})
        if self._due:
            self._arm(_AGAIN)

    def _packets(self, due: Iterable[Key]) -> Iterator[tuple[list[Key], list[Question]]]:
        """What to ask for these nodes, packet by packet."""
        names: dict[str, list[tuple[Key, bytes]]] = {}
        for key in due:
            label = self._label(key)
            if label is not None:
                names.setdefault(key[0], []).append((key, label))
        single: list[tuple[Key, bytes]] = []
        for name, nodes in names.items():
            if len(nodes) > _BATCH:
                yield [key for key, _ in nodes], [Question(subtype(name), PTR)]
            else:
                single += nodes
        for start in range(0, len(single), _BATCH):
            batch = single[start : start + _BATCH]
            yield [key for key, _ in batch], [Question(label, kind) for _, label in batch for kind in (SRV, TXT)]
