"""Ports for servers that are killed and started again, and keep their port meanwhile."""

from __future__ import annotations

import random
import socket
import sys
import weakref
from pathlib import Path

__all__ = ["reserve_port"]

_FIRST, _LAST = 20_000, 32_767
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 200


def reserve_port(owner: object) -> int:
    """A free TCP port of 127.0.0.1 that no other call gives away, in any process, for as long as ``owner`` lives.

    It lies below the ports that the kernel gives to outgoing connections: while a server is down, one of these
    may take its port, and a client that tries again and again may even reach itself there. Between processes a
    port is reserved on Linux only. Raises OSError when there is no free port.
    """
    for _ in range(_ATTEMPTS):
        port = random.SystemRandom().randint(_FIRST, _last())
        if _is_free(port) and _claim(port, owner):
            return port
    raise OSError(f"no free port of 127.0.0.1 found between {_FIRST} and {_last()}")


def _last() -> int:
    try:
        lowest = int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _LAST
    return min(_LAST, lowest - 1) if lowest - _FIRST > _ATTEMPTS else _LAST


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim(port: int, owner: object) -> bool:
    """The kernel keeps the names of abstract sockets, and frees them with the process, however that ends."""
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0microreg.testing.port.{port}")
    except OSError:
        claim.close()
        return False
    weakref.finalize(owner, claim.close)
    return True
