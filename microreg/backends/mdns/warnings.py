"""What is worth a warning on a network full of strangers is not worth one for each packet."""

from __future__ import annotations

import asyncio
import logging

from microreg.arguments import shown

__all__ = ["Warnings"]

log = logging.getLogger("microreg.mdns")

_PAUSE = 600.0


class Warnings:
    """Says each kind of thing at most every ten minutes, however often it happens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._said: dict[str, float] = {}

    def say(self, kind: str, message: str, **extra: object) -> None:
        """Log ``message`` as a warning unless this kind, one of a few, was said a short time ago."""
        now = self._loop.time()
        if now - self._said.get(kind, -_PAUSE) >= _PAUSE:
            self._said[kind] = now
            facts = ", ".join(f"{name} {shown(fact)}" for name, fact in extra.items())
            log.warning(f"{message} ({facts})" if facts else message, extra=extra)
