"""Where the record of a node stands in a bucket."""

from __future__ import annotations

import re

from microreg.codec import lenient_text
from microreg.errors import InvalidService

__all__ = ["Keys", "escape", "unescape"]

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ODD = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_CODE = re.compile(rb"=([0-9A-F]{2})")
_REMEMBERED = 1024


def escape(text: str) -> str:
    """A name or id as one token of a key: ``=`` and two hexadecimal digits for what is not ``A-Za-z0-9_-``."""
    if _PLAIN.fullmatch(text):
        return text
    return _ODD.sub(lambda match: b"=%02X" % match[0][0], text.encode()).decode()


def unescape(token: str) -> str | None:
    """The name or id of a token, None where ``escape`` does not make it."""
    if not _ESCAPED.fullmatch(token):
        return None
    try:
        text = _CODE.sub(lambda match: bytes([int(match[1], 16)]), token.encode()).decode()
    except UnicodeDecodeError:
        return None
    return text if escape(text) == token else None


class Keys:
    """``<service>.<node id>``, both escaped: nothing that a name contains leaves its place.

    A key of a bucket is a subject of its stream: ``$KV.<bucket>.<key>``.
    """

    def __init__(self, bucket: str) -> None:
        self.prefix = f"$KV.{bucket}."
        self._filters: dict[str, str] = {}

    def filter(self, name: str | None) -> str:
        """The subjects of this name's records, or of all."""
        if name is None:
            return self.prefix + ">"
        found = self._filters.get(name)
        if found is None:
            if len(self._filters) >= _REMEMBERED:
                self._filters.clear()
            found = self._filters[name] = f"{self.prefix}{escape(name)}.*"
        return found

    def subject(self, name: str, id: str) -> str:
        """Where the record of this node stands."""
        return self.filter(name)[:-1] + escape(id)

    def name(self, subject: str) -> str | None:
        """The name whose record stands at a subject, None for a foreign one."""
        tokens = subject.removeprefix(self.prefix).split(".")
        found = unescape(tokens[0]) if len(tokens) == 2 and unescape(tokens[1]) is not None else None
        try:
            return None if found is None else lenient_text(found, "service name")
        except InvalidService:
            return None
