"""Telling: our own nodes are announced, answered for and taken back. Only ``register`` renews them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from microreg.backends.mdns.interfaces import Link, best
from microreg.backends.mdns.names import SERVICE_TYPE
from microreg.backends.mdns.nodes import Key
from microreg.backends.mdns.own import Own, Parts, Want, extras, packets
from microreg.backends.mdns.records import too_far
from microreg.backends.mdns.transport import PORT, Address, Transport
from microreg.backends.mdns.wire import ANY, PTR, SRV, TXT, Message, Question, Record
from microreg.events import Reason
from microreg.model import Service
from microreg.toolkit import Deadlines

__all__ = ["Responder"]

log = logging.getLogger("microreg.mdns")

_ANNOUNCE = (0.0, 0.25, 1.0, 2.0, 4.0)
_REPEAT = (0.25, 0.35)
_REPEAT_AT_CLOSE = 0.05
_GATHER = 0.01
_MULTICAST_LIMIT = 1.0
_DELAY = (0.02, 0.12)
_LATE = 0.2


def _unheard(*_: object) -> None:
    """Nobody listens yet."""


class Responder:
    """The store of our own nodes: it lives here, and it answers for them while they are renewed.

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
        self._table: dict[Key, Own] = {}
        self._labels: dict[bytes, Own] = {}
        self._identities: dict[bytes, Own] = {}
        self._subtypes: dict[bytes, dict[Key, Own]] = {}
        self._revision = 0
        self._expiry: Deadlines[Key] = Deadlines(self._lapse)
        self._series: Deadlines[Key] = Deadlines(self._again)
        self._hellos: dict[Key, None] = {}
        self._byes: dict[Key, Parts] = {}
        self._repeats: dict[Key, tuple[int, Parts]] = {}
        self._owed: dict[Link, dict[Key, Want]] = {}
        self._handles: dict[str, asyncio.Handle] = {}

    # -- the store -------------------------------------------------------------------------------

    def put(self, record: Service, ttl: float) -> Own:
        """Tell of a node for ``ttl`` seconds from now. What is told already costs no packet.

        Raises RecordTooLarge, before anything has changed.
        """
        key = record.name, record.nodes[0].id
        seconds = -int(-ttl // 1)
        own = self._table.get(key)
        if own is None:
            own = Own(record, seconds, self.revision(), self._chosen)
            self._table[key] = self._labels[own.label] = self._identities[own.identity] = own
            self._subtypes.setdefault(own.subtype, {})[key] = own
            self._repeats.pop(key, None)
            self.announce(own)
        elif own.record != record or too_far(own.revision, self._clock(), received=True):
            own.update(record, seconds, self.revision(own.rival))
            own.yielded = False
            self.announce(own)
        elif own.ttl != seconds:
            own.update(record, seconds, own.revision)
            self.announce(own)
        own.expires, own.spared = self._loop.time() + ttl, False
        self._expiry.set(key, own.expires)
        return own

    def _lapse(self, key: Key) -> None:
        """Not renewed in time; unless this loop stood still, and so did who would have renewed."""
        own = self._table[key]
        now = self._loop.time()
        if now > own.expires + _LATE and not own.spared:
            own.spared = True
            self._expiry.set(key, now + _LATE)
        else:
            self.leave(key, Reason.EXPIRED)

    def leave(self, key: Key, reason: Reason) -> None:
        """Take a node back; nothing happens where it is not ours."""
        own = self._table.pop(key, None)
        if own is None:
            return
        del self._labels[own.label], self._identities[own.identity]
        del self._subtypes[own.subtype][key]
        if not self._subtypes[own.subtype]:
            del self._subtypes[own.subtype]
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
        for own in self._table.values():
            if not own.yielded:
                self.put_again(own)

    def records(self, name: str | None = None) -> Iterator[Service]:
        """The records of our nodes, of one name or of all."""
        for own in self._table.values():
            if not own.yielded and name in (None, own.key[0]):
                yield self._here(own)

    def get(self, key: Key) -> Own | None:
        """Our node of this name and id."""
        return self._table.get(key)

    def by_identity(self, identity: bytes) -> Own | None:
        """Our node whose TXT record begins like this."""
        return self._identities.get(identity)

    def by_label(self, label: bytes) -> Own | None:
        """Our node of this instance."""
        return self._labels.get(label)

    def owns(self, key: Key) -> bool:
        """Whether this registry speaks for the node."""
        own = self._table.get(key)
        return own is not None and not own.yielded

    def revision(self, above: int = 0) -> int:
        """A revision that is higher than all before: milliseconds, so that a restarted process is ahead too."""
        now = self._clock()
        last = max(self._revision, above)
        if too_far(last, now, received=True):  # the clock was wrong, and is right now
            last = 0
        self._revision = max(int(now * 1000), last + 1)
        return self._revision

    async def close(self) -> None:
        """Take everything back, three times, and stop."""
        try:
            for key in tuple(self._table):
                self.leave(key, Reason.DEREGISTERED)
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
        own = self._table[key]
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
        told = [own for key in hellos if not (own := self._table[key]).yielded]
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

    # -- answering -------------------------------------------------------------------------------

    def asked(self, message: Message, link: Link, source: Address) -> None:
        """Answer a question: at once to one who asks from a port of its own (RFC 6762 section 6.7).

        Others get their answer by multicast, so that all who listen have it: after 20 to 120 ms, together with
        other answers, without what they know already, each record at most once a second.
        """
        if not self._table:
            return
        wanted = self._wanted(message.questions)
        extra = tuple(extras(self._table.values(), message.questions, link))
        if source[1] != PORT:
            parts = [self._table[key].answer(want, link) for key, want in wanted.items()]
            questions = message.questions if len(message.questions) == 1 else ()
            for packet in packets([*parts, *([(extra, ())] if extra else [])], questions, message.id):
                self._transport.reply(packet, link, source)
            return
        if not message.empty:
            self._without_known(wanted, message.records)
        owed = self._owed.setdefault(link, {})
        for key, want in wanted.items():
            owed[key] = owed.get(key, Want(0)) | want
        if owed:
            self._once(f"answer {link}", self._rng.uniform(*_DELAY), lambda: self._pay(link))
        if extra:
            self._send([(extra, ())], link)

    def _wanted(self, questions: Sequence[Question]) -> dict[Key, Want]:
        wanted: dict[Key, Want] = {}
        for question in questions:
            if question.kind in (PTR, ANY):
                if question.name == SERVICE_TYPE:
                    self._want(wanted, self._table.values(), Want.BASE)
                elif question.name in self._subtypes:
                    self._want(wanted, self._subtypes[question.name].values(), Want.SUBTYPE)
            if question.kind in (SRV, TXT, ANY) and question.name in self._labels:
                self._want(wanted, (self._labels[question.name],), Want.NODE)
        return wanted

    def _want(self, wanted: dict[Key, Want], owns: Iterable[Own], want: Want) -> None:
        for own in owns:
            if not own.yielded:
                wanted[own.key] = wanted.get(own.key, Want(0)) | want

    def _without_known(self, wanted: dict[Key, Want], known: Sequence[Record]) -> None:
        """Leave out the nodes that the asker lists as known for another half of their ttl (RFC 6762 section 7.1)."""
        for record in known:
            own = self._labels.get(record.target) if record.kind == PTR else None
            if own is not None and own.key in wanted and record.ttl * 2 >= own.ttl:
                del wanted[own.key]

    def _pay(self, link: Link) -> None:
        self._stop(f"answer {link}")
        now = self._loop.time()
        parts: list[Parts] = []
        for key, want in self._owed.pop(link, {}).items():
            own = self._table.get(key)
            if own is not None and not own.yielded and now - own.sent.get(link, -1.0) >= _MULTICAST_LIMIT:
                own.sent[link] = now
                parts.append(own.answer(want, link))
        self._send(parts, link)
