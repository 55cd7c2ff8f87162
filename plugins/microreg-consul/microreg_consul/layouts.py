"""What a node is called in Consul, and what is written of it: microreg's own way, and go-micro's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from microreg.codec import encode
from microreg.errors import RecordTooLarge
from microreg.model import EMPTY, Service, Status
from microreg.net import split_address
from microreg_consul.tags import pack

__all__ = ["MORE", "OWN_KEYS", "GoMicro", "Layout", "told", "unescape"]

MAX_PAIRS = 64
"""Pairs of Meta that Consul takes for one service."""
MAX_VALUE = 512
"""Bytes of a value in Meta (Consul says characters and counts bytes)."""
OWN_KEYS = "microreg-"
"""What our own keys in Meta begin with."""
MORE = "microreg-more-"
"""What they begin with in go-micro's layout."""
_KEY = re.compile(r"(?!microreg-|consul-)[A-Za-z0-9_-]{1,128}", re.ASCII)
"""A key that anybody may have in Meta; Consul refuses ``consul-``."""
_WEIGHT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class Layout:
    """``<name>:<id>``, with the node's metadata in Meta, where people see it, and all else beside it as JSON.

    The JSON is a Service as :mod:`microreg.codec` reads it, in pieces of 512 bytes: ``microreg-1``, ``microreg-2`` …
    It has what Consul's own fields do not say, and metadata that Meta cannot hold. Nothing is read from the tags:
    they are for people, and for DNS.
    """

    def service_id(self, name: str, id: str) -> str:
        """What the agent calls this node.

        Ids that differ in case only are one to Consul's catalog. So where there are capital letters, hexadecimal
        digits follow that say which: ``Greeter:a:100``.
        """
        text = f"{name}:{id}"
        if text == text.lower():
            return text
        capitals = "".join("1" if letter.isupper() else "0" for letter in text)
        return f"{text}:{int(capitals, 2):x}"

    def registration(self, service: Service) -> dict[str, object]:
        """The body of ``PUT /v1/agent/service/register`` for this record, without its check.

        It is a record that ``register`` accepts, with one node. Raises RecordTooLarge where Consul would refuse it:
        Meta holds 64 pairs of 512 bytes.
        """
        node = service.nodes[0]
        host, port = split_address(node.address)
        body: dict[str, object] = {
            "ID": self.service_id(service.name, node.id),
            "Name": service.name,
            "Tags": self._tags(service),
            "Address": host,
            "Port": port,
            "Meta": self._meta(service),
        }
        weight = node.metadata.get("weight", "")
        if _WEIGHT.fullmatch(weight) and int(weight) < 65536:
            body["Weights"] = {"Passing": int(weight), "Warning": 1}  # which DNS answers in SRV records
        return body

    def _tags(self, service: Service) -> list[str]:
        zone = service.nodes[0].metadata.get("zone")
        tags = [f"version={service.version}"] if service.version else []
        return [*tags, f"zone={zone}"] if zone else tags

    def _meta(self, service: Service) -> dict[str, str]:
        metadata = service.nodes[0].metadata
        plain = {key: value for key, value in metadata.items() if _escaped(key) and _fits(value)}
        rest = {key: value for key, value in metadata.items() if key not in plain}
        meta = {_escaped(key): value for key, value in sorted(plain.items())} | _pieces(_rest(service, rest))
        return meta if len(meta) <= MAX_PAIRS else _checked(_pieces(_rest(service, metadata)), service)


class GoMicro(Layout):
    """What go-micro's Consul registry writes and reads: tags. Meta has the node's metadata for everybody else.

    What the tags cannot carry is in Meta as JSON too, ``microreg-more-1`` …, which go-micro does not look at.
    """

    def service_id(self, name: str, id: str) -> str:
        """The node's id, as go-micro has it, where it begins with the name of the service, as go-micro's do.

        Others may be those of nodes of another service, and one of the two would take the other's place: they are
        what they are in microreg's layout.
        """
        return id if id.startswith(f"{name}-") and id == id.lower() else super().service_id(name, id)

    def _tags(self, service: Service) -> list[str]:
        return pack(service)

    def _meta(self, service: Service) -> dict[str, str]:
        node = service.nodes[0]
        metadata = sorted(node.metadata.items())
        plain = {key: value for key, value in metadata if _KEY.fullmatch(key) and _fits(value)}
        pieces: dict[str, str] = {}
        if service.metadata or node.status is not Status.PASSING or self.service_id(service.name, node.id) != node.id:
            rest = _rest(Service(service.name, metadata=service.metadata, nodes=service.nodes), EMPTY)
            pieces = _pieces(rest, MORE)
        return plain | pieces if len(plain) + len(pieces) <= MAX_PAIRS else _checked(pieces, service)


def unescape(key: str) -> str:
    """The key of metadata that stands in Meta as this one."""
    return key.replace("__", ".")


def told(meta: Mapping[str, str], keys: str = OWN_KEYS) -> str:
    """The JSON in this Meta, its pieces put together; empty where there is none."""
    pieces: list[str] = []
    while (piece := meta.get(f"{keys}{len(pieces) + 1}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def _escaped(key: str) -> str:
    """A key of metadata as Meta can have it, ``port.http`` as ``port__http``; empty where it cannot be told so."""
    escaped = key.replace(".", "__")
    return escaped if _KEY.fullmatch(escaped) and unescape(escaped) == key else ""


def _fits(value: str) -> bool:
    return len(value.encode()) <= MAX_VALUE


def _rest(service: Service, metadata: Mapping[str, str]) -> str:
    """What Consul's own fields do not say of a record, with this much of its node's metadata: nothing empty."""
    document = json.loads(encode(service))
    node = {"id": service.nodes[0].id, "metadata": dict(sorted(metadata.items())), **_status(service)}
    document["nodes"] = [{key: value for key, value in node.items() if value}]
    return json.dumps(
        {key: value for key, value in document.items() if value}, ensure_ascii=False, separators=(",", ":")
    )


def _status(service: Service) -> dict[str, object]:
    status = service.nodes[0].status
    return {} if status is Status.PASSING else {"status": status.value}


def _pieces(text: str, keys: str = OWN_KEYS) -> dict[str, str]:
    """The text as values of Meta: pieces of whole characters."""
    data, pieces, start = text.encode(), dict[str, str](), 0
    while start < len(data):
        end = min(start + MAX_VALUE, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # in the middle of a character
            end -= 1
        pieces[f"{keys}{len(pieces) + 1}"] = data[start:end].decode()
        start = end
    return pieces


def _checked(pieces: dict[str, str], service: Service) -> dict[str, str]:
    """All of a record, in no pair but our own: as compact as it gets. Raises RecordTooLarge where that is no help.

    A piece may lack three bytes, where the next character has four.
    """
    if len(pieces) <= MAX_PAIRS:
        return pieces
    size, limit = len("".join(pieces.values()).encode()), MAX_PAIRS * (MAX_VALUE - 3)
    raise RecordTooLarge(
        f"record of node {service.nodes[0].id!r} of service {service.name!r} needs {size} bytes in Consul's Meta, "
        f"which has room for {limit}: carry less metadata or fewer endpoints",
        size=size,
        limit=limit,
    )
