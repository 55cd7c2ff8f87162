"""``microreg doctor [URL]``: what is good, odd or wrong about a set-up, each with its mend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from microreg.cli.common import (
    JsonOption,
    RegistryOption,
    TimeoutOption,
    duration,
    is_terminal,
    option,
    print_lines,
    print_table,
)
from microreg.cli.errors import FAILED, OK, redacted
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import json_line, safe
from microreg.errors import ConfigError
from microreg.findings import Finding, Severity
from microreg.rules import DEFAULT_TTL, check_ttl

__all__ = ["doctor"]

_STYLE = {Severity.OK: "green", Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}

_Url = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="The registry, as scheme://…; the same as --registry.", show_default=False),
]
_Write = Annotated[bool, option("--write", None, "Also write: a record of its own, withdrawn at once.")]
_Ttl = Annotated[
    str | None,
    option("--ttl", "DURATION", f"The ttl that programs announce with here; not given: {DEFAULT_TTL:g}s."),
]


def doctor(
    url: _Url = None,
    registry: RegistryOption = None,
    write_too: _Write = False,
    json: JsonOption = False,
    ttl: _Ttl = None,
    timeout: TimeoutOption = None,
) -> int:
    """Examine a set-up from here: config string, advertised address, network, clock, permissions, server, plugins.

    Each finding has a severity (ok, note, warning, error), a code, what was found, and what to do about it. Exit code
    1 where there is an error. Nothing is written, unless --write is given: then a service whose name begins with
    "microreg-doctor-" is registered, looked up and withdrawn. In a pipe there is one line for each finding, separated
    by tabs: severity, code, what, mend. What every code means: docs/reference/doctor.md.
    """

    async def main(_: Stop) -> int:
        from microreg.doctor import examine

        if url is not None and registry is not None:
            raise ConfigError("the registry is given twice: as URL and as --registry")
        place = registry if url is None else url
        seconds = check_ttl(duration("--ttl", ttl) or DEFAULT_TTL)
        findings = await examine(place, write=write_too, ttl=seconds, timeout=duration("--timeout", timeout))
        await _show([_shown(each) for each in findings], as_json=json)
        return FAILED if any(each.severity is Severity.ERROR for each in findings) else OK

    return execute(main, as_json=json)


def _shown(finding: Finding) -> Finding:
    """Without what may be a password, or may steer a terminal."""
    return Finding(finding.severity, finding.code, safe(redacted(finding.what)), safe(redacted(finding.mend)))


async def _show(findings: Sequence[Finding], *, as_json: bool) -> None:
    counts = Counter(each.severity for each in findings)
    if as_json:
        await write(
            json_line(
                findings=[asdict(each) for each in findings],
                **{str(severity): counts[severity] for severity in Severity},
            )
        )
    elif not is_terminal():
        print_lines((str(each.severity), each.code, each.what, each.mend) for each in findings)
    else:
        _print(findings)
        print(", ".join(_counted(counts[severity], severity) for severity in reversed(Severity)))


def _counted(count: int, severity: Severity) -> str:
    return f"{count} {severity}" + "s" * (count != 1 and severity is not Severity.OK)


def _print(findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 1, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for each in findings:
        made.add_row(Text(each.severity, _STYLE[each.severity]), Text.assemble(each.what, (f"  {each.code}", "dim")))
        if each.mend:
            made.add_row("", Text(f"→ {each.mend}"))
    print_table(made)
