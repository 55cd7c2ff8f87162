"""Goodbyes that were heard: packets of before them may still be on their way, and must not bring a node back."""

from __future__ import annotations

import asyncio

from microreg.backends.mdns.records import Text, seal

__all__ = ["Graves"]

_LIFE = 10.0
_MAX = 4096


class Graves:
    """The goodbyes of the last ten seconds, 4,096 at most."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._goodbyes: dict[tuple[str, str], tuple[Text, float]] = {}

    def add(self, goodbye: Text) -> None:
        """Remember it for ten seconds."""
        now, goodbyes = self._loop.time(), self._goodbyes
        while goodbyes and (len(goodbyes) >= _MAX or next(iter(goodbyes.values()))[1] < now):
            del goodbyes[next(iter(goodbyes))]
        key = goodbye.name, goodbye.id
        goodbyes.pop(key, None)
        goodbyes[key] = goodbye, now + _LIFE

    def holds(self, text: Text) -> bool:
        """Whether this is of the generation that said goodbye."""
        goodbye, until = self._goodbyes.get((text.name, text.id), (None, 0.0))
        if goodbye is None or self._loop.time() >= until:
            return False
        return text.revision <= goodbye.revision and text.seal == seal(goodbye.secret)
