"""What is installed: entry points by group and name, whatever else is wrong with the distributions around them."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distributions, entry_points, metadata
from typing import NamedTuple

from microreg.errors import ConfigError

__all__ = [
    "KINDS",
    "Plugin",
    "as_plugin",
    "broken",
    "described",
    "installed",
    "inventory",
    "named",
    "names",
    "of_group",
    "origin",
    "why",
]

log = logging.getLogger("microreg.plugins")

KINDS: Mapping[str, str] = {
    "microreg.backends": "backend",
    "microreg.layers": "layer",
    "microreg.composites": "composite",
    "microreg.strategies": "strategy",
    "microreg.filters": "filter",
    "microreg": "hook",
}
"""The groups of entry points, and what a plugin of each is called."""

_IN_STRINGS = ("microreg.backends", "microreg.layers", "microreg.composites")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
"""What a name in a config string is made of, where capitals become small."""
_EXTRAS = ("consul", "etcd", "nats")
"""Backends that the extras of the same name install."""


class Plugin(NamedTuple):
    """One entry point: its group and name, where it leads to, and the distribution that brought it."""

    group: str
    name: str
    target: str
    distribution: str
    version: str


def inventory(group: str) -> tuple[Plugin, ...]:
    """Everything in a group, sorted, conflicting names too; nothing is imported."""
    return tuple(sorted({as_plugin(each) for each in of_group(group)}))


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group (``microreg.backends`` …) by name; nothing is imported.

    Raises ConfigError when two distributions give one name to different targets.
    """
    return _by_name(of_group(group))


def names(group: str) -> tuple[str, ...]:
    """The sorted names in a group."""
    return tuple(sorted({each.name for each in of_group(group)}))


def named(group: str, name: str) -> EntryPoint:
    """The entry point of this name. Raises ConfigError that says what is installed, or what is wrong with the name."""
    found = _by_name(each for each in of_group(group) if each.name == name).get(name)
    if found is None:
        raise ConfigError(_missing(group, name))
    if not _reachable(found):
        raise ConfigError(_unreachable(found))
    return found


def of_group(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. A distribution whose entry points cannot be read is one warning.

    They are read once, and again when a folder of ``sys.path`` has changed: reading takes milliseconds.
    """
    return _groups(tuple(map(_state, sys.path))).get(group, ())


def _state(folder: str) -> tuple[str, int]:
    with suppress(OSError, ValueError):
        return folder, os.stat(folder or ".").st_mtime_ns
    return folder, 0


@lru_cache(maxsize=1)
def _groups(_path: tuple[tuple[str, int], ...]) -> dict[str, tuple[EntryPoint, ...]]:
    try:
        found = entry_points()
        return {group: tuple(found.select(group=group)) for group in found.groups}
    except Exception:  # one of all that are installed spoils it for all
        return _readable_groups()


def _readable_groups() -> dict[str, tuple[EntryPoint, ...]]:
    groups: dict[str, list[EntryPoint]] = {}
    for points in _readable():
        for each in points:
            groups.setdefault(each.group, []).append(each)
    return {group: tuple(points) for group, points in groups.items()}


def _readable() -> Iterable[Iterable[EntryPoint]]:
    """The entry points of every distribution that has readable ones; the first of a name hides the others."""
    seen: set[str] = set()
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", _identity(distribution)[0]).lower()
        if name not in seen:
            seen.add(name)
            try:
                yield tuple(distribution.entry_points)
            except Exception as error:
                _skip(_identity(distribution)[0], why(error))


@cache
def _skip(distribution: str, error: str) -> None:
    """Say it once."""
    extra = {"plugin": distribution, "error": error}
    log.warning("skipped the distribution %s, whose entry points cannot be read: %s", distribution, error, extra=extra)


def as_plugin(found: EntryPoint) -> Plugin:
    """What an entry point says of its plugin."""
    name, version = _identity(found.dist)
    return Plugin(found.group, found.name, found.value, name, version)


def origin(found: EntryPoint) -> str:
    """The name of the distribution that an entry point belongs to, for people."""
    return _identity(found.dist)[0]


def _identity(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version; one that does not tell its name is named by its place."""
    if distribution is None:
        return "an unknown distribution", ""
    try:
        told = distribution.metadata
        name, version = (told[key] if key in told else "" for key in ("Name", "Version"))
    except Exception:  # METADATA is not UTF-8, or not there
        name = version = ""
    folder: object = getattr(getattr(distribution, "_path", None), "name", distribution.locate_file(""))
    return name or f"{folder} without readable METADATA", version


def why(error: BaseException) -> str:
    """An exception for a message."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def broken(found: EntryPoint, error: BaseException) -> ConfigError:
    """The error for a plugin that cannot be imported."""
    return ConfigError(f"{described(found)} is broken: {why(error)}")


def described(found: EntryPoint) -> str:
    """An entry point in an error."""
    return f"the {_kind(found.group)} {found.name!r} ({origin(found)}, {found.value})"


def _by_name(found: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    table: dict[str, EntryPoint] = {}
    for each in found:
        other = table.setdefault(each.name, each)
        if other.value != each.value:
            raise ConfigError(
                f"two plugins provide {each.name!r} in {each.group}: {origin(other)} ({other.value}) and "
                f"{origin(each)} ({each.value}); uninstall one of them"
            )
    return table


def _kind(group: str) -> str:
    return KINDS.get(group, "plugin")


def _missing(group: str, name: str) -> str:
    known = {each.name: each for each in of_group(group)}
    near = [each for each in known if each.lower() == name.lower()] or get_close_matches(name, known, 1)
    extra = _extra(name)
    alike = get_close_matches(name, _EXTRAS, 1, 0.7) if group == "microreg.backends" else []
    if near and not _reachable(known[near[0]]):
        advice = f"; {_unreachable(known[near[0]])}"
    elif near:
        advice = f"; did you mean {near[0]!r}?"
    elif extra:
        clone = f" (in a clone of the repository: pip install ./plugins/microreg-{extra})" if extra in _EXTRAS else ""
        advice = f"; install it with: pip install 'microreg[{extra}]'{clone}"
    elif alike:
        advice = f"; did you mean {alike[0]!r}? pip install 'microreg[{alike[0]}]' installs it"
    else:
        advice = ""
    what = name[:80] + "…" * (len(name) > 80)
    return f"no {_kind(group)} {what!r} is installed (installed: {', '.join(sorted(known)) or 'none'}){advice}"


def _reachable(found: EntryPoint) -> bool:
    return found.group not in _IN_STRINGS or _NAME.fullmatch(found.name) is not None


def _unreachable(found: EntryPoint) -> str:
    return (
        f"{described(found)} cannot be reached: names in a config string are lower case (a to z, 0 to 9, -), "
        "so the plugin has to change the name"
    )


def _extra(scheme: str) -> str | None:
    try:
        extras = metadata("microreg").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return None
    stem = re.split(r"[-+]", scheme)[0]
    return next((extra for extra in extras if stem in (extra, f"{extra}s")), None)
