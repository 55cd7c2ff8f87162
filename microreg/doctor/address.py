"""Findings about the address that others are told."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence

from microreg.doctor.container import has_own_network
from microreg.errors import ConfigError
from microreg.findings import Finding, Kind, Severity
from microreg.net import ADVERTISE_VARIABLE, Interface, advertised, interfaces, is_virtual
from microreg.registry import Registry
from microreg.toolkit import resolve

__all__ = [
    "ADVERTISED",
    "CONTAINER",
    "LINK_LOCAL",
    "LOOPBACK",
    "NONE",
    "REFUSED",
    "UNRESOLVABLE",
    "VIRTUAL",
    "findings",
]

_SAY = f"set {ADVERTISE_VARIABLE}=host, or pass address="

ADVERTISED = Kind("address.advertised", Severity.OK, "which address announce() tells others here, and why this one")
REFUSED = Kind(
    "address.refused",
    Severity.ERROR,
    f"{ADVERTISE_VARIABLE} says something that nobody can call: a wildcard, a link-local address, no host at all",
    f"set {ADVERTISE_VARIABLE} to a host name or address that others reach, with a port where it is mapped",
)
NONE = Kind("address.none", Severity.ERROR, "this machine has no address that others could call", _SAY)
UNRESOLVABLE = Kind(
    "address.unresolvable",
    Severity.WARNING,
    "the host name that others are told cannot be resolved here, and then hardly there",
    "spell it right, add it to DNS or /etc/hosts, or give an address",
)
LOOPBACK = Kind(
    "address.loopback",
    Severity.WARNING,
    "others are told a loopback address: only programs of this machine can call it",
    f"unset {ADVERTISE_VARIABLE}, or set it to an address that others reach",
)
LINK_LOCAL = Kind(
    "address.link-local",
    Severity.WARNING,
    "others are told a link-local address: it is valid on one link only",
    f"give this machine another address, or {_SAY}",
)
VIRTUAL = Kind(
    "address.virtual",
    Severity.WARNING,
    "others are told the address of a bridge, tunnel or virtual network (such as docker0): only what is connected to "
    "it can call that",
    _SAY,
)
CONTAINER = Kind(
    "address.container",
    Severity.WARNING,
    "others are told an address of a container's own network (Docker's default one is 172.17.0.0/16): only what is "
    "connected to that can call it",
    f"publish the port, and set {ADVERTISE_VARIABLE}=host:port to where it is published; or use the host's network",
)

_HOSTS = "take that line out of /etc/hosts, or give an address: what others make of the name they say themselves"
_DOCKER = ipaddress.IPv4Network("172.17.0.0/16")


async def findings(registry: Registry) -> list[Finding]:
    """What ``announce()`` would tell others in this registry, and whether they can call it."""
    told = os.environ.get(ADVERTISE_VARIABLE, "")
    own = registry.advertised_host()
    try:
        host = advertised(allow_loopback=True).host if told else own or advertised().host
    except ConfigError as error:
        return [REFUSED(str(error)) if told else NONE(str(error))]
    present = interfaces()
    why = f"as {ADVERTISE_VARIABLE} says" if told else _chosen(host, present)
    found = list(_doubts(host, why, present, loopback_is_fine=not told or own == host))
    meant = await resolve(host)
    if not meant:
        found.append(UNRESOLVABLE(f"others are told {host} ({why}), which cannot be resolved here"))
    elif host not in meant and all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in meant):
        found.append(LOOPBACK(f"others are told {host} ({why}), which is {', '.join(meant)} here", _HOSTS))
    return found or [ADVERTISED(f"others are told {host}: {why}")]


def _chosen(host: str, present: Sequence[Interface]) -> str:
    name = _interface(host, present)
    others = [address for each in present if each.name != name for address in each.addresses if _is_wide(address)]
    also = f"; there is {', '.join(others)} too" if others else ""
    return f"the address of {name}, which fits this registry best{also}" if name else "as the registry says"


def _doubts(host: str, why: str, present: Sequence[Interface], *, loopback_is_fine: bool) -> Iterator[Finding]:
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    name = _interface(host, present)
    if ip.is_loopback:
        if not loopback_is_fine:
            yield LOOPBACK(f"others are told {host}: {why}")
    elif ip.is_link_local:
        yield LINK_LOCAL(f"others are told {host}: {why}")
    elif name and is_virtual(name):
        yield VIRTUAL(f"others are told {host}, which is the address of {name}: {why}")
    elif ip in _DOCKER or has_own_network(name):
        yield CONTAINER(f"others are told {host}: {why}")


def _interface(host: str, present: Sequence[Interface]) -> str:
    return next((each.name for each in present if host in each.addresses), "")


def _is_wide(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return not (ip.is_loopback or ip.is_link_local)
