"""One open registry: its sockets, and who gets what they receive. Nothing that is received can raise here.

Interfaces come and go, and so do their addresses and cables: it looks every second. Where something came up or
changed, all nodes are told and asked for again (RFC 6762 section 8).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from microreg.backends.mdns.answers import Answers
from microreg.backends.mdns.browser import Browser
from microreg.backends.mdns.defence import Defence
from microreg.backends.mdns.interfaces import Choice, Link
from microreg.backends.mdns.lookup import Desk
from microreg.backends.mdns.responder import Responder
from microreg.backends.mdns.sockets import PORT, Address
from microreg.backends.mdns.transport import Transport
from microreg.backends.mdns.warnings import Warnings
from microreg.backends.mdns.wire import Malformed, Message, parse

__all__ = ["Station"]

log = logging.getLogger("microreg.mdns")

_LOOK_EVERY = 1.0

_Handler = Callable[[Message, Link, Address], None]


class Station:
    """All parts of one registry in one event loop."""

    def __init__(
        self,
        choice: Choice,
        settle: float,
        *,
        chosen: Callable[[], str | None] = lambda: None,
        look: Callable[[], Choice] | None = None,
    ) -> None:
        rng = random.Random()
        self._warnings = Warnings()
        self.transport = Transport(
            choice.links,
            lambda link, data, source: self._receive(self._group, link, data, source),
            lambda link, data, source: self._receive(self._answer, link, data, source),
        )
        self._desk = Desk(self.transport, rng)
        self.responder = Responder(self.transport, rng, chosen=chosen)
        self.answers = Answers(self.transport, self.responder.table, rng)
        self.browser = Browser(self.transport, self._desk, self.responder, settle, rng)
        self.defence = Defence(self.responder, self._desk)

        self._look = look
        self._choice = choice
        self._follower: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the sockets, and follow the interfaces. Raises RegistryUnavailable."""
        await self.transport.open()
        _report(self._choice)
        if self._look is not None:
            self._follower = asyncio.create_task(self._follow(self._look), name="microreg mdns interfaces")

    async def close(self) -> None:
        """Take back what is registered, then stop everything and close the sockets."""
        follower, self._follower = self._follower, None
        try:
            if follower is not None:
                follower.cancel()
                await asyncio.wait([follower])
            await self.responder.close()
        finally:
            self.answers.close()
            self.browser.close()
            self.defence.close()
            self._desk.hearing.close()
            self.transport.close()

    async def _follow(self, look: Callable[[], Choice]) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await self._compare(look())
            except Exception as error:
                self._warnings.say("interfaces", "could not look at the interfaces", error=repr(error))

    async def _compare(self, now: Choice) -> None:
        """Go where the interfaces went; all is told again when a link is another, or has its carrier back."""
        before = self.transport.links
        await self.transport.change(now.links)
        links = self.transport.links
        back = now.running - self._choice.running
        self._choice = now
        if links != before:
            _report(now)
        if links != before or back.intersection(links):
            self.responder.tell_all()
            self.browser.ask_all()

    def _receive(self, handle: _Handler, link: Link, data: bytes, source: Address) -> None:
        try:
            message = parse(data)
            message.zone = link.zone
            handle(message, link, source)
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
            self.answers.asked(message, link, source)
            if source[1] == PORT:
                self.browser.overheard(message)
        else:
            self._desk.hearing.heard(message.id)

    def _answer(self, message: Message, link: Link, source: Address) -> None:
        if message.response and self._desk.takes(message.id, source):
            self.defence.heard(message, answer=True)
            self.browser.heard(message, answer=True)


def _report(choice: Choice) -> None:
    """Say which interfaces are used, and which are not and why."""
    used = ", ".join(f"{link.name} ({link.address})" for link in choice.links) or "no interface"
    unused = "; ".join(f"{name}: {why}" for name, why in choice.left_out.items())
    log.info("mDNS on %s%s", used, f"; left out are {unused}" if unused else "")
