"""Goodbyes that were heard: packets of before them may still be on their way, and must not bring a node back."""

from __future__ import annotations

from microreg.backends.mdns.names import Key
from microreg.backends.mdns.recent import Recent
from microreg.backends.mdns.records import Text, seal

__all__ = ["Graves"]

_LIFE = 10.0
_MAX = 4096


class Graves:
    """The goodbyes of the last ten seconds, 4,096 at most."""

    def __init__(self) -> None:
        self._goodbyes: Recent[Key, Text] = Recent(_MAX, _LIFE)

    def add(self, goodbye: Text) -> None:
        """Remember it for ten seconds."""
        self._goodbyes.put(goodbye.key, goodbye)

    def holds(self, text: Text) -> bool:
        """Whether this is of the generation that said goodbye."""
        goodbye = self._goodbyes.get(text.key)
        return goodbye is not None and text.revision <= goodbye.revision and text.seal == seal(goodbye.secret)
