"""Services as a fleet has them: three metadata pairs on each node, ten endpoints, some nodes that differ in port."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence

from microreg.codec import decode, encode
from microreg.model import Endpoint, Node, Service, Value

NODES = 10_000
FEW = 2_000
MANY = 100_000

_VALUE = Value("HelloRequest", "HelloRequest", (Value("name", "string"), Value("count", "int64")))
ENDPOINTS = tuple(Endpoint(f"Greeter.Method{number}", _VALUE, _VALUE, {"stream": "false"}) for number in range(10))


def record(number: int, *, name: str = "greeter", port: int = 80) -> Service:
    """The record of one node, without endpoints."""
    metadata = {"zone": f"zone-{number % 3}", "rack": f"rack-{number % 40}", "build": f"build-{number % 100}"}
    host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    node = Node(f"{host}:{port}", id=f"{name}-{number:06d}", metadata=metadata)
    return Service(name, "1.0", {"team": "core"}, nodes=[node])


def encoded(count: int, *, port: int = 80, endpoints: Sequence[Endpoint] = ENDPOINTS, names: int = 1) -> list[bytes]:
    """Records as a store holds them, of so many nodes of so many services."""
    marker = b'"endpoints":[]'
    described = marker[:-2] + encode(Service("x", endpoints=endpoints)).split(marker[:-2])[1].split(b',"nodes"')[0]
    return [
        encode(record(number, name=f"greeter-{number % names}", port=port)).replace(marker, described)
        for number in range(count)
    ]


def records(count: int, *, port: int = 80, endpoints: Sequence[Endpoint] = ENDPOINTS, names: int = 1) -> list[Service]:
    """Records as a backend reads them."""
    return [decode(data) for data in encoded(count, port=port, endpoints=endpoints, names=names)]


def bytes_kept(build: Callable[[], object]) -> float:
    """The bytes that what ``build`` returns keeps alive."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = build()
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    del kept
    return size
