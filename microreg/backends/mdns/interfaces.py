"""Which interfaces a registry speaks on: those of the config string, or the sensible ones.

Sensible are physical interfaces; where there is none with an address, the virtual ones that are no tunnels
(bridges of containers and virtual machines); else loopback. One that is named is always used.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from microreg.errors import ConfigError, RegistryUnavailable
from microreg.net import Interface, interfaces, is_virtual

__all__ = ["Choice", "Flags", "Link", "best", "choose", "follows", "look", "parse_location", "read_flags"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}")
_EXPECTED = "expected mdns:// or mdns://interface,interface, each a name or an address, as in mdns://eth0,127.0.0.1"
_SIOCGIFFLAGS = 0x8913
_V6_LINK_LOCAL = 2
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
_UP, _POINT_TO_POINT, _RUNNING, _MULTICAST = 0x1, 0x10, 0x40, 0x1000

Flags = Callable[[Sequence[str]], Mapping[str, int]]
"""The system's flags (IFF_UP, …) of interfaces; what is unknown is left out."""


class Link(NamedTuple):
    """One interface with the address we speak from; ``number`` is the system's number, 0 where unknown.

    ``reachable`` is the address by which others on this link reach the machine, where that is another one: who
    speaks from a link-local IPv6 address may have a global one too.
    """

    name: str
    number: int
    address: str
    reachable: str = ""

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def host(self) -> str:
        """The address to tell others on this link."""
        return self.reachable or self.address

    @property
    def zone(self) -> str:
        """What makes a link-local IPv6 address that was heard on this link usable here (RFC 4007)."""
        return self.address.partition("%")[2] or self.name


class Choice(NamedTuple):
    """What :func:`look` found: the links to speak on, which of them have a carrier, what was left out and why."""

    links: tuple[Link, ...]
    running: frozenset[Link]
    left_out: Mapping[str, str]


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


def choose(
    named: Sequence[str], available: Callable[[], Sequence[Interface]] = interfaces, flags: Flags | None = None
) -> Choice:
    """The links to speak on: one for each interface that is named, or for each sensible one.

    Of each its IPv4 address, or the link-local IPv6 one where it has no other. Raises ConfigError for one that
    is named and not there, and RegistryUnavailable where there is none.
    """
    choice = look(named, available, flags)
    missing = next((text for text in named if text in choice.left_out), None)
    if missing is not None:
        here = "; ".join(f"{each.name} ({', '.join(each.addresses)})" for each in available()) or "none"
        raise ConfigError(f"there is no interface {missing!r} on this machine. Interfaces here: {here}")
    if not choice.links:
        raise RegistryUnavailable("mdns:// found no network interface with an address, not even loopback")
    return choice


def look(
    named: Sequence[str], available: Callable[[], Sequence[Interface]] = interfaces, flags: Flags | None = None
) -> Choice:
    """What there is now of the interfaces that are named, or of the sensible ones. Raises OSError."""
    present = available() if follows(named) else ()
    known = (flags or read_flags)([each.name for each in present])
    if named:
        found = {text: _find(text, present) for text in named}
        links = tuple(dict.fromkeys(link for link in found.values() if link is not None))
        left_out = {text: "it is not there" for text, link in found.items() if link is None}
    else:
        links, left_out = _sensible(present, known)
    running = frozenset(link for link in links if known.get(link.name, _RUNNING) & _RUNNING)
    return Choice(links, running, left_out)


def best(links: Sequence[Link]) -> Link | None:
    """The link whose address stands for this machine: the first that is valid beyond its link, else the first."""
    return next((link for link in links if "%" not in link.host), next(iter(links), None))


def follows(named: Sequence[str]) -> bool:
    """Whether what is named can change while it is used: all but IPv4 loopback addresses, which always exist."""
    return not named or not all(_is_loopback(text) for text in named)


def read_flags(names: Sequence[str]) -> Mapping[str, int]:
    """The flags of these interfaces; of none where the system is not Linux."""
    found: dict[str, int] = {}
    if sys.platform == "linux":
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name in names:
                request = struct.pack("16sH22x", name.encode()[:15], 0)
                try:
                    found[name] = struct.unpack("16sH22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
                except OSError:  # it went away just now
                    continue
    return found


def _sensible(present: Sequence[Interface], flags: Mapping[str, int]) -> tuple[tuple[Link, ...], dict[str, str]]:
    """The links of the best kind there is, and why the other interfaces are not used (loopback goes without saying)."""
    left_out: dict[str, str] = {}
    kinds: tuple[list[Link], list[Link], list[Link]] = [], [], []
    for interface in present:
        link = _link(interface)
        if link is None:
            continue
        if ipaddress.ip_address(link.address).is_loopback:
            kinds[2].append(link)
        elif why := _unfit(flags.get(interface.name)):
            left_out[interface.name] = why
        elif is_virtual(interface.name):
            left_out[interface.name] = "its name is that of a bridge, tunnel or virtual network"
            kinds[1].append(link)
        else:
            kinds[0].append(link)
    links = tuple(next((kind for kind in kinds if kind), ()))
    return links, {name: why for name, why in left_out.items() if name not in {link.name for link in links}}


def _unfit(flags: int | None) -> str:
    """Why nobody can be found on an interface with these flags; empty where somebody may."""
    if flags is None:
        return ""
    if not flags & _UP:
        return "it is down"
    if flags & _POINT_TO_POINT:
        return "it is a tunnel, from one point to another"
    return "" if flags & _MULTICAST else "it has no multicast"


def _find(text: str, present: Sequence[Interface]) -> Link | None:
    if _is_loopback(text):
        return Link("lo", 0, text)
    for interface in present:
        if text == interface.name and (link := _link(interface)) is not None:
            return link
        if text in interface.addresses:
            return Link(interface.name, interface.index, text)
    return None


def _link(interface: Interface) -> Link | None:
    """An interface with the best of its addresses; beside a link-local IPv6 address, one that is valid elsewhere."""
    addresses = sorted(interface.addresses, key=_preference)
    if not addresses:
        return None
    wider = [each for each in addresses if _preference(each) > _V6_LINK_LOCAL]
    reachable = wider[0] if wider and _preference(addresses[0]) == _V6_LINK_LOCAL else ""
    return Link(interface.name, interface.index, addresses[0], reachable)


def _preference(address: str) -> int:
    """IPv4 first; of IPv6 the link-local address, which is what RFC 6762 speaks from; unique-local ones last."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return int(ip.is_link_local)
    return _V6_LINK_LOCAL if ip.is_link_local else _V6_LINK_LOCAL + 1 + (ip in _UNIQUE_LOCAL)


def _is_loopback(text: str) -> bool:
    """Whether this is an IPv4 loopback address; all of them exist everywhere."""
    return _is_address(text) and (ip := ipaddress.ip_address(text)).version == 4 and ip.is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
