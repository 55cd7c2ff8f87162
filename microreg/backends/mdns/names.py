"""What things are called in DNS-SD (RFC 6763): one type, a subtype per service name, an instance per node.

Names and ids may hold characters that labels should not, and two names may fall together here: the exact
name and id stand in TXT, and only they count.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from hashlib import sha256

from microreg.backends.mdns.wire import name as wire_name
from microreg.model import Service

__all__ = ["BROWSE", "SERVICE_TYPE", "Key", "host", "instance", "is_host", "is_link_local", "key_of", "subtype"]

_TYPE = ("_microreg", "_tcp", "local")
SERVICE_TYPE = wire_name(*_TYPE)
"""``_microreg._tcp.local.``: everything that microreg announces."""
BROWSE = wire_name("_services", "_dns-sd", "_udp", "local")
"""What DNS-SD browsers ask for the types there are (RFC 6763 section 9)."""

Key = tuple[str, str]
"""A node: the name of its service, and its id."""

_HOST = "microreg-"
_ODD = re.compile(r"[^a-z0-9_-]+")
_MAX_LABEL = 63
_LINK_LOCAL = frozenset({"fe8", "fe9", "fea", "feb"})


def key_of(record: Service) -> Key:
    """The key of a record, which has one node."""
    return record.name, record.nodes[0].id


@lru_cache(maxsize=1024)
def subtype(service: str) -> bytes:
    """The subtype of a service name: ``_greeter._sub._microreg._tcp.local.``.

    Dots become dashes: avahi and zeroconf take a dot inside a label for two labels.
    """
    label = "_" + _ODD.sub("-", service.lower())
    if len(label) > _MAX_LABEL:
        label = f"{label[:50]}-{_digest(service)}"
    return wire_name(label, "_sub", *_TYPE)


def instance(service: str, node_id: str) -> bytes:
    """The instance of a node: readable beginnings of name and id, and a hash that makes it unique."""
    readable = f"{_slug(service, 30)}-{_slug(node_id, 12)}"
    return wire_name(f"{readable}-{_digest(service, node_id)}", *_TYPE)


def host(name: str) -> bytes | None:
    """The SRV target of a node on this host: a name of its own for an IP address, else the DNS name itself.

    None where the text can be no name. The target says the address, so that programs of one machine agree.
    """
    try:
        packed = ipaddress.ip_address(name.partition("%")[0]).packed
    except ValueError:
        labels = name.rstrip(".").split(".")
        valid = all(0 < len(label.encode()) <= _MAX_LABEL for label in labels) and len(name) <= 250
        return wire_name(*labels) if valid else None
    return wire_name(_HOST + ("-".join(map(str, packed)) if len(packed) == 4 else packed.hex()), "local")


def is_host(target: bytes) -> bool:
    """Whether this is such a name of its own, which only microreg answers for."""
    return target[1:].startswith(_HOST.encode())


def is_link_local(name: str) -> bool:
    """Whether this is an IPv6 address that is valid on one link only (RFC 4291), with a zone or without."""
    return name[:3].lower() in _LINK_LOCAL and ":" in name


def _slug(text: str, size: int) -> str:
    return _ODD.sub("-", text.lower()).replace("_", "-")[:size].strip("-")


def _digest(*texts: str) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()[:12]
