"""From a gRPC status to an error of the tree, with what a person can do about it."""

from __future__ import annotations

from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    Unsupported,
)
from microreg_etcd.stubs import rpc

__all__ = ["Compacted", "LeaseExists", "LeaseLost", "NotConnected", "StaleToken", "Unreachable", "denial", "failure"]

_Code = rpc.StatusCode


class Compacted(RegistryUnavailable):
    """The store does not have the events any more that come next: read it again."""


class LeaseExists(RegistryUnavailable):
    """A lease of this id has been granted before."""


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
    found.__cause__ = error
    return found


def denial(reason: str, where: str) -> RegistryError:
    """What it means that the member at ``where`` ended a watch for this reason.

    A token that it does not know any more is refused in the same words as a user without the permission.
    """
    if "permission denied" in reason:
        return StaleToken(f"etcd at {where}: {reason}")
    return RegistryUnavailable(f"etcd at {where}: {reason}")


def _kind(code: rpc.StatusCode, details: str, where: str) -> RegistryError:
    text = f"etcd at {where}: {details}"
    if "requested lease not found" in details:
        return LeaseLost(text)
    if "lease already exists" in details:
        return LeaseExists(text)
    if "invalid auth token" in details or "revision of auth store is old" in details:
        return StaleToken(text)
    if "user name is empty" in details:
        return PermissionDenied(f"{text}; this server wants a user: etcd://user:${{ETCD_PASSWORD}}@host")
    if "authentication is not enabled" in details:
        return ConfigError(f"{text}; leave user and password out of the config string, or enable it (etcdctl auth)")
    if code in (_Code.PERMISSION_DENIED, _Code.UNAUTHENTICATED) or "authentication failed" in details:
        return PermissionDenied(text)
    if "database space exceeded" in details:
        return RegistryUnavailable(f"{text}; compact and defragment it, then `etcdctl alarm disarm`")
    if code is _Code.INVALID_ARGUMENT:
        return InvalidService(text)
    if code is _Code.UNIMPLEMENTED:
        return Unsupported(f"{text}; expected etcd 3.3 or newer")
    if code is _Code.DEADLINE_EXCEEDED:
        return RegistryTimeout(text)
    if code is _Code.UNAVAILABLE and "etcdserver" not in details:
        return (NotConnected if "timed out" in details else Unreachable)(text)
    return RegistryUnavailable(text)
