"""Sending and receiving on every link: at a pace that others can follow, and without falling behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from microreg import process
from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.pacing import Pace
from microreg.backends.mdns.sockets import Address, Target, asking_socket, group, on_link, shared_socket, source
from microreg.backends.mdns.wire import MAX_PACKET
from microreg.errors import RegistryUnavailable

__all__ = ["Receiver", "Transport"]

log = logging.getLogger("microreg.mdns")

_AT_ONCE = 32
_TURN = 0.005

Receiver = Callable[[Link, bytes, Address], None]
"""What gets every packet, with the link it came in on and who sent it."""


class _Outgoing(NamedTuple):
    transport: asyncio.DatagramTransport
    packet: bytes
    to: Target


class Transport:
    """Sends and receives on every link; what is sent in quantity is paced."""

    def __init__(self, links: Sequence[Link], on_group: Receiver, on_answer: Receiver) -> None:
        self.links: tuple[Link, ...] = ()
        self._wanted = links
        self._receivers = on_group, on_answer
        self._refused: dict[Link, str] = {}
        self._shared: dict[Link, asyncio.DatagramTransport] = {}
        self._asking: dict[Link, asyncio.DatagramTransport] = {}
        self._own: dict[Link, Address] = {}
        self._pace = Pace(_send)

    async def open(self) -> None:
        """Open the sockets. Raises RegistryUnavailable when that is possible on no link."""
        await self.change(self._wanted)
        if not self.links:
            raise RegistryUnavailable(f"mDNS is possible on no interface: {'; '.join(self._refused.values())}")

    async def change(self, links: Sequence[Link]) -> None:
        """Speak on these links from now on; one on which that is not possible is tried again at the next call."""
        for link in set(self._asking).difference(links):
            self._shut(link)
        refused = self._refused
        self._refused = {}
        for link in links:
            if link not in self._asking:
                try:
                    await self._open(link)
                except OSError as error:
                    self._refused[link] = f"{link.name} ({link.address}): {error}"
                    if link not in refused:
                        log.warning("no mDNS on an interface", extra={"interface": self._refused[link]})
        self.links = tuple(link for link in links if link in self._asking)

    def close(self) -> None:
        """Close the sockets; what waits to be sent is lost."""
        self._pace.close()
        for link in tuple(self._asking):
            self._shut(link)
        self.links = ()

    def send(self, packet: bytes, link: Link | None = None) -> None:
        """To the group, from port 5353, on this link (where it is still there) or on all."""
        for each in self.links if link is None else (link,):
            if each in self._shared:
                self._pace.to_all(_Outgoing(self._shared[each], packet, group(each)))

    def reply(self, packet: bytes, link: Link, to: Address) -> None:
        """To one who asked, from port 5353, where the link is still there."""
        if link in self._shared:
            self._pace.to_one((link, to), _Outgoing(self._shared[link], packet, on_link(to, link)))

    def owes(self, link: Link, to: Address) -> bool:
        """Whether replies to who asked from there have not been sent yet."""
        return self._pace.waits((link, to))

    def ask(self, packet: bytes) -> None:
        """To the group, from our own ports; the answers come back by unicast."""
        for link, transport in self._asking.items():
            _send(_Outgoing(transport, packet, group(link)))

    def is_own(self, address: Address) -> bool:
        """Whether a question came from this transport itself."""
        return address in self._own.values()

    async def drained(self) -> None:
        """Wait until what is for all has been sent."""
        await self._pace.drained()

    async def _open(self, link: Link) -> None:
        on_group, on_answer = self._receivers
        shared = await _endpoint(shared_socket(link), link, on_group)
        try:
            self._asking[link] = await _endpoint(asking_socket(link), link, on_answer)
        except BaseException:
            shared.abort()
            raise
        self._shared[link] = shared
        port = self._asking[link].get_extra_info("sockname")[1]
        self._own[link] = source(link), port

    def _shut(self, link: Link) -> None:
        self._shared.pop(link).abort()
        self._asking.pop(link).abort()
        self._own.pop(link)


class _Protocol(asyncio.DatagramProtocol):
    """Reads all that waits in the socket, up to a bound: asyncio alone reads one packet in a turn of the loop.

    In a busy program, whose turns are long, packets would come late by seconds, and then be dropped.
    """

    def __init__(self, link: Link, receive: Receiver, sock: socket.socket) -> None:
        self._link = link
        self._receive = receive
        self._sock = sock
        self._failing = False
        self._loop = asyncio.get_running_loop()

    def datagram_received(self, data: bytes, addr: Target) -> None:
        self._take(data, addr)
        if sys.platform == "win32":  # the loop itself is reading already
            return
        end = self._loop.time() + _TURN
        for _ in range(_AT_ONCE):
            try:
                self._take(*self._sock.recvfrom(MAX_PACKET + 1))
            except OSError:  # nothing is left, or the loop will be told the same
                return
            if self._loop.time() > end:
                return

    def _take(self, data: bytes, addr: Target) -> None:
        if len(data) <= MAX_PACKET:
            self._receive(self._link, data, (str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        if not self._failing and self._sock.fileno() != -1:
            self._failing = True
            log.warning("sending failed", extra={"interface": self._link.name, "error": str(exc)})


def _send(item: _Outgoing) -> None:
    if not item.transport.is_closing():
        item.transport.sendto(item.packet, item.to)


async def _endpoint(sock: socket.socket, link: Link, receive: Receiver) -> asyncio.DatagramTransport:
    process.in_child(sock, socket.socket.close)
    protocol = _Protocol(link, receive, sock)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport
