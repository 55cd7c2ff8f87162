"""What was heard of other programs' nodes: believed, refreshed by asking, doubted, expired; fed to a Catalog."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from microreg.backends.mdns.lookup import Desk, Warnings
from microreg.backends.mdns.names import subtype
from microreg.backends.mdns.reader import Reader
from microreg.backends.mdns.records import Text, name_in, seal
from microreg.backends.mdns.wire import PTR, SRV, TXT, Message, Question, Record
from microreg.catalog import Catalog
from microreg.events import Reason
from microreg.toolkit import Deadlines

__all__ = ["MAX_NODES", "MAX_PER_NAME", "MAX_TTL", "Key", "Nodes"]

log = logging.getLogger("microreg.mdns")

Key = tuple[str, str]
"""A node: service name and node id."""

MAX_PER_NAME = 4096
"""Nodes of one name that are remembered: a bound for memory under a flood, far above any real service."""
MAX_NODES = 16_384
"""Nodes of all names that are remembered."""
MAX_TTL = 300
"""Seconds that a foreign record is believed at most before it is asked for again."""

# When a node is asked for: at a part of its ttl between these two, then seconds after its end. Then it is gone.
_PARTS = ((0.70, 0.82), (0.85, 0.89), (0.93, 0.97), (1.0, 1.0))
_GRACE = (0.35, 0.7, 1.2)
_LAST = len(_PARTS) + len(_GRACE) - 1
_MIN_STEP = 0.2
_TOMBSTONE = 10.0
_GATHER = 0.005
_AGAIN = 0.03
_DOUBT = 0.1
_PATIENCE = 0.3
_SEEK = (0.5, 1.0, 2.0)
_BATCH = 20


@dataclass(slots=True)
class _Node:
    key: Key
    label: bytes
    txt: bytes
    revision: int
    seal: bytes
    ttl: float = 0.0
    heard: float = 0.0
    stage: int = 0
    doubted: bool = False
    rival: tuple[Text, Record] | None = None


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
        self._reader = Reader()
        self._nodes: dict[Key, _Node] = {}
        self._labels: dict[bytes, Key] = {}
        self._texts: dict[bytes, _Node] = {}
        self._counts: dict[str, int] = {}
        self._deadlines: Deadlines[Key] = Deadlines(self._due)
        self._graves: dict[Key, tuple[Text, float]] = {}
        self._questions: dict[Key, int] = {}
        self._sought: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def close(self) -> None:
        """Stop all timers."""
        self._deadlines.close()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

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

    def _admit(self, text: Text, record: Record) -> None:
        key = text.name, text.id
        node = self._nodes.get(key)
        if node is None:
            if self._buried(key, text) or not self._room(text.name):
                return
            node = self._nodes[key] = _Node(key, record.name, record.data, text.revision, text.seal)
            self._counts[text.name] = self._counts.get(text.name, 0) + 1
            self._news(text.name)
        elif text.revision < node.revision or text.revision == node.revision > 0:
            if text.seal != node.seal:  # restarted with a clock that went back, unless what we know still answers
                node.rival = text, record
                self._doubt(node)
            return
        else:
            self._untie(node)
            node.label, node.txt = record.name, record.data
            node.revision, node.seal = text.revision, text.seal
        self._labels[record.name] = key
        if text.seal:  # others may say the same of several nodes, and differ in SRV only
            self._texts[record.data] = node
        self._refresh(node, record.ttl)
        assert text.record is not None
        self._catalog.put(text.record)

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
        self._deadlines.set(node.key, self._next(node))

    # -- leaving ---------------------------------------------------------------------------------

    def _goodbye(self, text: Text) -> None:
        """A goodbye that carries the secret behind the seal can only be the node's own; a late one says nothing."""
        node = self._nodes.get((text.name, text.id))
        if node is None:
            if text.secret:
                self._bury(text)
        elif text.revision < node.revision:
            return
        elif seal(text.secret) == node.seal:
            self._bury(text)
            self._drop(node, Reason.EXPIRED if text.expired else Reason.DEREGISTERED)
        else:
            self._doubt(node, _PATIENCE)

    def _doubt(self, node: _Node, patience: float = _DOUBT) -> None:
        """Somebody says that the node is gone, or something older: ask, and believe it when nobody objects."""
        if node.doubted:
            return
        node.doubted = True
        before = node.heard
        self._ask(node.key, times=2)
        if patience > _DOUBT:
            self._after(patience / 2, lambda: self._ask(node.key, times=2) if node.heard == before else None)

        def decide() -> None:
            rival, node.doubted, node.rival = node.rival, False, None
            if node.heard != before or self._nodes.get(node.key) is not node:
                return
            if rival is None:
                self._drop(node, Reason.DEREGISTERED)
            else:
                node.revision = -1
                self._admit(*rival)

        self._after(patience, decide)

    def _drop(self, node: _Node, reason: Reason) -> None:
        self.forget(node.key)
        self._catalog.remove(*node.key, reason)

    def _bury(self, goodbye: Text) -> None:
        """Packets of before the goodbye may still be on their way; they must not bring the node back."""
        now = self._loop.time()
        key = goodbye.name, goodbye.id
        while self._graves and (len(self._graves) >= MAX_PER_NAME or next(iter(self._graves.values()))[1] < now):
            del self._graves[next(iter(self._graves))]
        self._graves.pop(key, None)
        self._graves[key] = goodbye, now + _TOMBSTONE

    def _buried(self, key: Key, text: Text) -> bool:
        goodbye, until = self._graves.get(key, (None, 0.0))
        if goodbye is None or self._loop.time() >= until:
            return False
        return text.revision <= goodbye.revision and text.seal == seal(goodbye.secret)

    # -- asking ----------------------------------------------------------------------------------

    def _due(self, key: Key) -> None:
        node = self._nodes[key]
        if node.stage == _LAST:
            self._drop(node, Reason.EXPIRED)
            self._seek(key[0])
            return
        if node.stage == 0:
            self._ask_all(key[0])
        else:
            self._ask(key, times=1 if node.stage < len(_PARTS) - 1 else 2)
        node.stage += 1
        self._deadlines.set(key, max(self._next(node), self._loop.time() + _MIN_STEP))

    def _seek(self, name: str) -> None:
        """The node may live, and all its answers be lost: it comes back soon if it is asked for a few times."""
        if name in self._sought:
            return
        self._sought.add(name)
        for delay in _SEEK:
            self._after(delay, lambda: self._ask_all(name))
        self._after(_SEEK[-1], lambda: self._sought.discard(name))

    def _next(self, node: _Node) -> float:
        """When the node is to be asked for (or, at the last stage, given up)."""
        if node.stage < len(_PARTS):
            return node.heard + node.ttl * self._rng.uniform(*_PARTS[node.stage])
        return node.heard + node.ttl + _GRACE[node.stage - len(_PARTS)]

    def _ask(self, key: Key, times: int) -> None:
        """Ask for one node, together with others that are due now."""
        if not self._questions:
            self._after(_GATHER, self._flush)
        self._questions[key] = max(times, self._questions.get(key, 0))

    def _flush(self) -> None:
        """Ask for the nodes that are due: one by one, or for all of a name where they are many."""
        due, self._questions = self._questions, {}
        names: dict[str, list[_Node]] = {}
        for key in due:
            if (node := self._nodes.get(key)) is not None:
                names.setdefault(key[0], []).append(node)
        questions: list[Question] = []
        for name, nodes in names.items():
            if len(nodes) > _BATCH:
                self._desk.ask([Question(subtype(name), PTR)])
                continue
            questions += [Question(node.label, kind) for node in nodes for kind in (SRV, TXT)]
            self._questions.update({node.key: 1 for node in nodes if due[node.key] > 1})
        for start in range(0, len(questions), 2 * _BATCH):
            self._desk.ask(questions[start : start + 2 * _BATCH])
        if self._questions:
            self._after(_AGAIN, self._flush)

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            action()

        handle = self._loop.call_later(delay, run)
        self._timers.add(handle)
