"""What is public: every ``__all__`` is sorted and complete, and every public name says what it promises."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

import microreg
from support import ROOT, python

# `__main__` runs when imported; the command line's files are reached through `microreg.cli:main` only.
NAMES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "microreg").rglob("*.py")
    if path.name != "__main__.py" and "cli" not in path.parts
)
each_module = pytest.mark.parametrize("name", NAMES)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def public_definitions(module: ModuleType) -> Iterator[str]:
    """Names without an underscore that the module's own source defines at its top level."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign) and not is_plumbing(node.value):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def is_plumbing(value: ast.expr) -> bool:
    """A logger, a type variable, a marker of a library: needed at the top level, of no use to others."""
    if not isinstance(value, ast.Call):
        return False
    called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return called in {"getLogger", "TypeVar", "ParamSpec", "TypeVarTuple", "HookspecMarker"}


def undocumented(name: str, value: object) -> Iterator[str]:
    """The name itself and, for a class, its public methods and properties, where they have no docstring."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    if not own_doc(value):
        yield name
    if not inspect.isclass(value):
        return
    for key, member in vars(value).items():
        is_code = isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
        # A method that overrides another promises what that one promises.
        documented = any(vars(base)[key].__doc__ for base in value.__mro__ if key in vars(base))
        if is_code and not key.startswith("_") and not documented:
            yield f"{name}.{key}"


def own_doc(value: object) -> str:
    doc = value.__doc__ or ""
    if isinstance(value, type):
        generated = dataclasses.is_dataclass(value) and doc.startswith(f"{value.__name__}(")
        inherited = any(doc == base.__doc__ for base in value.__mro__[1:])
        if generated or inherited or (issubclass(value, enum.Enum) and doc == "An enumeration."):
            return ""
    return doc.strip()


@each_module
def test_the_module_says_what_it_is(name: str) -> None:
    assert (load(name).__doc__ or "").strip()


@each_module
def test_all_is_sorted_and_importable(name: str) -> None:
    """Constants, then classes, then functions: ruff's RUF022, so that `ruff check --fix` sorts them."""
    module = load(name)
    exported = list(getattr(module, "__all__", ()))
    assert exported == sorted(set(exported), key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert [each for each in exported if not hasattr(module, each)] == []


@each_module
def test_all_is_complete(name: str) -> None:
    module = load(name)
    defined = sorted(set(public_definitions(module)) - set(getattr(module, "__all__", ())) - {"__version__"})
    assert defined == [], f"public by name, but not in {name}.__all__: add it there or begin it with _"


@each_module
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = load(name)
    exported = getattr(module, "__all__", ())
    missing = [each for key in exported for each in undocumented(key, getattr(module, key))]
    assert missing == []


def test_the_front_door_resolves_each_name_when_it_is_first_used() -> None:
    code = """
import sys, microreg
assert "microreg.registry" not in sys.modules
for name in microreg.__all__:
    assert getattr(microreg, name) is getattr(microreg, name), name
    assert name in dir(microreg), name
print(len(microreg.__all__))
"""
    assert int(python(code)) == len(microreg.__all__) > 20


def test_the_front_door_says_what_it_does_not_have() -> None:
    name = "conect"
    with pytest.raises(AttributeError, match=r"'microreg' has no attribute 'conect'"):
        getattr(microreg, name)


def test_names_at_the_front_door_win_over_modules_of_the_same_name() -> None:
    # The import system binds microreg.connect to the module whenever that is imported.
    code = """
import microreg
import microreg.connect, microreg.announce
print(microreg.connect.__name__, microreg.announce.__name__)
"""
    assert python(code).split() == ["connect", "announce"]


def test_every_error_is_offered_at_the_front_door() -> None:
    assert set(load("microreg.errors").__all__) <= set(microreg.__all__)


def test_the_checks_see_what_they_are_there_for() -> None:
    class Silent:
        def method(self) -> None: ...

    @dataclasses.dataclass
    class Data:
        """It speaks."""

        field: int

        @property
        def quiet(self) -> int:
            return 1

    assert list(undocumented("Silent", Silent)) == ["Silent", "Silent.method"]
    assert list(undocumented("Data", Data)) == ["Data.quiet"]
