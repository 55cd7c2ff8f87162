"""Answering for our own nodes. Whatever a question asks for, and how often, each node is looked at once for it.

What many nodes answer is packed once, and sent to all who ask the same until one of the nodes changes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence

from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.names import BROWSE, SERVICE_TYPE, Key, is_host
from microreg.backends.mdns.own import Own, Parts, Want, packets, with_id
from microreg.backends.mdns.sockets import PORT, Address
from microreg.backends.mdns.table import Table
from microreg.backends.mdns.transport import Transport
from microreg.backends.mdns.wire import ANY, IPV4, IPV6, PTR, SRV, TXT, Message, Question, Record

__all__ = ["Answers"]

_MULTICAST_LIMIT = 1.0
_DELAY = (0.02, 0.12)
_BROWSE_TTL = 4500
_MANY = 32
_KEPT = 16


class Answers:
    """What was asked and is still to be answered, of the nodes in a table."""

    def __init__(self, transport: Transport, table: Table, rng: random.Random) -> None:
        self._transport = transport
        self._table = table
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._owed: dict[Link, dict[Key, Want]] = {}
        self._timers: dict[Link, asyncio.TimerHandle] = {}
        self._packed: dict[tuple[Link, tuple[Question, ...]], tuple[list[Parts], tuple[bytes, ...]]] = {}

    def asked(self, message: Message, link: Link, source: Address) -> None:
        """Answer a question: at once to one who asks from a port of its own (RFC 6762 section 6.7).

        Others get their answer by multicast, so that all who listen have it: after 20 to 120 ms, together with
        other answers, each record at most once a second. Nobody is told what the question lists as known.
        """
        if not len(self._table):
            return
        questions = tuple(dict.fromkeys(message.questions))
        wanted = self._wanted(questions)
        extra = tuple(self._extra(questions, link))
        if not message.empty:
            self._without_known(wanted, message.records)
        if source[1] == PORT:
            if wanted:
                self._owe(link, wanted)
            if extra:
                self._send([(extra, ())], link)
        else:
            self._reply(wanted, extra, questions, message.id, link, source)

    def close(self) -> None:
        """Answer no more."""
        for timer in self._timers.values():
            timer.cancel()

    # -- what is asked for -----------------------------------------------------------------------

    def _wanted(self, questions: Sequence[Question]) -> dict[Key, Want]:
        wanted: dict[Key, Want] = {}
        for question in questions:
            for own, want in self._meant(question):
                if not own.yielded:
                    before = wanted.get(own.key)
                    wanted[own.key] = want if before is None else before | want
        return wanted

    def _meant(self, question: Question) -> Iterator[tuple[Own, Want]]:
        if question.kind in (PTR, ANY):
            if question.name == SERVICE_TYPE:
                yield from ((own, Want.BASE) for own in self._table)
            yield from ((own, Want.SUBTYPE) for own in self._table.by_subtype(question.name))
        if question.kind in (SRV, TXT, ANY) and (own := self._table.by_label(question.name)):
            yield own, Want.NODE

    def _extra(self, questions: Sequence[Question], link: Link) -> Iterator[Record]:
        """What is asked beside nodes: the addresses of their hosts, and the types there are."""
        asked = {question for question in questions if question.kind in (IPV4, IPV6, ANY) and is_host(question.name)}
        forms = (own.on(link) for own in self._table) if asked else ()
        for record in dict.fromkeys(record for form in forms for record in form.hosts):
            if not asked.isdisjoint((Question(record.name, record.kind), Question(record.name, ANY))):
                yield record
        if any(question.kind in (PTR, ANY) and question.name == BROWSE for question in questions):
            yield Record(BROWSE, PTR, _BROWSE_TTL, b"", SERVICE_TYPE)

    def _without_known(self, wanted: dict[Key, Want], known: Sequence[Record]) -> None:
        """Leave out the nodes that the asker lists as known for another half of their ttl (RFC 6762 section 7.1)."""
        for record in known:
            own = self._table.by_label(record.target) if record.kind == PTR else None
            if own is not None and own.key in wanted and record.ttl * 2 >= own.ttl:
                del wanted[own.key]

    # -- to one who asks -------------------------------------------------------------------------

    def _reply(
        self,
        wanted: dict[Key, Want],
        extra: tuple[Record, ...],
        questions: tuple[Question, ...],
        id: int,
        link: Link,
        asker: Address,
    ) -> None:
        parts = [self._table[key].answer(want, link) for key, want in wanted.items()]
        if extra:
            parts.append((extra, ()))
        repeated = questions if len(questions) == 1 else ()
        if len(parts) <= _MANY:
            for packet in packets(parts, repeated, unicast=True):
                self._transport.reply(with_id(packet, id), link, asker)
        else:
            packed = self._pack(parts, repeated, link)
            self._transport.reply_instead([with_id(packet, id) for packet in packed], link, asker)

    def _pack(self, parts: list[Parts], questions: tuple[Question, ...], link: Link) -> Sequence[bytes]:
        """The answer of many nodes; to one question it is kept for the next who asks it."""
        key = link, questions
        known = self._packed.pop(key, None)
        if known is None or known[0] != parts:  # the same objects are equal without another look
            known = parts, tuple(packets(parts, questions, unicast=True))
        while len(self._packed) >= _KEPT:
            del self._packed[next(iter(self._packed))]
        self._packed[key] = known
        return known[1]

    # -- by multicast ----------------------------------------------------------------------------

    def _owe(self, link: Link, wanted: dict[Key, Want]) -> None:
        owed = self._owed.setdefault(link, {})
        for key, want in wanted.items():
            owed[key] = owed.get(key, Want(0)) | want
        if link not in self._timers:
            self._timers[link] = self._loop.call_later(self._rng.uniform(*_DELAY), self._pay, link)

    def _pay(self, link: Link) -> None:
        del self._timers[link]
        now = self._loop.time()
        parts: list[Parts] = []
        for key, want in self._owed.pop(link).items():
            own = self._table.get(key)
            if own is not None and not own.yielded and now - own.sent.get(link, -1.0) >= _MULTICAST_LIMIT:
                own.sent[link] = now
                parts.append(own.answer(want, link))
        self._send(parts, link)

    def _send(self, parts: Iterable[Parts], link: Link) -> None:
        for packet in packets(parts):
            self._transport.send(packet, link)
