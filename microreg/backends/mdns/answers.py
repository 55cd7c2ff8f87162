"""Answering for our own nodes. Whatever a question asks for, and how often, each node is looked at once for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence

from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.names import BROWSE, SERVICE_TYPE, Key, is_host
from microreg.backends.mdns.own import Own, Parts, Want, packets
from microreg.backends.mdns.sockets import PORT, Address
from microreg.backends.mdns.table import Table
from microreg.backends.mdns.transport import Transport
from microreg.backends.mdns.wire import ANY, IPV4, IPV6, PTR, SRV, TXT, Message, Question, Record

__all__ = ["Answers"]

_MULTICAST_LIMIT = 1.0
_DELAY = (0.02, 0.12)
_BROWSE_TTL = 4500
_MANY = 32


class Answers:
    """What was asked and is still to be answered, of the nodes in a table."""

    def __init__(self, transport: Transport, table: Table, rng: random.Random) -> None:
        self._transport = transport
        self._table = table
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._owed: dict[Link, dict[Key, Want]] = {}
        self._timers: dict[Link, asyncio.TimerHandle] = {}

    def asked(self, message: Message, link: Link, source: Address) -> None:
        """Answer a question: at once to one who asks from a port of its own (RFC 6762 section 6.7).

        Others get their answer by multicast, so that all who listen have it: after 20 to 120 ms, together with
        other answers, without what they know already, each record at most once a second.
        """
        if not len(self._table):
            return
        questions = tuple(dict.fromkeys(message.questions))
        wanted = self._wanted(questions)
        extra = tuple(self._extra(questions, link))
        if source[1] != PORT:
            if len(wanted) > _MANY and self._transport.owes(link, source):
                return  # who asks again before all has been sent gets no more of the same
            parts = [self._table[key].answer(want, link) for key, want in wanted.items()]
            repeated = questions if len(questions) == 1 else ()
            for packet in packets([*parts, *([(extra, ())] if extra else [])], repeated, message.id):
                self._transport.reply(packet, link, source)
            return
        if not message.empty:
            self._without_known(wanted, message.records)
        if wanted:
            self._owe(link, wanted)
        if extra:
            self._send([(extra, ())], link)

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
                    wanted[own.key] = wanted.get(own.key, Want(0)) | want
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
