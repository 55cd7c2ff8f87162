"""``microreg plugins``: what is installed, from where, what is broken and why, and every option."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from commands import Cli, Result, run_command
from microreg import plugins
from microreg.backends.mdns.interfaces import Choice, Link

pytest.importorskip("typer")

GOOD = '''
from dataclasses import dataclass
from microreg.backends.memory import MemoryRegistry
from microreg.hookspecs import hookimpl
from microreg.options import Duration, Options, option
from microreg.registry import Layer

print("loaded")

@dataclass(frozen=True, slots=True, kw_only=True)
class MineOptions(Options):
    every: Duration = option(Duration(2.0), "how often | or so")
    token: str = option("hunter2", "what opens the door", secret=True)

class Mine(MemoryRegistry):
    """A registry of
    mine."""
    Options = MineOptions

    @classmethod
    def about(cls):
        return {"weather": "fine\\tand dry"}

class Loud(Layer):
    Options = MineOptions

class Hooks:
    @hookimpl
    def microreg_announced(self, announcement): ...

    @hookimpl
    def microreg_wrap(self, registry): ...

class BadHooks:
    @hookimpl
    def microreg_no_such_hook(self): ...

class Wrong(MemoryRegistry):
    Options = int

class Confused(MemoryRegistry):
    @classmethod
    def about(cls):
        1 / 0

def strategy(nodes, rng):
    """Picks one."""

hooks, bad = Hooks(), BadHooks()
number = 3
'''


DETAILS = ("option", "about")
"""The first word of the lines that tell more of the plugin before."""


def of(result: Result, name: str) -> list[list[str]]:
    """The lines of this name."""
    return [cells for cells in result.lines if cells[1] == name]


Install = Callable[..., None]


@pytest.fixture(name="cli")
def _cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return partial(run_command, capsys, "plugins")


@pytest.fixture(name="install")
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with entry points on ``sys.path``: ``install("plug_x", source, {"microreg.…": {…}})``."""
    modules = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str, groups: dict[str, dict[str, str]]) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n", encoding="utf-8")
        lines = [
            f"[{group}]\n" + "".join(f"{key} = {target}\n" for key, target in entries.items())
            for group, entries in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        importlib.invalidate_caches()
        plugins.hooks.cache_clear()

    yield install
    plugins.hooks.cache_clear()
    for module in set(sys.modules) - modules:
        if module.startswith("plug_"):
            del sys.modules[module]


def test_what_ships_with_microreg_is_listed_with_its_options(cli: Cli) -> None:
    result = cli()
    assert (result.code, result.err) == (0, "")
    assert ["backend", "mdns://", "microreg", "0.1.0", "microreg.backends.mdns:MdnsRegistry", "ok"] in result.lines
    assert ["strategy", "random", "microreg", "0.1.0", "microreg.selector.strategies:random", "ok"] in result.lines
    assert ["filter", "version", "microreg", "0.1.0", "microreg.selector.filters:version", "ok"] in result.lines
    settle = next(cells for cells in of(result, "mdns://") if cells[2] == "settle")
    assert settle[0] == "option" and settle[3:6] == ["duration", "0.3s", "-"]
    assert any(cells[2].startswith("cache.") for cells in of(result, "cache+"))


def test_what_is_for_tests_only_says_so(cli: Cli) -> None:
    assert of(cli(), "fake://")[0][0] == "test backend"
    (fake,) = cli("fake", "--json").json["plugins"]
    assert (fake["kind"], fake["name"], fake["ok"]) == ("test backend", "fake", True)
    assert "`" not in fake["summary"] and ":class:" not in fake["summary"]


def test_plugins_of_others(cli: Cli, install: Install) -> None:
    groups = {"microreg.backends": {"mine": "plug_a:Mine"}, "microreg.layers": {"loud": "plug_a:Loud"}}
    install("plug_a", GOOD, groups | {"microreg": {"listening": "plug_a:hooks"}})
    result = cli()
    assert result.code == 0
    assert of(result, "mine://")[0] == ["backend", "mine://", "plug_a", "1.5", "plug_a:Mine", "ok"]
    assert of(result, "mine://")[-1] == ["about", "mine://", "weather", "fine\\tand dry"]
    assert of(result, "loud+")[-1][2:] == ["loud.token", "text", "-", "secret", "what opens the door"]
    assert of(result, "listening") == [["hook", "listening", "plug_a", "1.5", "plug_a:hooks", "ok"]]
    assert "loaded" not in result.out, "what a plugin prints is no part of the output"
    assert "hunter2" not in result.out + result.err
    told = {(each["kind"], each["name"]): each for each in json.loads(cli("--json").out)["plugins"]}
    mine, hooks = told["backend", "mine"], told["hook", "listening"]
    assert (mine["summary"], mine["ok"], mine["error"]) == ("A registry of mine.", True, None)
    assert mine["capabilities"] == told["backend", "memory"]["capabilities"] != []
    assert mine["options"][1] == {
        "name": "every",
        "type": "duration",
        "default": "2s",
        "help": "how often | or so",
        "secret": False,
    }
    assert mine["about"] == {"weather": "fine\tand dry"}
    assert told["layer", "loud"]["about"] == {}
    assert hooks["hooks"] == ["microreg_announced", "microreg_wrap"]


@pytest.mark.parametrize(
    ("group", "target", "source", "why"),
    [
        ("microreg.backends", "plug_b:Mine", "import does_not_exist_zz", "ModuleNotFoundError: No module named"),
        ("microreg.backends", "plug_b:Mine", "import sys; sys.exit('bye')", "SystemExit: bye"),
        ("microreg.backends", "plug_b:Mine", "raise RuntimeError('two\\nlines')", "RuntimeError: two\\nlines"),
        ("microreg.backends", "plug_b:number", GOOD, "is 3; expected a subclass of Registry that is no Layer"),
        ("microreg.backends", "plug_b:Wrong", GOOD, "its Options is <class 'int'>; expected a subclass of"),
        ("microreg.layers", "plug_b:Mine", GOOD, "expected a subclass of Layer"),
        ("microreg.strategies", "plug_b:number", GOOD, "plug_b:number) is 3; expected a function (members, rng)"),
        ("microreg.strategies", "plug_b:nothing", GOOD, "AttributeError"),
        ("microreg", "plug_b:nothing", GOOD, "AttributeError"),
        ("microreg.backends", "plug_b:Confused", GOOD, "about() of Confused failed; expected a Mapping[str, str]"),
        ("microreg", "plug_b:bad", GOOD, "microreg_no_such_hook"),
        ("microreg", "plug_b:number", GOOD, "it implements no hook"),
        ("microreg", "plug_b:Mine", "import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_one_line_and_harms_no_other(
    cli: Cli, install: Install, group: str, target: str, source: str, why: str
) -> None:
    install("plug_b", source, {group: {"sand": target}})
    result = cli()
    (broken,) = [cells for cells in result.lines if cells[0] not in DETAILS and cells[-1] != "ok"]
    assert broken[1].rstrip("+:/") == "sand" and broken[2:5] == ["plug_b", "1.5", target]
    assert why in broken[5]
    assert result.code == 1
    assert [line for line in result.err.splitlines() if line != "loaded"] == []


def test_a_broken_plugin_as_json(cli: Cli, install: Install) -> None:
    install("plug_f", "1 / 0", {"microreg.backends": {"sand": "plug_f:Mine"}})
    result = cli("sand", "--json")
    (sand,) = json.loads(result.out)["plugins"]
    assert (sand["ok"], result.code) == (False, 1)
    assert "ZeroDivisionError" in sand["error"]


@pytest.mark.parametrize(
    ("group", "shown", "target"),
    [("backends", "{}://", "Mine"), ("layers", "{}+", "Loud"), ("strategies", "{}", "strategy")],
)
def test_two_plugins_of_one_name_are_a_conflict(
    cli: Cli, install: Install, group: str, shown: str, target: str
) -> None:
    same = {"same": f"plug_c:{target}"}
    install("plug_c", GOOD, {f"microreg.{group}": {"mine": f"plug_c:{target}", **same}})
    install("plug_d", GOOD, {f"microreg.{group}": {"mine": f"plug_d:{target}", "other": f"plug_d:{target}", **same}})
    result = cli()
    conflict = "conflict: {0} ({0}:{1}) provides 'mine' too; uninstall one of them"
    found = {cells[2]: cells[-1] for cells in of(result, shown.format("mine"))}
    assert found == {"plug_c": conflict.format("plug_d", target), "plug_d": conflict.format("plug_c", target)}
    for name, distributions in (("other", ["plug_d"]), ("same", ["plug_c", "plug_d"])):
        rows = [cells for cells in of(result, shown.format(name)) if cells[0] not in DETAILS]
        assert [(cells[2], cells[-1]) for cells in rows] == [(each, "ok") for each in distributions]
    assert result.code == 1


def test_mdns_tells_of_the_interfaces_of_this_machine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    eth0, wlan0 = Link("eth0", 2, "192.0.2.7"), Link("wlan0", 3, "198.51.100.7")

    def about() -> dict[str, str]:
        (found,) = json.loads(cli("mdns", "--json").out)["plugins"]
        assert found["ok"]
        return cast(dict[str, str], found["about"])

    found = Choice((eth0, wlan0), frozenset({eth0}), {"docker0": "it is a bridge"})
    monkeypatch.setattr("microreg.backends.mdns.look", lambda named: found)
    assert about() == {
        "interface eth0": "used, from 192.0.2.7",
        "interface wlan0": "used, from 198.51.100.7 (no carrier now)",
        "interface docker0": "left out: it is a bridge",
    }
    assert ["about", "mdns://", "interface docker0", "left out: it is a bridge"] in cli("mdns").lines
    found = Choice((), frozenset(), {})
    assert about() == {"interfaces": "none has an address, not even loopback"}

    def fails(named: object) -> Choice:
        raise OSError("no sockets today")

    monkeypatch.setattr("microreg.backends.mdns.look", fails)
    assert about() == {"interfaces": "cannot be listed: no sockets today"}


def test_mdns_tells_of_real_interfaces(cli: Cli) -> None:
    about = [cells for cells in cli("mdns").lines if cells[0] == "about"]
    assert about and all(cells[2].startswith("interface") for cells in about)


@pytest.mark.parametrize("name", ["mdns", "mdns://", "mdns://eth0"])
def test_one_by_name(cli: Cli, name: str) -> None:
    result = cli(name)
    assert result.code == 0
    assert {cells[1] for cells in result.lines} == {"mdns://"}


@pytest.mark.parametrize("name", ["fallback", "fallback:"])
def test_composites_have_options_too(cli: Cli, name: str) -> None:
    lines = cli(name).lines
    assert lines[0][:2] == ["composite", "fallback:"]
    assert ["option", "fallback:", "merge", "true|false", "false"] in [line[:5] for line in lines]


@pytest.mark.parametrize(
    ("name", "said"), [("cahce", "did you mean 'cache'?"), ("zzz", "no backend 'zzz' is installed (installed: ")]
)
def test_what_is_not_installed_is_2(cli: Cli, name: str, said: str) -> None:
    result = cli(name)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_a_terminal_gets_tables(cli: Cli, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.cli.plugins.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    install("plug_e", GOOD, {"microreg.backends": {"mine": "plug_e:Mine", "sand": "plug_e:number"}})
    out = cli().out
    rows = [line.split() for line in out.splitlines()]
    assert ["backend", "sand://", "plug_e", "1.5", "broken"] in rows
    assert ["backend", "mine://", "plug_e", "1.5", "ok"] in rows
    assert out.count("backend sand://: the backend 'sand'") == 1
    assert "options of" not in out and "microreg plugins NAME" in out
    details = cli("mine").out
    assert "options of mine://" in details and "(secret)" in details and "how often | or so" in details
    assert "A registry of mine.\ntarget: plug_e:Mine\ncapabilities: " in details
    assert "\nweather: fine\\tand dry\n" in details and "weather" not in out
