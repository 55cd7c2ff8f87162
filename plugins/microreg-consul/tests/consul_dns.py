"""Just enough of DNS to ask an agent where a service is (RFC 1035, RFC 2782)."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
from typing import NamedTuple

__all__ = ["Place", "ask_srv"]

_A, _AAAA, _SRV = 1, 28, 33
_IN = 1


class Place(NamedTuple):
    """What an SRV record says, and the address of its target where that is told too."""

    address: str
    port: int
    weight: int


def ask_srv(port: int, name: str) -> set[Place]:
    """Where this name is served, says the agent whose DNS port it is; nowhere, if the name does not exist."""
    question = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".")) + b"\0"
    query = struct.pack(">6H", secrets.randbits(16), 0x0100, 1, 0, 0, 0) + question + struct.pack(">2H", _SRV, _IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(query, ("127.0.0.1", port))
        answer = asking.recv(65_535)
    assert answer[:2] == query[:2] and answer[2] & 0x80, "that is no answer to the question"
    return _places(answer)


def _places(packet: bytes) -> set[Place]:
    _, _, questions, *counts = struct.unpack_from(">6H", packet)
    at = 12
    for _ in range(questions):
        at = _name(packet, at)[1] + 4
    services: list[tuple[str, int, int]] = []
    addresses: dict[str, str] = {}
    for _ in range(sum(counts)):
        owner, at = _name(packet, at)
        kind, _, _, size = struct.unpack_from(">2HIH", packet, at)
        at += 10
        if kind == _SRV:
            _, weight, port = struct.unpack_from(">3H", packet, at)
            services.append((_name(packet, at + 6)[0], port, weight))
        elif kind in (_A, _AAAA):
            addresses[owner] = str(ipaddress.ip_address(packet[at : at + size]))
        at += size
    return {Place(addresses.get(target, target), port, weight) for target, port, weight in services}


def _name(packet: bytes, at: int) -> tuple[str, int]:
    """The name that begins here, and where what follows it begins."""
    labels: list[str] = []
    end = 0
    while size := packet[at]:
        if size >= 0xC0:  # the rest is where these two bytes say
            end = end or at + 2
            at = struct.unpack_from(">H", packet, at)[0] & 0x3FFF
        else:
            labels.append(packet[at + 1 : at + 1 + size].decode())
            at += 1 + size
    return ".".join(labels).lower(), end or at + 1
