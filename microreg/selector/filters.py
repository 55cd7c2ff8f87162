"""Filters: which nodes may be selected at all. Each is a function of a node and the service it offers.

As strings they are written ``name`` or ``name:text``, such as ``"version:>=2,<3"`` or ``"zone:a"``: the name of an
entry point in the group ``microreg.filters``, and what its factory is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import cast

from microreg.arguments import raised, shown
from microreg.errors import ConfigError
from microreg.model import Node, Service, Status

__all__ = [
    "Filter",
    "endpoint",
    "filtered",
    "is_plain",
    "local",
    "metadata",
    "name_of",
    "parse",
    "status",
    "version",
    "zone",
]

Filter = Callable[[Node, Service], bool]
"""Whether a node may be selected; called once per change of the node, on the event loop, and never by ``pick``."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A filter that says in ``explain`` what it is."""

    text: str
    test: Filter

    def __call__(self, node: Node, service: Service) -> bool:
        return self.test(node, service)

    def __str__(self) -> str:
        return self.text


def version(wanted: str) -> Filter:
    """Services of this version: exactly this text, or a PEP 440 specifier such as ``>=2,<3`` or ``~=1.4``.

    A version that is no PEP 440 version fits no specifier; a pre-release fits only one that names a pre-release.
    """
    _check("version", wanted)
    if not wanted.lstrip().startswith(("<", ">", "=", "!", "~")):
        return _Named(f"version:{wanted}", lambda node, service: service.version == wanted)
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        specifiers = SpecifierSet(wanted)
    except InvalidSpecifier:
        raise ConfigError(
            f"filter 'version': {shown(wanted)} is no version specifier; expected one such as '>=2,<3' (PEP 440)"
        ) from None

    @lru_cache(maxsize=256)
    def fits(found: str) -> bool:
        try:
            return specifiers.contains(Version(found), prereleases=bool(specifiers.prereleases))
        except InvalidVersion:
            return False

    return _Named(f"version:{wanted}", lambda node, service: fits(service.version))


def metadata(*pairs: str, **wanted: str) -> Filter:
    """Nodes whose metadata, or else their service's, has all of these pairs.

    ``metadata(tier="gold")``, ``metadata("tier=gold")``, or several in one text, separated by commas.
    """
    _check("metadata", *pairs, *wanted.values())
    for pair in (each for text in pairs for each in text.split(",")):
        key, equals, value = pair.partition("=")
        if not (equals and key.strip()):
            raise ConfigError(f"filter 'metadata': {shown(pair)}: expected key=value")
        wanted[key.strip()] = value
    if not wanted:
        raise ConfigError("filter 'metadata': expected at least one key=value")

    def fits(node: Node, service: Service) -> bool:
        return all(
            node.metadata.get(key, service.metadata.get(key)) == value  # of both, the node knows better
            for key, value in wanted.items()
        )

    return _Named("metadata:" + ",".join(f"{key}={value}" for key, value in wanted.items()), fits)


def endpoint(name: str) -> Filter:
    """Services that offer an endpoint of this name."""
    _check("endpoint", name)
    _needed("endpoint", name)
    return _Named(f"endpoint:{name}", lambda node, service: any(each.name == name for each in service.endpoints))


def status(*wanted: str | Status) -> Filter:
    """Nodes of these statuses only, such as ``status("passing")`` to leave out those with a warning.

    No filter makes a node selectable that is neither passing nor warning.
    """
    _check("status", *wanted)
    texts = [text.strip() for each in wanted for text in each.split(",")]
    known = [each.value for each in Status if each.selectable]
    for text in texts:
        if text not in known:
            raise ConfigError(f"filter 'status': {shown(text)} is never selected; expected {' or '.join(known)}")
    _needed("status", *texts)
    return _Named(f"status:{','.join(texts)}", lambda node, service: node.status in texts)


def zone(*wanted: str) -> Filter:
    """Nodes of these zones only (metadata ``zone``); to prefer a zone and spill over, give ``Selector(zone=…)``."""
    _check("zone", *wanted)
    zones = [text.strip() for each in wanted for text in each.split(",")]
    _needed("zone", *zones)
    return _Named(f"zone:{','.join(zones)}", lambda node, service: node.metadata.get("zone", "") in zones)


def local() -> Filter:
    """Nodes on this machine only: those at a loopback address or at one that an interface has when this is called."""
    from microreg.net import interfaces

    own = {address.partition("%")[0] for each in interfaces() for address in each.addresses}

    def fits(node: Node, _service: Service) -> bool:
        host = node.host.partition("%")[0]
        return host in own or host in ("localhost", "::1") or host.startswith("127.")

    return _Named("local", fits)


def _check(name: str, *given: object) -> None:
    for each in given:
        if not isinstance(each, str):
            raise ConfigError(f"filter {name!r}: {shown(each)}: expected text")


def _needed(name: str, *texts: str) -> None:
    if not texts or not all(texts):
        raise ConfigError(f"filter {name!r}: expected {name}:VALUE")


def parse(filters: str | Filter | Iterable[str | Filter]) -> tuple[Filter, ...]:
    """Filters as a Selector takes them: one or several, each a function or written as text. Raises ConfigError."""
    if isinstance(filters, str) or callable(filters):
        filters = (filters,)
    if not isinstance(filters, Iterable):
        raise ConfigError(f"filters {shown(filters)}: expected a filter, or several")
    return tuple(_parsed(each) for each in filters)


def is_plain(given: object) -> bool:
    """Whether it can be called and is no coroutine function."""
    return callable(given) and not (iscoroutinefunction(given) or iscoroutinefunction(type(given).__call__))


def _parsed(spec: str | Filter) -> Filter:
    if not isinstance(spec, str):
        if not is_plain(spec):
            raise ConfigError(
                f"filter {shown(spec)}: expected text such as 'zone:a', or a plain function (node, service) -> bool"
            )
        return spec
    from microreg.plugins import load

    name, colon, text = spec.partition(":")
    factory = cast("Callable[..., object]", load("microreg.filters", name))
    try:
        made = factory(text) if colon else factory()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"filter {shown(spec)}: {type(error).__name__}: {error}") from error
    if not is_plain(made):
        raise ConfigError(f"filter {shown(spec)} made {shown(made)}; expected a plain function (node, service) -> bool")
    return _Named(spec, cast(Filter, made))


def filtered(filters: Iterable[Filter], node: Node, service: Service) -> str:
    """Why these filters leave a node out; empty where they do not. One that raises leaves it out."""
    for each in filters:
        try:
            if not each(node, service):
                return f"left out by the filter {name_of(each)}"
        except Exception as error:
            return f"the filter {name_of(each)} {raised(error)}"
    return ""


def name_of(given: Filter) -> str:
    """What a filter is called in ``explain``."""
    return str(given) if isinstance(given, _Named) else getattr(given, "__qualname__", None) or shown(given)
