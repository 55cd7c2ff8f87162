"""What was heard of other programs' nodes: what to believe, and whom; fed to a Catalog."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from microreg.backends.mdns.asking import Asking
from microreg.backends.mdns.doubts import PATIENCE, SOON, SUSPICION, Claim, Doubts
from microreg.backends.mdns.graves import Graves
from microreg.backends.mdns.hearsay import Hearsay
from microreg.backends.mdns.lookup import Desk
from microreg.backends.mdns.names import Key
from microreg.backends.mdns.reader import Reader
from microreg.backends.mdns.records import MAX_AHEAD, Text, name_in, seal
from microreg.backends.mdns.refresh import Life, Refresh
from microreg.backends.mdns.warnings import Warnings
from microreg.backends.mdns.wire import PTR, Message, Record
from microreg.catalog import Catalog
from microreg.events import Reason

__all__ = ["MAX_NODES", "MAX_PER_NAME", "Nodes"]

MAX_PER_NAME = 4096
"""Nodes of one name that are remembered: a bound for memory under a flood, far above any real service."""
MAX_NODES = 16_384
"""Nodes of all names that are remembered."""
_CALM = 5.0
"""Seconds after which a node is asked for again that answers, and whose calls fail."""
_SUSPECTS = 16
"""Nodes that are asked for at the same time because calls to them failed; others with the next call."""
_WITNESSES = 3
"""Other nodes of the name that are asked with one: where none of them answers either, it may be the network."""


@dataclass(slots=True, eq=False)
class _Node(Life):
    """A node of somebody else: what it said last, for ``granted`` seconds.

    ``ahead``: under a revision days ahead of our clock; ``suspected``: when it was asked for because a call failed,
    with these ``witnesses``.
    """

    label: bytes = b""
    txt: bytes = b""
    revision: int = 0
    seal: bytes = b""
    ahead: bool = False
    granted: int = 0
    suspected: float = float("-inf")
    witnesses: tuple[_Node, ...] = ()


def _leaves(text: Text, record: Record) -> bool:
    """Whether this is a goodbye; other software only has those without a revision."""
    return bool(text.secret or (record.ttl == 0 and text.revision))


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
        self._wants, self._owns, self._news = wants, owns, news
        self._warnings = Warnings()
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._nodes: dict[Key, _Node] = {}
        self._labels: dict[bytes, Key] = {}
        self._texts: dict[bytes, _Node] = {}
        self._counts: dict[str, int] = {}
        self._reader = Reader(desk.ask)
        self._asking = Asking(desk, self._label)
        self._refresh = Refresh(desk.hearing, self._asking, rng, ask_all=due, expired=self._expired)
        self._doubts = Doubts(desk.hearing, self._asking, self._unopposed)
        self._graves = Graves()
        self._hearsay = Hearsay(self._vouched)

    def close(self) -> None:
        """Stop all timers."""
        self._refresh.close()
        self._doubts.close()
        self._asking.close()
        self._hearsay.close()

    def heard(self, message: Message, *, answer: bool = False) -> None:
        """Take in a response; ``answer``: to a question of ours.

        What is known word for word is only refreshed, without another look. Anybody can send it once more, so what
        nobody asked for does not refresh for longer than it was told at first.
        """
        fresh: set[bytes] = set()
        for ttl, txt in message.texts:
            node = self._texts.get(txt)
            if node is None:
                fresh.add(txt)
            elif ttl:
                if answer:
                    node.granted = max(ttl, node.granted)
                self._refresh.heard(node, min(ttl, node.granted))
        fresh = {txt for txt in fresh if self._wants(name := name_in(txt)) or (not name and b"n=" in txt)}
        judged: set[bytes] = set()
        if fresh:
            for text, record in self._reader.read(message, fresh):
                if _leaves(text, record):
                    judged.add(record.name)
                self._text(text, record)
        if message.leaving:
            for record in message.records:
                label = record.target if record.kind == PTR else record.name
                if record.ttl == 0 and label not in judged and label in self._labels:
                    self._doubts.add(self._nodes[self._labels[label]], PATIENCE, Reason.DEREGISTERED)

    def suspect(self, key: Key) -> None:
        """A call to this node failed: ask for it, unless that was done a moment ago."""
        node = self._nodes.get(key)
        now = self._loop.time()
        if node is None or now < node.suspected + _CALM or self._doubts.suspicions >= _SUSPECTS:
            return
        node.suspected = now
        node.witnesses = self._others(key)
        self._doubts.add(node, SUSPICION, Reason.EXPIRED)
        for witness in node.witnesses:
            self._asking.ask(witness.key, times=2)

    def forget(self, key: Key) -> None:
        """No longer of interest, or now our own: dropped without a word to the catalog."""
        node = self._nodes.pop(key, None)
        if node is None:
            return
        self._refresh.drop(node)
        self._untie(node)
        count = self._counts[key[0]] = self._counts[key[0]] - 1
        if not count:
            del self._counts[key[0]]

    # -- what is said ----------------------------------------------------------------------------

    def _text(self, text: Text, record: Record) -> None:
        if not self._concerns(text.key):
            return
        if _leaves(text, record):
            self._goodbye(text)
        elif record.ttl:
            self._hello(text, record)

    def _concerns(self, key: Key) -> bool:
        return self._wants(key[0].encode()) and not self._owns(key)

    def _hello(self, text: Text, record: Record) -> None:
        node = self._nodes.get(text.key)
        ahead = self._reader.is_ahead(text)
        if node is None:
            if self._graves.holds(text) or not self._has_room(text.name):
                return
            if not ahead:
                self._believe(text, record, ahead)
            elif self._hearsay.add(text, record):
                self._asking.ask(text.key, times=1)
                self._news(text.name)
        elif node.ahead and not ahead:  # what a clock that is right says counts more
            self._believe(text, record, ahead)
        elif ahead and not node.ahead:  # forged, unless what we know does not answer any more
            self._doubts.add(node, PATIENCE, (text, record))
        elif text.revision > node.revision or text.revision == 0 == node.revision:
            self._believe(text, record, ahead)
        elif _is_other(text, node):  # restarted, with a clock that went back
            self._doubts.add(node, SOON, (text, record))
        elif text.revision == node.revision and node.is_over:  # told with another address on another link
            self._believe(text, record, ahead)

    def _goodbye(self, text: Text) -> None:
        """A goodbye that carries the secret behind the seal can only be the node's own; a late one says nothing."""
        node = self._nodes.get(text.key)
        if node is None:
            if text.secret:
                self._graves.add(text)
        elif text.revision < node.revision:
            return
        elif seal(text.secret) == node.seal:
            self._graves.add(text)
            self._drop(node, Reason.EXPIRED if text.expired else Reason.DEREGISTERED)
        else:
            self._doubts.add(node, PATIENCE, Reason.DEREGISTERED)

    # -- what is believed ------------------------------------------------------------------------

    def _believe(self, text: Text, record: Record, ahead: bool) -> None:
        node = self._nodes.get(text.key)
        if node is None:
            node = self._nodes[text.key] = _Node(text.key)
            self._counts[text.name] = self._counts.get(text.name, 0) + 1
            self._news(text.name)
        self._untie(node)
        node.label, node.txt = record.name, record.data
        node.revision, node.seal = text.revision, text.seal
        node.ahead, node.granted = ahead, record.ttl
        self._labels[record.name] = text.key
        if text.seal:  # others may say the same of several nodes, and differ in SRV only
            self._texts[record.data] = node
        self._refresh.heard(node, record.ttl)
        assert text.record is not None
        self._catalog.put(text.record)

    def _vouched(self, text: Text, record: Record) -> None:
        """Nobody whose clock is right spoke for a node that is days ahead."""
        if text.key not in self._nodes and self._concerns(text.key):
            if not self._graves.holds(text) and self._has_room(text.name):
                self._believe(text, record, self._reader.is_ahead(text))

    def _unopposed(self, life: Life, claim: Claim) -> None:
        node = self._nodes.get(life.key)
        if node is None or node is not life:
            return
        if not isinstance(claim, Reason):
            self._believe(*claim, self._reader.is_ahead(claim[0]))
        elif claim is not Reason.EXPIRED:
            self._drop(node, claim)
        elif any(witness.heard > node.suspected for witness in node.witnesses):
            self._expired(node.key)
            self._refresh.seek(node.key[0])

    def _others(self, key: Key) -> tuple[_Node, ...]:
        """Some other nodes of this name."""
        ids = [record.nodes[0].id for record in self._catalog.records(key[0])]
        some = self._rng.sample(ids, min(len(ids), _WITNESSES + 1))
        found = (self._nodes.get((key[0], id)) for id in some if id != key[1])
        return tuple(node for node in found if node is not None)[:_WITNESSES]

    def _expired(self, key: Key) -> None:
        self._drop(self._nodes[key], Reason.EXPIRED)

    def _drop(self, node: _Node, reason: Reason) -> None:
        self.forget(node.key)
        self._catalog.remove(*node.key, reason)

    def _has_room(self, name: str) -> bool:
        if self._counts.get(name, 0) < MAX_PER_NAME and len(self._nodes) < MAX_NODES:
            return True
        self._warnings.say(
            "full",
            f"more than {MAX_PER_NAME} nodes of one name, or {MAX_NODES} in all, are announced by mDNS: "
            "further ones are ignored; somebody may be flooding this network",
            service=name,
        )
        return False

    def _label(self, key: Key) -> bytes | None:
        node = self._nodes.get(key)
        return self._hearsay.label(key) if node is None else node.label

    def _untie(self, node: _Node) -> None:
        if self._labels.get(node.label) == node.key:
            del self._labels[node.label]
        self._texts.pop(node.txt, None)
