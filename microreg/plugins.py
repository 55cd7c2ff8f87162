"""Finds backends, layers and strategies by entry point, by name, and imports only what is asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata
from typing import NamedTuple, TypeVar, cast

import pluggy

from microreg import hookspecs
from microreg.errors import ConfigError
from microreg.registry import Layer, Registry
from microreg.url import RegistryURL

__all__ = [
    "Plugin",
    "backend",
    "hooks",
    "implemented",
    "installed",
    "inventory",
    "layer",
    "load",
    "names",
    "tell",
    "wrap",
]

log = logging.getLogger("microreg.plugins")

C = TypeVar("C", bound=Registry)

_BROKEN = (Exception, SystemExit)
"""What importing a plugin may end in; a script without a main guard ends in SystemExit."""


class Plugin(NamedTuple):
    """One entry point: its group and name, where it leads to, and the distribution that brought it."""

    group: str
    name: str
    target: str
    distribution: str
    version: str


def inventory(group: str) -> tuple[Plugin, ...]:
    """Everything in a group, sorted, conflicting names too; nothing is imported."""
    return tuple(sorted({_plugin(entry) for entry in entry_points(group=group)}))


def implemented(plugin: Plugin) -> tuple[str, ...]:
    """The names of the hooks that a plugin of the group ``microreg`` implements. Raises ConfigError where it broke."""
    manager = _manager()
    for entry in entry_points(group=plugin.group, name=plugin.name):
        if _plugin(entry) == plugin:
            try:
                module = cast(object, entry.load())
                manager.register(module)
                manager.check_pending()
            except _BROKEN as error:
                raise _broken(entry, error) from error
            return tuple(sorted(caller.name for caller in manager.get_hookcallers(module) or ()))
    raise ConfigError(_missing(plugin.group, plugin.name))


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group (``microreg.backends`` …) by name; nothing is imported.

    Raises ConfigError when two distributions give one name to different targets.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"two plugins provide {entry.name!r} in {group}: {_origin(other)} ({other.value}) and "
                f"{_origin(entry)} ({entry.value}); uninstall one of them"
            )
    return found


def names(group: str) -> tuple[str, ...]:
    """The sorted names in a group."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load(group: str, name: str) -> object:
    """The object behind one name of a group. Raises ConfigError that says what is installed, or what broke."""
    candidates = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(candidates) > 1:
        installed(group)
    if not candidates:
        raise ConfigError(_missing(group, name))
    entry = next(iter(candidates.values()))
    try:
        return cast(object, entry.load())
    except _BROKEN as error:
        raise _broken(entry, error) from error


def backend(scheme: str) -> type[Registry]:
    """The backend class for a scheme."""
    return _subclass("microreg.backends", scheme, Registry)  # type: ignore[type-abstract]


def layer(name: str) -> type[Layer]:
    """The layer class of this name."""
    return _subclass("microreg.layers", name, Layer)


@cache
def hooks() -> pluggy.PluginManager:
    """A plugin manager with every installed hook plugin; a broken one is one warning, never an error."""
    manager = _manager()
    for entry in entry_points(group="microreg"):
        name = f"{entry.name} ({_origin(entry)}, {entry.value})"
        if manager.has_plugin(name):
            continue
        try:
            manager.register(entry.load(), name=name)
            manager.check_pending()
        except _BROKEN as error:
            if manager.has_plugin(name):
                manager.unregister(name=name)
            _warn(name, error)
    return manager


def tell(hook: str, **arguments: object) -> None:
    """Call a hook of every plugin; one that raises is one warning and keeps no other from hearing."""
    for plugin in _implementing(hook):
        try:
            _call(plugin, hook, arguments)
        except Exception as error:
            _warn(hooks().get_name(plugin), error)


def wrap(registry: Registry, url: RegistryURL) -> Registry:
    """The registry that ``microreg_wrap`` makes of this one, each plugin around the one before.

    A plugin that raises is one warning, and left out; only its ConfigError is raised, being meant for people.
    """
    for plugin in _implementing("microreg_wrap"):
        try:
            for found in _call(plugin, "microreg_wrap", {"registry": registry, "url": url}):
                if not isinstance(found, Registry):
                    raise TypeError(f"microreg_wrap returned {type(found).__name__}; expected a Registry or None")
                registry = found
        except ConfigError:
            raise
        except Exception as error:
            _warn(hooks().get_name(plugin), error)
    return registry


def _implementing(hook: str) -> list[object]:
    """The plugins with this hook, in pluggy's order: the one that was registered last comes first."""
    caller: pluggy.HookCaller = getattr(hooks().hook, hook)
    return [implementation.plugin for implementation in reversed(caller.get_hookimpls())]


def _call(plugin: object, hook: str, arguments: Mapping[str, object]) -> list[object]:
    manager = hooks()
    others = [each for each in manager.get_plugins() if each is not plugin]
    return cast(list[object], manager.subset_hook_caller(hook, others)(**arguments))


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("microreg")
    manager.add_hookspecs(hookspecs)
    return manager


def _warn(plugin: str | None, error: BaseException) -> None:
    described = f"{type(error).__name__}: {error}"
    log.warning("skipped a broken plugin", extra={"plugin": plugin, "error": described}, exc_info=error)


def _subclass(group: str, name: str, base: type[C]) -> type[C]:
    found = load(group, name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"the plugin for {name!r} in {group} is {found!r}; expected a subclass of {base.__name__}")
    return found


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _plugin(entry: EntryPoint) -> Plugin:
    found = entry.dist.metadata if entry.dist is not None else None
    version = found["Version"] if found is not None and "Version" in found else ""
    return Plugin(entry.group, entry.name, entry.value, _origin(entry), version)


def _broken(entry: EntryPoint, error: BaseException) -> ConfigError:
    why = f"{type(error).__name__}: {error}"
    return ConfigError(f"the plugin for {entry.name!r} ({_origin(entry)}, {entry.value}) is broken: {why}")


def _missing(group: str, name: str) -> str:
    kind = group.rpartition(".")[2].rstrip("s").replace("strategie", "strategy")
    known = names(group)
    close = get_close_matches(name, known, 1)
    advice = f"; did you mean {close[0]!r}?" if close else ""
    extra = _extra(name)
    if extra and not close:
        advice = f"; install it with: pip install 'microreg[{extra}]'"
    return f"no {kind} {name!r} is installed (installed: {', '.join(known) or 'none'}){advice}"


def _extra(scheme: str) -> str | None:
    try:
        extras = metadata("microreg").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return None
    stem = re.split(r"[-+]", scheme)[0]
    return next((extra for extra in extras if stem in (extra, f"{extra}s")), None)
