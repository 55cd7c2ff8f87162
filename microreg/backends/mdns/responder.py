"""Telling: our own nodes are announced and taken back. Only ``register`` renews them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator

from microreg.backends.mdns.interfaces import Link, best
from microreg.backends.mdns.names import Key, key_of
from microreg.backends.mdns.own import Own, Parts, Want, packets
from microreg.backends.mdns.records import too_far
from microreg.backends.mdns.table import Table
from microreg.backends.mdns.transport import Transport
from microreg.events import Reason
from microreg.model import Service
from microreg.toolkit import Deadlines

__all__ = ["Responder"]

_ANNOUNCE = (0.0, 0.25, 1.0, 2.0, 4.0)
_REPEAT = (0.25, 0.35)
_REPEAT_AT_CLOSE = 0.05
_GATHER = 0.01
_LATE = 0.2


def _unheard(*_: object) -> None:
    """Nobody listens yet."""


class Responder:
    """The store of our own nodes: their ``table`` lives here, and they are told of while they are renewed.

    ``told`` is called with each record that is put, ``gone`` with each node that leaves. Nodes that come with the
    ``chosen`` host are told on every link with the address that this machine has there.
    """

    def __init__(
        self,
        transport: Transport,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
        *,
        chosen: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._chosen = chosen
        self._transport = transport
        self._rng = rng
        self.told: Callable[[Service], None] = _unheard
        self.gone: Callable[[Key, Reason], None] = _unheard
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.table = Table()
        self._revision = 0
        self._expiry: Deadlines[Key] = Deadlines(self._lapse)
        self._series: Deadlines[Key] = Deadlines(self._again)
        self._hellos: dict[Key, None] = {}
        self._byes: dict[Key, Parts] = {}
        self._repeats: dict[Key, tuple[int, Parts]] = {}
        self._handles: dict[str, asyncio.Handle] = {}

    # -- the store -------------------------------------------------------------------------------

    def put(self, record: Service, ttl: float) -> Own:
        """Tell of a node for ``ttl`` seconds from now. What is told already costs no packet.

        Raises RecordTooLarge, before anything has changed.
        """
        key = key_of(record)
        seconds = -int(-ttl // 1)
        own = self.table.get(key)
        if own is None:
            own = Own(record, seconds, self.revision(), self._chosen)
            self.table.add(own)
            self._repeats.pop(key, None)
            self.announce(own)
        elif own.record != record or own.ttl != seconds or too_far(own.revision, self._clock()):
            own.update(record, seconds, self.revision(own.rival))
            own.yielded = False
            self.announce(own)
        own.expires, own.spared = self._loop.time() + ttl, False
        self._expiry.set(key, own.expires)
        return own

    def _lapse(self, key: Key) -> None:
        """Not renewed in time; unless this loop stood still, and so did who would have renewed."""
        own = self.table[key]
        now = self._loop.time()
        if now > own.expires + _LATE and not own.spared:
            own.spared = True
            self._expiry.set(key, now + _LATE)
        else:
            self.leave(key, Reason.EXPIRED)

    def leave(self, key: Key, reason: Reason) -> None:
        """Take a node back; nothing happens where it is not ours."""
        own = self.table.pop(key)
        if own is None:
            return
        self._expiry.drop(key)
        self._series.drop(key)
        self._hellos.pop(key, None)
        if not own.yielded:
            self._byes[key] = own.goodbye(self.revision(), expired=reason is Reason.EXPIRED)
            self._soon()
            self.gone(key, reason)

    def put_again(self, own: Own) -> None:
        """Tell of a node under a new revision, because somebody else told something different."""
        own.update(own.record, own.ttl, self.revision(own.rival))
        own.yielded = False
        self.announce(own)

    def tell_all(self) -> None:
        """The network has changed: every node is told again, as what is new."""
        for own in self.table:
            if not own.yielded:
                self.put_again(own)

    def records(self, name: str | None = None) -> Iterator[Service]:
        """The records of our nodes, of one name or of all."""
        for own in self.table.named(name):
            if not own.yielded:
                yield self._here(own)

    def owns(self, key: Key) -> bool:
        """Whether this registry speaks for the node."""
        own = self.table.get(key)
        return own is not None and not own.yielded

    def revision(self, above: int = 0) -> int:
        """A revision that is higher than all before: milliseconds, so that a restarted process is ahead too."""
        now = self._clock()
        last = max(self._revision, above)
        if too_far(last, now):  # the clock was wrong, and is right now
            last = 0
        self._revision = max(int(now * 1000), last + 1)
        return self._revision

    async def close(self) -> None:
        """Take everything back, three times, and stop."""
        try:
            for own in tuple(self.table):
                self.leave(own.key, Reason.DEREGISTERED)
            self._flush()
            while self._repeats:
                await asyncio.sleep(_REPEAT_AT_CLOSE)
                self._repeat()
            await self._transport.drained()
        finally:
            self._expiry.close()
            self._series.close()
            for handle in self._handles.values():
                handle.cancel()

    # -- announcing ------------------------------------------------------------------------------

    def announce(self, own: Own) -> None:
        """Tell of a node now and, because packets get lost, again four times in the next seconds."""
        if own.yielded:
            return
        own.step = 0
        own.announced = self._loop.time()
        self._hellos[own.key] = None
        self._soon()
        self._series.set(own.key, own.announced + _ANNOUNCE[1])
        self.told(self._here(own))

    def _here(self, own: Own) -> Service:
        """The record as this program sees it itself."""
        return own.on(best(self._transport.links)).record

    def _again(self, key: Key) -> None:
        own = self.table[key]
        own.step += 1
        self._hellos[key] = None
        self._once("gather", _GATHER, self._flush)
        if own.step + 1 < len(_ANNOUNCE):
            self._series.set(key, own.announced + _ANNOUNCE[own.step + 1])

    def _soon(self) -> None:
        """Send at the end of this turn of the loop, all that came up in it packed together."""
        if "soon" not in self._handles:
            self._handles["soon"] = self._loop.call_soon(self._flush)

    def _once(self, name: str, delay: float, action: Callable[[], None]) -> None:
        if name not in self._handles:
            self._handles[name] = self._loop.call_later(delay, action)

    def _stop(self, *names: str) -> None:
        for name in names:
            handle = self._handles.pop(name, None)
            if handle is not None:
                handle.cancel()

    def _flush(self) -> None:
        self._stop("soon", "gather")
        byes, self._byes = self._byes, {}
        if byes:
            self._send(byes.values())
            self._repeats.update({key: (0, parts) for key, parts in byes.items()})
            self._once("repeat", _REPEAT[0], self._repeat)
        hellos, self._hellos = self._hellos, {}
        told = [own for key in hellos if not (own := self.table[key]).yielded]
        for link in self._transport.links:
            self._send((own.answer(Want.ALL, link) for own in told), link)
        now = self._loop.time()
        for own in told:
            own.sent = dict.fromkeys(self._transport.links, now)

    def _repeat(self) -> None:
        self._stop("repeat")
        repeats, self._repeats = self._repeats, {}
        self._send(parts for _, parts in repeats.values())
        self._repeats = {key: (1, parts) for key, (count, parts) in repeats.items() if not count}
        if self._repeats:
            self._once("repeat", _REPEAT[1], self._repeat)

    def _send(self, parts: Iterable[Parts], link: Link | None = None) -> None:
        for packet in packets(parts):
            self._transport.send(packet, link)
