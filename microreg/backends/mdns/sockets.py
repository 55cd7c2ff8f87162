"""The sockets of a link: one that shares port 5353 and hears the group, and one of our own to ask from.

The shared socket is bound to the group's address, so that it never takes unicast packets away from other
mDNS software of the machine (with SO_REUSEPORT the system would deal them out at random).
"""

from __future__ import annotations

import socket
import struct
import sys

from microreg.backends.mdns.interfaces import Link

__all__ = ["PORT", "Address", "Target", "asking_socket", "group", "on_link", "shared_socket", "source"]

PORT = 5353
"""The port of multicast DNS (RFC 6762 section 2)."""

_GROUPS = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}
_BUFFER = 1 << 20
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29

Address = tuple[str, int]
"""Where a packet came from: host and port, IPv6 without the zone that the link tells."""
Target = tuple[str | int, ...]
"""Where a packet goes to, as the system wants it."""


def group(link: Link) -> Target:
    """The group that all mDNS software of a link listens to."""
    return on_link((_GROUPS[link.family], PORT), link)


def on_link(address: Address, link: Link) -> Target:
    """An address as it is reached on this link."""
    return address if link.family is socket.AF_INET else (address[0].partition("%")[0], address[1], 0, link.number)


def shared_socket(link: Link) -> socket.socket:
    """A socket that hears what is sent to the group, and sends from port 5353. Raises OSError."""
    sock = _socket(link)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT") and _keep_to(link, sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sys.platform == "win32":
            sock.bind(("", PORT))
        else:
            sock.bind(group(link))
        _join(sock, link)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_to(link: Link, sock: socket.socket) -> bool:
    """Bind to the interface, so that SO_REUSEPORT is safe: Linux deals packets out at random among sockets that
    share an address, not looking at what they joined on which interface. Whether it was possible (Linux 5.7).
    """
    if sys.platform == "linux" and link.number:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.name.encode())
        except OSError:
            return False
    return True


def asking_socket(link: Link) -> socket.socket:
    """A socket with a port of its own, to which answers come by unicast. Raises OSError."""
    sock = _socket(link)
    try:
        sock.bind(("", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def source(link: Link) -> str:
    """The address that our questions come from: for IPv6 a link-local one, whatever the link was named by."""
    with _socket(link) as probe:
        try:
            probe.connect(group(link))
        except OSError:
            return link.address.partition("%")[0]
        return str(probe.getsockname()[0]).partition("%")[0]


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
    name = _GROUPS[link.family]
    if link.family is socket.AF_INET:
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        member = socket.inet_aton(name) + socket.inet_aton(link.address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    else:
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        member = socket.inet_pton(socket.AF_INET6, name) + struct.pack("@I", link.number)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
