"""JetStream's own words: requests and answers in JSON, errors by number, headers that mean something."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from nats.aio.msg import Msg

from microreg.errors import ConfigError, PermissionDenied, RecordTooLarge, RegistryUnavailable, Unsupported
from microreg.events import Reason
from microreg_nats.session import Session

__all__ = ["Refused", "WrongSequence", "answer", "call", "gone", "number", "without_jetstream"]

Answer = Mapping[str, object]

_WRONG_SEQUENCE = (10071, 10164)
_NO_JETSTREAM = (10039, 10076)
_NO_SUCH_CONFIG = (10052, 10074, 10166, 10165)
_TOO_LARGE = 10054
_TOO_FEW_SERVERS = (10005, 10074)


class Refused(RegistryUnavailable):
    """JetStream answered with an error; ``reason`` is its number."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


class WrongSequence(Refused):
    """The subject is not as it was last seen; ``last`` is the sequence of its last message, where that was told."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message, reason)
        match = re.search(r"wrong last sequence: (\d+)", message)
        self.last = int(match[1]) if match else None


async def call(session: Session, subject: str, body: Answer) -> Answer:
    """The answer of JetStream's API to a request. Raises what its error means."""
    return answer(session, await session.request(f"$JS.API.{subject}", json.dumps(body).encode()))


def answer(session: Session, message: Msg) -> Answer:
    """What a message of JetStream says. Raises what it means where that is an error."""
    try:
        found = cast("Answer", json.loads(message.data))
    except ValueError:
        raise RegistryUnavailable(f"NATS at {session.where} gave an answer that is not JSON") from None
    if "error" in found:
        _raise(cast("Answer", found["error"]), session)
    return found


def number(found: Answer, key: str) -> int:
    """A whole number of an answer, 0 where it is not there."""
    value = found.get(key, 0)
    return value if isinstance(value, int) else 0


def gone(headers: Mapping[str, str]) -> Reason | None:
    """Why there is no record, where this is a marker of its absence; None where it is a record."""
    marker = headers.get("Nats-Marker-Reason")
    if marker is not None:
        return Reason.EXPIRED if marker == "MaxAge" else Reason.REMOVED
    return Reason.DEREGISTERED if headers.get("KV-Operation") in ("DEL", "PURGE") else None


def without_jetstream(where: str, said: str) -> Unsupported:
    """What to say where there is a NATS server, but no JetStream."""
    return Unsupported(
        f"NATS at {where}: {said}; nats:// keeps its records in JetStream (jetstream {{}} in the server's "
        "configuration, or nats-server -js). nats-pubsub:// needs none"
    )


def _raise(error: Answer, session: Session) -> None:
    code, text = number(error, "err_code"), str(error.get("description", "an error"))
    said = f"NATS at {session.where}: {text}"
    if code in _WRONG_SEQUENCE:
        raise WrongSequence(said, code)
    if code in _NO_JETSTREAM:
        raise without_jetstream(session.where, text)
    if code == _TOO_LARGE:
        raise RecordTooLarge(said)
    if code in _TOO_FEW_SERVERS:
        said += "; option replicas: at most as many as the cluster has servers, and 1 where there is one server"
    if code in _NO_SUCH_CONFIG:
        raise ConfigError(said)
    if "permission" in text:
        raise PermissionDenied(said)
    raise Refused(said, code)
