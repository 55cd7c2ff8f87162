"""Server-sent events: changes, and snapshots that are kept as long as they are true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from msgspec import Struct, json

from microreg import Service
from microreg.codec import encode
from microreg.events import Change

__all__ = ["Snapshots", "View", "change_event"]

_SLICE = 500
"""Nodes that are encoded before others get their turn."""
_VIEWS = 100
"""Names that are taken from what is kept before others get their turn."""
_CACHE_BYTES = 32 * 1024 * 1024


class View(Struct, frozen=True, gc=False):
    """A name as it is at one moment; ``touched`` is the number of its last change."""

    name: str
    touched: int
    records: tuple[Service, ...]


class Snapshots:
    """Encodes each name once for each of its changes, whoever asks."""

    def __init__(self) -> None:
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._encoded_bytes = 0

    async def of_all(self, views: list[View], number: bytes) -> AsyncGenerator[bytes, None]:
        """One event for all these names, in pieces; ``number`` is its id."""
        yield b'event: snapshot\ndata: {"name":null,"services":[\n'
        for nth, view in enumerate(views, 1):
            if nth % _VIEWS == 0:
                await asyncio.sleep(0)
            part = await self._services(view)
            yield b"data: %s%s\n" % (b"" if view is views[0] else b",", part)
        yield b"data: ]}\nid: %s\n\n" % number

    async def of_each(self, views: list[View], number: bytes) -> AsyncGenerator[bytes, None]:
        """An event for each name. Only the last one has the id: who has heard a part is not to go on from there."""
        for nth, view in enumerate(views, 1):
            if nth % _VIEWS == 0:
                await asyncio.sleep(0)
            head = b'event: snapshot\ndata: {"name":%s,"services":[' % json.encode(view.name)
            tail = b"]}\nid: %s\n\n" % number if view is views[-1] else b"]}\n\n"
            yield head + await self._services(view) + tail

    async def _services(self, view: View) -> bytes:
        """The services of a name as JSON, without brackets. Kept until the name changes, within bounds."""
        known = self._encoded.get(view.name)
        if known is not None and known[0] == view.touched:
            return known[1]
        pieces: list[bytes] = []
        for group in _grouped(view.records):
            for start in range(0, len(group.nodes), _SLICE):
                pieces.append(encode(group.with_nodes(*group.nodes[start : start + _SLICE])))
                if start:
                    await asyncio.sleep(0)
        part = b",".join(pieces)
        if self._encoded_bytes + len(part) > _CACHE_BYTES:
            self._encoded.clear()
            self._encoded_bytes = 0
        self._encoded_bytes += len(part) - len(self._encoded.get(view.name, (0, b""))[1])
        self._encoded[view.name] = view.touched, part
        return part


def change_event(number: bytes, change: Change) -> bytes:
    """A change, with this id."""
    reason = b"null" if change.reason is None else b'"%s"' % change.reason.encode()
    text = b'id: %s\nevent: change\ndata: {"action":"%s","reason":%s,"service":%s}\n\n'
    return text % (number, change.action.encode(), reason, encode(change.service))


def _grouped(records: Iterable[Service]) -> list[Service]:
    """The same nodes in as few services as can be, each with the metadata and endpoints that it was written with."""
    groups: dict[Service, list[Service]] = {}
    for record in records:
        groups.setdefault(record.with_nodes(), []).append(record)
    return [head.with_nodes(*(record.nodes[0] for record in group)) for head, group in groups.items()]
