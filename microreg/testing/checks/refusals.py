"""register and the others: bad input is refused with one specific error, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import cast

from microreg.errors import InvalidService
from microreg.model import Endpoint, Node, Service, Status, Value
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []

_NAMES = ("", " ", "a b", "-a", "a-", ".a", "a_", "a/b", "a%2Fb", "a\n", "a\0b", "föö", "x" * 64, "\ud800", "*", "a>b")
_ADDRESSES = (
    "", "10.0.0.1", "10.0.0.1:", ":80", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:-1", "10.0.0.1:x", "::1:80",
    "[::1]", "[::1:80", "[zz]:80", "10.0.0.256:80", "0.0.0.0:80", "[::]:80", "*:80", "http://a:80", "a b:80",
    "user@a:80", "a:80/path", "224.0.0.251:80", "255.255.255.255:80", "a:80\n", "\ud800:80", f"{'x' * 300}:80",
)  # fmt: skip
_KEYS = ("", "a b", "a=b", "ä", "a\n", "a/b", "k" * 129)
_TTLS = (0, -1, 0.5, 0.999, 86_401, math.nan, math.inf, -math.inf, True, "15", None)


@check(CHECKS, "register.rejects-invalid")
async def _rejects_invalid(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    listener = await case.watch(reader, name)
    good = Node("10.0.0.1:80", id="good")
    for what, service in _invalid(name, good):
        error = await case.raises(InvalidService, partial(writer.inner.register, service), f"register with {what}")
        case.expect(len(str(error)) < 2000, f"a readable message for {what}", f"{len(str(error))} characters")
    for wrong in (cast(Service, "greeter"), cast(Service, None), Service(name), Service("", nodes=[good])):
        await case.raises(InvalidService, partial(writer.inner.deregister, wrong), f"deregister({wrong!r})")
    for text in ("", "a\0b", "\ud800", "x" * 256, cast(str, None), cast(str, 7)):
        await case.raises(InvalidService, partial(reader.inner.get_service, text), f"get_service({text!r})")
    await listener.quiet()
    await case.shows(reader, name)


def _invalid(name: str, good: Node) -> Iterator[tuple[str, Service]]:
    """Everything but one thing is right, and a good node stands before the bad one: it must not be written either."""
    yield "something that is no Service", cast(Service, {"name": name})
    yield "no node", Service(name)
    yield "one id twice", Service(name, nodes=[good, Node("10.0.0.2:80", id="good")])
    for text in (*_NAMES, cast(str, None), cast(str, 7)):
        yield f"name {text!r}", Service(text, nodes=[good])
        if text is not None:
            yield f"node id {text!r}", Service(name, nodes=[good, Node("10.0.0.2:80", id=text)])
    for address in (*_ADDRESSES, cast(str, None), cast(str, 80)):
        yield f"address {address!r}", Service(name, nodes=[good, Node(address, id="bad")])
    yield "a node that is none", Service(name, nodes=[good, cast(Node, "10.0.0.1:80")])
    yield "an unknown status", Service(name, nodes=[good, Node("10.0.0.2:80", id="b", status=cast(Status, "well"))])
    for version in ("x" * 256, "a\nb", "\ud800", cast(str, 1)):
        yield f"version {version!r:.40}", Service(name, version, nodes=[good])
    yield from _invalid_metadata(name, good)
    yield from _invalid_endpoints(name, good)


def _invalid_metadata(name: str, good: Node) -> Iterator[tuple[str, Service]]:
    wrong: dict[str, dict[str, str]] = {f"key {key!r:.40}": {key: "value"} for key in _KEYS}
    wrong |= {
        "a value that is no str": {"key": cast(str, 1)},
        "a value None": {"key": cast(str, None)},
        "a lone surrogate": {"key": "\ud800"},
        "a value of 1025 bytes": {"key": "x" * 1025},
        "a value of 1 MiB": {"key": "x" * 1024 * 1024},
        "a value of 1 KiB characters and 2 KiB bytes": {"key": "ü" * 1024},
        "65 pairs": {f"key-{number}": "" for number in range(65)},
    }
    for what, metadata in wrong.items():
        second, endpoint = Node("10.0.0.2:80", id="b", metadata=metadata), Endpoint("E", metadata=metadata)
        yield f"metadata of the service with {what}", Service(name, "1", metadata, nodes=[good])
        yield f"metadata of a node with {what}", Service(name, nodes=[good, second])
        yield f"metadata of an endpoint with {what}", Service(name, endpoints=[endpoint], nodes=[good])
    full = {f"key-{number}": "x" * 1024 for number in range(64)}
    second = Node("10.0.0.2:80", id="b", metadata=full)
    yield "a record of more than 64 KiB", Service(name, "1", full, nodes=[good, second])


def _invalid_endpoints(name: str, good: Node) -> Iterator[tuple[str, Service]]:
    deep = Value("bottom")
    for _ in range(40):
        deep = Value("level", "struct", (deep,))
    wrong = {
        "no name": Endpoint(""),
        "a lone surrogate": Endpoint("\ud800"),
        "values nested 40 deep": Endpoint("E", request=deep),
        "a value that is none": Endpoint("E", response=cast(Value, "string")),
        "something that is no Endpoint": cast(Endpoint, "E"),
    }
    for what, endpoint in wrong.items():
        yield f"an endpoint with {what}", Service(name, endpoints=[endpoint], nodes=[good])


@check(CHECKS, "register.rejects-ttl")
async def _rejects_ttl(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name = case.name()
    service = case.service(name, "a")
    listener = await case.watch(reader, name)
    for ttl in _TTLS:
        call = partial(writer.inner.register, service, ttl=cast(float, ttl))
        await case.raises(InvalidService, call, f"register(ttl={ttl!r})")
    await listener.quiet()
    await case.shows(reader, name)
