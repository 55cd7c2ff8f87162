"""A Consul agent behind a proxy, and what can be done to it; a client of another make for looking at it."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from microreg import codec
from microreg.errors import InvalidService
from microreg.model import Node, Service, Status
from microreg.net import split_address
from microreg.testing import Proxy, ServerFaults, ServerProcess
from microreg_consul.layouts import OWN_KEYS, Layout
from support import wait_until

__all__ = ["ACLS", "MANAGEMENT", "ConsulFaults", "Raw", "neighbour", "record", "started", "token"]

MANAGEMENT = "5d0e4a0c-6a52-4c5c-9d0f-2f0f6f3a7c11"
"""The token that may do everything."""
ACLS = {
    "acl": {
        "enabled": True,
        "default_policy": "deny",
        "tokens": {"master": MANAGEMENT, "agent": MANAGEMENT},
        "token_ttl": "0s",
        "policy_ttl": "0s",
        "role_ttl": "0s",
    }
}
"""What makes an agent ask for tokens."""

_LIMIT = 64 * 512
"""Bytes that Meta can hold."""


class Raw:
    """HTTP alone: what microreg has not touched."""

    def __init__(self, port: int, token: str = "") -> None:
        self._base = f"http://127.0.0.1:{port}/v1"
        self._headers = {"X-Consul-Token": token} if token else {}

    async def __aenter__(self) -> Raw:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        """The answer, read as JSON."""
        async with self._session.get(self._base + quote(path, safe="/?=&")) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def delete(self, path: str) -> None:
        """Delete, as an operator does."""
        async with self._session.delete(self._base + path) as answer:
            answer.raise_for_status()

    async def put(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer, read as JSON; None where there is none."""
        async with self._session.put(self._base + quote(path, safe="/?=&"), json=body) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RuntimeError(f"PUT {path}: {answer.status} {text}")
            return json.loads(text) if text else None

    async def register(self, id: str, name: str, **fields: object) -> None:
        """Register a service without a check."""
        fields = {"Address": "10.0.0.1", "Port": 80} | fields
        await self.put("/agent/service/register", {"ID": id, "Name": name} | fields)

    async def deregister(self, id: str) -> None:
        """Take a service away."""
        await self.put(f"/agent/service/deregister/{id}")

    async def entries(self, name: str) -> list[dict[str, Any]]:
        """What stands under a name, with its checks."""
        return list(await self.get(f"/health/service/{name}"))

    async def services(self) -> dict[str, dict[str, Any]]:
        """The services of the agent, by id."""
        return dict(await self.get("/agent/services"))

    async def checks(self) -> dict[str, dict[str, Any]]:
        """The checks of the agent, by id."""
        return dict(await self.get("/agent/checks"))


class ConsulFaults(ServerFaults):
    """Every fault of the kit over a Consul that is reached through a proxy."""

    def __init__(self, server: ServerProcess, proxy: Proxy) -> None:
        super().__init__(server, proxy)
        self._written: dict[tuple[str, str], str] = {}

    async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
        """The bytes go where a record's JSON is in Meta, as many as it can hold; the address is a field of its own."""
        async with Raw(self.server.port) as raw:
            if data is None:
                await raw.deregister(self._written.pop((name, id)))
                return
            node = _node(data, id)
            host, port = split_address(node.address)
            service_id = self._written[name, id] = Layout().service_id(name, node.id)
            text = data.decode("latin-1" if b"\xff" in data else "utf-8")[:_LIMIT] or " "
            pieces = [text[start : start + 512] for start in range(0, len(text), 512)]
            meta = {f"{OWN_KEYS}{number}": piece for number, piece in enumerate(pieces, 1)}
            await raw.register(service_id, name, Address=host, Port=port, Meta=meta)


@contextmanager
def neighbour(server: ServerProcess) -> Generator[None]:
    """Somebody else who renews at the agent, twice a second, as there is at an agent that is used.

    Where Consul's regular comparison of agent and catalog falls into a registration, it begins anew 15 to 30 s later,
    and until then the catalog hears of an expired check only when somebody registers or renews (agent/ae/ae.go).
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.5):
            with suppress(OSError, http.client.HTTPException):
                try:
                    _put(server.port, "/v1/agent/check/pass/neighbour")
                except urllib.error.HTTPError:  # it was wiped
                    check = {"CheckID": "neighbour", "TTL": "1h", "Status": "passing"}
                    _put(server.port, "/v1/agent/service/register", {"Name": "neighbour", "Check": check})

    thread = threading.Thread(target=renew, name="neighbour")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _put(port: int, path: str, body: Mapping[str, object] | None = None) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, method="PUT"), timeout=2
    ).close()


async def token(server: ServerProcess, rules: str) -> tuple[str, str]:
    """The secret and the name of a new token that may do this."""
    async with Raw(server.port, MANAGEMENT) as raw:
        ready: bool = await wait_until(partial(started, raw), 40, step=0.1)
        assert ready
        policies = len(await raw.get("/acl/policies"))
        policy = await raw.put("/acl/policy", {"Name": f"policy-{policies}", "Rules": rules})
        made = await raw.put("/acl/token", {"Policies": [{"ID": policy["ID"]}]})
        return str(made["SecretID"]), str(policy["ID"])


async def started(raw: Raw) -> bool:
    """Whether the agent takes tokens, which it does some time after it has a leader."""
    try:
        return bool(await raw.get("/acl/policies"))
    except Exception:  # whatever the client of the test raises for an answer that is none yet
        return False


def _node(data: bytes, id: str) -> Node:
    """The node that these bytes tell, or else one that they do not."""
    try:
        service = codec.decode(data)
    except InvalidService:
        service = Service("")
    return service.nodes[0] if service.nodes else Node("10.0.0.1:80", id=id)


def record(name: str, id: str, port: int = 80, *, status: Status = Status.PASSING, **metadata: str) -> Service:
    """A service of one node."""
    return Service(name, nodes=[Node(f"10.0.0.1:{port}", id=id, metadata=metadata, status=status)])
