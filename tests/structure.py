"""How the package is built: its floors, and what each file imports, by reading the source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

__all__ = ["FILES", "FLOORS", "HEIGHT", "PART_OF", "imports", "module", "tree", "unit", "within"]

# A module imports only what stands on a line above its own. Files of one package see each other, except that
# no backend imports another.
FLOORS = """
errors
model net process arguments files findings bounded crowd
url route
events observer
catalog codec
backlog tls translation rules
watch
registry
checked toolkit
composite
backends layers
hookspecs
plugins
connect
announce selector
measures
sync
testing
microreg
integrations server doctor pytest_plugin
cli
__main__
"""
HEIGHT = {unit: height for height, line in enumerate(FLOORS.split("\n")) for unit in line.split()}
PART_OF = {  # files of their own for their length only; what they hold is offered by that module
    "address": "net",
    "holdings": "toolkit",
    "options": "url",
}

FILES = sorted((ROOT / "microreg").rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name: str) -> str:
    """``microreg.selector.filters`` is of the unit ``selector``; the front door is ``microreg``."""
    first = name.split(".")[1] if "." in name else name
    return PART_OF.get(first, first)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, absolute: submodules as such, a name as the module it comes from."""
    package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield node.lineno, full if is_module(full) else source


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir() or name in ("importlib.metadata",)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
