"""Finds backends, layers, strategies and filters by entry point, by name, and imports only what is asked for.

Whatever a plugin raises is its own failure and ends nothing else, SystemExit and the like too; only a
KeyboardInterrupt goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from inspect import ismethod
from typing import cast

import pluggy

from microreg import hookspecs
from microreg.composite import Composite
from microreg.errors import ConfigError
from microreg.options import Options, describe_options
from microreg.plugins.entries import (
    KINDS,
    Plugin,
    as_plugin,
    broken,
    described,
    installed,
    inventory,
    named,
    names,
    of_group,
    origin,
    why,
)
from microreg.registry import Layer, Registry
from microreg.url import RegistryURL

__all__ = [
    "KINDS",
    "Plugin",
    "about",
    "backend",
    "composite",
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


def implemented(wanted: Plugin) -> tuple[str, ...]:
    """The names of the hooks that a plugin of the group ``microreg`` implements. Raises ConfigError where it broke."""
    found = next((each for each in of_group(wanted.group) if as_plugin(each) == wanted), None)
    if found is None:
        raise ConfigError(f"no hook {wanted.name!r} of {wanted.distribution} is installed")
    try:
        return _register(_manager(), found, wanted.name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise broken(found, error) from error


def load(group: str, name: str) -> object:
    """The object behind one name of a group, and surely what the group is for.

    Raises ConfigError that says what is installed, what broke, or what the object is and what was expected.
    """
    point = named(group, name)
    try:
        found = cast(object, point.load())
        problem = _PROBLEMS[group](found) if group in _PROBLEMS else ""
        wrong = f"{described(point)} is {found!r:.100}; {problem}" if problem else ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise broken(point, error) from error
    if wrong:
        raise ConfigError(wrong)
    return found


def backend(scheme: str) -> type[Registry]:
    """The backend class for a scheme."""
    return cast("type[Registry]", load("microreg.backends", scheme))


def layer(name: str) -> type[Layer]:
    """The layer class of this name."""
    return cast("type[Layer]", load("microreg.layers", name))


def composite(scheme: str) -> type[Composite]:
    """The class for a scheme that is followed by several URLs."""
    return cast("type[Composite]", load("microreg.composites", scheme))


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(
            f"about() of {kind.__qualname__} failed; expected a Mapping[str, str], got {why(error)}"
        ) from error


@cache
def hooks() -> pluggy.PluginManager:
    """A plugin manager with every installed hook plugin; a broken one is one warning, never an error."""
    manager = _manager()
    for point in of_group("microreg"):
        name = f"{point.name} ({origin(point)}, {point.value})"
        if manager.has_plugin(name):
            continue
        try:
            _register(manager, point, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if manager.has_plugin(name):
                manager.unregister(name=name)
            _warn(name, error)
    return manager


def tell(hook: str, **arguments: object) -> None:
    """Call a hook of every plugin; one that raises is one warning and keeps no other from hearing."""
    for hooked in _implementing(hook):
        try:
            _call(hooked, hook, arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _warn(hooks().get_name(hooked), error)


def wrap(registry: Registry, url: RegistryURL) -> Registry:
    """The registry that ``microreg_wrap`` makes of this one, each plugin around the one before.

    A plugin that raises is one warning, and left out; only its ConfigError is raised, being meant for people.
    """
    for hooked in _implementing("microreg_wrap"):
        try:
            for found in _call(hooked, "microreg_wrap", {"registry": registry, "url": url}):
                if not isinstance(found, Registry):
                    raise TypeError(f"microreg_wrap returned {type(found).__name__}; expected a Registry or None")
                registry = found
        except (ConfigError, KeyboardInterrupt):
            raise
        except BaseException as error:
            _warn(hooks().get_name(hooked), error)
    return registry


def _implementing(hook: str) -> list[object]:
    """The plugins with this hook, in pluggy's order: the one that was registered last comes first."""
    caller: pluggy.HookCaller = getattr(hooks().hook, hook)
    return [implementation.plugin for implementation in reversed(caller.get_hookimpls())]


def _call(hooked: object, hook: str, arguments: Mapping[str, object]) -> list[object]:
    manager = hooks()
    others = [each for each in manager.get_plugins() if each is not hooked]
    return cast(list[object], manager.subset_hook_caller(hook, others)(**arguments))


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("microreg")
    manager.add_hookspecs(hookspecs)
    return manager


def _warn(name: str | None, error: BaseException) -> None:
    extra = {"plugin": name, "error": why(error)}
    log.warning("skipped the broken plugin %s: %s", name, why(error), extra=extra, exc_info=error)


def _register(manager: pluggy.PluginManager, point: EntryPoint, name: str) -> tuple[str, ...]:
    """Load a hook plugin; the names of its hooks. Raises whatever is wrong with it."""
    hooked = cast(object, point.load())
    manager.register(hooked, name=name)
    manager.check_pending()
    callers = manager.get_hookcallers(hooked)
    if not callers:
        raise TypeError("it implements no hook; expected functions marked with microreg.hookspecs.hookimpl")
    return tuple(sorted(caller.name for caller in callers))


def _backend_problem(found: object) -> str:
    if not (isinstance(found, type) and issubclass(found, Registry)) or issubclass(found, Layer | Composite):
        return "expected a subclass of Registry that is no Layer and no Composite"
    return _class_problem(found)


def _layer_problem(found: object) -> str:
    return _class_problem(found) if isinstance(found, type) and issubclass(found, Layer) else _NO_LAYER


def _composite_problem(found: object) -> str:
    if not (isinstance(found, type) and issubclass(found, Composite)):
        return "expected a subclass of Composite"
    return _class_problem(found)


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
    return "" if callable(found) else "expected a function (members, rng) -> pick"


def _filter_problem(found: object) -> str:
    return "" if callable(found) else "expected a function that makes a filter (node, service) -> bool"


_NO_LAYER = "expected a subclass of Layer"
_NO_OPTIONS = (
    "expected a subclass of microreg.url.Options with the decorator @dataclass(frozen=True, slots=True, kw_only=True)"
)
_PROBLEMS: Mapping[str, Callable[[object], str]] = {
    "microreg.backends": _backend_problem,
    "microreg.layers": _layer_problem,
    "microreg.composites": _composite_problem,
    "microreg.strategies": _strategy_problem,
    "microreg.filters": _filter_problem,
}
"""What is wrong with an object of a group, and what was expected; empty where nothing is."""
