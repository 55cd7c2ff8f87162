"""Plugins: found by entry point, imported when asked for, and harmless when broken."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import microreg
from microreg import plugins
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import ConfigError
from microreg.hookspecs import hookimpl
from microreg.layers.cache import CacheLayer
from microreg.registry import Layer, Registry
from microreg.selector.strategies import round_robin
from microreg.url import RegistryURL

Install = Callable[..., None]

GOOD = """
from dataclasses import dataclass
from microreg.backends.memory import MemoryRegistry
from microreg.options import Options, option
from microreg.hookspecs import hookimpl
from microreg.registry import Layer

@dataclass(frozen=True, slots=True, kw_only=True)
class LoudOptions(Options):
    volume: int = option(3, "how loud")

class Loud(Layer):
    Options = LoudOptions

class Mine(MemoryRegistry):
    Options = LoudOptions

class Wrapping(Layer):
    pass

class Hooks:
    @hookimpl
    def microreg_wrap(self, registry, url):
        return Wrapping(registry, url, registry.options)

hooks = Hooks()

def strategy(nodes, rng):
    return lambda: nodes[-1]
"""


@pytest.fixture(name="install")
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with entry points on ``sys.path``: ``install("name", source, {"group": {...}})``."""
    modules = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str, **groups: dict[str, str]) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines: list[str] = []
        for group, entries in groups.items():
            lines += [f"[{'microreg.' + group if group != 'hooks' else 'microreg'}]"]
            lines += [f"{key} = {value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        importlib.invalidate_caches()
        plugins.hooks.cache_clear()

    yield install
    plugins.hooks.cache_clear()
    for module in set(sys.modules) - modules:
        if module.startswith("plug"):
            del sys.modules[module]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.__dict__['plugin']}: {record.__dict__['error']}" for record in caplog.records]


def test_what_is_installed_is_listed_without_importing_it(install: Install) -> None:
    install("plug", "raise AssertionError('imported')", backends={"mine": "plug:Mine"}, layers={"loud": "plug:Loud"})
    assert {"memory", "static", "mine"} <= set(plugins.names("microreg.backends"))
    assert plugins.names("microreg.layers") == ("cache", "loud", "namespace", "otel")
    assert plugins.installed("microreg.backends")["mine"].value == "plug:Mine"
    assert plugins.names("microreg.nothing") == ()
    assert "plug" not in sys.modules


def test_backends_layers_and_strategies_of_others_work_by_name(install: Install) -> None:
    found = {"backends": {"mine": "plug:Mine"}, "layers": {"loud": "plug:Loud"}}
    install("plug", GOOD, strategies={"end": "plug:strategy"}, **found)
    registry = microreg.connect("loud+cache+mine://?volume=5&loud.volume=7")
    assert (type(registry).__name__, registry.options.volume) == ("Loud", 7)  # type: ignore[attr-defined]
    mine = registry.unwrap(MemoryRegistry)
    assert mine is not None and mine.options.volume == 5  # type: ignore[attr-defined]
    microreg.Selector(registry, "end")
    with pytest.raises(ConfigError, match="volume"):
        microreg.connect("mine://?volume=loud")


