"""One open registry: its sockets, and who gets what they receive. Nothing that is received can raise here."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

from microreg.backends.mdns.browser import Browser
from microreg.backends.mdns.defence import Defence
from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.lookup import Desk, Warnings
from microreg.backends.mdns.responder import Responder
from microreg.backends.mdns.transport import PORT, Address, Transport
from microreg.backends.mdns.wire import Malformed, Message, parse

__all__ = ["Station"]

log = logging.getLogger("microreg.mdns")

_Handler = Callable[[Message, Link, Address], None]


class Station:
    """Sockets, responder and browser of one registry in one event loop."""

    def __init__(self, links: Sequence[Link], settle: float) -> None:
        rng = random.Random()
        self._warnings = Warnings(log)
        self.transport = Transport(
            links,
            lambda link, data, source: self._receive(self._group, link, data, source),
            lambda link, data, source: self._receive(self._answer, link, data, source),
        )
        self._desk = Desk(self.transport, rng)
        self.responder = Responder(self.transport, rng)
        self.browser = Browser(self.transport, self._desk, self.responder, settle, rng)
        self.defence = Defence(self.responder, self._desk.ask)

    async def open(self) -> None:
        """Open the sockets. Raises RegistryUnavailable."""
        await self.transport.open()

    async def close(self) -> None:
        """Take back what is registered, then stop everything and close the sockets."""
        try:
            await self.responder.close()
        finally:
            self.browser.close()
            self.defence.close()
            self.transport.close()

    def _receive(self, handle: _Handler, link: Link, data: bytes, source: Address) -> None:
        try:
            handle(parse(data), link, source)
        except Malformed as error:
            self._warnings.say("malformed", "ignored a malformed packet", source=source[0], error=str(error))
        except Exception as error:
            self._warnings.say("failed", "a packet could not be handled", source=source[0], error=repr(error))
            log.debug("a packet could not be handled", exc_info=True)

    def _group(self, message: Message, link: Link, source: Address) -> None:
        if message.response:
            if source[1] == PORT:
                self.defence.heard(message)
                self.browser.heard(message)
        elif not self.transport.is_own(source):
            self.responder.asked(message, link, source)
            if source[1] == PORT:
                self.browser.overheard(message)

    def _answer(self, message: Message, link: Link, source: Address) -> None:
        if message.response and self._desk.expects(message.id, source):
            self.defence.heard(message, answer=True)
            self.browser.heard(message, answer=True)
