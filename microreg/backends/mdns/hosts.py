"""Where other DNS-SD software is: its TXT records do not say the address, SRV and the A or AAAA record of a host do.

Those of the host may come in another packet, or not at all: then they are asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence

from microreg.backends.mdns.names import is_link_local
from microreg.backends.mdns.recent import Recent
from microreg.backends.mdns.wire import IPV4, IPV6, SRV, TXT, Message, Question, Record, dotted
from microreg.errors import InvalidService
from microreg.net import join_address

__all__ = ["Hosts"]

_MAX_HOSTS = 1024
_SIZES = {IPV4: 4, IPV6: 16}
_EVERY = 1.0
_BATCH = 20
_MULTICAST = b"\x05local\0"


class Hosts:
    """The addresses of hosts that were heard of last, a bounded number of them."""

    def __init__(self, ask: Callable[[Sequence[Question]], None]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._known: Recent[bytes, str] = Recent(_MAX_HOSTS)
        self._asked: dict[bytes, float] = {}

    def hear(self, message: Message) -> dict[bytes, Record]:
        """Remember the hosts in a message; the SRV records of its instances."""
        servers: dict[bytes, Record] = {}
        hosts: dict[bytes, list[str]] = {}
        for record in message.records:
            if record.kind == SRV and len(record.data) == 6:
                servers.setdefault(record.name, record)
            elif len(record.data) == _SIZES.get(record.kind):
                hosts.setdefault(record.name, []).append(str(ipaddress.ip_address(record.data)))
        for name in {server.target for server in servers.values()} & hosts.keys():
            self._known.put(name, min(hosts[name], key=_narrowness))
        return servers

    def address(self, server: Record | None) -> str:
        """The ``host:port`` of an instance; empty where it is not known, or there can be none."""
        if server is None:
            return ""
        host = self._known.get(server.target)
        if host is None and server.target.endswith(_MULTICAST):
            return ""
        try:
            return join_address(host or dotted(server.target), int.from_bytes(server.data[4:6], "big"))
        except InvalidService:
            return ""

    def want(self, instance: bytes) -> None:
        """Ask for an instance whose address is not known: of few, and of each once a second."""
        now = self._loop.time()
        self._asked = {name: until for name, until in self._asked.items() if until > now}
        if instance not in self._asked and len(self._asked) < _BATCH:
            self._asked[instance] = now + _EVERY
            self._ask([Question(instance, SRV), Question(instance, TXT)])


def _narrowness(host: str) -> int:
    """IPv4 first, what is valid on one link only last."""
    return (":" in host) + is_link_local(host)
