"""``mirror:url|url``: registers in several stores at once, and reads from the first.

::

    mirror:etcd://10.0.0.1|consul://10.0.0.2            while a fleet moves from etcd to Consul

The outcome of a call is the first part's. The others are written at the same time, and again in the background where
they fail (:mod:`microreg.layers.mirror.follower`): a part that is away costs a caller nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Sequence

from microreg import options as config
from microreg.composite import Composite
from microreg.errors import RegistryError
from microreg.events import Event
from microreg.layers.mirror.follower import Follower, Outcome
from microreg.model import Service
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.url import RegistryURL
from microreg.watch import HOPELESS, Watch

__all__ = ["MirrorRegistry"]

_COURTESY = 1.0
"""Seconds that a call waits for the other parts at most; for one that was late, the next calls do not wait."""


class MirrorRegistry(Composite):
    """Registers and deregisters in all parts; outcome, reads and watches are the first's, so the order matters.

    A call returns when the first part has answered, and the others too unless they are lost or late. What another
    part refuses for good (RecordTooLarge, InvalidService, Unsupported) is raised with its name; all else is tried
    again until the ttl of the last ``register`` is over. ``parts`` says how each stands. ``rng`` is for tests.
    """

    def __init__(
        self,
        registries: Sequence[Registry],
        url: RegistryURL,
        options: config.Options,
        *,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(registries, url, options)
        self._first = registries[0]
        self._followers = [Follower(part, rng or random.Random()) for part in self.parts[1:]]
        fenced = {"fenced"} & self.capabilities
        self.capabilities = self._first.capabilities - {"fenced"} | fenced

    async def open(self) -> None:
        """Open all parts."""
        await super().open()
        for follower in self._followers:
            follower.open()

    async def close(self) -> None:
        """Write what is still to be written, for a moment, then close all parts."""
        try:
            await asyncio.gather(*(follower.close() for follower in self._followers))
        finally:
            await super().close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Register in all parts at once. Raises what the first part raises, or what another refuses for good."""
        outcomes = [follower.register(service, ttl) for follower in self._followers]
        await self._led(service, self._first.register(service, ttl=ttl), outcomes)

    async def deregister(self, service: Service) -> None:
        """Withdraw from all parts at once. Raises what the first part raises."""
        outcomes = [follower.deregister(service) for follower in self._followers]
        await self._led(service, self._first.deregister(service), outcomes)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What the first part says."""
        return await self._first.get_service(name)

    async def list_services(self) -> tuple[str, ...]:
        """What the first part says."""
        return await self._first.list_services()

    def watch(self, name: str | None = None) -> Watch:
        """What the first part tells."""
        first = self._first.watch(name)  # raises here what can be said at once; the source opens its own

        async def events() -> AsyncGenerator[Event, None]:
            async with self._first.watch(name) as watch:
                async for event in watch:
                    yield event

        return Watch(events, name, rng=first.rng)

    def advertised_host(self) -> str | None:
        """That of the first part."""
        return self._first.advertised_host()

    async def _led(self, record: Service, call: Awaitable[None], outcomes: list[Outcome]) -> None:
        """The first part's call, and a moment for the others; what went wrong, the first part's before all."""
        first, key = self.parts[0], (record.name, record.nodes[0].id)
        try:
            try:
                await call
            except RegistryError as error:
                if not isinstance(error, HOPELESS):
                    first.failed(error, key)
                await self._others(outcomes)
                raise
            first.answered(key)
            await self._others(outcomes)
            for outcome in outcomes:
                if outcome.done() and (refusal := outcome.result()) is not None:
                    raise refusal
        finally:
            for outcome in outcomes:
                outcome.cancel()

    async def _others(self, outcomes: list[Outcome]) -> None:
        """Wait for those that are neither lost nor late."""
        pairs = [*zip(self._followers, outcomes, strict=True)]
        waiting = [outcome for follower, outcome in pairs if follower.prompt and not outcome.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=_COURTESY)
        for follower, outcome in pairs:
            follower.prompt = follower.prompt and outcome.done()
