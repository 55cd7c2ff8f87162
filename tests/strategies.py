"""Hypothesis strategies for what may be registered, and short ways to build records."""

from __future__ import annotations

import string
from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st

from microreg.model import Endpoint, Node, Service, Status, Value

ALNUM = string.ascii_letters + string.digits
MIDDLE = ALNUM + "._-"


def record(name: str = "greeter", id: str = "a", port: int = 80, version: str = "1", **metadata: str) -> Service:
    """A service of one node."""
    return Service(name, version, nodes=[Node(f"10.0.0.1:{port}", id=id, metadata=metadata)])


HOSTS = ["10.0.0.7", "[2001:db8::7]", "[fe80::1%eth0]", "localhost", "a-1.b_2.internal", "greeter.example"]

words = st.builds(
    "{}{}{}".format,
    st.sampled_from(ALNUM),
    st.text(MIDDLE, max_size=6) | st.just("-." * 30 + "_"),
    st.sampled_from(ALNUM),
)
"""Names and ids that ``register`` accepts."""

utf8 = st.text(st.characters(codec="utf-8"), max_size=12)
printable = st.text(st.sampled_from("aZ09 <>&\"\\/'é中😀{}[]"), max_size=8)
keys = st.text(ALNUM + "_.-", min_size=1, max_size=8) | st.just("k" * 128)
metadata: st.SearchStrategy[Mapping[str, str]] = st.dictionaries(keys, utf8, max_size=3)
addresses = st.builds("{}:{}".format, st.sampled_from(HOSTS), st.sampled_from([1, 80, 65535]))
values: st.SearchStrategy[Value] = st.deferred(
    lambda: st.builds(Value, printable, printable, st.just(()) | st.lists(values, max_size=2).map(tuple))
)
endpoints = st.builds(Endpoint, printable.filter(bool), st.none() | values, st.none() | values, metadata)
nodes = st.builds(Node, addresses, id=words, metadata=metadata, status=st.sampled_from(Status))
services = st.builds(
    Service,
    words,
    printable,
    metadata,
    st.lists(endpoints, max_size=2),
    st.lists(nodes, min_size=1, max_size=3, unique_by=lambda node: node.id),
)
"""Services that ``register`` accepts."""

few_records = st.sampled_from(
    [
        record(name, id, port, version)
        for name in ("alpha", "beta")
        for id in ("a", "b", "c")
        for port in (80, 81)
        for version in ("1", "2")
    ]
)
"""Records that collide often: two names, three ids, little else to differ in."""

quick = settings(max_examples=30)
"""For properties whose examples are large."""
