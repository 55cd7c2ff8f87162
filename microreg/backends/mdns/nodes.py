"""What was heard of other programs' nodes: believed, refreshed by asking, doubted, expired; fed to a Catalog."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from microreg.backends.mdns.asking import Asking, Key
from microreg.backends.mdns.graves import Graves
from microreg.backends.mdns.hearsay import Hearsay
from microreg.backends.mdns.lookup import Desk, Warnings
from microreg.backends.mdns.reader import Reader
from microreg.backends.mdns.records import MAX_AHEAD, Text, name_in, seal
from microreg.backends.mdns.wire import PTR, Message, Record
from microreg.catalog import Catalog
from microreg.events import Reason
from microreg.toolkit import Deadlines

__all__ = ["MAX_NODES", "MAX_PER_NAME", "MAX_TTL", "Key", "Nodes"]

log = logging.getLogger("microreg.mdns")

MAX_PER_NAME = 4096
"""Nodes of one name that are remembered: a bound for memory under a flood, far above any real service."""
MAX_NODES = 16_384
"""Nodes of all names that are remembered."""
MAX_TTL = 300
"""Seconds that a foreign record is believed at most before it is asked for again."""

# When a node is asked for: at a part of its ttl between these two, then seconds after its end. Then it is gone.
_PARTS = ((0.70, 0.82), (0.85, 0.89), (0.93, 0.97), (1.0, 1.0))
_GRACE = (0.2, 0.4, 0.6, 0.8, 1.2)
_LAST = len(_PARTS) + len(_GRACE) - 1
_MIN_STEP = 0.2
# A process that was late or behind itself asks anew before it believes that others are gone, but not for ever.
_LATE = 0.5
_MAX_SOUGHT = 64
_MERCY = 30.0
_DOUBT = 0.1
_PATIENCE = 0.3
_SEEK = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(slots=True)
class _Node:
    key: Key
    label: bytes
    txt: bytes
    revision: int
    seal: bytes
    ttl: float = 0.0
    heard: float = 0.0
    due: float = 0.0
    asked: float = 0.0
    mercy: float = 0.0
    stage: int = 0
    ahead: bool = False
    doubted: bool = False
    rival: tuple[Text, Record] | None = None


def _is_other(text: Text, node: _Node) -> bool:
    """Whether this is more than late: another generation, or of a clock that went back by days."""
    return text.seal != node.seal or node.revision - text.revision > MAX_AHEAD * 1000


class Nodes:
    """The nodes of others, by name and id.

    ``wants`` says whether a service name (its bytes) is of interest, ``owns`` whether a node is our own,
    ``due`` is called with the name of a node that wants refreshing, ``news`` with that of a new one.
    """

    def __init__(
        self,
        catalog: Catalog,
        desk: Desk,
        rng: random.Random,
        *,
        wants: Callable[[bytes], bool],
        owns: Callable[[Key], bool],
        due: Callable[[str], None],
        news: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._desk = desk
        self._rng = rng
        self._wants, self._owns, self._ask_all, self._news = wants, owns, due, news
        self._loop = asyncio.get_running_loop()
        self._warnings = Warnings(log)
        self._reader = Reader(desk.ask)
        self._nodes: dict[Key, _Node] = {}
        self._labels: dict[bytes, Key] = {}
        self._texts: dict[bytes, _Node] = {}
        self._counts: dict[str, int] = {}
        self._deadlines: Deadlines[Key] = Deadlines(self._due)
        self._graves = Graves()
        self._hearsay = Hearsay(self._believe)
        self._asking = Asking(desk, self._label)
        self._sought: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def close(self) -> None:
        """Stop all timers."""
        self._deadlines.close()
        self._asking.close()
        self._hearsay.close()
        for timer in self._timers:
            timer.cancel()

    def heard(self, message: Message) -> None:
        """Take in a response. What is known word for word is only refreshed, without another look."""
        fresh: set[bytes] = set()
        for ttl, txt in message.texts:
            node = self._texts.get(txt)
            if node is None:
                fresh.add(txt)
            elif ttl:
                self._refresh(node, ttl)
        fresh = {txt for txt in fresh if self._wants(name := name_in(txt)) or (not name and b"n=" in txt)}
        judged: set[bytes] = set()
        if fresh:
            for text, record in self._reader.read(message, fresh):
                if text.secret or (record.ttl == 0 and text.revision):
                    judged.add(record.name)
                self._text(text, record)
        if message.leaving:
            for record in message.records:
                label = record.target if record.kind == PTR else record.name
                if record.ttl == 0 and label not in judged and label in self._labels:
                    self._doubt(self._nodes[self._labels[label]], _PATIENCE)

    def forget(self, key: Key) -> None:
        """No longer of interest, or now our own: dropped without a word to the catalog."""
        node = self._nodes.pop(key, None)
        if node is None:
            return
        self._deadlines.drop(key)
        self._untie(node)
        count = self._counts[key[0]] = self._counts[key[0]] - 1
        if not count:
            del self._counts[key[0]]

    def _label(self, key: Key) -> bytes | None:
        node = self._nodes.get(key)
        return self._hearsay.label(key) if node is None else node.label

    def _untie(self, node: _Node) -> None:
        if self._labels.get(node.label) == node.key:
            del self._labels[node.label]
        self._texts.pop(node.txt, None)

    # -- hearing ---------------------------------------------------------------------------------

    def _text(self, text: Text, record: Record) -> None:
        if not self._wants(text.name.encode()) or self._owns((text.name, text.id)):
            return
        if text.secret or (record.ttl == 0 and text.revision):
            self._goodbye(text)
        elif record.ttl:
            self._admit(text, record)

    def _admit(self, text: Text, record: Record, *, vouched: bool = False) -> None:
        key = text.name, text.id
        node = self._nodes.get(key)
        ahead = self._reader.is_ahead(text)
        if node is None:
            if self._graves.holds(text) or not self._room(text.name):
                return
            if ahead and not vouched:
                if self._hearsay.add(text, record):
                    self._asking.ask(key, times=1)
                    self._news(text.name)
                return
            node = self._nodes[key] = _Node(key, record.name, record.data, text.revision, text.seal)
            self._counts[text.name] = self._counts.get(text.name, 0) + 1
            self._news(text.name)
        elif vouched or (node.ahead and not ahead):
            pass  # what a clock that is right says counts more
        elif ahead and not node.ahead:  # forged, unless what we know does not answer any more
            self._doubt(node, _PATIENCE, (text, record))
            return
        elif (text.revision < node.revision or text.revision == node.revision > 0) and _is_other(text, node):
            self._doubt(node, _DOUBT, (text, record))  # restarted, with a clock that went back
            return
        elif text.revision < node.revision or (text.revision == node.revision > 0 and node.stage < len(_PARTS)):
            return  # late; or told with another address on another link, while what we know is still told
        self._untie(node)
        node.label, node.txt = record.name, record.data
        node.revision, node.seal = text.revision, text.seal
        node.ahead = ahead
        self._labels[record.name] = key
        if text.seal:  # others may say the same of several nodes, and differ in SRV only
            self._texts[record.data] = node
        self._refresh(node, record.ttl)
        assert text.record is not None
        self._catalog.put(text.record)

    def _believe(self, text: Text, record: Record) -> None:
        key = text.name, text.id
        if key not in self._nodes and self._wants(text.name.encode()) and not self._owns(key):
            self._admit(text, record, vouched=True)

    def _room(self, name: str) -> bool:
        if self._counts.get(name, 0) < MAX_PER_NAME and len(self._nodes) < MAX_NODES:
            return True
        self._warnings.say(
            "full",
            f"more than {MAX_PER_NAME} nodes of one name, or {MAX_NODES} in all, are announced by mDNS: "
            "further ones are ignored; somebody may be flooding this network",
            service=name,
        )
        return False

    def _refresh(self, node: _Node, ttl: int) -> None:
        node.ttl = max(1, min(ttl, MAX_TTL))
        node.heard = self._loop.time()
        node.stage = 0
        node.mercy = 0.0
        self._plan(node)

    # -- leaving ---------------------------------------------------------------------------------

    def _goodbye(self, text: Text) -> None:
        """A goodbye that carries the secret behind the seal can only be the node's own; a late one says nothing."""
        node = self._nodes.get((text.name, text.id))
        if node is None:
            if text.secret:
                self._graves.add(text)
        elif text.revision < node.revision:
            return
        elif seal(text.secret) == node.seal:
            self._graves.add(text)
            self._drop(node, Reason.EXPIRED if text.expired else Reason.DEREGISTERED)
        else:
            self._doubt(node, _PATIENCE)

    def _doubt(self, node: _Node, patience: float, rival: tuple[Text, Record] | None = None) -> None:
        """Somebody says that the node is gone, or is the rival: ask, and believe it when nobody objects."""
        node.rival = rival or node.rival
        if node.doubted:
            return
        node.doubted = True
        before, asked = node.heard, self._loop.time()
        self._asking.ask(node.key, times=2)
        if patience > _DOUBT:
            self._after(patience / 2, lambda: self._asking.ask(node.key, times=2) if node.heard == before else None)

        def decide() -> None:
            if self._desk.hearing.is_behind(asked) and self._loop.time() < asked + _MERCY:
                self._after(patience, decide)
                return
            rival, node.doubted, node.rival = node.rival, False, None
            if node.heard != before or self._nodes.get(node.key) is not node:
                return
            if rival is None:
                self._drop(node, Reason.DEREGISTERED)
            else:
                self._admit(*rival, vouched=True)

        self._after(patience, decide)

    def _drop(self, node: _Node, reason: Reason) -> None:
        self.forget(node.key)
        self._catalog.remove(*node.key, reason)

    # -- asking ----------------------------------------------------------------------------------

    def _due(self, key: Key) -> None:
        node = self._nodes[key]
        now = self._loop.time()
        away = node.stage >= len(_PARTS) and self._was_away(node, now)
        if away:
            node.mercy = now - node.heard - node.ttl
            node.stage = len(_PARTS)
        elif node.stage == _LAST:
            self._drop(node, Reason.EXPIRED)
            self._seek(key[0])
            return
        node.asked = now
        if node.stage in (0, len(_PARTS) - 1):  # at the end again: unicast answers may wait for ARP, for seconds
            self._ask_all(key[0])
        if node.stage:
            self._asking.ask(key, times=1 if away or node.stage < len(_PARTS) - 1 else 2)
        node.stage += 1
        self._plan(node, now + _MIN_STEP)

    def _was_away(self, node: _Node, now: float) -> bool:
        """Whether an answer may be there and unread: our own timer is late, or our own last question not back."""
        away = now > node.due + _LATE or self._desk.hearing.is_behind(node.asked)
        return away and now < node.heard + node.ttl + _MERCY

    def _seek(self, name: str) -> None:
        """The node may live, and all its answers be lost: it comes back soon if it is asked for a few times."""
        if name in self._sought or len(self._sought) >= _MAX_SOUGHT:
            return
        self._sought.add(name)
        for delay in _SEEK:
            self._after(delay, lambda: self._ask_all(name))
        self._after(_SEEK[-1], lambda: self._sought.discard(name))

    def _plan(self, node: _Node, earliest: float = 0.0) -> None:
        """Set when the node is to be asked for (or, at the last stage, given up)."""
        if node.stage < len(_PARTS):
            after = node.ttl * self._rng.uniform(*_PARTS[node.stage])
        else:
            after = node.ttl + node.mercy + _GRACE[node.stage - len(_PARTS)]
        node.due = max(earliest, node.heard + after)
        self._deadlines.set(node.key, node.due)

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            action()

        handle = self._loop.call_later(delay, run)
        self._timers.add(handle)
