"""``microreg plugins``: what is installed, from where, what is broken and why, and every option."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from microreg import plugins
from microreg.cli import main

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

hooks, bad = Hooks(), BadHooks()
number = 3
'''


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]

    def of(self, name: str) -> list[list[str]]:
        return [cells for cells in self.lines if cells[1] == name]


Cli = Callable[..., Result]
Install = Callable[..., None]


@pytest.fixture(name="cli")
def _cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str) -> Result:
        code = main(["plugins", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Result(code, captured.out, captured.err)

    return run


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
    settle = next(cells for cells in result.of("mdns://") if cells[2] == "settle")
    assert settle[0] == "option" and settle[3:6] == ["duration", "0.3s", "-"]
    assert any(cells[2].startswith("cache.") for cells in result.of("cache+"))


def test_plugins_of_others(cli: Cli, install: Install) -> None:
    groups = {"microreg.backends": {"mine": "plug_a:Mine"}, "microreg.layers": {"loud": "plug_a:Loud"}}
    install("plug_a", GOOD, groups | {"microreg": {"listening": "plug_a:hooks"}})
    result = cli()
    assert result.code == 0
    assert result.of("mine://")[0] == ["backend", "mine://", "plug_a", "1.5", "plug_a:Mine", "ok"]
    assert result.of("loud+")[-1][2:] == ["loud.token", "text", "-", "secret", "what opens the door"]
    assert result.of("listening") == [["hook", "listening", "plug_a", "1.5", "plug_a:hooks", "ok"]]
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
    assert hooks["hooks"] == ["microreg_announced", "microreg_wrap"]


@pytest.mark.parametrize(
    ("group", "target", "source", "why"),
    [
        ("microreg.backends", "plug_b:Mine", "import does_not_exist_zz", "ModuleNotFoundError: No module named"),
        ("microreg.backends", "plug_b:Mine", "import sys; sys.exit('bye')", "SystemExit: bye"),
        ("microreg.backends", "plug_b:Mine", "raise RuntimeError('two\\nlines')", "RuntimeError: two\\nlines"),
        ("microreg.backends", "plug_b:number", GOOD, "is 3; expected a subclass of Registry"),
        ("microreg.backends", "plug_b:Wrong", GOOD, "TypeError"),
        ("microreg.layers", "plug_b:Mine", GOOD, "expected a subclass of Layer"),
        ("microreg.strategies", "plug_b:number", GOOD, "plug_b:number is 3; expected a function"),
        ("microreg.strategies", "plug_b:nothing", GOOD, "AttributeError"),
        ("microreg", "plug_b:nothing", GOOD, "AttributeError"),
        ("microreg", "plug_b:bad", GOOD, "microreg_no_such_hook"),
        ("microreg", "plug_b:Mine", "import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_one_line_and_harms_no_other(
    cli: Cli, install: Install, group: str, target: str, source: str, why: str
) -> None:
    install("plug_b", source, {group: {"sand": target}})
    result = cli()
    (broken,) = [cells for cells in result.lines if cells[0] != "option" and cells[-1] != "ok"]
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


def test_two_plugins_of_one_name_are_a_conflict(cli: Cli, install: Install) -> None:
    install("plug_c", GOOD, {"microreg.backends": {"mine": "plug_c:Mine"}})
    install("plug_d", GOOD, {"microreg.backends": {"mine": "plug_d:Mine", "other": "plug_d:Mine"}})
    result = cli()
    conflict = "conflict: {0} ({0}:Mine) provides 'mine' too; uninstall one of them"
    assert [cells[-1] for cells in result.of("mine://")] == [conflict.format("plug_d"), conflict.format("plug_c")]
    assert result.of("other://")[0][-1] == "ok"
    assert result.code == 1


@pytest.mark.parametrize("name", ["mdns", "mdns://", "mdns://eth0"])
def test_one_by_name(cli: Cli, name: str) -> None:
    result = cli(name)
    assert result.code == 0
    assert {cells[1] for cells in result.lines} == {"mdns://"}


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
    assert out.count("backend sand://: the plugin for 'sand'") == 1
    assert "options of mine://" in out and "(secret)" in out and "how often | or so" in out
    details = cli("mine").out
    assert "A registry of mine.\ntarget: plug_e:Mine\ncapabilities: " in details
