"""The snapshot file: what caches knew, in a form that tells by itself whether it is whole.

One line, ``microreg cache 1 <SHA-256 of the rest>``, then JSON: by registry (its config string without secrets) and
service name, the records as :mod:`microreg.codec` writes them, and the wall clock times from and until which they
count. Several processes, of several registries, may share a file: each changes what is its own, under a lock
beside it (``<file>.lock``, where the system has such locks), and puts a whole new file in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from microreg import codec, files
from microreg.errors import InvalidService
from microreg.model import Service

__all__ = ["SKEW", "Entry", "SnapshotFile"]

SKEW = 60.0
"""Seconds by which the clocks of those who share a file may differ."""

_MAGIC = b"microreg cache "
_VERSION = b"1"
_LIMIT = 64 * 2**20


class Entry(msgspec.Struct):
    """What was known of one name. ``at`` and ``until`` are wall clock times: seconds since 1970."""

    at: float
    until: float
    records: list[msgspec.Raw]


_Document = dict[str, dict[str, Entry]]
_decode = msgspec.json.Decoder(_Document).decode


class _Spoiled(Exception):
    """The file is not a snapshot that can be read. The text says why."""


class SnapshotFile:
    """One snapshot file, seen by the registry of one ``key``. All calls block, and raise OSError."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    def load(self) -> tuple[dict[str, Entry], str]:
        """The entries by service name, and what was wrong with the file: one that cannot be read is moved away."""
        try:
            document, problem = self._read(), ""
        except _Spoiled:
            with files.locked(self._path):
                document, problem = self._read_or_set_aside()
        return document.get(self._key, {}), problem

    def save(self, names: Mapping[str, tuple[Service, ...]], now: float, lifetime: float) -> str:
        """Write what is known now of these names; one without records is taken out, and what is too old as well.

        What another process wrote of the same name later stays. Returns what was wrong with the file before.
        """
        with files.locked(self._path):
            document, problem = self._read_or_set_aside()
            document = {key: _current(entries, now) for key, entries in document.items()}
            mine = document.setdefault(self._key, {})
            for name, records in names.items():
                if name not in mine or mine[name].at <= now:
                    mine[name] = Entry(now, now + lifetime, _encoded(records))
            document[self._key] = {name: entry for name, entry in mine.items() if entry.records}
            self._write({key: entries for key, entries in document.items() if entries})
        return problem

    def _read(self) -> _Document:
        data = files.read_own(self._path, _LIMIT)
        return {} if data is None else _unpacked(data)

    def _read_or_set_aside(self) -> tuple[_Document, str]:
        try:
            return self._read(), ""
        except _Spoiled as error:
            return {}, f"{error}; it is now {files.set_aside(self._path).name}"

    def _write(self, document: _Document) -> None:
        body = msgspec.json.encode(document)
        data = _MAGIC + _VERSION + b" " + sha256(body).hexdigest().encode() + b"\n" + body
        if len(data) > _LIMIT:
            raise OSError(f"the snapshot would have {len(data)} bytes; at most {_LIMIT} are written")
        files.write_whole(self._path, data)


def _current(entries: dict[str, Entry], now: float) -> dict[str, Entry]:
    return {name: entry for name, entry in entries.items() if entry.at <= now + SKEW and entry.until > now}


def _encoded(records: tuple[Service, ...]) -> list[msgspec.Raw]:
    found: list[msgspec.Raw] = []
    for record in records:
        with suppress(InvalidService):  # nothing that was decoded; one that a backend made itself may be
            found.append(msgspec.Raw(codec.encode(record)))
    return found


def _unpacked(data: bytes) -> _Document:
    head, newline, body = data.partition(b"\n")
    if not head.startswith(_MAGIC):
        raise _Spoiled("it is no snapshot of a microreg cache")
    version, _, checksum = head.removeprefix(_MAGIC).partition(b" ")
    if newline and version != _VERSION:
        raise _Spoiled(f"it is of version {version[:20].decode('ascii', 'replace')}, which this microreg cannot read")
    if len(data) > _LIMIT:
        raise _Spoiled(f"it has more than {_LIMIT} bytes")
    if checksum.decode("ascii", "replace") != sha256(body).hexdigest():
        raise _Spoiled("it is damaged: its checksum is wrong")
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _Spoiled(f"its content is not as expected: {error}") from None
