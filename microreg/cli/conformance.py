"""What ``microreg verify`` does: the checks of the conformance kit, the progress line, and the report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import TracebackType
from typing import TYPE_CHECKING, Self

from microreg.checked import patience
from microreg.cli.common import is_terminal, print_lines, print_table
from microreg.cli.errors import FAILED, OK, redacted, write_error
from microreg.cli.hanging import hanging
from microreg.cli.loop import write
from microreg.cli.text import safe, safe_json
from microreg.errors import ConfigError, RegistryTimeout
from microreg.model import Node, Service
from microreg.testing import CHECKS, Check, Harness, Report, Result
from microreg.testing import verify as run_checks

if TYPE_CHECKING:
    from microreg.cli.listing import Listing
    from microreg.testing.case import Case

__all__ = ["check_registry"]

_CALLS = 4
"""Calls of the first try, each of which may take as long as the option timeout."""

_SPARE = 2.0
"""Seconds that these calls may take longer in all, on a busy machine."""

_STYLE = {"passed": "green", "failed": "red", "skipped": "yellow"}


async def check_registry(
    url: str, ids: Sequence[str], ttl: float, patience: float, concurrency: int, *, as_json: bool
) -> int:
    """Check the registry, print the report and return the exit code. Raises what keeps it from being used at all."""
    checks = _selected(ids)
    harness = Harness(url, ttl=ttl, patience=patience, concurrency=concurrency)
    if not as_json:
        title = redacted(harness.title)
        write_error(safe(f'microreg: verify writes services named "kit-…" to {title}, and withdraws them'))
    await _usable(harness)
    if as_json:
        report = await run_checks(harness, checks)
        await write(safe_json(report.json()))
    elif is_terminal():
        with _Progress(len(checks)) as progress:
            report = await run_checks(harness, progress.followed(checks))
        _show(report)
    else:
        report = await run_checks(harness, checks, tell=_print)
    return OK if report.ok else FAILED


def _selected(ids: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these ids, in the order of the contract. Raises ConfigError for one that there is not."""
    known = [check.id for check in CHECKS]
    for each in ids:
        if each not in known:
            close = get_close_matches(each, known, 1)
            families = dict.fromkeys(f"{name.partition('.')[0]}.…" for name in known)
            there = f"there are {', '.join(families)} in docs/reference/conformance.md"
            hint = f"did you mean {close[0]!r}?" if close else there
            raise ConfigError(f"--check: there is no check {each[:60]!r}; {hint}")
    return tuple(check for check in CHECKS if not ids or check.id in ids)


async def _usable(harness: Harness) -> None:
    """Raise what keeps the registry from being used at all: being out of reach, or refusing us, is no finding.

    Its calls are bounded by the option ``timeout``, so that what has not ended then swallows its cancellation.
    """
    trial = asyncio.create_task(_try(harness), name="microreg verify trial")
    try:
        await asyncio.wait([trial], timeout=_CALLS * patience(harness.connect()) + _SPARE)
    except asyncio.CancelledError:
        trial.cancel()
        await asyncio.wait([trial])
        raise
    if not trial.done():
        trial.cancel()
        raise RegistryTimeout(
            f"{redacted(harness.title)}: a first register and deregister did not end, neither by the option timeout "
            f"nor when cancelled: {hanging([trial])}. A backend has to let asyncio.CancelledError through"
        )
    await trial


async def _try(harness: Harness) -> None:
    """One write and its withdrawal. An error that is none of a registry's is left to the checks."""
    probe = Service(f"kit-{os.urandom(5).hex()}", nodes=[Node("127.0.0.1:1", id="probe")])
    try:
        async with harness.connect() as registry:
            await registry.register(probe, ttl=harness.ttl)
            await registry.deregister(probe)
    except (Exception, asyncio.CancelledError, KeyboardInterrupt):
        raise
    except BaseException:
        return


class _Progress:
    """One line on the terminal: how many checks are done, and which are running."""

    def __init__(self, count: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self._count = count
        self._done = 0
        self._running: list[str] = []
        # drawn when something changes: rich's own refresh would be a thread
        self._live = Live(console=Console(highlight=False), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def followed(self, checks: Sequence[Check]) -> tuple[Check, ...]:
        """The same checks, telling when they begin and end."""
        return tuple(replace(check, function=self._following(check)) for check in checks)

    def _following(self, check: Check) -> Callable[[Case], Awaitable[None]]:
        async def run(case: Case) -> None:
            self._running.append(check.id)
            self._draw()
            try:
                await check.function(case)
            finally:
                self._running.remove(check.id)
                self._done += 1
                self._draw()

        return run

    def _draw(self) -> None:
        from rich.text import Text

        line = f"{self._done} of {self._count} · running: {', '.join(self._running) or 'none'}"
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


def _print(result: Result) -> None:
    print_lines([(result.outcome, result.check.id, f"{result.seconds:.2f}", safe(redacted(_reason(result))))])
    if result.outcome == "failed":
        write_error(_explained(result))


def _show(report: Report) -> None:
    print_table(_table(report))
    for result in report.results:
        if result.outcome == "failed":
            print(f"{_explained(result)}\n")
    print(report.summary())


def _table(report: Report) -> Listing:
    from rich.text import Text

    from microreg.cli.listing import Listing

    columns = "outcome", "check", "seconds", "sentence, or why"
    made = Listing(*columns, folds=columns[3:], title=safe(redacted(report.title)))
    for each in report.results:
        outcome = Text(each.outcome, style=_STYLE[each.outcome])
        made.add_row(outcome, Text(each.check.id), Text(f"{each.seconds:.2f}"), Text(safe(redacted(_reason(each)))))
    return made


def _reason(result: Result) -> str:
    """The sentence of a check that passed, else why it did not."""
    if result.outcome == "failed":
        lines = [line.strip() for line in result.explanation.split("\n")]
        return "; ".join(line for line in lines if line.startswith(("expected:", "seen:"))) or lines[0]
    return result.explanation or result.check.sentence


def _explained(result: Result) -> str:
    """What went wrong, in full."""
    return "\n".join(map(safe, redacted(result.explanation).split("\n")))
