"""Bad input that gets through."""

from __future__ import annotations

from microreg.checked import Checked
from microreg.model import Service
from microreg.rules import DEFAULT_TTL
from mutants.frame import dies_by


@dies_by("register.rejects-invalid", "register.rejects-ttl")
class ChecksNothing(Checked):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        self._check()
        for record in service.records():
            await self.inner.register(record, ttl=ttl)


@dies_by("register.rejects-invalid")
class ChecksNodeByNode(Checked):
    """The good node is written before the bad one is seen."""

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        parts = service.records() if isinstance(service, Service) and service.nodes else (service,)
        for record in parts:
            await super().register(record, ttl=ttl)


@dies_by("register.rejects-ttl")
class ClampsTtl(Checked):
    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await super().register(service, ttl=min(86_400.0, max(1.0, float(ttl or 1))))