# -- missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plugins.backend("memroy"), r"no backend 'memroy' is installed .*; did you mean 'memory'\?"),
        (lambda: plugins.backend("zzz"), r"^no backend 'zzz' is installed \(installed: .*memory, .*static\)$"),
        (lambda: plugins.layer("cahce"), r"no layer 'cahce' is installed .*; did you mean 'cache'\?"),
        (lambda: plugins.load("microreg.strategies", "zzz"), r"no strategy 'zzz' is installed \(installed: .*, p2c, r"),
        (lambda: plugins.load("microreg.nothing", "x"), r"no plugin 'x' is installed \(installed: none\)"),
    ],
)
def test_what_is_missing_is_told_with_what_is_there(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("scheme", ["quux", "quuxs"])
def test_a_missing_scheme_advises_the_extra_to_install(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Metadata:
        def get_all(self, field: str) -> list[str]:
            assert field == "Provides-Extra"
            return ["all", "quux"]

    monkeypatch.setattr("microreg.plugins.entries.metadata", lambda name: Metadata())
    with pytest.raises(ConfigError, match=r"; install it with: pip install 'microreg\[quux\]'"):
        plugins.backend(scheme)


def test_a_misspelt_scheme_of_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.plugins.entries.of_group", lambda group: ())
    advice = r"\(installed: none\); did you mean 'etcd'\? pip install 'microreg\[etcd\]' installs it$"
    with pytest.raises(ConfigError, match=advice):
        plugins.backend("ectd")


# -- broken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("import does_not_exist_zz", "plug:Mine", "ModuleNotFoundError: No module named 'does_not_exist_zz'"),
        ("1 / 0", "plug:Mine", "ZeroDivisionError"),
        ("this is no python", "plug:Mine", "SyntaxError"),
        ("", "plug:Mine", "AttributeError"),
        ("", "elsewhere_zz:Mine", "ModuleNotFoundError"),
    ],
)
def test_a_broken_backend_is_an_error_for_its_scheme_only(
    install: Install, source: str, target: str, message: str
) -> None:
    install("plug", source, backends={"mine": target})
    with pytest.raises(ConfigError, match=rf"the backend 'mine' \(plug, {target}\) is broken: {message}") as caught:
        microreg.connect("mine://")
    assert caught.value.__cause__ is not None
    assert isinstance(microreg.connect("memory://"), Checked)


def use(group: str) -> object:
    """Ask for the plugin ``mine`` of a group, as a program does."""
    if group == "strategies":
        return microreg.Selector(microreg.connect("memory://"), "mine")
    if group == "filters":
        return microreg.Selector(microreg.connect("memory://"), filters="mine")
    if group == "composites":
        return plugins.composite("mine")
    return microreg.connect("mine://" if group == "backends" else "mine+memory://")


GROUPS = ["backends", "layers", "strategies", "filters"]
PANIC = """
class Panic(BaseException):
    "As extension modules raise it, and pytest."

raise Panic("no way on")
"""


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("source", ["import does_not_exist_zz", "import sys; sys.exit(3)", PANIC, "x = 1"])
def test_a_plugin_that_cannot_be_imported(install: Install, group: str, source: str) -> None:
    install("plug", source, **{group: {"mine": "plug:Mine"}})
    kind = plugins.KINDS[f"microreg.{group}"]
    with pytest.raises(ConfigError, match=rf"^the {kind} 'mine' \(plug, plug:Mine\) is broken: \w+: ") as caught:
        use(group)
    assert caught.value.__cause__ is not None
    assert isinstance(microreg.connect("cache+memory://"), CacheLayer)
    microreg.Selector(microreg.connect("memory://"), "round_robin")


@pytest.mark.parametrize("group", GROUPS)
def test_ctrl_c_while_a_plugin_is_imported_ends_the_program(install: Install, group: str) -> None:
    install("plug", "raise KeyboardInterrupt", **{group: {"mine": "plug:Mine"}})
    with pytest.raises(KeyboardInterrupt):
        use(group)


