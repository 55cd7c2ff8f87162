"""Reading what others announce, at a cost that has a bound for every packet, whoever made it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from microreg.backends.mdns.hosts import Hosts
from microreg.backends.mdns.names import is_link_local
from microreg.backends.mdns.recent import Recent
from microreg.backends.mdns.records import Budget, Text, decode, too_far
from microreg.backends.mdns.warnings import Warnings
from microreg.backends.mdns.wire import TXT, Message, Question, Record, dotted
from microreg.errors import InvalidService
from microreg.net import join_address

__all__ = ["MAX_INFLATED", "MAX_TEXTS", "Reader"]

MAX_TEXTS = 64
"""TXT records that are read in one packet; one of ours, of 1,400 bytes, holds about a dozen."""
MAX_INFLATED = 256 * 1024
"""Bytes that the compressed records of one packet may have together; one of ours has at most 64 KiB."""

_MAX_REJECTED = 1024


class Reader:
    """Decodes TXT records, each once per packet, and remembers which ones were none of ours.

    ``ask`` is called for what came without its address.
    """

    def __init__(self, ask: Callable[[Sequence[Question]], None], clock: Callable[[], float] = time.time) -> None:
        self._hosts = Hosts(ask)
        self._clock = clock
        self._warnings = Warnings()
        self._rejected: Recent[bytes, bool] = Recent(_MAX_REJECTED)

    def read(self, message: Message, wanted: Collection[bytes]) -> Iterator[tuple[Text, Record]]:
        """The TXT records of a message whose data are ``wanted``, as far as they can be read."""
        unique = {(each.name, each.data): each for each in message.records if each.kind == TXT and each.data in wanted}
        servers = self._hosts.hear(message)
        budget = Budget(MAX_INFLATED)
        count = 0
        for record in unique.values():
            address = self._hosts.address(servers.get(record.name))
            digest = sha256(address.encode() + b"\0" + record.data).digest()
            if digest in self._rejected:
                continue
            count += 1
            if count > MAX_TEXTS or budget.left <= 0:
                self._warnings.say("crowded", "ignored the rest of a packet with too many or too large records")
                return
            try:
                text = decode(record.data, address, budget)
            except InvalidService as error:
                if not address and record.name in servers:
                    self._hosts.want(record.name)
                else:
                    self._reject(record, digest, error)
                continue
            yield _in_zone(text, message.zone), record

    def is_ahead(self, text: Text) -> bool:
        """Whether a clock is wrong by days, here or there, or this was forged; said once."""
        ahead = too_far(text.revision, self._clock())
        if ahead:
            self._warnings.say(
                "ahead",
                "a record is days ahead of this clock, believed if nobody says otherwise: is the clock right?",
                service=text.name,
                node=text.id,
            )
        return ahead

    def _reject(self, record: Record, digest: bytes, error: InvalidService) -> None:
        self._rejected.put(digest, True)
        instance = dotted(record.name)
        self._warnings.say("malformed", "ignored a malformed record", instance=instance, error=str(error))


def _in_zone(text: Text, zone: str) -> Text:
    """A link-local address is valid where it was heard, whatever that interface is called there (RFC 4007)."""
    if text.record is None or not zone:
        return text
    node = text.record.nodes[0]
    if not is_link_local(node.host) or "%" in node.host:
        return text
    address = join_address(f"{node.host}%{zone}", node.port)
    return replace(text, record=text.record.with_nodes(node.replace(address=address)))
