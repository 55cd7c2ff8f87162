"""Writes the pages in docs/reference that come from the code: api.md, cli.md, conformance.md, doctor.md,
errors.md and options.md, the tables of options in those of backends (consul.md, etcd.md, http.md), and the
routes in http.md.

``python docs/generate.py`` writes them; ``--check`` writes nothing and fails when one is out of date.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from api import api
from routes import routes
from sameness import sameness
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from microreg import errors
from microreg.cli.app import build
from microreg.errors import RegistryError
from microreg.findings import Kind
from microreg.registry import Registry
from microreg.testing import table as conformance_table
from microreg.url import OptionInfo, Options, TLSOptions, describe_options

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Made by `make docs` from the docstrings and classes: change it there. -->"
OPTIONS_INTRO = f"""# Options of the config string

{NOTE}

Options stand behind the `?`, as `key=value`, separated by `&`. A layer's keys are prefixed with its name:
`layer.key=value`. A composite such as `mirror:url|url` has its own, and those of layers around it, behind a `#`.
An unknown key is a `ConfigError` that lists the known ones, and one that is given twice is refused as well.

## Every backend
"""

API_INTRO = """What programs, backends and plugins may import. Names without a place here, and modules that are not
on this page, may change without notice. Times are in seconds, sizes in bytes. Errors are on [their page](errors.md)."""

CONFORMANCE_INTRO = """What the conformance kit (`microreg.testing`) checks. A check that *needs* a capability of the
backend (`reasons complete_list authoritative push fenced`), something that can be done to its store
(`microreg.testing.Faults`), or client processes of their own is skipped, visibly, where that is missing.

Whether a check finds anything is itself tested: under *finds* stand registries with one bug each (`tests/mutants`)
that die by it."""
DOCTOR_INTRO = """What `microreg doctor` and `await registry.examine()` may find. A code stays the same from release to
release, and always has the same severity: *ok* is as it should be, *note* is good to know, *warning* works and may fail
one day or for others, *error* does not work, and makes the exit code 1. See
[Find out why](../howto/find-out-why.md)."""
SAMENESS_INTRO = """One interface is one only where every backend answers alike. These are the questions that backends
elsewhere are known to answer differently. The tests of each backend run all checks against its real store; a check is
left out only where the backend lacks a capability, and the table says so."""
OPTIONS_OF = re.compile(
    r"(<!-- The options of ([\w-]+): made by `make docs`. -->\n).*?(<!-- End of the options. -->\n)", re.DOTALL
)
ROUTES = re.compile(r"(<!-- The routes: made by `make docs`. -->\n).*?(<!-- End of the routes. -->\n)", re.DOTALL)
SEEN_INTRO = """Some of those bugs were, or are, real. A mutant has each of them, and dies by these checks."""


def errors_page() -> str:
    """The tree, a table of codes, and what each class says."""
    parts = ["# Errors", NOTE, markdown(errors.__doc__)]
    found = vars(errors).values()
    classes = [cls for cls in found if isinstance(cls, type) and issubclass(cls, RegistryError)]
    rows = ["| class | is also | `code` | `http_status` |", "|---|---|---|---|"]
    for cls in classes:
        name, parents = cls.__name__, ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
        rows.append(f"| [`{name}`](#{name.lower()}) | {parents} | `{cls.code}` | {cls.http_status} |")
    parts.append("\n".join(rows))
    parts += [f"## {cls.__name__}\n\n{markdown(cls.__doc__)}" for cls in classes]
    return "\n\n".join(parts) + "\n"


def options_page() -> str:
    """What every backend takes, then the options of each backend, layer and composite that this repository ships."""
    everywhere = describe_options(Options)
    tls = [info for info in describe_options(TLSOptions) if info not in everywhere]
    parts = [OPTIONS_INTRO.rstrip(), table(everywhere)]
    for group, title, prefix in (("backends", "{}://", ""), ("layers", "{}+", "{}."), ("composites", "{}:", "")):
        is_layer = group == "layers"
        shared = tls if is_layer else [*everywhere, *tls]
        for name, cls in targets(group):
            own = [info for info in describe_options(cls.Options, layer=is_layer) if info not in shared]
            parts += [f"## `{title.format(name)}`", markdown(cls.__doc__).partition("\n\n")[0]]
            parts.append(table(own, prefix.format(name)) if own else "No options of its own.")
            if issubclass(cls.Options, TLSOptions):
                parts += ["TLS, spelt the same everywhere:", table(tls)]
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """Every public name of the modules that users import."""
    return "\n\n".join(["# Python", NOTE, API_INTRO, api(markdown)]) + "\n"


def backend_page(path: Path) -> str:
    """A page that people write, with the options of its backend filled in."""
    classes = dict(targets("backends"))

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(describe_options(classes[match[2]].Options))}\n\n{match[3]}"

    text, found = OPTIONS_OF.subn(filled, path.read_text(encoding="utf-8"))
    assert found, f"{path} has no place for the options"
    return ROUTES.sub(lambda match: f"{match[1]}\n{routes()}\n\n{match[2]}", text)


def conformance_page() -> str:
    """Every sentence of the contract, the check that proves it, and the bugs that the check is known to find."""
    sys.path.insert(0, str(ROOT / "tests"))
    mutants = importlib.import_module("mutants")
    killed: dict[str, list[str]] = {}
    for mutant, check in mutants.MUTANTS:
        killed.setdefault(check, []).append(mutant.__name__)
    rows = ["| seen in | bug | found by |", "|---|---|---|"]
    for mutant, seen in sorted(mutants.SEEN.items(), key=lambda item: item[1]):
        where, _, what = seen.partition(": ")
        checks = ", ".join(f"`{check}`" for each, check in mutants.MUTANTS if each is mutant)
        rows.append(f"| {where} | {what} | {checks} |")
    parts = ["# The contract, sentence by sentence", NOTE, CONFORMANCE_INTRO, conformance_table(killed=killed).rstrip()]
    parts += ["## The same questions to every backend", SAMENESS_INTRO, sameness(writable())]
    return "\n\n".join([*parts, "## Bugs of others", SEEN_INTRO, "\n".join(rows)]) + "\n"


def doctor_page() -> str:
    """Every kind of finding of the doctor, by code."""
    kinds = {kind.code: kind for module in modules_with("Kind(") for kind in vars(module).values() if is_kind(kind)}
    parts = ["# Findings of the doctor", NOTE, DOCTOR_INTRO]
    rows = ["| code | severity | what it says | mend |", "|---|---|---|---|"]
    for code, kind in sorted(kinds.items()):
        meaning, mend = (text.replace("|", r"\|") for text in (kind.meaning, kind.mend))
        rows.append(f"| `{code}` | {kind.severity} | {meaning} | {mend} |")
    return "\n\n".join([*parts, "\n".join(rows)]) + "\n"


def is_kind(value: object) -> TypeGuard[Kind]:
    return isinstance(value, Kind)


def modules_with(text: str) -> Iterator[ModuleType]:
    """The modules of this repository's packages in whose source this stands."""
    for folder in (ROOT / "microreg", *sorted(ROOT.glob("plugins/*/microreg_*"))):
        for path in sorted(folder.rglob("*.py")):
            if text in path.read_text(encoding="utf-8"):
                parts = path.relative_to(folder.parent).with_suffix("").parts
                yield importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def writable() -> Iterator[tuple[str, type[Registry]]]:
    """Every backend that keeps the whole contract, by its first scheme."""
    seen = set[type[Registry]]()
    for scheme, backend in targets("backends"):
        if scheme != "static" and backend not in seen:
            seen.add(backend)
            yield scheme, backend


