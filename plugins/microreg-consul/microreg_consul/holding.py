"""What one client holds in an agent: which check of each node is renewed, and how it is written and withdrawn."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from microreg import toolkit
from microreg.errors import RegistryUnavailable
from microreg.model import Service, Status
from microreg.toolkit import Holding
from microreg_consul.client import Client
from microreg_consul.health import checks_to_register
from microreg_consul.layouts import Layout

__all__ = ["Holdings"]

_ATTEMPTS = 3


class _Holding(Holding):
    """One node, as it was last written."""

    __slots__ = ("check", "record", "ttl")

    def __init__(self) -> None:
        super().__init__()
        self.record: Service | None = None
        """What the agent has; None where that is not known."""
        self.ttl = 0.0
        self.check = ""

    @property
    def is_empty(self) -> bool:
        return self.record is None


class Holdings:
    """All nodes that one client has registered. Renewing one passes its TTL check, which writes nothing."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client = client
        self._layout = layout
        self._nodes: toolkit.Holdings[str, _Holding] = toolkit.Holdings(_Holding)
        self._time = asyncio.get_running_loop().time

    async def write(self, record: Service, ttl: float) -> None:
        """Register the record, or renew it where it is in place."""
        async with self._holding(record) as held:
            held.until = self._time() + ttl
            if held.ttl == ttl and held.record == record and await self._renewed(held.check, record):
                return
            held.record = None
            body = self._layout.registration(record)
            checks = checks_to_register(record, body, ttl)
            held.check, held.ttl = str(checks[0]["CheckID"]), ttl
            for _ in range(_ATTEMPTS):
                await self._client.register(body, checks)
                # A check that was there before, and had expired, is critical still.
                if await self._renewed(held.check, record):
                    held.record = record
                    return
            raise RegistryUnavailable(
                f"node {record.nodes[0].id!r} of service {record.name!r} was registered, and was not there, "
                f"{_ATTEMPTS} times: somebody else registers it too, or deregisters it"
            )

    async def withdraw(self, record: Service) -> None:
        """Deregister the node, whoever registered it at this agent."""
        async with self._holding(record) as held:
            held.record, held.until = None, 0.0
            id = record.nodes[0].id
            await self._client.deregister(Layout().service_id(record.name, id))
            # go-micro and others call it as it is, which does not tell the name: it may be a node of another service.
            if await self._client.name_of(id) == record.name:
                await self._client.deregister(id)

    async def _renewed(self, check: str, record: Service) -> bool:
        """Whether the check is in place, and begins anew."""
        return await self._client.renew(check, warning=record.nodes[0].status is Status.WARNING)

    def _holding(self, record: Service) -> AbstractAsyncContextManager[_Holding]:
        return self._nodes.hold(self._layout.service_id(record.name, record.nodes[0].id))
