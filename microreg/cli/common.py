"""What every command shares: its options, the registry they name, and how it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from microreg.connect import DEFAULT_URL, config_string, connect
from microreg.errors import ConfigError, RegistryError
from microreg.registry import Registry
from microreg.url import Duration, RegistryURL, parse_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = [
    "JsonOption",
    "RegistryOption",
    "TimeoutOption",
    "configured",
    "duration",
    "is_terminal",
    "option",
    "print_lines",
    "print_table",
    "registered_names",
    "table",
]


def option(name: str, metavar: str | None, help: str, *others: str) -> object:
    """A typer option whose help says in words what holds where it is not given. ``others`` are further names of it."""
    return typer.Option(name, *others, metavar=metavar, help=help, show_default=False)


RegistryOption = Annotated[
    str | None,
    option("--registry", "URL", f"The registry, as scheme://…; else $MICROREG_REGISTRY, else {DEFAULT_URL}"),
]
JsonOption = Annotated[bool, option("--json", None, "Print JSON for programs; errors on stderr too.")]
TimeoutOption = Annotated[
    str | None,
    option(
        "--timeout",
        "DURATION",
        "How long the registry may take to answer (500ms, 5s, 2m); the same as ?timeout= in its URL.",
    ),
]


def duration(option: str, text: str | None) -> Duration | None:
    """The seconds that an option was given. Raises ConfigError that names the option; zero is refused too."""
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None
    if seconds <= 0:
        raise ConfigError(f"{option}: expected more than zero, got {text!r}")
    return seconds


def configured(url: str | None, timeout: str | None = None) -> Registry:
    """The registry that ``--registry`` and ``--timeout`` describe, not open yet. Raises ConfigError."""
    seconds = duration("--timeout", timeout)
    with config_string(url) as found:
        parsed = RegistryURL.parse(found)
        return connect(parsed if seconds is None else parsed.with_timeout(seconds))


async def registered_names(registry: Registry) -> tuple[str, ...] | None:
    """The names of all services, to tell of them beside what went wrong; None where they cannot be read."""
    try:
        return await registry.list_services()
    except RegistryError:
        return None


def is_terminal() -> bool:
    """Whether a person reads stdout, on a terminal that can show tables."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def table(*columns: str) -> Table:
    """An empty rich table in the one style of all commands."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_table(made: RenderableType) -> None:
    """Print to the terminal. It breaks the lines that are longer than itself, so that they are copied in one piece."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    console.width = console.width or 80  # some terminals say that they have no width, and rich prints nothing then
    console.print(made, soft_wrap=True)


def print_lines(lines: Iterable[Sequence[str]]) -> None:
    """Print rows for a pipe: printable cells separated by tabs, ``-`` for an empty one, no header."""
    for cells in lines:
        print("\t".join(cell or "-" for cell in cells))
    sys.stdout.flush()
