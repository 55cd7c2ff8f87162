"""Whether this process is in a container with a network of its own, as Docker and Podman make it."""

from __future__ import annotations

import array
import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["driver", "has_own_network", "is_container"]

_MARKS = (".dockerenv", "run/.containerenv")
"""Files that Docker and Podman put into their containers."""
_GROUPS = "proc/1/cgroup"
_RUNTIMES = re.compile(r"docker|libpod|containerd|nerdctl")
_KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""In every container of Kubernetes, whose machines reach each other's containers."""
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
_DRVINFO = struct.Struct("I32s160x")
"""``struct ethtool_drvinfo`` of ``linux/ethtool.h``: command, driver, and what else is told."""


def is_container(root: Path = Path("/")) -> bool:
    """Whether this process runs in a container of Docker, Podman or containerd, as far as that can be told."""
    if any((root / mark).exists() for mark in _MARKS):
        return True
    try:
        return _RUNTIMES.search((root / _GROUPS).read_text()) is not None
    except (OSError, UnicodeError):
        return False


def driver(interface: str) -> str:
    """The kind of an interface as ``ethtool -i`` says it (``veth``, ``macvlan``, ``e1000`` …), else ""."""
    if sys.platform != "linux":
        return ""
    import fcntl

    info = array.array("B", _DRVINFO.pack(_ETHTOOL_GDRVINFO, b""))
    request = struct.pack("16sP16x", interface.encode(), info.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return ""
    name: bytes = _DRVINFO.unpack(info)[1]
    return name.partition(b"\0")[0].decode("ascii", "replace")


def has_own_network(interface: str, root: Path = Path("/"), driver: Callable[[str], str] = driver) -> bool:
    """Whether an interface leads into a network that only the containers of this machine are connected to.

    That is one end of a pair (veth) inside a container. With the host's network it is the host's interface, with
    macvlan one in the host's own network, and the machines of a Kubernetes cluster reach each other's containers.
    """
    return is_container(root) and _KUBERNETES not in os.environ and driver(interface) == "veth"
