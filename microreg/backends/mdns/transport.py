"""The sockets: per link one that shares port 5353 and hears the group, and one of our own to ask from.

The shared socket is bound to the group's address, so that it never takes unicast packets away from other
mDNS software of the machine (with SO_REUSEPORT the system would deal them out at random).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.wire import MAX_PACKET
from microreg.errors import RegistryUnavailable

__all__ = ["PORT", "Address", "Receiver", "Transport"]

log = logging.getLogger("microreg.mdns")

PORT = 5353
_GROUPS = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}
_BUFFER = 1 << 20
_BURST = 16
_PAUSE = 0.01
_BACKLOG = 4096
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29

Address = tuple[str, int]
"""Where a packet came from: host and port, IPv6 with its zone."""
Receiver = Callable[[Link, bytes, Address], None]
"""What gets every packet, with the link it came in on and who sent it."""


class _Outgoing(NamedTuple):
    transport: asyncio.DatagramTransport
    packet: bytes
    to: tuple[str | int, ...]


class Transport:
    """Sends and receives on every link. What is sent in quantity is paced: 16 packets, then 10 ms pause."""

    def __init__(self, links: Sequence[Link], on_group: Receiver, on_answer: Receiver) -> None:
        self.links: tuple[Link, ...] = ()
        self._wanted = links
        self._receivers = on_group, on_answer
        self._shared: dict[Link, asyncio.DatagramTransport] = {}
        self._asking: dict[Link, asyncio.DatagramTransport] = {}
        self._own: set[Address] = set()
        self._queue: deque[_Outgoing] = deque()
        self._credit = _BURST
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Open the sockets. Raises RegistryUnavailable when that is possible on no link."""
        failures: list[str] = []
        for link in self._wanted:
            try:
                await self._open(link)
            except OSError as error:
                failures.append(f"{link.name} ({link.address}): {error}")
        self.links = tuple(self._asking)
        if not self.links:
            raise RegistryUnavailable(f"mDNS is possible on no interface: {'; '.join(failures)}")
        for failure in failures:
            log.warning("no mDNS on an interface", extra={"interface": failure})

    def close(self) -> None:
        """Close the sockets; what waits to be sent is lost."""
        self._queue.clear()
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
        for transport in (*self._shared.values(), *self._asking.values()):
            transport.abort()

    def send(self, packet: bytes, link: Link | None = None) -> None:
        """To the group, from port 5353, on this link or on all."""
        for each in self.links if link is None else (link,):
            self._emit(_Outgoing(self._shared[each], packet, _group(each)))

    def reply(self, packet: bytes, link: Link, to: Address) -> None:
        """To one who asked, from port 5353."""
        self._emit(_Outgoing(self._shared[link], packet, _with_scope(to, link)))

    def ask(self, packet: bytes) -> None:
        """To the group, from our own ports; the answers come back by unicast."""
        for link, transport in self._asking.items():
            _send(_Outgoing(transport, packet, _group(link)))

    def is_own(self, address: Address) -> bool:
        """Whether a question came from this transport itself."""
        return address in self._own

    async def drained(self) -> None:
        """Wait until what is paced has been sent."""
        await self._idle.wait()

    def _emit(self, item: _Outgoing) -> None:
        if self._credit and not self._queue:
            self._credit -= 1
            _send(item)
        elif len(self._queue) < _BACKLOG:
            self._queue.append(item)
            self._idle.clear()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._refill)

    def _refill(self) -> None:
        self._timer = None
        self._credit = _BURST
        while self._credit and self._queue:
            self._credit -= 1
            _send(self._queue.popleft())
        if not self._queue:
            self._idle.set()
        if self._credit < _BURST:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._refill)

    async def _open(self, link: Link) -> None:
        on_group, on_answer = self._receivers
        shared = await _endpoint(_shared_socket(link), _Protocol(link, on_group))
        try:
            self._asking[link] = await _endpoint(_asking_socket(link), _Protocol(link, on_answer))
        except BaseException:
            shared.abort()
            raise
        self._shared[link] = shared
        port = self._asking[link].get_extra_info("sockname")[1]
        self._own.add((link.address, port))


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, link: Link, receive: Receiver) -> None:
        self._link = link
        self._receive = receive
        self._failing = False

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if len(data) <= MAX_PACKET:
            self._receive(self._link, data, (str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        if not self._failing:
            self._failing = True
            log.warning("sending failed", extra={"interface": self._link.name, "error": str(exc)})


def _send(item: _Outgoing) -> None:
    if not item.transport.is_closing():
        item.transport.sendto(item.packet, item.to)


async def _endpoint(sock: socket.socket, protocol: _Protocol) -> asyncio.DatagramTransport:
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport


def _shared_socket(link: Link) -> socket.socket:
    sock = _socket(link)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sys.platform == "win32":
            sock.bind(("", PORT))
        else:
            sock.bind(_group(link))
        _join(sock, link)
    except BaseException:
        sock.close()
        raise
    return sock


def _asking_socket(link: Link) -> socket.socket:
    sock = _socket(link)
    try:
        sock.bind(("", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(link: Link) -> socket.socket:
    """A socket whose multicast leaves on the link, with TTL 255 (RFC 6762 section 11)."""
    sock = socket.socket(link.family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if link.family is socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(link.address))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link.number)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, link: Link) -> None:
    """Hear the group on this link only: Linux would give us what any program joined (IP_MULTICAST_ALL)."""
    group = _GROUPS[link.family]
    if link.family is socket.AF_INET:
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        member = socket.inet_aton(group) + socket.inet_aton(link.address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    else:
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", link.number)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)


def _group(link: Link) -> tuple[str | int, ...]:
    return _with_scope((_GROUPS[link.family], PORT), link)


def _with_scope(address: Address, link: Link) -> tuple[str | int, ...]:
    return address if link.family is socket.AF_INET else (address[0].partition("%")[0], address[1], 0, link.number)
