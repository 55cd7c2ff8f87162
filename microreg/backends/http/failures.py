"""From what the server answers, or a connection that fails, to an error of the tree."""

from __future__ import annotations

import ssl

import aiohttp
import msgspec

from microreg.errors import (
    InvalidService,
    PermissionDenied,
    RecordTooLarge,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)

__all__ = ["Superseded", "connection_failure", "is_broken", "refusal", "stranger"]

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL calls the first bytes of an answer in clear text, up to 3.1 and since."""
_KINDS: dict[str, type[RegistryError]] = {
    kind.code: kind for kind in (InvalidService, PermissionDenied, RegistryTimeout, RegistryUnavailable, Unsupported)
}
_TOKEN = "; in the config string: ?token=${REGISTRY_TOKEN}"
_LATER = frozenset({408, 421, 425, 429, 500, 502, 503, 504})


class Superseded(RegistryError):
    """A write came late: this client has written the same node again since."""

    code = "superseded"
    http_status = 409


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""
    name: str = ""
    authoritative: bool = False
    size: int = 0
    limit: int = 0


def refusal(where: str, response: aiohttp.ClientResponse, body: bytes) -> RegistryError:
    """What an answer means that is no success."""
    try:
        told = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeError):
        told = _Problem()
    status = response.status
    text = f"{where}: {told.detail or f'{status} {response.reason}'}"
    if told.code == ServiceNotFound.code:
        return ServiceNotFound(told.name, authoritative=told.authoritative)
    if told.code == RecordTooLarge.code or status == 413:
        return RecordTooLarge(text, size=told.size, limit=told.limit)
    if told.code == Superseded.code:
        return Superseded(text)
    if told.code in _KINDS:
        return _KINDS[told.code](text + (_TOKEN if status == 401 else ""))
    if status in (401, 403, 407):
        return PermissionDenied(text)
    if status in (300, 301, 302, 303, 307, 308):
        there = response.headers.get("Location", "elsewhere")
        return RegistryUnavailable(f"{where}: it redirects to {there[:200]!r}; write in the config string where it is")
    if status in _LATER or status >= 500:
        return RegistryUnavailable(text)
    if not told.code:
        return stranger(where, f"{status} {response.reason}")
    return RegistryError(text)


def stranger(where: str, why: str) -> RegistryUnavailable:
    """What answers there does not speak the API."""
    return RegistryUnavailable(f"{where}: what answers there is no microreg server ({why}); is the path right?")


def is_broken(error: Exception) -> bool:
    """Whether a connection that was open has ended, which says nothing of the next one."""
    lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return lost and not isinstance(error, aiohttp.ClientConnectorError)


def connection_failure(where: str, error: Exception) -> RegistryError:
    """What it means that a connection could not be made, or broke."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
        if getattr(inner, "reason", None) in _NO_TLS:
            return RegistryUnavailable(f"{where}: TLS: what answers there does not speak it ({inner}); is it http://?")
        return RegistryUnavailable(f"{where}: TLS: {inner}; options ca and server_name say whom to trust")
    if type(error) is aiohttp.ClientResponseError:  # an answer that cannot be parsed; the subclasses are other things
        return stranger(where, "its answer is no HTTP")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            why = "connection refused; nothing listens there: does `microreg serve` run, and is this its port?"
        else:
            why = error.os_error.strerror or str(error.os_error)
        return RegistryUnavailable(f"{where}: cannot connect: {why}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return RegistryUnavailable(f"{where}: the server ended the connection")
    if isinstance(error, TimeoutError):
        return RegistryTimeout(f"{where}: no answer in time")
    return RegistryUnavailable(f"{where}: {type(error).__name__}: {error}")
