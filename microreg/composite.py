"""Composite: a registry made of several registries, the base of ``mirror:`` and ``fallback:``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from microreg import options as config
from microreg.checked import patience
from microreg.errors import (
    ConfigError,
    PermissionDenied,
    RecordTooLarge,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.findings import Finding, Kind, Severity
from microreg.registry import Registry
from microreg.url import RegistryURL

__all__ = ["Composite", "Part", "combined"]

log = logging.getLogger("microreg.composite")

R = TypeVar("R", bound=Registry)

_SLACK = 2.0
"""Seconds that a composite has more than its slowest part, so that the part says itself that it is late."""
_REFUSALS = 1000
"""So many refusals of one part are remembered."""
_WEIGHTS: Mapping[type, int] = {
    ServiceNotFound: 0,
    Unsupported: 1,
    RegistryError: 2,
    PermissionDenied: 3,
    RegistryTimeout: 4,
    RegistryUnavailable: 5,
}
"""How telling an error is where none of several registries could help."""

_ANSWERS = Kind("part.answers", Severity.OK, "a part of mirror: or fallback: answers")
_SILENT = Kind(
    "part.silent",
    Severity.WARNING,
    "a part of mirror: or fallback: does not answer; the others go on without it",
    "is it running, is its address right? A mirror: is not complete without it",
)


class Part:
    """One registry of a composite, and how it stands. ``number`` counts from 1, as the config string is read.

    ``state`` is ``unknown`` before the first answer, ``live`` while it answers, and ``lost`` while it does not, or
    refuses something; ``error`` is why, without secrets. It is one warning when it is lost, one info when it is back.
    """

    def __init__(self, number: int, registry: Registry) -> None:
        self.number = number
        self.registry = registry
        self.losses = 0
        """How often it was lost."""
        self._answered = False
        self._lost = False
        self._away: RegistryError | None = None
        self._refused: dict[object, RegistryError] = {}

    @property
    def url(self) -> RegistryURL:
        """Its config string."""
        return self.registry.url

    @property
    def state(self) -> Literal["unknown", "live", "lost"]:
        """How it stands."""
        return "lost" if self._lost else "live" if self._answered else "unknown"

    @property
    def error(self) -> RegistryError | None:
        """Why it is lost; None where it is not."""
        return self._away or next(iter(self._refused.values()), None)

    def answered(self, key: object = None) -> None:
        """It has done what it was asked for; ``key`` is what that was about."""
        self._answered, self._away = True, None
        self._refused.pop(key, None)
        self._settle()

    def failed(self, error: RegistryError, key: object = None) -> None:
        """It has not: it is away, or refuses what ``key`` is about."""
        if isinstance(error, RegistryUnavailable):
            self._away = error
        else:
            self._answered, self._away = True, None
            if key in self._refused or len(self._refused) < _REFUSALS:
                self._refused[key] = error
        self._settle()

    def dropped(self, key: object) -> None:
        """What ``key`` is about is not asked for any more."""
        self._refused.pop(key, None)
        self._lost = self.error is not None

    def named(self, error: RegistryError) -> RegistryError:
        """The same error, with the name of this part in its text."""
        text = str(error)
        if isinstance(error, RecordTooLarge):
            found: RegistryError = RecordTooLarge(f"{self}: {text}", size=error.size, limit=error.limit)
        else:
            found = _kind(error)(f"{self}: {text}")
        found.__cause__ = error
        return found

    def _settle(self) -> None:
        lost = self.error is not None
        if lost is self._lost:
            return
        self._lost = lost
        extra = {"registry": str(self.url), "part": self.number}
        if lost:
            self.losses += 1
            log.warning("%s is lost: %s", self, self.error, extra=extra)
        else:
            log.info("%s is back", self, extra=extra)

    def __str__(self) -> str:
        return f"part {self.number} ({self.url})"

    def __repr__(self) -> str:
        return f"<Part {self.number} {self.url} is {self.state}>"


class Composite(Registry):
    """Several registries that are used as one. A subclass says how: this one opens and closes them together.

    ``registries`` are as ``connect()`` makes them, not open yet. Without a ``timeout`` of its own a composite has a
    little more time than its slowest part. Raises ConfigError where two parts are one store.
    """

    def __init__(self, registries: Sequence[Registry], url: RegistryURL, options: config.Options) -> None:
        super().__init__(url, options)
        self.parts: tuple[Part, ...] = tuple(Part(number, each) for number, each in enumerate(registries, 1))
        """The parts, and how each of them stands."""
        self._refuse_twins()
        self.capabilities = frozenset[str].intersection(*(each.capabilities for each in registries))
        if "timeout" not in url.options:
            longest = max(map(patience, registries))
            self.options = replace(options, timeout=config.Duration(longest + _SLACK))

    async def open(self) -> None:
        """Open all parts. Where one cannot be opened none stays open."""
        results = await self._all(lambda part: part.registry.open())
        for part, result in zip(self.parts, results, strict=True):
            if result is not None:
                await self.close()
                raise part.named(result) if isinstance(result, RegistryError) else result

    async def close(self) -> None:
        """Close all parts. What one of them raises is raised when all are closed."""
        results = await self._all(lambda part: part.registry.close())
        for result in results:
            if result is not None:
                raise result

    async def _all(self, call: Callable[[Part], Awaitable[None]]) -> list[BaseException | None]:
        return list(await asyncio.gather(*map(call, self.parts), return_exceptions=True))

    def suspect(self, name: str, id: str) -> None:
        """Tell every part."""
        for part in self.parts:
            part.registry.suspect(name, id)

    def advertised_host(self) -> str | None:
        """That of the first part that knows one."""
        return next(filter(None, (part.registry.advertised_host() for part in self.parts)), None)

    async def examine(self) -> tuple[Finding, ...]:
        """Whether each part answers, and what is found about it, with its name."""
        found = await asyncio.gather(*map(_examined, self.parts))
        return tuple(finding for findings in found for finding in findings)

    def unwrap(self, kind: type[R]) -> R | None:
        """This one, or the first of that class in the parts, in their order."""
        if isinstance(self, kind):
            return self
        return next(filter(None, (part.registry.unwrap(kind) for part in self.parts)), None)

    def _refuse_twins(self) -> None:
        seen: dict[RegistryURL, Part] = {}
        for part in self.parts:
            options = {key: value for key, value in part.url.options.items() if key != "timeout"}
            twin = seen.setdefault(replace(part.url, options=options), part)
            if twin is not part:
                raise ConfigError(
                    f"{twin} and part {part.number} are the same store: two clients of it would write over each "
                    "other; name each store once"
                )


async def _examined(part: Part) -> list[Finding]:
    found = [replace(each, what=f"{part}: {each.what}") for each in await part.registry.examine()]
    try:
        names = await part.registry.list_services()
        found.append(_ANSWERS(f"{part} answers, and has {len(names)} services"))
    except RegistryClosed:
        pass
    except RegistryError as error:
        found.append(_SILENT(f"{part} does not answer: {error}"))
    return found


def combined(what: str, failures: Sequence[tuple[Part, RegistryError]]) -> RegistryError:
    """One error for what no part could do: the most telling of theirs, with what each of them said.

    A store that is away may know better than one that refuses, and that one better than those that know nothing.
    """
    reasons = "; ".join(f"{part}: {error}" for part, error in failures)
    telling = max((error for _, error in failures), key=_weight)
    found = _kind(telling)(f"{what}: {reasons}")
    found.__cause__ = telling
    return found


def _kind(error: RegistryError) -> type[RegistryError]:
    """The class of the tree that an error is of, which takes a text; a plugin's own may take anything."""
    return next(cls for cls in type(error).__mro__ if cls.__module__ == RegistryError.__module__)


def _weight(error: RegistryError) -> int:
    return next(_WEIGHTS[cls] for cls in type(error).__mro__ if cls in _WEIGHTS)
