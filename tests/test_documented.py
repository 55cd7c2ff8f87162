"""Everything that users can write has a place in the pages. What is missing is named."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator

import pytest
from api import MODULES
from typer.core import TyperGroup
from typer.main import get_command

from microreg import errors, hookspecs
from microreg.cli.app import build
from microreg.url import describe_options
from support import ROOT

DOCS = ROOT / "docs"
PROJECTS = (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml")))
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
}
EVERYWHERE = "\n".join(PAGES.values())


def reference(page: str) -> str:
    return PAGES[f"docs/reference/{page}"]


def entry_points(group: str) -> Iterator[tuple[str, str]]:
    for path in PROJECTS:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["project"].get("entry-points", {}).get(group, {})
        yield from found.items()


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    text = reference("api.md") + reference("errors.md")
    assert f"\n## {name}\n" in text
    module = importlib.import_module(name)
    assert [each for each in module.__all__ if not re.search(rf"^#+ `?{each}`?$|`{each}`", text, re.MULTILINE)] == []


def test_the_reference_leaves_out_no_module_that_the_pages_import() -> None:
    """What a page tells users to import is on the reference page, or is the test kit's or a backend's own."""
    used = re.findall(r"^\s*(?:from|import) (microreg(?:\.\w+)*)", EVERYWHERE, re.MULTILINE)
    others = {"microreg.errors", "microreg.backends"}
    known = {*MODULES, *others}
    missing = {each for each in used if not any(each == module or each.startswith(f"{module}.") for module in known)}
    assert missing == set()


def test_every_command_and_option_of_the_command_line_is_in_the_reference() -> None:
    text, missing = reference("cli.md"), list[str]()
    group = get_command(build())
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if f"microreg {name}" not in text:
            missing.append(name)
        shown = [each for each in command.params if not getattr(each, "hidden", False)]
        flags = [flag for parameter in shown for flag in parameter.opts if flag.startswith("--")]
        missing += [f"{name} {flag}" for flag in flags if f"`{flag}" not in text and f"{flag}`" not in text]
    assert missing == []


def test_every_option_of_a_config_string_is_in_the_reference() -> None:
    pages = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))
    missing = [
        f"{scheme}: {option.name}"
        for group in ("microreg.backends", "microreg.layers", "microreg.composites")
        for scheme, target in entry_points(group)
        for option in describe_options(_options(target))
        if f"`{option.name}`" not in pages and f".{option.name}`" not in pages
    ]
    assert missing == []


def _options(target: str) -> type:
    module, _, name = target.partition(":")
    options = getattr(importlib.import_module(module), name).Options
    assert inspect.isclass(options)
    return options


@pytest.mark.parametrize("group", ["backends", "layers", "composites", "strategies", "filters"])
def test_every_plugin_that_comes_along_is_on_a_page(group: str) -> None:
    names = [name for name, _ in entry_points(f"microreg.{group}")]
    assert [name for name in names if not re.search(rf"`{name}\b|\b{name}(://|\+|:)", EVERYWHERE)] == []


def test_every_error_is_in_the_reference() -> None:
    assert [name for name in errors.__all__ if f"\n## {name}" not in reference("errors.md")] == []


def test_every_hook_is_in_its_guide() -> None:
    hooks = [name for name in hookspecs.__all__ if name.startswith("microreg_")]
    assert hooks
    assert [name for name in hooks if f"`{name}" not in PAGES["docs/howto/write-a-hook.md"]] == []


def test_every_environment_variable_is_on_a_page() -> None:
    sources = [*(ROOT / "microreg").rglob("*.py"), *(ROOT / "plugins").glob("*/microreg_*/**/*.py")]
    named = {name for path in sources for name in re.findall(r"\"(MICROREG_\w+)\"", path.read_text(encoding="utf-8"))}
    assert {"MICROREG_REGISTRY", "MICROREG_ADVERTISE"} <= named
    assert {name for name in named if name not in EVERYWHERE} == set()


def test_every_extra_is_on_a_page() -> None:
    extras = tomllib.loads(PROJECTS[0].read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    bracketed = {each.strip() for group in re.findall(r"\[([\w, ]+)\]", EVERYWHERE) for each in group.split(",")}
    assert set(extras) - bracketed == set()


def test_every_guide_is_linked_from_another_page() -> None:
    linked = {target for text in PAGES.values() for target in re.findall(r"([\w-]+\.md)[)#]", text)}
    pages = [name for name in PAGES if name.startswith("docs/") and name != "docs/README.md"]
    assert [name for name in pages if name.rpartition("/")[2] not in linked] == []
