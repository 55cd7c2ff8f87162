"""The reference of Python's names, from the docstrings: one heading for each public name of the modules for users."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType

__all__ = ["MODULES", "api"]

MODULES = (
    "microreg",
    "microreg.sync",
    "microreg.selector",
    "microreg.selector.filters",
    "microreg.selector.strategies",
    "microreg.layers.cache",
    "microreg.layers.namespace",
    "microreg.layers.mirror",
    "microreg.layers.fallback",
    "microreg.integrations.asgi",
    "microreg.integrations.httpx",
    "microreg.integrations.opentelemetry",
    "microreg.server",
    "microreg.testing",
    "microreg.registry",
    "microreg.composite",
    "microreg.findings",
    "microreg.doctor",
    "microreg.toolkit",
    "microreg.url",
    "microreg.codec",
    "microreg.net",
    "microreg.hookspecs",
)
"""What programs, backends and plugins may import; errors have a page of their own."""


def api(markdown: Callable[[str | None], str]) -> str:
    """The page's text. A name that several modules offer stands where it is first met."""
    seen: dict[int, str] = {}
    parts: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        parts += [f"## {name}", markdown(_summary(module.__doc__))]
        again: list[str] = []
        for public in sorted(module.__all__):
            value = getattr(module, public)
            if _is_error(value) and name != "microreg.testing":
                continue
            if _is_own(value) and id(value) in seen:
                again.append(f"`{public}` ({seen[id(value)]})")
                continue
            seen[id(value)] = name
            parts += _entry(module, public, value, markdown)
        if again:
            parts.append(f"Also here: {', '.join(again)}.")
    return "\n\n".join(parts)


def _entry(module: ModuleType, name: str, value: object, markdown: Callable[[str | None], str]) -> Iterator[str]:
    yield f"### {name}"
    if inspect.isclass(value):
        yield f"```text\n{_declared(name, value)}\n```"
        yield markdown(value.__doc__)
        members = [f"- `{each}`: {markdown(text)}" for each, text in _members(value)]
        if members:
            yield "\n".join(members)
    elif inspect.isroutine(value):
        yield f"```text\n{_function(name, value)}\n```"
        yield markdown(value.__doc__)
    else:
        said = _said(module, name)
        yield f"`{_short(value)}`" + (f": {said}" if said else "")


def _declared(name: str, kind: type[object]) -> str:
    if issubclass(kind, enum.Enum):
        return f"class {name}: {' '.join(each.name for each in kind)}"
    bases = [base.__name__ for base in kind.__bases__ if base.__module__.startswith("microreg")]
    inherits = f"  # a {', '.join(bases)}" if bases else ""
    try:
        signature = _signature(kind)
    except (TypeError, ValueError):
        signature = "(...)"
    return f"{_wrapped(f'class {name}{signature}')}{inherits}"


def _members(kind: type[object]) -> Iterator[tuple[str, str]]:
    """Its public methods and properties, each with the first sentence of what it promises."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        documented = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), member)
        text = _summary(inspect.getdoc(documented) or "").replace("\n", " ")
        if not text or text.startswith("See :meth:"):
            continue
        if isinstance(member, classmethod | staticmethod):
            yield f"{name}{_signature(getattr(kind, name))}", text
        elif inspect.isfunction(member):
            yield f"{'await ' if inspect.iscoroutinefunction(member) else ''}{name}{_signature(member)}", text
        elif isinstance(member, property):
            yield name, text


def _function(name: str, value: Callable[..., object]) -> str:
    return _wrapped(f"{'async ' if inspect.iscoroutinefunction(value) else ''}def {name}{_signature(value)}")


def _wrapped(line: str) -> str:
    """One parameter on each line, where all do not fit on one."""
    if len(line) <= 110:
        return line
    head, _, rest = line.partition("(")
    parameters, depth = [""], 0
    for at, letter in enumerate(rest):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return "\n    ".join([f"{head}(", *(f"{each.strip()}," for each in parameters)]) + f"\n{rest[at:]}"
        if letter == "," and not depth:
            parameters.append("")
        else:
            parameters[-1] += letter
    return line


def _signature(value: Callable[..., object]) -> str:
    signature = inspect.signature(value)
    kept = [_shown(each) for each in signature.parameters.values() if each.name not in ("self", "cls")]
    text = str(signature.replace(parameters=kept)).replace("'", "").replace(" -> None", "")
    text = text.replace("<factory>", "…")
    text = re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", text)
    text = re.sub(r"\b(?:microreg|collections|pathlib|typing|msgspec)(?:\.\w+)*\.(?=\w)", "", text)
    return text


class _More:
    """Stands for a default that says nothing to a reader."""

    def __repr__(self) -> str:
        return "…"


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """Long defaults, and those without a form of their own, are left out."""
    text = repr(parameter.default)
    return parameter.replace(default=_More()) if len(text) > 60 or " at 0x" in text else parameter


def _said(module: ModuleType, name: str) -> str:
    """The text below an assignment."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in zip(body, body[1:], strict=False):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return " ".join(str(following.value.value).split())
    return ""


def _summary(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").partition("\n\n")[0]


def _short(value: object) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value)).replace("`", "'")
    return text if len(text) <= 80 else f"{text[:79]}…"


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "microreg.errors"


def _is_own(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value) or dataclasses.is_dataclass(value)
