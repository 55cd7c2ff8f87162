"""``fallback:url|url``: looks in the first store, and in the next where that one does not know, or is away.

::

    fallback:consul://10.0.0.2|etcd://10.0.0.1                  readers, while a fleet moves from etcd to Consul
    fallback:etcd://10.0.0.1|static://orders=10.0.0.9:80        addresses for the day on which etcd is away

A name is looked up as a whole: its nodes are those of the first part that has any. With ``#merge=true`` they are those
of all parts. Writes go to one part only, the first that takes any; ``mirror:`` writes to all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from microreg.composite import Composite, Part, combined
from microreg.errors import (
    ConfigError,
    InvalidService,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    ServiceNotFound,
    Unsupported,
    WrongLoop,
)
from microreg.events import Event
from microreg.layers.fallback.joint import Joint
from microreg.model import Service, merge
from microreg.options import Options, option
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.url import RegistryURL
from microreg.watch import HOPELESS, Watch

__all__ = ["FallbackOptions", "FallbackRegistry"]

T = TypeVar("T")

_OURS = (ConfigError, InvalidService, RegistryClosed, WrongLoop)
"""Errors that another part would raise as well."""
_BUDGET = 0.9
"""Of the timeout: what is left is for saying what each part said."""
_DOUBT = 10.0
"""Seconds for which a part that was too slow gets little time; then one caller finds out how it is."""
_LITTLE = 0.05
"""Of the timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackOptions(Options):
    """What may stand behind the ``#``."""

    merge: bool = option(False, "a name has the nodes of all parts, not only those of the first that has any")


class FallbackRegistry(Composite):
    """Reads go to the next part where one is away, refuses, or does not know the name; the first answer counts.

    A watch tells of all parts what lookups would find, and goes on as long as one part does. ``list_services`` has the
    names of all parts that answer. A part gets a fair share of the time that is left of the ``timeout``. Registering
    and deregistering go to the first part that is not Unsupported, and to no other: a node that moved between stores
    with each hiccup of the first would be found twice, and withdrawn from one.
    """

    Options = FallbackOptions

    def __init__(self, registries: Sequence[Registry], url: RegistryURL, options: FallbackOptions) -> None:
        super().__init__(registries, url, options)
        self._merge = options.merge
        self._slow_until: dict[Part, float] = {}

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Register in the first part that takes writes."""
        await self._written(lambda registry: registry.register(service, ttl=ttl))

    async def deregister(self, service: Service) -> None:
        """Withdraw from the first part that takes writes."""
        await self._written(lambda registry: registry.deregister(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The first answer; ServiceNotFound where no part knows the name, the most telling error otherwise."""
        if self._merge:
            return await self._merged(name)
        failures: list[tuple[Part, RegistryError]] = []
        end = asyncio.get_running_loop().time() + self.options.timeout * _BUDGET
        for part in self.parts:
            left = end - asyncio.get_running_loop().time()
            try:
                share = left / (len(self.parts) - len(failures))
                return await self._ask(part, lambda registry: registry.get_service(name), share, name)
            except _OURS:
                raise
            except RegistryError as error:
                failures.append((part, error))
        raise _unknown(name, failures)

    async def list_services(self) -> tuple[str, ...]:
        """The names that are known to the parts that answer. Raises only where none does."""
        found, failures = await self._all_asked(lambda registry: registry.list_services(), "list_services")
        if not found:
            raise combined("no part lists its services", failures)
        return tuple(sorted({name for names in found for name in names}))

    def watch(self, name: str | None = None) -> Watch:
        """Follow one name, or all, in all parts."""

        def events() -> AsyncGenerator[Event, None]:
            return Joint(self.parts, name, self._merge, self.options.timeout).events()

        return Watch(events, name)

    async def _merged(self, name: str) -> tuple[Service, ...]:
        found, failures = await self._all_asked(lambda registry: registry.get_service(name), name)
        if not found:
            raise _unknown(name, failures)
        return merge(record for services in reversed(found) for service in services for record in service.records())

    async def _all_asked(
        self, verb: Callable[[Registry], Awaitable[T]], key: str
    ) -> tuple[list[T], list[tuple[Part, RegistryError]]]:
        """Ask all parts at once: what they answered, in their order, and what went wrong."""
        limit = self.options.timeout * _BUDGET
        asked = [self._ask(part, verb, limit, key) for part in self.parts]
        found: list[T] = []
        failures: list[tuple[Part, RegistryError]] = []
        for part, outcome in zip(self.parts, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if not isinstance(outcome, BaseException):
                found.append(outcome)
            elif isinstance(outcome, RegistryError) and not isinstance(outcome, _OURS):
                failures.append((part, outcome))
            else:
                raise outcome
        return found, failures

    async def _ask(self, part: Part, verb: Callable[[Registry], Awaitable[T]], seconds: float, key: str) -> T:
        """What a part says within these seconds, or less where it was too slow a moment ago. Raises RegistryError."""
        seconds = min(seconds, self._patience(part))
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                answer = await verb(part.registry)
        except ServiceNotFound:
            self._answered(part, key)
            raise
        except RegistryError as error:
            self._failed(part, key, error)
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            late = RegistryTimeout(f"{part.url} did not answer within its share of the timeout, {seconds:.3g} s")
            self._failed(part, key, late)
            raise late from error
        self._answered(part, key)
        return answer

    def _patience(self, part: Part) -> float:
        """All the time there is; little for a part that was too slow, but for one caller every ten seconds."""
        now, slow_until = asyncio.get_running_loop().time(), self._slow_until.get(part)
        if slow_until is not None and now < slow_until:
            return self.options.timeout * _LITTLE
        if slow_until is not None:
            self._slow_until[part] = now + _DOUBT
        return self.options.timeout

    def _answered(self, part: Part, key: str) -> None:
        self._slow_until.pop(part, None)
        part.answered(key)

    def _failed(self, part: Part, key: str, error: RegistryError) -> None:
        if isinstance(error, RegistryTimeout):
            self._slow_until.setdefault(part, asyncio.get_running_loop().time() + _DOUBT)
        if not isinstance(error, HOPELESS):
            part.failed(error, key)

    async def _written(self, verb: Callable[[Registry], Awaitable[None]]) -> None:
        refusals: list[tuple[Part, RegistryError]] = []
        for part in self.parts:
            try:
                return await verb(part.registry)
            except Unsupported as error:
                refusals.append((part, error))
        raise combined("no part takes writes", refusals)


def _unknown(name: str, failures: Sequence[tuple[Part, RegistryError]]) -> RegistryError:
    absent = [error for _, error in failures if isinstance(error, ServiceNotFound)]
    if len(absent) == len(failures):
        return ServiceNotFound(name, authoritative=all(error.authoritative for error in absent))
    return combined(f"no part could say where {name!r} is", failures)