def cli_page() -> str:
    """Every command of the command line: its usage, what it does, its arguments and options."""
    group = get_command(build())
    assert isinstance(group, TyperGroup)
    parts = ["# Command line", NOTE, group.help or "", group.epilog or ""]
    for name, command in group.commands.items():
        context = command.context_class(command, info_name=name)
        usage = " ".join(["microreg", name, *command.collect_usage_pieces(context)])
        shown = [each for each in command.params if isinstance(each, TyperArgument | TyperOption) and not each.hidden]
        rows = ["| argument or option | default | meaning |", "|---|---|---|", *map(row, shown)]
        parts += [f"## microreg {name}", f"```text\n{re.sub('[{}]', '', usage)}\n```", command.help or ""]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def row(parameter: TyperArgument | TyperOption) -> str:
    """One argument or option of a command."""
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    text = (parameter.help or "").replace("|", r"\|")
    return f"| `{placeholder(parameter)}` | {default} | {text} |"


def placeholder(parameter: TyperArgument | TyperOption) -> str:
    """What one writes: ``NAME``, ``[NAME]``, ``--flag`` or ``--option VALUE``."""
    name = parameter.metavar or (parameter.name or "").upper()
    if isinstance(parameter, TyperArgument):
        many = "..." if parameter.nargs == -1 else ""
        return f"{name}{many}" if parameter.required else f"[{name}]{many}"
    option = parameter.opts[0]
    return option if parameter.is_flag else f"{option} {name}"


def table(options: Iterable[OptionInfo], prefix: str = "") -> str:
    """One row per option."""
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for info in options:
        default = "(secret)" if info.secret else f"`{info.default}`" if info.default else ""
        kind, text = (column.replace("|", r"\|") for column in (info.type, info.help))
        rows.append(f"| `{prefix}{info.name}` | {kind} | {default} | {text} |")
    return "\n".join(rows)


def targets(group: str) -> Iterator[tuple[str, type[Registry]]]:
    """The classes that the repository's own pyproject files declare, whatever else is installed."""
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for name, target in sorted(project.get("entry-points", {}).get(f"microreg.{group}", {}).items()):
            module, _, attribute = target.partition(":")
            yield name, getattr(importlib.import_module(module), attribute)


def markdown(doc: str | None) -> str:
    """A docstring as Markdown: literal blocks fenced, names in single backquotes."""
    text = inspect.cleandoc(doc or "") + "\n"
    text = re.sub(r"(?<!\S)::\n\n((?:    .*\n)+)", lambda m: f"```text\n{textwrap.dedent(m[1])}```\n", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"(?<!`)``(?!`)", "`", text).rstrip()


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when ``--check`` found a page out of date."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    stale: list[str] = []
    pages = {
        "api.md": api_page(),
        "cli.md": cli_page(),
        "conformance.md": conformance_page(),
        "consul.md": backend_page(REFERENCE / "consul.md"),
        "doctor.md": doctor_page(),
        "errors.md": errors_page(),
        "etcd.md": backend_page(REFERENCE / "etcd.md"),
        "http.md": backend_page(REFERENCE / "http.md"),
        "nats.md": backend_page(REFERENCE / "nats.md"),
        "nats-pubsub.md": backend_page(REFERENCE / "nats-pubsub.md"),
        "options.md": options_page(),
    }
    for name, text in pages.items():
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if not arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if arguments and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(stale)}" if stale else "docs/reference is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