WRONG = (
    GOOD
    + """
from dataclasses import dataclass, field
from microreg.options import Duration
from microreg.registry import Registry

number, name = 3, "Mine"

class HalfDone(Registry):
    async def register(self, service, *, ttl=15.0): ...
    async def deregister(self, service): ...
    async def get_service(self, name): ...

class Plain:
    timeout = 5.0

@dataclass
class Thawed:
    timeout: Duration = Duration(5.0)

@dataclass(frozen=True)
class Unrelated:
    timeout: Duration = Duration(5.0)

class Undecorated(Options):
    volume: int = option(3, "how loud")

@dataclass(frozen=True, slots=True, kw_only=True)
class Inexpressible(Options):
    at: complex = option(1j, "where")

@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked(Options):
    entry: str = option("", "what opens the door", secret=True)

def repr_fails(self):
    raise RuntimeError("no words")

Mute = type("Mute", (), {"__repr__": repr_fails})
mute = Mute()

kinds = {"Plain": Plain, "Thawed": Thawed, "Unrelated": Unrelated, "Undecorated": Undecorated, "an_object": Options(),
         "Inexpressible": Inexpressible, "Unmasked": Unmasked}
for name, options in kinds.items():
    for base in (MemoryRegistry, Layer):
        globals()[f"{base.__name__}With{name}"] = type(f"{base.__name__}With{name}", (base,), {"Options": options})
"""
)
OPTIONS = r"its Options is .*; expected a subclass of microreg.url.Options with the decorator @dataclass\(frozen=True"


@pytest.mark.parametrize(
    ("group", "target", "message"),
    [
        ("backends", "plug:strategy", r"is <function strategy .*; expected a subclass of Registry that is no Layer"),
        ("backends", "plug:Plain", r"is <class 'plug.Plain'>; expected a subclass of Registry"),
        ("backends", "plug", "is <module 'plug' .*; expected a subclass of Registry"),
        ("backends", "plug:Loud", "is <class 'plug.Loud'>; expected a subclass of Registry that is no Layer"),
        ("backends", "plug:HalfDone", "expected all verbs of a Registry, but list_services, watch is missing"),
        ("backends", "plug:mute", "is broken: RuntimeError: no words"),
        ("layers", "plug:Mine", "is <class 'plug.Mine'>; expected a subclass of Layer"),
        ("layers", "plug:number", "is 3; expected a subclass of Layer"),
        ("composites", "plug:number", "is 3; expected a subclass of Composite"),
        ("composites", "plug:Mine", "is <class 'plug.Mine'>; expected a subclass of Composite"),
        ("strategies", "plug:number", r"is 3; expected a function \(members, rng\) -> pick"),
        ("filters", "plug:number", r"is 3; expected a function that makes a filter \(node, service\) -> bool"),
        ("strategies", "plug", r"is <module 'plug' .*; expected a function"),
        *(
            (group, f"plug:{base}With{options}", message)
            for group, base in (("backends", "MemoryRegistry"), ("layers", "Layer"))
            for options, message in {
                **dict.fromkeys(["Plain", "Thawed", "Unrelated", "Undecorated", "an_object"], OPTIONS),
                "Inexpressible": "is broken: TypeError: Inexpressible.at: a config string cannot express the type",
                "Unmasked": "is broken: TypeError: Unmasked.entry: give a secret option a name that says so",
            }.items()
        ),
    ],
)
def test_a_plugin_that_is_not_what_its_group_is_for(install: Install, group: str, target: str, message: str) -> None:
    install("plug", WRONG, **{group: {"mine": target}})
    kind = plugins.KINDS[f"microreg.{group}"]
    with pytest.raises(ConfigError, match=rf"^the {kind} 'mine' \(plug, {target}\) .*{message}"):
        use(group)


# -- distributions and names that are wrong themselves -------------------------------------------------


