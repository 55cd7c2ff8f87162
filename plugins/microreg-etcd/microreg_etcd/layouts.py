"""What stands where: the keys of records, microreg's own and go-micro's."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from microreg.codec import lenient_text
from microreg.errors import InvalidService
from microreg.model import Status

__all__ = ["GoMicro", "Layout"]

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
_FOLDERS = 1024


class Layout:
    """``<prefix>/<service>/<node id>``, the names percent-escaped: nothing that a name contains leaves its place."""

    default_prefix = "microreg"
    hidden: frozenset[Status] = frozenset()
    """Nodes of these statuses are not written."""
    names_in_keys = True
    """Whether the key tells the exact name."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"/{prefix or self.default_prefix}/".encode()
        self._folders: dict[str, bytes] = {}

    def folder(self, name: str) -> bytes:
        """What the keys of this name's records begin with."""
        folder = self._folders.get(name)
        if folder is None:
            if len(self._folders) >= _FOLDERS:
                self._folders.clear()
            folder = self._folders[name] = self.prefix + f"{self.escape(name)}/".encode()
        return folder

    def key(self, name: str, id: str) -> bytes:
        """Where the record of this node stands."""
        return self.folder(name) + self.escape(id).encode()

    def holds(self, key: bytes, name: str) -> bool:
        """Whether a record of this name may stand at the key, whatever the id."""
        folder = self.folder(name)
        return key.startswith(folder) and len(key) > len(folder) and key.find(b"/", len(folder)) < 0

    def range(self, name: str | None) -> tuple[bytes, bytes]:
        """The first key of a name's records, or of all, and the first one after them."""
        start = self.prefix if name is None else self.folder(name)
        return start, start[:-1] + b"0"  # "0" follows "/"

    def parse(self, key: bytes) -> tuple[str, str] | None:
        """The name and node id that this key tells, None for a foreign key.

        Foreign is also another spelling of a name: who reads that name's keys would not find it.
        """
        try:
            text, _, id = key.removeprefix(self.prefix).decode().partition("/")
            name = lenient_text(self.unescape(text), "service name")
        except (InvalidService, UnicodeDecodeError):
            return None
        return (name, self.unescape(id)) if id and "/" not in id and self.escape(name) == text else None

    def escape(self, text: str) -> str:
        """A name or id as a key has it."""
        return text if _PLAIN.fullmatch(text) else quote(text, safe="")

    def unescape(self, text: str) -> str:
        """A name or id that a key has."""
        return unquote(text)


class GoMicro(Layout):
    """What go-micro's etcd registry reads and writes: ``/`` becomes ``-``, so the exact name is in the value only."""

    default_prefix = "micro/registry"
    hidden = frozenset({Status.STARTING, Status.CRITICAL, Status.DRAINING})
    names_in_keys = False

    def escape(self, text: str) -> str:
        """As go-micro does."""
        return text.replace("/", "-")

    def unescape(self, text: str) -> str:
        """The nearest guess."""
        return text
