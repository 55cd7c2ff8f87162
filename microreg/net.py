"""Addresses: ``host:port`` with IPv6 done right, free ports, and the address others can reach us at.

Nothing here sends a packet. Only :func:`source_address` may resolve a name, all else works on text.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from microreg.address import address_problem, join_address, quoted, split_address
from microreg.errors import ConfigError, InvalidService

__all__ = [
    "ADVERTISE_VARIABLE",
    "Advertised",
    "Interface",
    "address_problem",
    "advertised",
    "advertised_host",
    "check_advertised",
    "free_port",
    "interfaces",
    "is_virtual",
    "join_address",
    "source_address",
    "split_address",
]

ADVERTISE_VARIABLE = "MICROREG_ADVERTISE"
"""Environment variable that says which host, or ``host:port``, to announce."""

_VIRTUAL = re.compile(
    r"(docker|br-|veth|tun|tap|utun|wg|virbr|vmnet|vboxnet|vnet|cni|flannel|cali|lxc|lxdbr|podman|nerdctl"
    r"|cilium|weave|kube-|nodelocaldns|dummy|ifb|zt|tailscale|ppp|gre|sit|ip6tnl|teredo|awdl|llw|anpi|vethernet)",
    re.IGNORECASE,
)
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_OCTET = r"(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
_UNICAST = r"(?:[1-9]|[1-9][0-9]|1[0-9]{2}|2[01][0-9]|22[0-3])"
_COMMON = re.compile(rf"{_UNICAST}(?:\.{_OCTET}){{3}}:(?:[1-9][0-9]{{0,3}}|[1-5][0-9]{{4}})")
"""Addresses that most nodes have, and with which nothing is wrong: IPv4, unicast, and a port below 60,000."""


def check_advertised(address: str) -> None:
    """Refuse what nobody can call: no ``host:port``, a wildcard, a multicast or the broadcast address.

    Loopback passes: on one machine it works, and it is refused only where it would be chosen automatically.
    Raises InvalidService.
    """
    if type(address) is str and _COMMON.fullmatch(address):
        return
    host, _ = split_address(address)
    why = _refusal(host, allow_loopback=True, allow_link_local=True)
    if why:
        raise InvalidService(f"address {quoted(address)}: {why}")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of ``host`` that was free a moment ago. Raises OSError if ``host`` is of another machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface: ``addresses`` are IPv4 and IPv6 texts, link-local IPv6 with its ``%zone``."""

    name: str
    index: int
    addresses: tuple[str, ...]


class Advertised(NamedTuple):
    """The host to announce, and the port if ``MICROREG_ADVERTISE`` names one (a container's mapped port)."""

    host: str
    port: int | None


def interfaces() -> tuple[Interface, ...]:
    """The interfaces of this machine that have an address, as the system lists them."""
    import ifaddr

    return tuple(
        Interface(adapter.nice_name, adapter.index or 0, tuple(_text(ip.ip, adapter.name) for ip in adapter.ips))
        for adapter in ifaddr.get_adapters()
        if adapter.ips
    )


def _text(ip: str | tuple[str, int, int], interface: str) -> str:
    """An address as ifaddr has it, with its zone where it needs one (RFC 4007; Windows numbers its zones)."""
    if isinstance(ip, str):
        return ip
    text, _, scope = ip
    zone = {"nt": str(scope)}.get(os.name, interface)  # a type checker believes to know what os.name is
    return f"{text}%{zone}" if ipaddress.IPv6Address(text).is_link_local and "%" not in text else text


def is_virtual(name: str) -> bool:
    """Whether an interface name is one of bridges, containers, tunnels and virtual machines."""
    return _VIRTUAL.match(name) is not None


