"""Finds backends, layers and strategies by entry point, by name, and imports only what is asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata
from inspect import ismethod
from typing import NamedTuple, cast

import pluggy

from microreg import hookspecs
from microreg.errors import ConfigError
from microreg.options import Options, describe_options
from microreg.registry import Layer, Registry
from microreg.url import RegistryURL

__all__ = [
    "KINDS",
    "Plugin",
    "about",
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

KINDS: Mapping[str, str] = {
    "microreg.backends": "backend",
    "microreg.layers": "layer",
    "microreg.strategies": "strategy",
    "microreg": "hook",
}
"""The groups of entry points, and what a plugin of each is called."""

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
    for entry in entry_points(group=plugin.group, name=plugin.name):
        if _plugin(entry) == plugin:
            try:
                return _register(_manager(), entry, plugin.name)
            except _BROKEN as error:
                raise _broken(entry, error) from error
    raise ConfigError(_missing(plugin.group, plugin.name))


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group (``microreg.backends`` …) by name; nothing is imported.

    Raises ConfigError when two distributions give one name to different targets.
    """
    return _by_name(entry_points(group=group))


def names(group: str) -> tuple[str, ...]:
    """The sorted names in a group."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load(group: str, name: str) -> object:
    """The object behind one name of a group, and surely what the group is for.

    Raises ConfigError that says what is installed, what broke, or what the object is and what was expected.
    """
    entry = _by_name(entry_points(group=group, name=name)).get(name)
    if entry is None:
        raise ConfigError(_missing(group, name))
    try:
        found = cast(object, entry.load())
        problem = _PROBLEMS[group](found) if group in _PROBLEMS else ""
        wrong = f"{_described(entry)} is {found!r:.100}; {problem}" if problem else ""
    except _BROKEN as error:
        raise _broken(entry, error) from error
    if wrong:
        raise ConfigError(wrong)
    return found


def backend(scheme: str) -> type[Registry]:
    """The backend class for a scheme."""
    return cast("type[Registry]", load("microreg.backends", scheme))


def layer(name: str) -> type[Layer]:
    """The layer class of this name."""
    return cast("type[Layer]", load("microreg.layers", name))


def about(kind: type[Registry]) -> dict[str, str]:
    """What a class of a backend or layer tells of this machine, for ``microreg plugins``; most tell nothing.

    A class that has something to tell has a class method ``about() -> Mapping[str, str]``: what it finds here
    and no option says, such as the network interfaces it would use. It asks no network. Raises ConfigError
    where that fails.
    """
    found: object = getattr(kind, "about", None)
    if not ismethod(found):
        return {}
    try:
        return {str(key): str(value) for key, value in found().items()}
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"about() of {kind.__qualname__} failed; expected a Mapping[str, str], got {why}") from error


@cache
def hooks() -> pluggy.PluginManager:
    """A plugin manager with every installed hook plugin; a broken one is one warning, never an error."""
    manager = _manager()
    for entry in entry_points(group="microreg"):
        name = f"{entry.name} ({_origin(entry)}, {entry.value})"
        if manager.has_plugin(name):
            continue
        try:
            _register(manager, entry, name)
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


def _register(manager: pluggy.PluginManager, entry: EntryPoint, name: str) -> tuple[str, ...]:
    """Load a hook plugin; the names of its hooks. Raises whatever is wrong with it."""
    plugin = cast(object, entry.load())
    manager.register(plugin, name=name)
    manager.check_pending()
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise TypeError("it implements no hook; expected functions marked with microreg.hookspecs.hookimpl")
    return tuple(sorted(caller.name for caller in callers))


def _backend_problem(found: object) -> str:
    if not (isinstance(found, type) and issubclass(found, Registry)) or issubclass(found, Layer):
        return "expected a subclass of Registry that is no Layer"
    return _class_problem(found)


def _layer_problem(found: object) -> str:
    return _class_problem(found) if isinstance(found, type) and issubclass(found, Layer) else _NO_LAYER


def _class_problem(kind: type[Registry]) -> str:
    missing: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    if missing:
        return f"expected all verbs of a Registry, but {', '.join(sorted(missing))} is missing"
    options = cast(object, kind.Options)
    own = vars(options).get("__dataclass_params__") if isinstance(options, type) else None
    if not (own and own.frozen and issubclass(kind.Options, Options)):
        return f"its Options is {options!r:.100}; {_NO_OPTIONS}"
    describe_options(kind.Options)
    return ""


def _strategy_problem(found: object) -> str:
    return "" if callable(found) else "expected a function (nodes, rng) -> pick"


_NO_LAYER = "expected a subclass of Layer"
_NO_OPTIONS = (
    "expected a subclass of microreg.url.Options with the decorator @dataclass(frozen=True, slots=True, kw_only=True)"
)
_PROBLEMS: Mapping[str, Callable[[object], str]] = {
    "microreg.backends": _backend_problem,
    "microreg.layers": _layer_problem,
    "microreg.strategies": _strategy_problem,
}
"""What is wrong with an object of a group, and what was expected; empty where nothing is."""


def _by_name(entries: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entries:
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"two plugins provide {entry.name!r} in {entry.group}: {_origin(other)} ({other.value}) and "
                f"{_origin(entry)} ({entry.value}); uninstall one of them"
            )
    return found


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _plugin(entry: EntryPoint) -> Plugin:
    found = entry.dist.metadata if entry.dist is not None else None
    version = found["Version"] if found is not None and "Version" in found else ""
    return Plugin(entry.group, entry.name, entry.value, _origin(entry), version)


def _broken(entry: EntryPoint, error: BaseException) -> ConfigError:
    why = f"{type(error).__name__}: {error}"
    return ConfigError(f"{_described(entry)} is broken: {why}")


def _described(entry: EntryPoint) -> str:
    return f"the {_kind(entry.group)} {entry.name!r} ({_origin(entry)}, {entry.value})"


def _kind(group: str) -> str:
    return KINDS.get(group, "plugin")


def _missing(group: str, name: str) -> str:
    known = names(group)
    close = get_close_matches(name, known, 1)
    advice = f"; did you mean {close[0]!r}?" if close else ""
    extra = _extra(name)
    if extra and not close:
        advice = f"; install it with: pip install 'microreg[{extra}]'"
    return f"no {_kind(group)} {name!r} is installed (installed: {', '.join(known) or 'none'}){advice}"


def _extra(scheme: str) -> str | None:
    try:
        extras = metadata("microreg").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return None
    stem = re.split(r"[-+]", scheme)[0]
    return next((extra for extra in extras if stem in (extra, f"{extra}s")), None)
