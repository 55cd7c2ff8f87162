"""What stands where: the keys of records, microreg's own and go-micro's."""

from __future__ import annotations

from urllib.parse import quote, unquote

from microreg.model import Status

__all__ = ["GoMicro", "Layout"]


class Layout:
    """``<prefix>/<service>/<node id>``, the names percent-escaped: nothing that a name contains leaves its place."""

    default_prefix = "microreg"
    hidden: frozenset[Status] = frozenset()
    """Nodes of these statuses are not written."""
    names_in_keys = True
    """Whether the key tells the exact name."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"/{prefix or self.default_prefix}/".encode()

    def key(self, name: str, id: str) -> bytes:
        """Where the record of this node stands."""
        return self.prefix + f"{self.escape(name)}/{self.escape(id)}".encode()

    def range(self, name: str | None) -> tuple[bytes, bytes]:
        """The first key of a name's records, or of all, and the first one after them."""
        start = self.prefix if name is None else self.prefix + f"{self.escape(name)}/".encode()
        return start, start[:-1] + b"0"  # "0" follows "/"

    def parse(self, key: bytes) -> tuple[str, str] | None:
        """The name and node id that this key tells, None for a foreign key."""
        name, slash, id = key.removeprefix(self.prefix).decode(errors="replace").partition("/")
        if not slash or not name or not id or "/" in id:
            return None
        return self.unescape(name), self.unescape(id)

    def escape(self, text: str) -> str:
        """A name or id as a key has it."""
        return quote(text, safe="")

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
