"""Who may import whom, and how long things may be; kept by reading the source.

Imports inside functions and under ``if TYPE_CHECKING`` count like all others.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import structure
from structure import FILES, HEIGHT, imports, module, tree, unit, within
from support import ROOT, python

# The kit's servers and proxies go on whatever the loop under test does.
# An exporter of telemetry reads from threads of its own.
THREADED = {
    "cli.loop",
    "integrations.opentelemetry",
    "route",
    "sync",
    "testing.hub",
    "testing.proxy",
    "testing.server",
    "toolkit",
}
# What only these may import. The front door needs importlib.metadata for __version__, inside a function.
ONLY = {
    "pluggy": {"plugins", "hookspecs"},
    "importlib.metadata": {"plugins", "hookspecs", "microreg"},
    "threading": THREADED,
    "concurrent": {"cli.loop", "sync", "testing.hub", "toolkit"},
    "multiprocessing": set[str](),
    "zeroconf": set[str](),
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    "starlette": {"server"},
    "fastapi": set[str](),
    "uvicorn": {"server.protocol", "server.serve"},
    "uvloop": {"cli.serve"},
    "aiohttp": {"backends.http"},
    "hypercorn": set[str](),
    "granian": set[str](),
    "httpx": {"integrations.httpx"},
    "opentelemetry": {"integrations.opentelemetry"},
    "httpx2": {"integrations.httpx", "integrations.httpx2"},
}
THREAD_CALLS = {"to_thread", "run_in_executor", "run_coroutine_threadsafe"}
MAX_MODULE, MAX_FUNCTION = 320, 50

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


@each_file
def test_imports_go_down(path: Path) -> None:
    here = unit(module(path))
    assert here in HEIGHT, f"{here} stands on no floor yet: give it one in FLOORS"
    wrong = []
    for line, name in imports(path):
        there = unit(name)
        if not within(name, "microreg") or there == here or here == "microreg":
            continue
        assert there in HEIGHT, f"{path}:{line} imports {name}, which stands on no floor"
        if HEIGHT[there] >= HEIGHT[here]:
            wrong.append(f"line {line}: {here} imports {name}")
    assert wrong == []


@each_file
def test_only_the_module_in_charge_imports_it(path: Path) -> None:
    here = module(path).removeprefix("microreg.")
    wrong = [
        f"line {line}: {name} (only {', '.join(sorted(allowed)) or 'nobody'})"
        for line, name in imports(path)
        for package, allowed in ONLY.items()
        if within(name, package) and not any(within(here, owner) for owner in allowed)
    ]
    if not any(within(here, owner) for owner in THREADED):
        wrong += [
            f"line {node.lineno}: {node.attr} (only {', '.join(sorted(THREADED))} know threads)"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and node.attr in THREAD_CALLS
        ]
    assert wrong == []


@pytest.mark.parametrize("package", ["backends", "layers"])
def test_no_backend_and_no_layer_imports_another(package: str) -> None:
    prefix = f"microreg.{package}."
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if module(path).startswith(prefix)
        for line, name in imports(path)
        if name.startswith(prefix) and name.split(".")[2] != module(path).split(".")[2]
    ]
    assert wrong == []


def test_the_server_knows_no_backend_not_even_its_own_client() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        if module(path).startswith("microreg.server")
        for line, name in imports(path)
        if within(name, "microreg.backends") or within(name, "microreg.cli")
    ]
    assert wrong == []


@each_file
def test_modules_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_MODULE, f"{lines} lines: split it at a border that has a name"
    long = [
        f"{node.name}: {length(node)} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > MAX_FUNCTION
    ]
    assert long == []


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: nobody is to save words there."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    start = (first.end_lineno or 0) if documented else node.lineno - 1
    return (node.end_lineno or 0) - start


def test_the_checks_see_what_they_are_there_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "microreg" / "backends").mkdir(parents=True)
    (tmp_path / "microreg" / "connect.py").touch()
    path = tmp_path / "microreg" / "backends" / "x.py"
    path.write_text("def f():\n from ..connect import connect\n from .. import connect\n import zeroconf.x\n")
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    assert [name for _, name in imports(path)] == ["microreg.connect", "microreg.connect", "zeroconf.x"]
    with pytest.raises(AssertionError, match=r"backends imports microreg\.connect"):
        test_imports_go_down(path)
    with pytest.raises(AssertionError, match=r"zeroconf\.x"):
        test_only_the_module_in_charge_imports_it(path)


def test_importing_microreg_is_light() -> None:
    code = "import sys, microreg; print(*sys.modules)"
    loaded = set(python(code).split())
    heavy = {"asyncio", "ifaddr", "importlib.metadata", "msgspec", "packaging", "pluggy", "rich", "typer", "zeroconf"}
    assert heavy & loaded == set()
    # These two share their names with functions of the front door, so they are loaded to be out of the way.
    assert {name for name in loaded if name.startswith("microreg.")} == {"microreg.announce", "microreg.connect"}


def test_importing_connect_loads_no_client_library() -> None:
    loaded = set(python("import sys; from microreg import connect; print(*sys.modules)").split())
    assert "microreg.connect" in loaded
    assert {"aiohttp", "pluggy", "rich", "starlette", "typer", "uvicorn", "zeroconf"} & loaded == set()
