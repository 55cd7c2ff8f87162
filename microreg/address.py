"""``host:port``: split, joined and explained, with IPv6 done right. Resolves nothing.

Everything is offered by :mod:`microreg.net`; import it from there.
"""

from __future__ import annotations

import re
import socket

from microreg.errors import InvalidService

__all__ = ["MAX_ADDRESS", "address_problem", "join_address", "quoted", "split_address"]

MAX_ADDRESS = 255
"""Bytes an address may have (a DNS name has at most 253, RFC 1035)."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_V6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.~-]+)?")
_ADDRESS = re.compile(rf"(?:\[({_V6.pattern})\]|({_NAME.pattern})):([1-9][0-9]{{0,4}})")
_ODD = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMERIC = re.compile(r"(?:.*\.)?[0-9]+\.?")


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port`` into host (IPv6 without brackets, zone kept) and port; resolves nothing.

    Takes ``10.0.0.1:80``, ``[::1]:80``, ``[fe80::1%eth0]:80`` (RFC 4007) and DNS names.
    Raises InvalidService that says what was expected.
    """
    try:
        match = _ADDRESS.fullmatch(text) if len(text) <= MAX_ADDRESS else None
    except TypeError:
        match = None
    if match:
        v6, name, digits = match.groups()
        port = int(digits)
        if port < 65536 and (_is_v6(v6) if v6 else len(name) <= 253 and _is_v4_or_name(name)):
            return v6 or name, port
    raise InvalidService(f"address {quoted(text)}: {_explain(text)}")


def address_problem(text: str) -> str:
    """Why ``text`` is not a ``host:port``, without quoting it; empty when it is one."""
    try:
        split_address(text)
    except InvalidService:
        return _explain(text)
    return ""


def join_address(host: str, port: int) -> str:
    """Put host and port together; IPv6 gets brackets unless it has them. Raises InvalidService."""
    address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    split_address(address)
    return address


def quoted(text: object) -> str:
    """Text for a message: bounded, printable, without anything that may be a password."""
    if not isinstance(text, str):
        return f"of type {type(text).__name__}"
    _, at, rest = text.rpartition("@")
    return repr(f"…@{rest}"[:80] if at else text[:80])


def _is_v6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except OSError:
        return False
    return True


def _is_v4_or_name(text: str) -> bool:
    """A name whose last label is a number can only be meant as an IPv4 address."""
    if not _NUMERIC.fullmatch(text):
        return True
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


def _explain(text: object) -> str:
    """What is wrong with an address that split_address refuses; quotes nothing of it."""
    if not isinstance(text, str):
        return "expected a str like host:port"
    if not text:
        return "it is empty, expected host:port"
    if _ODD.search(text):
        return "it contains a space, control character or lone surrogate, expected host:port"
    if len(text.encode()) > MAX_ADDRESS:
        return f"it is longer than {MAX_ADDRESS} bytes"
    if "/" in text or "@" in text:
        return "expected host:port alone, without scheme, user or path"
    host, colon, port = text.rpartition(":")
    if text.startswith("[") or "]" in text:
        return _explain_v6(text)
    if ":" in host:
        return "an IPv6 address needs brackets, as in [::1]:8080"
    if not colon:
        return "the port is missing, expected host:port"
    return _explain_port(port) or _explain_host(host)


def _explain_v6(text: str) -> str:
    host, bracket, rest = text[1:].partition("]")
    if not text.startswith("[") or not bracket or "[" in host or "]" in rest:
        return "the brackets are not balanced, expected [IPv6]:port"
    if not rest.startswith(":"):
        return "the port is missing, expected [IPv6]:port"
    return _explain_port(rest[1:]) or "what is in the brackets is not an IPv6 address"


def _explain_port(port: str) -> str:
    valid = re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) < 65536
    return "" if valid else "the port must be a number from 1 to 65535"


def _explain_host(host: str) -> str:
    if not host:
        return "the host is empty, expected host:port"
    if host == "*":
        return "a wildcard address is one to listen on, nobody can call it; name the host itself"
    if not host.isascii():
        return "a host name is ASCII; write an international name in its xn-- form"
    if _NUMERIC.fullmatch(host):
        return "it looks like an IPv4 address but is none"
    return "the host must be a DNS name, an IPv4 address, or an IPv6 address in brackets"
