"""``microreg plugins [NAME]``: what is installed, from where, what is broken and why, and every option."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from microreg import plugins as installed
from microreg.cli.common import JsonOption, is_terminal, print_lines, print_table
from microreg.cli.errors import FAILED, OK, redacted
from microreg.cli.text import join, json_text, safe
from microreg.errors import ConfigError
from microreg.options import OptionInfo, describe_options
from microreg.plugins import KINDS, Plugin

if TYPE_CHECKING:
    from microreg.cli.listing import Listing
    from microreg.registry import Registry

__all__ = ["plugins"]

_SHOWN = {"microreg.backends": "{}://", "microreg.layers": "{}+", "microreg.composites": "{}:"}
_FOR_TESTS = "microreg.testing."
"""Where that is which only serves the tests of programs."""
_MARKUP = re.compile(r":\w+:(?=`)|`")

_Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Only what has this name, such as mdns or cache+.", show_default=False),
]


def plugins(name: _Name = None, json: JsonOption = False) -> int:
    """Show the backends, layers, strategies, filters and hooks that are installed, their origin and their options.

    The options are shown where a NAME is given, in a pipe and with --json always. What is of kind "test backend" is
    there for the tests of programs, and of no use elsewhere.
    Each is imported to see whether it works; exit code 1 where one is broken, or two have the same name. In a
    pipe, separated by tabs: kind, name, distribution, version, target, and ok or what is wrong; then, after the
    word option: name of the plugin, option, type, default, secret or -, meaning; and after the word about: name of
    the plugin, and what it finds on this machine, such as the network interfaces it would use: subject, finding.
    """
    everything = [plugin for group in KINDS for plugin in installed.inventory(group)]
    found = [_examined(plugin, everything) for plugin in _wanted(name, everything)]
    if json:
        print(json_text({"plugins": [each.to_dict() for each in found]}))
    elif is_terminal():
        _show(found, details=name is not None)
    else:
        print_lines(line for each in found for line in each.lines())
    return FAILED if any(each.problem for each in found) else OK


@dataclass(frozen=True, slots=True)
class _Found:
    """One plugin and what became of importing it; ``problem`` is empty where it works."""

    plugin: Plugin
    problem: str = ""
    summary: str = ""
    capabilities: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    options: tuple[OptionInfo, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def kind(self) -> str:
        """What it is called; ``test backend`` where nobody is to choose it but a test."""
        kind = KINDS[self.plugin.group]
        return f"test {kind}" if self.plugin.target.startswith(_FOR_TESTS) else kind

    @property
    def name(self) -> str:
        """As it stands in a config string."""
        return safe(_SHOWN.get(self.plugin.group, "{}").format(self.plugin.name))

    def options_as_written(self) -> list[tuple[str, OptionInfo]]:
        """Each option with its name in the config string."""
        prefix = f"{self.plugin.name}." if self.plugin.group == "microreg.layers" else ""
        return [(prefix + info.name, info) for info in self.options]

    def lines(self) -> Iterable[tuple[str, ...]]:
        plugin = self.plugin
        cells = plugin.distribution, plugin.version, plugin.target, self.problem or "ok"
        yield (self.kind, self.name, *map(safe, cells))
        for key, info in self.options_as_written():
            secret = "secret" if info.secret else ""
            yield ("option", self.name, *map(safe, (key, info.type, info.default, secret, info.help)))
        for key, value in self.about.items():
            yield ("about", self.name, safe(key), safe(value))

    def to_dict(self) -> dict[str, object]:
        plugin = self.plugin
        return {
            "kind": self.kind,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "target": plugin.target,
            "ok": not self.problem,
            "error": self.problem or None,
            "summary": self.summary,
            "capabilities": self.capabilities,
            "hooks": self.hooks,
            "about": self.about,
            "options": [asdict(info) | {"name": key} for key, info in self.options_as_written()],
        }


def _wanted(name: str | None, everything: list[Plugin]) -> list[Plugin]:
    """Everything, or what has this name. Raises ConfigError where there is nothing of that name."""
    if name is None:
        return everything
    plain = name.partition("://")[0].rstrip("+:")
    found = [plugin for plugin in everything if plugin.name == plain]
    if not found:
        close = get_close_matches(plain, [plugin.name for plugin in everything], 1)
        if close:
            raise ConfigError(f"no plugin {plain!r} is installed; did you mean {close[0]!r}?")
        installed.backend(plain)
    return found


def _examined(plugin: Plugin, everything: list[Plugin]) -> _Found:
    rivals = [each for each in everything if each[:2] == plugin[:2] and each.target != plugin.target]
    if rivals and plugin.group != "microreg":
        others = join(f"{each.distribution} ({each.target})" for each in rivals)
        return _Found(plugin, f"conflict: {others} provides {plugin.name!r} too; uninstall one of them")
    try:
        with redirect_stdout(sys.stderr):  # what a plugin prints when imported is no part of our output
            return _LOOKS[plugin.group](plugin)
    except ConfigError as error:
        return _Found(plugin, redacted(str(error)))
    except Exception as error:
        return _Found(plugin, redacted(f"{type(error).__name__}: {error}"))


def _registry(plugin: Plugin) -> _Found:
    cls = _CLASSES[plugin.group](plugin.name)
    options = describe_options(cls.Options, layer=plugin.group == "microreg.layers")
    capabilities = tuple(sorted(cls.capabilities)) if isinstance(cls.capabilities, frozenset) else ()
    return _Found(plugin, "", _summary(cls), capabilities, options=options, about=installed.about(cls))


def _function(plugin: Plugin) -> _Found:
    return _Found(plugin, "", _summary(installed.load(plugin.group, plugin.name)))


def _hook(plugin: Plugin) -> _Found:
    return _Found(plugin, hooks=installed.implemented(plugin))


_CLASSES: dict[str, Callable[[str], type[Registry]]] = {
    "microreg.backends": installed.backend,
    "microreg.layers": installed.layer,
    "microreg.composites": installed.composite,
}
_LOOKS: dict[str, Callable[[Plugin], _Found]] = {
    "microreg.backends": _registry,
    "microreg.layers": _registry,
    "microreg.composites": _registry,
    "microreg.strategies": _function,
    "microreg.filters": _function,
    "microreg": _hook,
}


def _summary(documented: object) -> str:
    """The first paragraph of a docstring, on one line, without its markup."""
    return _MARKUP.sub("", " ".join((documented.__doc__ or "").strip().partition("\n\n")[0].split()))


def _show(found: list[_Found], *, details: bool) -> None:
    from rich.text import Text

    from microreg.cli.listing import Listing

    made = Listing("kind", "name", "distribution", "version", "state")
    for each in found:
        state = Text("broken", style="red") if each.problem else Text("ok", style="green")
        cells = each.kind, each.name, safe(each.plugin.distribution), safe(each.plugin.version)
        made.add_row(*map(Text, cells), state)
    print_table(made)
    for each in found:
        if each.problem:
            print(f"{each.kind} {each.name}: {safe(each.problem)}")
        elif details:
            facts = {"target": each.plugin.target, "capabilities": join(each.capabilities), "hooks": join(each.hooks)}
            facts |= each.about
            lines = [each.summary, *(f"{key}: {value}" for key, value in facts.items() if value)]
            print("\n".join(safe(line) for line in lines if line))
        if details and each.options:
            print()
            print_table(_options(each))
    if not details:
        print("microreg plugins NAME tells more of one, and its options.")


def _options(found: _Found) -> Listing:
    from rich.text import Text

    from microreg.cli.listing import Listing

    made = Listing(
        "option", "type", "default", "meaning", folds=("default", "meaning"), title=f"options of {found.name}"
    )
    for key, info in found.options_as_written():
        default = "(secret)" if info.secret else info.default
        made.add_row(*(Text(safe(cell)) for cell in (key, info.type, default, info.help)))
    return made
