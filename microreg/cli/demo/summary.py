"""The closing summary of the demo: what was seen, and whether it was all that should be."""

from __future__ import annotations

from collections.abc import Iterator

from microreg.cli.demo.journal import Journal
from microreg.cli.demo.verdict import facts, latencies
from microreg.cli.text import json_line

__all__ = ["as_json", "lines"]


def lines(journal: Journal, wrong: list[str]) -> Iterator[str]:
    """The summary as lines of ``what: value``; at the end one sentence for each thing that did not happen."""
    yield ""
    yield "Summary"
    yield _row("calls made", str(journal.calls))
    yield _row("failed calls", str(len(journal.failed_calls)))
    yield _row("retries", f"{journal.retries} (requests that met a dead node and went to another)")
    per_node = ", ".join(f"{node} {story.answered}" for node, story in journal.stories.items() if story.pid)
    yield _row("calls per node", per_node or "none")
    for what, seconds in latencies(journal).items():
        yield _row(what, f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s")
    yield _row("in all", f"{journal.now:.1f} s")
    yield ""
    if wrong:
        yield from (f"This did not go as it should: {sentence}" for sentence in wrong)
    else:
        yield "Everything happened: found, killed, drained, found late, and no call failed."


def as_json(journal: Journal, wrong: list[str]) -> str:
    """The summary as one line of JSON."""
    return json_line(event="summary", ok=not wrong, wrong=wrong, **facts(journal))


def _row(what: str, value: str) -> str:
    return f"  {what + ':':<34} {value}"
