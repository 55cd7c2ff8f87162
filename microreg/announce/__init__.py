"""``announce()``: put one node of a service into a registry and keep it there.

The work is done by :class:`microreg.announce.announcement.Announcement`; this module stays light to import.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from microreg.announce.announcement import Announcement
    from microreg.announce.probe import Check
    from microreg.model import Endpoint, Service
    from microreg.registry import Registry

__all__ = ["announce"]


def announce(
    registry: Registry,
    service: Service | str,
    *,
    port: int | None = None,
    address: str | None = None,
    version: str = "",
    metadata: Mapping[str, str] | None = None,
    endpoints: Iterable[Endpoint] = (),
    id: str | None = None,
    ttl: float = 15.0,
    interval: float | None = None,
    check: Check | None = None,
    drain_delay: float = 0.5,
    rng: random.Random | None = None,
) -> Announcement:
    """An announcement of one node, to be used with ``async with``: written, renewed, healed, drained.

    ``service`` is a name, described by the other arguments (``metadata`` is the node's), or a complete Service
    with exactly one node. ``address`` is ``host:port``, or a host beside ``port``; a host that is not given is
    found: ``$MICROREG_ADVERTISE`` (whose port, if it has one, replaces ``port``), the address towards the store, the
    best interface. The last two are looked at again with each renewal: the node moves with its machine. A link-local
    address is never found, but may be given. ``check`` is a function, ``http://…`` or ``tcp://…``; a node is
    ``critical`` while it fails. ``ttl``, ``drain_delay`` and ``interval``, from one renewal to the next (a third of the
    ttl, ± 10 %), are seconds.
    Raises InvalidService for what cannot be registered and ConfigError where no address is found.
    """
    from microreg.announce.announcement import Announcement
    from microreg.announce.probe import probe
    from microreg.errors import ConfigError
    from microreg.registry import Registry

    if not isinstance(registry, Registry):
        raise ConfigError(f"announce() takes first the registry that connect() made, got {type(registry).__name__}")
    return Announcement(
        registry,
        _record(registry, service, port, address, version, metadata, endpoints, id),
        ttl=ttl,
        interval=interval,
        probe=None if check is None else probe(check),
        drain_delay=drain_delay,
        find=partial(_found, registry, port) if port is not None and address is None and not _told() else None,
        rng=rng,
    )


def _record(
    registry: Registry,
    service: Service | str,
    port: int | None,
    address: str | None,
    version: str,
    metadata: Mapping[str, str] | None,
    endpoints: Iterable[Endpoint],
    id: str | None,
) -> Service:
    from microreg.errors import InvalidService
    from microreg.model import EMPTY, Node, Service

    if isinstance(service, str):
        where = _address(registry, port, address)
        return Service(service, version, endpoints=endpoints, nodes=[Node(where, id=id, metadata=metadata or EMPTY)])
    if not isinstance(service, Service):
        raise InvalidService(f"announce() takes a name or a Service, got {type(service).__name__}")
    if port is not None or id is not None or any((address, version, metadata, endpoints)):
        raise InvalidService("announce() got a complete Service and also fields of one; give either")
    if len(service.nodes) != 1:
        raise InvalidService("announce() takes a name, or a Service with exactly one node; call it once for each node")
    return service


def _address(registry: Registry, port: int | None, address: str | None) -> str:
    from microreg.arguments import shown
    from microreg.errors import InvalidService
    from microreg.net import address_problem, advertised, join_address

    if not isinstance(address, str | None):
        raise InvalidService(f"address of type {type(address).__name__}: expected a str, 'host:port' or a host")
    if port is None:
        if address is None:
            raise InvalidService("announce() needs port=8080, the port the service listens on, or address='host:8080'")
        return address
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        wrong = f"port {shown(port)}"
        raise InvalidService(f"{wrong}: expected a number from 1 to 65535, the one that the service listens on")
    if address is not None:
        if not address_problem(address):
            raise InvalidService(f"address {shown(address)} has a port already; leave out port={port}")
        return join_address(address, port)
    known = None if _told() else _found(registry, port)
    if known is not None:
        return known
    found = advertised(allow_loopback=_told())
    return join_address(found.host, found.port or port)


def _told() -> bool:
    """Whether the environment says the address."""
    from microreg.net import ADVERTISE_VARIABLE

    return bool(os.environ.get(ADVERTISE_VARIABLE))


def _found(registry: Registry, port: int) -> str | None:
    """The address that this machine has now, as far as the registry can tell."""
    from microreg.net import join_address

    host = registry.advertised_host()
    return None if host is None else join_address(host, port)
