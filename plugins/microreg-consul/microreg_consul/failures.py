"""From what aiohttp and py-consul raise to an error of the tree, with what a person can do about it."""

from __future__ import annotations

import re
import ssl

import aiohttp
from consul.exceptions import ACLDisabled, ACLPermissionDenied, BadRequest, ConsulException

from microreg.errors import (
    InvalidService,
    PermissionDenied,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
)

__all__ = ["Unknown", "failure", "filtered"]

_SHOWN = 300

_GONE = re.compile(r"does not have associated TTL|[Uu]nknown (?:check|service)")
"""What an agent says of a check or a service that it does not have."""

_DENIED = re.compile(r"Permission denied|ACL not found")
_FOREIGN = re.compile(r"(Missing index header|Failed to decode JSON):.*", re.DOTALL)
"""What py-consul says, and behind it all that has come."""

_ADVICE = (
    (r"ACL not found", "the agent does not know this token (any more): option token"),
    (r"Permission denied", "the token's policy must allow it, see the reference page: option token"),
    (r"ACL support disabled", "leave the option token out, or switch ACLs on in the agent"),
    (r"No cluster leader", "the servers elect one within seconds, where most of them are up"),
    (r"No path to datacenter", "is the option dc spelled as in `consul catalog datacenters`?"),
    (r"HTTP request to an HTTPS server", "it speaks TLS: consuls://"),
    (r"CERTIFICATE_VERIFY_FAILED.*(mismatch|not valid for)", "its certificate is for another name: option server_name"),
    (r"CERTIFICATE_VERIFY_FAILED", "option ca names the file with the certificates to trust"),
    (r"ALERT_\w*(CERTIFICATE|UNKNOWN_CA)|certificate required", "it wants a client certificate: options cert and key"),
    (
        r"Missing index header|Failed to decode JSON|404 for|no HTTP",
        "what answers there is no Consul: is this its HTTP port?",
    ),
    (r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE", "perhaps it speaks without TLS: consul://"),
    (r"Connect call failed|refused", "nothing listens there: does the agent run, and is that its HTTP port?"),
    (r"getaddrinfo|Name or service not known|resolution", "is the name of the host spelled right, and known here?"),
    (r"unreachable|No route to host", "no way leads there: is the address right, and the network up?"),
    (
        r"Server disconnected|reset by peer|ssl:default \[None\]",
        "is this its HTTP port? If it is: an agent takes 200 connections from one address, "
        "limits.http_max_conns_per_client",
    ),
)
"""What is said of a failure, and what a person can do about it: the first that matches."""
_NO_TOKEN = "no token was given: option token, as in ?token=${CONSUL_HTTP_TOKEN}"


class Unknown(RegistryUnavailable):
    """The agent does not have this check, or this service (any more)."""


def failure(error: Exception, where: str, *, has_token: bool = True) -> RegistryError:
    """What this error of a request to the agent at ``where`` means; ``error`` is its cause."""
    said = _said(error)
    found = _kind(error, said)(f"Consul at {where}: {said}{_advice(said, has_token)}")
    found.__cause__ = error.with_traceback(None)  # its frames hold the connection
    return found


def filtered(what: str, where: str, *, has_token: bool = True) -> PermissionDenied:
    """An empty answer that ACLs have made: it says nothing about what there is."""
    advice = _advice("Permission denied", has_token)
    return PermissionDenied(f"Consul at {where}: {what} may not be read: an empty answer says nothing{advice}")


def _said(error: Exception) -> str:
    """What went wrong in one line, without what a stranger has answered."""
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"the answer is no HTTP that can be read: {error.message.partition(':')[0]}"
    return " ".join(_FOREIGN.sub(r"\1", text).split())[:_SHOWN]


def _advice(said: str, has_token: bool) -> str:
    """What to do about it, behind a semicolon; empty where nothing is known."""
    if not has_token and "Permission denied" in said:
        return f"; {_NO_TOKEN}"
    return next((f"; {advice}" for pattern, advice in _ADVICE if re.search(pattern, said, re.IGNORECASE)), "")


def _kind(error: Exception, said: str) -> type[RegistryError]:
    if isinstance(error, TimeoutError):
        return RegistryTimeout
    if isinstance(error, ACLPermissionDenied | ACLDisabled):
        return PermissionDenied
    if isinstance(error, ConsulException):
        if _GONE.search(said):
            return Unknown
        if _DENIED.search(said):
            return PermissionDenied
        if isinstance(error, BadRequest) and "HTTPS server" not in said:
            return InvalidService
        return RegistryUnavailable
    if isinstance(error, aiohttp.ClientError | ssl.SSLError | OSError):
        return RegistryUnavailable
    return RegistryError
