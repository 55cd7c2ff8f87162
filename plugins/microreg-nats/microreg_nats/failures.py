"""What goes wrong on the way to a NATS server, as an error of microreg's tree."""

from __future__ import annotations

import re
import ssl

from nats import errors

from microreg.errors import PermissionDenied, RecordTooLarge, RegistryError, RegistryTimeout, RegistryUnavailable

__all__ = ["NoResponders", "denial", "failure", "forbidden", "mute"]

_DENIED = re.compile(r"authorization violation|authentication (expired|revoked)|account authentication", re.IGNORECASE)
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)

_ADVICE: tuple[tuple[str, str], ...] = (
    (r"VERIFY_FAILED.*([Hh]ostname|IP address)", "which name has its certificate? option server_name"),
    (r"CERTIFICATE_VERIFY_FAILED", "which authority has signed its certificate? option ca"),
    (r"ALERT_\w*(CERTIFICATE|UNKNOWN_CA)|alert (certificate|bad cert|unknown ca)", "option cert: does it trust yours?"),
    (r"WRONG_VERSION_NUMBER", "perhaps it speaks without TLS: {plain}://"),
    (r"Connect call failed|Connection refused", "nothing listens there: is nats-server running, and is this its port?"),
    (r"Name or service not known|nodename|getaddrinfo|name resolution", "is the name of the host spelled right?"),
    (r"unreachable|No route to host", "no way leads there: is the address right, and the network up?"),
    (r"expecting INFO|json parse", "what answers there is no NATS server: is this its port for clients?"),
    (r"unexpected EOF|Connection lost|reset by peer", "it hung up; its log says why"),
)
"""What the reason looks like, and what a person can do about it: the first that matches."""


class NoResponders(RegistryUnavailable):
    """Nobody listens to the subject that was asked."""


def failure(error: BaseException, where: str, *, plain: str = "nats") -> RegistryError:
    """What this exception of nats-py means, or of the network; ``error`` is its cause.

    ``plain`` is the scheme without TLS of the config string, which advice names.
    """
    if isinstance(error, RegistryError):
        return error
    found = _kind(error, where, plain)
    found.__cause__ = error.with_traceback(None)
    return found


def denial(error: Exception) -> tuple[str, str] | None:
    """``publish`` or ``subscription`` and the subject (in lower case) that this error says is forbidden."""
    match = _VIOLATION.search(str(error))
    return (match[1].lower(), match[2].lower()) if match else None


def forbidden(kind: str, subject: str, where: str) -> PermissionDenied:
    """The server refuses to let this user publish to a subject, or subscribe to it."""
    return PermissionDenied(
        f'NATS at {where}: permissions violation for {kind} to "{subject}"; '
        "allow it: see Permissions on the reference page of nats or nats-pubsub"
    )


def mute(where: str) -> RegistryTimeout:
    """The connection stands, and nobody has said what a NATS server says first."""
    return RegistryTimeout(
        f"NATS at {where} did not answer in time: connected, but no INFO came: "
        "is this a NATS client port (4222), not the monitor's?"
    )


def _kind(error: BaseException, where: str, plain: str) -> RegistryError:
    text = str(error) or type(error).__name__
    said = f"NATS at {where}: {text.removeprefix('nats: ')}"
    if _DENIED.search(text) or isinstance(error, errors.AuthorizationError):
        return PermissionDenied(f"{said}; which user, token, nkey_file, creds_file or client certificate does it know?")
    if isinstance(error, errors.SecureConnWantedError):
        return RegistryUnavailable(f"NATS at {where} speaks without TLS: write {plain}://, or give it certificates")
    if isinstance(error, errors.SecureConnRequiredError):
        return RegistryUnavailable(f"NATS at {where} speaks TLS only: write {plain.replace('nats', 'natss')}://")
    if isinstance(error, errors.MaxPayloadError):
        return RecordTooLarge(f"{said}; see max_payload in the server's configuration")
    if isinstance(error, TimeoutError):
        return RegistryTimeout(f"NATS at {where} did not answer in time")
    if isinstance(error, ssl.SSLError):
        said = f"NATS at {where}: TLS: {text}"
    advice = next((f"; {advice.format(plain=plain)}" for pattern, advice in _ADVICE if re.search(pattern, text)), "")
    return RegistryUnavailable(f"{said}{advice}")
