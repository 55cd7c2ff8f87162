"""Nodes whose revision is days ahead of this machine's clock: a clock is wrong, here or there, or they are forged.

A machine without a battery for its clock starts days behind, and must find others all the same. So such a node
is believed when nobody whose clock agrees with ours speaks for it within a moment; whoever does counts more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from microreg.backends.mdns.names import Key
from microreg.backends.mdns.records import Text
from microreg.backends.mdns.wire import Record

__all__ = ["Hearsay"]

_MOMENT = 0.02
_MAX = 256


class Hearsay:
    """What waits for 20 ms before ``believe`` is called with it, 256 nodes at most."""

    def __init__(self, believe: Callable[[Text, Record], None]) -> None:
        self._believe = believe
        self._loop = asyncio.get_running_loop()
        self._heard: dict[Key, tuple[Text, Record, asyncio.TimerHandle]] = {}

    def add(self, text: Text, record: Record) -> bool:
        """Whether this is new and is to be asked for."""
        if text.key in self._heard or len(self._heard) >= _MAX:
            return False
        self._heard[text.key] = text, record, self._loop.call_later(_MOMENT, self._over, text.key)
        return True

    def label(self, key: Key) -> bytes | None:
        """The instance of a node that waits."""
        heard = self._heard.get(key)
        return None if heard is None else heard[1].name

    def close(self) -> None:
        """Believe none of it."""
        for _, _, timer in self._heard.values():
            timer.cancel()

    def _over(self, key: Key) -> None:
        text, record, _ = self._heard.pop(key)
        self._believe(text, record)
