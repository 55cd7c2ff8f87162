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
from microreg.backends.mdns.warnings import Warnings
from microreg.backends.mdns.wire import MAX_PACKET
from microreg.errors import RegistryUnavailable

__all__ = ["Receiver", "Transport"]

log = logging.getLogger("microreg.mdns")

_AT_ONCE = 32
_TURN = 0.005

Receiver = Callable[[Link, bytes, Address], None]
"""What gets every packet, with the link it came in on and who sent it."""


class _Outgoing(NamedTuple):
    link: Link
    packet: bytes
    to: Target


class Transport:
    """Sends and receives on every link; what is sent in quantity is paced."""

    def __init__(self, links: Sequence[Link], on_group: Receiver, on_answer: Receiver) -> None:
        self.links: tuple[Link, ...] = ()
        self._wanted = links
        self._receivers = on_group, on_answer
        self._refused: dict[Link, str] = {}
        self._shared: dict[Link, _Socket] = {}
        self._asking: dict[Link, _Socket] = {}
        self._own: dict[Link, Address] = {}
        self._failing: dict[Link, str] = {}
        self._warnings = Warnings()
        self._pace = Pace(self._send)

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
                        log.warning("no mDNS on %s", self._refused[link])
        self.links = tuple(link for link in links if link in self._asking)

    def close(self) -> None:
        """Close the sockets; what waits to be sent is lost."""
        self._pace.close()
        for link in tuple(self._asking):
            self._shut(link)
        self.links = ()

    @property
    def fails(self) -> bool:
        """Whether what was sent to the group last could not leave, on any link."""
        return bool(self.links) and all(link in self._failing for link in self.links)

    def check(self) -> None:
        """Raise RegistryUnavailable where it :attr:`fails`."""
        if self.fails:
            raise RegistryUnavailable(
                f"mDNS can send on no interface: {'; '.join(self._failing.values())}. Is there a route for multicast "
                "(224.0.0.0/4, IPv6 ff00::/8)? Else name another interface; mdns://127.0.0.1 is this machine alone"
            )

    def send(self, packet: bytes, link: Link | None = None) -> None:
        """To the group, from port 5353, on this link (where it is still there) or on all."""
        for each in self.links if link is None else (link,):
            if each in self._shared:
                self._pace.to_all(_Outgoing(each, packet, group(each)))

    def reply(self, packet: bytes, link: Link, to: Address) -> None:
        """To one who asked, from port 5353, where the link is still there."""
        if link in self._shared:
            self._pace.to_one((link, to), _Outgoing(link, packet, on_link(to, link)))

    def reply_instead(self, packets: Sequence[bytes], link: Link, to: Address) -> None:
        """The same, in place of what has not been sent yet to who asked from there."""
        if link in self._shared:
            target = on_link(to, link)
            self._pace.to_one_instead((link, to), [_Outgoing(link, packet, target) for packet in packets])

    def ask(self, packet: bytes) -> None:
        """To the group, from our own ports; the answers come back by unicast."""
        for link, sock in self._asking.items():
            self._sent(link, group(link), sock.send(packet, group(link)))

    def is_own(self, address: Address) -> bool:
        """Whether a question came from this transport itself."""
        return address in self._own.values()

    async def drained(self) -> None:
        """Wait until what is for all has been sent."""
        await self._pace.drained()

    def _send(self, item: _Outgoing) -> None:
        sock = self._shared.get(item.link)
        if sock is not None:
            self._sent(item.link, item.to, sock.send(item.packet, item.to))

    def _sent(self, link: Link, to: Target, error: OSError | None) -> None:
        """What goes to the group shows whether a link works; one who asked may be gone."""
        if to != group(link):
            return
        if error is None:
            self._failing.pop(link, None)
            return
        self._failing[link] = f"{link.name} ({link.address}): {error}"
        self._warnings.say(f"send {link.name}", f"mDNS cannot send on {self._failing[link]}")

    async def _open(self, link: Link) -> None:
        on_group, on_answer = self._receivers
        shared = await _endpoint(shared_socket(link), link, on_group)
        try:
            self._asking[link] = await _endpoint(asking_socket(link), link, on_answer)
        except BaseException:
            shared.transport.abort()
            raise
        self._shared[link] = shared
        self._own[link] = source(link), self._asking[link].port()

    def _shut(self, link: Link) -> None:
        self._shared.pop(link).transport.abort()
        self._asking.pop(link).transport.abort()
        self._own.pop(link)
        self._failing.pop(link, None)


class _Socket(asyncio.DatagramProtocol):
    """Sends, and says what came of it; reads all that waits in the socket, up to a bound.

    asyncio alone reads one packet in a turn of the loop: in a busy program, whose turns are long, packets would come
    late by seconds, and then be dropped.
    """

    def __init__(self, link: Link, receive: Receiver, sock: socket.socket) -> None:
        self._link = link
        self._receive = receive
        self._sock = sock
        self._error: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.DatagramTransport

    def port(self) -> int:
        """The port that it is bound to."""
        return int(self.transport.get_extra_info("sockname")[1])

    def send(self, packet: bytes, to: Target) -> OSError | None:
        """Send a packet; why that failed, as far as the system says so at once."""
        self._error = None
        if not self.transport.is_closing():
            self.transport.sendto(packet, to)
        return self._error

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
        if isinstance(exc, OSError):
            self._error = exc


async def _endpoint(sock: socket.socket, link: Link, receive: Receiver) -> _Socket:
    process.in_child(sock, socket.socket.close)
    protocol = _Socket(link, receive, sock)
    try:
        endpoint = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    protocol.transport = endpoint[0]
    return protocol