def source_address(towards: str) -> str | None:
    """The local address from which packets to ``towards`` (``host`` or ``host:port``) would leave.

    A UDP socket is connected, which sends nothing. None when there is no route or the name does not resolve.
    Blocks while a DNS name is resolved: give an IP address, or call it in a thread.
    """
    found = _loosely(towards)
    if not found:
        return None
    try:
        targets = socket.getaddrinfo(found.host, found.port or 9, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, _, _, target in targets:
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def advertised_host(
    *,
    towards: str | None = None,
    allow_loopback: bool = False,
    env: Mapping[str, str] | None = None,
    available: Callable[[], Sequence[Interface]] = interfaces,
    source: Callable[[str], str | None] = source_address,
) -> str:
    """The host of :func:`advertised`, for those who know their port."""
    return advertised(towards=towards, allow_loopback=allow_loopback, env=env, available=available, source=source).host


def advertised(
    *,
    towards: str | None = None,
    allow_loopback: bool = False,
    env: Mapping[str, str] | None = None,
    available: Callable[[], Sequence[Interface]] = interfaces,
    source: Callable[[str], str | None] = source_address,
) -> Advertised:
    """Find the address others can reach this process at.

    In this order: ``MICROREG_ADVERTISE``; the source address towards ``towards`` (the store, ``host:port``);
    the interfaces, physical before virtual, IPv4 before global before unique-local IPv6.
    Wildcard, link-local and (unless ``allow_loopback``) loopback addresses are refused at each step.
    Raises ConfigError that lists what was found and why it was refused.
    """
    told = (os.environ if env is None else env).get(ADVERTISE_VARIABLE, "")
    if told:
        return _from_variable(told, allow_loopback)
    refused: list[str] = []
    for where, host in _candidates(towards, available, source):
        why = _refusal(host, allow_loopback=allow_loopback)
        if not why:
            return Advertised(host, None)
        refused.append(f"{host} ({where}): {why}")
    raise ConfigError(
        "no address found that others could reach this process at: pass address= or set "
        f"{ADVERTISE_VARIABLE}=host. Found: " + ("; ".join(refused) or "no interface with an address")
    )


def _from_variable(told: str, allow_loopback: bool) -> Advertised:
    """Read the variable; an explicit setting that cannot be used is an error, never passed over."""
    found = _loosely(told)
    if found:
        why = _refusal(found.host, allow_loopback=allow_loopback)
    else:
        why = f"expected a host name, an IP address, or host:port ({address_problem(f'{told}:1')})"
    if not found or why:
        raise ConfigError(f"{ADVERTISE_VARIABLE}={quoted(told)}: {why}")
    return found


def _loosely(text: str) -> Advertised | None:
    """Read ``host``, ``IPv6``, ``[IPv6]`` or ``host:port``; None for anything else."""
    if not address_problem(text):
        return Advertised(*split_address(text))
    whole = next((whole for whole in (f"{text}:1", f"[{text}]:1") if not address_problem(whole)), "")
    return Advertised(split_address(whole)[0], None) if whole else None


def _candidates(
    towards: str | None,
    available: Callable[[], Sequence[Interface]],
    source: Callable[[str], str | None],
) -> Iterator[tuple[str, str]]:
    """Where each address comes from and the address, best first."""
    local = source(towards) if towards else None
    if local:
        yield "source address towards the registry", local
    ranked = [
        (_rank(interface.name, address), f"interface {interface.name}", address)
        for interface in available()
        for address in interface.addresses
        if address != local
    ]
    for _, where, address in sorted(ranked, key=lambda entry: entry[0]):
        yield where, address


def _rank(interface: str, address: str) -> tuple[bool, bool, int]:
    """Smaller is better; equals stay in the order of the system."""
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.is_loopback, is_virtual(interface), 2 if ip in _UNIQUE_LOCAL else 1
    return ip is None or ip.is_loopback, is_virtual(interface), 0


_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
"""RFC 4193."""


def _refusal(host: str, *, allow_loopback: bool, allow_link_local: bool = False) -> str:
    """Why ``host`` must not be announced; empty when it may."""
    ip = _ip(host)
    if ip is None:
        loopback = (lower := host.rstrip(".").lower()) in _LOOPBACK_NAMES or lower.endswith(".localhost")
    else:
        loopback = ip.is_loopback
        if ip.is_unspecified:
            return "a wildcard address is one to listen on, nobody can call it; name the host itself"
        if ip.is_multicast:
            return "a multicast address is no address of one node"
        if ip == ipaddress.IPv4Address("255.255.255.255"):
            return "the broadcast address is no address of one node"
        if ip.is_link_local and not allow_link_local:
            return "a link-local address is valid on one link only"
    if loopback and not allow_loopback:
        return "a loopback address reaches only this machine (allow_loopback permits it)"
    return ""


@lru_cache(maxsize=1024)
def _ip(host: str) -> _IPAddress | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
