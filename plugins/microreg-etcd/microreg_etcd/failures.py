"""From a gRPC status to an error of the tree, with what a person can do about it."""

from __future__ import annotations

import re

from microreg.errors import (
    InvalidService,
    PermissionDenied,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    Unsupported,
)
from microreg_etcd.stubs import rpc

__all__ = ["Compacted", "LeaseLost", "NotConnected", "StaleToken", "Unreachable", "denial", "failure"]

_Code = rpc.StatusCode

_ADVICE = (
    (r"CERTIFICATE_VERIFY_FAILED", "option ca names the file with the certificates to trust"),
    (r"Hostname Verification", "its certificate is for another name, which option server_name may say"),
    (r"ALERT_\w*(CERTIFICATE|UNKNOWN_CA)", "it wants a client certificate that it trusts: options cert and key"),
    (r"Handshake read failed|WRONG_VERSION_NUMBER", "perhaps it speaks without TLS: etcd://"),
    (r"failed to connect.*(Socket closed|reset by peer)", "perhaps it speaks TLS: etcds://"),
    (r"Connection refused", "nothing listens there: is etcd running, and is this its port for clients?"),
    (r"errors resolving|DNS resolution", "is the name of the host spelled right, and known on this machine?"),
    (r"unreachable|No route to host", "no way leads there: is the address right, and the network up?"),
    (r"http1\.x server|Expected SETTINGS", "what answers there is no etcd: is this its port for clients?"),
    (r"failed to connect.*timed out", "is the address right, and no firewall in between?"),
)
"""What gRPC says of a connection that was not made, and what a person can do about it: the first that matches."""

_WORDING = re.compile(
    r"failed to connect to all addresses; last error: (?:[A-Z_]+: )?(?:ipv[46]:\S+: )?"
    r"(?:Failed to connect to remote host: (?:connect: )?|connect failed: addr: \S+ error: )?"
    r"|(?:errors resolving|DNS resolution failed for) .*: (?=[^:]*$)"
)
"""What gRPC puts before the reason why a connection was not made."""


class Compacted(RegistryUnavailable):
    """The store does not have the events any more that come next: read it again."""


class LeaseLost(RegistryUnavailable):
    """The lease of a record is not there (any more)."""


class Unreachable(RegistryUnavailable):
    """The connection could not be made, or broke."""


class NotConnected(RegistryTimeout):
    """The member let the connection be made and then said nothing."""


class StaleToken(PermissionDenied):
    """The server does not know this token (any more): asking for another may help."""


def failure(error: rpc.AioRpcError, where: str) -> RegistryError:
    """What this status of the member at ``where`` means; ``error`` is its cause."""
    found = _kind(error.code(), error.details() or error.code().name, where)
    # Whoever keeps the error would keep its frames, these the call, and the call its connection.
    found.__cause__ = error.with_traceback(None)
    return found


def denial(reason: str, where: str) -> RegistryError:
    """What it means that the member at ``where`` ended a watch for this reason.

    Older servers (3.5.1) refuse a token that they do not know any more in the same words as a user without the
    permission; newer ones say which it is.
    """
    if "permission denied" in reason:
        return StaleToken(f"etcd at {where}: {reason}")
    return _kind(_Code.UNKNOWN, reason, where)


def _kind(code: rpc.StatusCode, details: str, where: str) -> RegistryError:
    text = f"etcd at {where}: {details}"
    if "requested lease not found" in details:
        return LeaseLost(text)
    if "invalid auth token" in details or "revision of auth store is old" in details:
        return StaleToken(text)
    if "user name is empty" in details:
        return PermissionDenied(f"{text}; this server wants a user: etcd://user:${{ETCD_PASSWORD}}@host")
    if "authentication is not enabled" in details:
        return PermissionDenied(
            f"{text}; leave user and password out of the config string, or enable it: etcdctl auth enable"
        )
    if code in (_Code.PERMISSION_DENIED, _Code.UNAUTHENTICATED) or "authentication failed" in details:
        return PermissionDenied(text)
    if "database space exceeded" in details:
        return RegistryUnavailable(f"{text}; compact and defragment it, then `etcdctl alarm disarm`")
    if code is _Code.INVALID_ARGUMENT:
        return InvalidService(text)
    if code is _Code.OUT_OF_RANGE:  # a revision that was compacted, or has not come yet
        return Compacted(text)
    if code is _Code.UNIMPLEMENTED:
        return Unsupported(f"{text}; expected etcd 3.3 or newer")
    if code is _Code.DEADLINE_EXCEEDED:
        return RegistryTimeout(text)
    if code is _Code.UNAVAILABLE and "etcdserver" not in details:
        said, unmade = _WORDING.subn("cannot connect: ", details, count=1)
        advice = next((f"; {advice}" for pattern, advice in _ADVICE if re.search(pattern, details)), "")
        kind = NotConnected if "timed out" in details else Unreachable
        return kind(f"etcd at {where}: {said.rstrip(']') if unmade else said}{advice}")
    return RegistryUnavailable(text)
