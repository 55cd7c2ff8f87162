"""What is said where: ``<topic>.<verb>.<service name>``, the subjects of eddieraa/registry."""

from __future__ import annotations

import re

from microreg.arguments import shown
from microreg.errors import ConfigError

__all__ = ["ALL", "PING", "REGISTER", "UNREGISTER", "Subjects"]

REGISTER, UNREGISTER, PING = "register", "unregister", "ping"
"""The verbs. The answer to a ping is a register."""

ALL = "_all"
"""A name that nobody can register: whoever is pinged by it answers for every node. A habit of microreg's own."""

_TOPIC = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")
_SPECIAL = re.compile(r"[\s*>]")


class Subjects:
    """The subjects under one topic. Raises ConfigError for a topic that can be in no subject."""

    def __init__(self, topic: str) -> None:
        if len(topic) > 128 or not _TOPIC.fullmatch(topic):
            raise ConfigError(
                f"option topic is {shown(topic)}: expected 1 to 128 characters without blanks, '*' and '>', "
                "in parts that are separated by dots, for example topic=tenant-a.registry"
            )
        self._start = f"{topic}."

    def of(self, verb: str, name: str) -> str:
        """Where this verb is said about a name."""
        return f"{self._start}{verb}.{_escape(name)}"

    def all_about(self, name: str | None) -> str:
        """What a listener subscribes to: every verb, in one subscription, so that their order is kept."""
        return f"{self._start}*.{'>' if name is None else _escape(name)}"

    def verb(self, subject: str) -> str:
        """Which verb is said at this subject; empty for a subject of something else."""
        return subject[len(self._start) :].partition(".")[0] if subject.startswith(self._start) else ""

    def fits(self, subject: str, name: str) -> bool:
        """Whether this subject is one where a service of this name is spoken of."""
        told = subject[len(self._start) :].partition(".")[2]
        return told in (name, _escape(name))


def _escape(name: str) -> str:
    """The name; with ``%xx`` for what a subject cannot hold, which only we do: it never reaches eddieraa/registry."""
    parts = (_SPECIAL.sub(_code, part) if part else "%" for part in name.split("."))
    return ".".join(parts)


def _code(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02x}" for byte in match[0].encode())
