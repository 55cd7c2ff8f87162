"""Server-sent events as bytes arrive (the event stream format of the HTML standard)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from microreg.errors import RegistryUnavailable

__all__ = ["Parser", "Received"]

_LARGEST = 1024 * 1024 * 1024


class Received(NamedTuple):
    """An event; ``data`` is empty where there was only an id. ``id`` is empty where it has none of its own."""

    kind: bytes
    data: bytes
    id: bytes


class Parser:
    """Cuts a stream of bytes into events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._kind = b""
        self._id = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Received]:
        """The events that are complete with these bytes. Raises RegistryUnavailable for one beyond all measure."""
        if b"\n" in chunk:
            first, *lines = chunk.split(b"\n")
            lines.insert(0, bytes(self._rest) + first)
            self._rest = bytearray(lines.pop())
            for line in lines:
                if found := self._line(line.removesuffix(b"\r")):
                    yield found
        else:
            self._rest += chunk
        if self._size + len(self._rest) > _LARGEST:
            raise RegistryUnavailable(f"the server sent an event of more than {_LARGEST} bytes")

    def _line(self, line: bytes) -> Received | None:
        if not line:
            found = Received(self._kind, b"\n".join(self._data), self._id)
            self._kind, self._id, self._data, self._size = b"", b"", [], 0
            return found if found.data or found.id else None
        self._size += len(line) + 1
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._kind = value
        elif field == b"id":
            self._id = value
        return None
