"""Reading what others announce, at a cost that has a bound for every packet, whoever made it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256

from microreg.backends.mdns.lookup import Warnings
from microreg.backends.mdns.records import Budget, Text, decode, too_far
from microreg.backends.mdns.wire import IPV4, SRV, TXT, Message, Record, dotted
from microreg.errors import InvalidService
from microreg.net import join_address

__all__ = ["MAX_INFLATED", "MAX_TEXTS", "Reader"]

log = logging.getLogger("microreg.mdns")

MAX_TEXTS = 64
"""TXT records that are read in one packet; one of ours, of 1,400 bytes, holds about a dozen."""
MAX_INFLATED = 256 * 1024
"""Bytes that the compressed records of one packet may have together; one of ours has at most 64 KiB."""

_MAX_REJECTED = 1024


class Reader:
    """Decodes TXT records, each once per packet, and remembers which ones were none of ours."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._warnings = Warnings(log)
        self._rejected: dict[bytes, None] = {}

    def read(self, message: Message, wanted: Collection[bytes]) -> Iterator[tuple[Text, Record]]:
        """The TXT records of a message whose data are ``wanted``, as far as they can be read."""
        unique = {(each.name, each.data): each for each in message.records if each.kind == TXT and each.data in wanted}
        addresses = _Addresses(message)
        budget = Budget(MAX_INFLATED)
        count = 0
        for record in unique.values():
            address = addresses.of(record.name)
            digest = sha256(address.encode() + b"\0" + record.data).digest()
            if digest in self._rejected:
                continue
            count += 1
            if count > MAX_TEXTS or budget.left <= 0:
                self._warnings.say("crowded", "ignored the rest of a packet with too many or too large records")
                return
            text = self._decode(record, address, digest, budget)
            if text is not None:
                yield text, record

    def _decode(self, record: Record, address: str, digest: bytes, budget: Budget) -> Text | None:
        try:
            text = decode(record.data, address, budget)
        except InvalidService as error:
            if len(self._rejected) >= _MAX_REJECTED:
                del self._rejected[next(iter(self._rejected))]
            self._rejected[digest] = None
            self._malformed(record, str(error))
            return None
        if too_far(text.revision, self._clock(), received=True):
            self._malformed(record, f"revision {text.revision} is days ahead: is the clock right, here and there?")
            return None
        return text

    def _malformed(self, record: Record, error: str) -> None:
        instance = dotted(record.name)
        self._warnings.say("malformed", "ignored a malformed record", instance=instance, error=error)


class _Addresses:
    """The ``host:port`` of instances, by the SRV and A records of a message."""

    def __init__(self, message: Message) -> None:
        self._servers: dict[bytes, Record] = {}
        self._hosts: dict[bytes, str] = {}
        for record in message.records:
            if record.kind == SRV and len(record.data) == 6:
                self._servers.setdefault(record.name, record)
            elif record.kind == IPV4 and len(record.data) == 4:
                self._hosts[record.name] = ".".join(map(str, record.data))

    def of(self, instance: bytes) -> str:
        """Empty where there is none."""
        record = self._servers.get(instance)
        if record is None:
            return ""
        host = self._hosts.get(record.target) or dotted(record.target)
        try:
            return join_address(host, int.from_bytes(record.data[4:6], "big"))
        except InvalidService:
            return ""