def test_a_distribution_that_cannot_be_read_is_one_warning_and_hides_no_other(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("alien", "", strange={"a": "alien:A"})
    (tmp_path / "alien-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[microreg.backends]\nq=1")
    install("plug", GOOD, backends={"mine": "plug:Mine"}, hooks={"wrapping": "plug:hooks"})
    for _ in range(3):
        assert type(microreg.connect("mine://")).__name__ == "Wrapping"
    assert isinstance(microreg.connect("memory://").unwrap(MemoryRegistry), MemoryRegistry)
    assert plugins.names("microreg.layers") == ("cache", "namespace", "otel")
    (warning,) = warnings(caplog)
    assert warning.startswith("alien: UnicodeDecodeError: ")


def test_of_two_distributions_of_one_name_the_first_counts_beside_one_that_cannot_be_read(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("alien", "")
    (tmp_path / "alien-1.0.dist-info" / "entry_points.txt").write_text("[microreg.backends]\nno equals sign")
    install("plug", GOOD, backends={"mine": "plug:Mine"})
    older = tmp_path / "older"
    (tmp_path / "plug-1.0.dist-info").rename(tmp_path / "new")
    install("plug", GOOD, backends={"mine": "plug:Older"})
    older.mkdir()
    (tmp_path / "plug-1.0.dist-info").rename(older / "plug-1.0.dist-info")
    (tmp_path / "new").rename(tmp_path / "plug-1.0.dist-info")
    monkeypatch.setattr(sys, "path", [*sys.path, str(older)])
    assert plugins.installed("microreg.backends")["mine"].value == "plug:Mine"


def test_a_distribution_without_metadata_is_named_by_its_folder(install: Install, tmp_path: Path) -> None:
    install("plug", "", backends={"mine": "plug:Mine"})
    (tmp_path / "plug-1.0.dist-info" / "METADATA").unlink()
    with pytest.raises(ConfigError, match=r"\(plug-1\.0\.dist-info without readable METADATA, plug:Mine\) is broken"):
        microreg.connect("mine://")
    (found,) = (each for each in plugins.inventory("microreg.backends") if each.name == "mine")
    assert (found.distribution, found.version) == ("plug-1.0.dist-info without readable METADATA", "")


@pytest.mark.parametrize(
    ("group", "target", "url"), [("backends", "Mine", "Mine://"), ("layers", "Loud", "Mine+memory://")]
)
def test_a_name_that_no_config_string_can_say(install: Install, group: str, target: str, url: str) -> None:
    install("plug", GOOD, **{group: {"Mine": f"plug:{target}"}})
    message = rf"'Mine' \(plug, plug:{target}\) cannot be reached: .* lower case .* the plugin has to change the name$"
    with pytest.raises(ConfigError, match=rf"'mine' is installed \(installed: .*Mine.*\); the \w+ {message}"):
        microreg.connect(url)
    with pytest.raises(ConfigError, match=rf"^the \w+ {message}"):
        plugins.load(f"microreg.{group}", "Mine")


def test_the_name_of_a_strategy_is_written_as_the_plugin_does(install: Install) -> None:
    install("plug", GOOD, strategies={"Last": "plug:strategy"})
    registry = microreg.connect("memory://")
    assert microreg.Selector(registry, "Last").registry is registry
    with pytest.raises(ConfigError, match=r"no strategy 'last' is installed .*; did you mean 'Last'\?"):
        microreg.Selector(registry, "last")


def test_a_name_that_is_far_too_long_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        microreg.Selector(microreg.connect("memory://"), "x" * 100_000)
    assert "no strategy 'xxx" in str(caught.value) and "x…' is installed" in str(caught.value)
    assert len(str(caught.value)) < 400


# -- conflicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "target"), [("backends", "Mine"), ("layers", "Loud"), ("strategies", "strategy")])
def test_two_distributions_with_one_name(install: Install, group: str, target: str) -> None:
    install("plug1", GOOD, **{group: {"mine": f"plug1:{target}", "a": f"plug1:{target}"}})
    install("plug2", GOOD, **{group: {"mine": f"plug1:{target}"}})
    assert use(group) is not None, "the same target twice is no conflict"
    install("plug3", GOOD, **{group: {"mine": f"plug3:{target}", "a": f"plug3:{target}"}})
    message = rf"^two plugins provide 'mine' in microreg\.{group}: plug\d \(plug\d:{target}\) and plug\d \(plug\d:"
    with pytest.raises(ConfigError, match=message) as caught:
        use(group)
    assert "plug3" in str(caught.value) and "uninstall one of them" in str(caught.value)
    assert "plug3" not in sys.modules, "nothing of a conflict is imported"


def test_two_plugins_of_one_name_are_a_conflict_for_that_name_only(install: Install) -> None:
    install("plug1", GOOD, backends={"mine": "plug1:Mine", "same": "plug1:Mine"})
    install("plug2", GOOD, backends={"mine": "plug2:Mine", "other": "plug2:Mine", "same": "plug1:Mine"})
    with pytest.raises(ConfigError, match=r"two plugins provide 'mine' in microreg\.backends: plug\d .* and plug\d"):
        microreg.connect("mine://")
    with pytest.raises(ConfigError, match="uninstall one of them"):
        plugins.installed("microreg.backends")
    for scheme in ("memory", "other", "same"):
        assert microreg.connect(f"{scheme}://").url.scheme == scheme


def test_a_plugin_cannot_take_over_a_scheme_of_ours(install: Install) -> None:
    install("plug", GOOD, backends={"memory": "plug:Mine"})
    with pytest.raises(ConfigError, match="two plugins provide 'memory'"):
        microreg.connect("memory://")


# -- what a class tells of this machine -----------------------------------------------------------------


class Tells(MemoryRegistry):
    @classmethod
    def about(cls) -> Mapping[str, str]:
        return {"interface eth0": "used"}


class TellsAmiss(MemoryRegistry):
    @classmethod
    def about(cls) -> str:
        return "much"


class TellsNothing(MemoryRegistry):
    @classmethod
    def about(cls) -> Mapping[str, str]:
        raise SystemExit(3)


class IsAbout(MemoryRegistry):
    def about(self) -> str:
        return "an ordinary method, which is none of our business"


def test_a_class_may_tell_what_it_finds_here() -> None:
    assert plugins.about(Tells) == {"interface eth0": "used"}
    assert plugins.about(MemoryRegistry) == plugins.about(IsAbout) == {}
    with pytest.raises(ConfigError, match=r"about\(\) of TellsAmiss failed; expected a Mapping\[str, str\], got "):
        plugins.about(TellsAmiss)
    with pytest.raises(ConfigError, match=r"about\(\) of TellsNothing failed; .*, got SystemExit: 3"):
        plugins.about(TellsNothing)


# -- hooks -------------------------------------------------------------------------------------------


def test_a_hook_wraps_what_connect_returns(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("plug", GOOD, hooks={"wrapping": "plug:hooks"})
    registry = microreg.connect("memory://")
    assert type(registry).__name__ == "Wrapping" and registry.unwrap(MemoryRegistry) is not None
    assert warnings(caplog) == []


BROKEN = """
from microreg.hookspecs import hookimpl

class Unknown:
    @hookimpl
    def microreg_no_such_hook(self): ...

class Arguments:
    @hookimpl
    def microreg_wrap(self, registry, url, weather): ...

class Silent:
    def microreg_wrap(self, registry, url): ...  # without the mark

unknown, arguments, silent = Unknown(), Arguments(), Silent()
"""


@pytest.mark.parametrize("source", [PANIC, "raise SystemExit(3)"])
def test_a_hook_plugin_that_ends_the_program_when_imported_is_one_warning(
    install: Install, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    install("plug", source, hooks={"sand": "plug"})
    for _ in range(3):
        assert isinstance(microreg.connect("memory://"), Checked)
    assert len(warnings(caplog)) == 1 and warnings(caplog)[0].startswith("sand (plug, plug): ")
    (found,) = (each for each in plugins.inventory("microreg") if each.name == "sand")
    with pytest.raises(ConfigError, match=r"the hook 'sand' \(plug, plug\) is broken: (Panic|SystemExit): "):
        plugins.implemented(found)
    with pytest.raises(ConfigError, match="no hook 'sand' of other is installed"):
        plugins.implemented(found._replace(distribution="other"))


@pytest.mark.parametrize("target", ["plug:missing", "plug:unknown", "plug:arguments", "plug:silent", "nowhere_zz:x"])
def test_a_broken_hook_plugin_is_one_warning(install: Install, caplog: pytest.LogCaptureFixture, target: str) -> None:
    install("plug", BROKEN, hooks={"sand": target})
    install("plugin2", GOOD, hooks={"sand": "plugin2:hooks"})
    for _ in range(3):
        assert type(microreg.connect("memory://")).__name__ == "Wrapping", "one of the same name still works"
    assert len(warnings(caplog)) == 1 and warnings(caplog)[0].startswith(f"sand (plug, {target}): ")


class Around(Layer):
    pass


class Wraps:
    @hookimpl
    def microreg_wrap(self, registry: Registry, url: RegistryURL) -> Registry:
        assert url.scheme == "memory"
        return Around(registry, url, registry.options)


class Looks:
    @hookimpl
    def microreg_wrap(self, registry: Registry) -> None:
        assert isinstance(registry, Registry)


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def microreg_wrap(self) -> Registry:
        raise self.error

    @hookimpl
    def microreg_announced(self) -> None:
        raise self.error


class Panic(BaseException):
    """As extension modules raise it, and pytest."""


FAILURES = [kind("out of order") for kind in (RuntimeError, SystemExit, Panic, GeneratorExit)]


class Returns:
    @hookimpl
    def microreg_wrap(self) -> str:
        return "a registry"


class Refuses:
    @hookimpl
    def microreg_wrap(self) -> Registry:
        raise ConfigError("this program may not use memory://")


@pytest.fixture(name="manager")
def _manager() -> Iterator[Callable[..., None]]:
    """Registers hook plugins for one test."""
    manager, mine = plugins.hooks(), list[object]()

    def register(*found: object) -> None:
        for plugin in found:
            manager.register(plugin, name=type(plugin).__name__)
            mine.append(plugin)

    yield register
    for plugin in mine:
        manager.unregister(plugin)


def test_each_hook_wraps_what_the_one_before_has_made(manager: Callable[..., None]) -> None:
    class Inner(Around):
        pass

    class Last:
        @hookimpl
        def microreg_wrap(self, registry: Registry) -> Registry:
            return Inner(registry, registry.url, registry.options)

    manager(Wraps(), Looks(), Last())
    registry = microreg.connect("cache+memory://")
    assert type(registry) is Around and type(registry.inner) is Inner, "pluggy asks the last one first"
    assert isinstance(registry.inner.inner, CacheLayer)


@pytest.mark.parametrize(
    ("plugin", "message"), [*((Raises(error), "out of order") for error in FAILURES), (Returns(), "returned str")]
)
def test_a_hook_that_fails_is_left_out(
    plugin: object, message: str, manager: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    manager(Wraps(), plugin)
    with caplog.at_level(logging.WARNING, "microreg"):
        registry = microreg.connect("memory://")
    assert isinstance(registry, Around) and isinstance(registry.inner, Checked)
    assert len(warnings(caplog)) == 1 and message in warnings(caplog)[0]


@pytest.mark.parametrize("error", FAILURES)
def test_a_hook_that_fails_keeps_no_other_from_hearing(
    error: BaseException, manager: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []

    class Hears:
        @hookimpl
        def microreg_announced(self, announcement: object) -> None:
            heard.append(announcement)

    manager(Hears(), Raises(error))
    plugins.tell("microreg_announced", announcement="it")
    assert heard == ["it"]
    assert len(warnings(caplog)) == 1 and "out of order" in warnings(caplog)[0]


def test_ctrl_c_in_a_hook_ends_the_program(manager: Callable[..., None]) -> None:
    manager(Raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        microreg.connect("memory://")
    with pytest.raises(KeyboardInterrupt):
        plugins.tell("microreg_announced", announcement="it")


def test_a_hook_may_refuse_a_configuration(manager: Callable[..., None]) -> None:
    manager(Refuses())
    with pytest.raises(ConfigError, match="this program may not"):
        microreg.connect("memory://")


def test_the_manager_is_made_once() -> None:
    assert plugins.hooks() is plugins.hooks()
    assert plugins.load("microreg.strategies", "round_robin") is round_robin
