"""Which interfaces a registry speaks on: those of the config string, or the sensible ones."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from microreg.errors import ConfigError, RegistryUnavailable
from microreg.net import Interface, interfaces, is_virtual

__all__ = ["Link", "choose", "parse_location"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}")
_EXPECTED = "expected mdns:// or mdns://interface,interface, each a name or an address, as in mdns://eth0,127.0.0.1"


class Link(NamedTuple):
    """One interface with the address we speak from; ``number`` is the system's number, 0 where unknown."""

    name: str
    number: int
    address: str

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


def parse_location(location: str) -> tuple[str, ...]:
    """The interfaces named in the config string, IPv6 without brackets. Raises ConfigError."""
    found: list[str] = []
    for item in location.split(",") if location else ():
        text = item.replace("%25", "%")
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        if not (_is_address(text) or _NAME.fullmatch(text)) or (":" in text and not item.startswith("[")):
            raise ConfigError(f"{item[:60]!r} in the mdns:// URL is no interface: {_EXPECTED}")
        if text in found:
            raise ConfigError(f"{item[:60]!r} stands twice in the mdns:// URL")
        found.append(text)
    return tuple(found)


def choose(named: Sequence[str], available: Callable[[], Sequence[Interface]] = interfaces) -> tuple[Link, ...]:
    """The links to speak on: one for each interface that is named, or for each sensible one.

    Sensible are physical interfaces, else virtual ones (bridges, tunnels), else loopback; of each its IPv4
    address, or the link-local IPv6 one where it has no other. Raises ConfigError for one that is not there.
    """
    if not named:
        return _sensible(available())
    return tuple(dict.fromkeys(_find(text, available) for text in named))


def _sensible(present: Sequence[Interface]) -> tuple[Link, ...]:
    ranks: dict[int, list[Link]] = {}
    for interface in present:
        link = _link(interface)
        if link is not None:
            loopback = ipaddress.ip_address(link.address).is_loopback
            ranks.setdefault(2 if loopback else int(is_virtual(interface.name)), []).append(link)
    if not ranks:
        raise RegistryUnavailable("mdns:// found no network interface with an address, not even loopback")
    return tuple(ranks[min(ranks)])


def _find(text: str, available: Callable[[], Sequence[Interface]]) -> Link:
    if _is_address(text) and (ip := ipaddress.ip_address(text)).version == 4 and ip.is_loopback:
        return Link("lo", 0, text)
    present = available()
    for interface in present:
        link = _link(interface) if text == interface.name else None
        if text in interface.addresses:
            link = Link(interface.name, interface.index, text)
        if link is not None:
            return link
    here = "; ".join(f"{each.name} ({', '.join(each.addresses)})" for each in present) or "none"
    raise ConfigError(f"there is no interface {text!r} on this machine. Interfaces here: {here}")


def _link(interface: Interface) -> Link | None:
    """An interface with the best of its addresses."""
    addresses = sorted(interface.addresses, key=_preference)
    return Link(interface.name, interface.index, addresses[0]) if addresses else None


def _preference(address: str) -> int:
    """IPv4 first; of IPv6 the link-local address, which is what RFC 6762 speaks from."""
    ip = ipaddress.ip_address(address)
    return int(ip.is_link_local) if ip.version == 4 else 3 - int(ip.is_link_local)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
