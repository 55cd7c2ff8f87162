"""Whether everything that the demo promises really happened, and the numbers of what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from microreg.cli.demo.journal import Journal
from microreg.cli.demo.scenario import DRAINED, FIRST, KILLED, LATE
from microreg.events import Reason

__all__ = ["complaints", "facts", "latencies"]

_GRACE = 0.25
"""Seconds after hearing of a change in which a request already chosen may still go out."""
_MIN_CALLS = 20


def complaints(journal: Journal, *, tells_reasons: bool) -> list[str]:
    """One sentence for each thing that did not happen; empty where everything did.

    ``tells_reasons``: the registry says why a node is gone, so the killed one must be heard as expired.
    """
    return [
        *_found(journal),
        *_killed(journal, tells_reasons),
        *_drained(journal),
        *_calls(journal),
    ]


def latencies(journal: Journal) -> dict[str, float]:
    """Seconds from each change until it was heard, in words, in the order of the script."""
    found: dict[str, float | None] = {}
    for node in (*FIRST, LATE):
        story = journal.story(node)
        late = " late" if node == LATE else ""
        found[f"{node} started{late} → heard"] = _between(story.started, story.heard)
        found[f"{node} announced → heard"] = _between(story.announced, story.heard)
    killed, drained = journal.story(KILLED), journal.story(DRAINED)
    found[f"{KILLED} killed → {killed.reason or 'gone'}"] = _between(killed.killed, killed.heard_gone)
    found[f"{DRAINED} asked to leave → heard"] = _between(
        drained.told_to_drain, _first(drained.heard_draining, drained.heard_gone)
    )
    return {what: seconds for what, seconds in found.items() if seconds is not None}


def facts(journal: Journal) -> dict[str, object]:
    """Everything that the summary says, for programs. Times are seconds."""
    return {
        "calls": journal.calls,
        "failed_calls": len(journal.failed_calls),
        "retries": journal.retries,
        "calls_per_node": {node: story.answered for node, story in journal.stories.items() if story.pid},
        "seconds_until_heard": {what: round(seconds, 4) for what, seconds in latencies(journal).items()},
        "seconds": round(journal.now, 2),
    }


def _found(journal: Journal) -> Iterator[str]:
    for node in (*FIRST, LATE):
        story = journal.story(node)
        late = "late " if node == LATE else ""
        if story.started is None:
            yield f"The {late}service {node} was never started."
        elif story.heard is None:
            yield f"The {late}service {node} was started, but never heard of."
        elif not story.answered:
            yield f"The {late}service {node} was heard of, but never answered a call."


def _killed(journal: Journal, tells_reasons: bool) -> Iterator[str]:
    story = journal.story(KILLED)
    if story.killed is None:
        yield f"{KILLED} was never killed."
    elif story.heard_gone is None:
        yield f"{KILLED} was killed, and nobody heard that it is gone."
    elif tells_reasons and story.reason is not Reason.EXPIRED:
        yield f"{KILLED} was killed, but heard as {story.reason} instead of expired."
    else:
        if not any(not each.error and story.killed < each.at < story.heard_gone for each in journal.attempts):
            yield f"No call was answered between the death of {KILLED} and the moment that it was heard."
        if not journal.retries:
            yield f"No call met the dead {KILLED} and was retried on another node."
        yield from _still_called(journal, KILLED, story.heard_gone)


def _drained(journal: Journal) -> Iterator[str]:
    story = journal.story(DRAINED)
    if story.told_to_drain is None:
        yield f"{DRAINED} was never asked to leave."
    elif story.heard_gone is None:
        yield f"{DRAINED} was asked to leave, and nobody heard that it is gone."
    else:
        if story.exit_code != 0:
            yield f"{DRAINED} was asked to leave, and ended with {story.exit_code} instead of exit code 0."
        yield from _still_called(journal, DRAINED, _first(story.heard_draining, story.heard_gone))
        if any(each.node == DRAINED and each.error for each in journal.attempts):
            yield f"A request to {DRAINED} failed, although it was drained and not killed."


def _calls(journal: Journal) -> Iterator[str]:
    if journal.calls < _MIN_CALLS:
        yield f"Only {journal.calls} calls were made; expected {_MIN_CALLS} or more."
    if journal.failed_calls:
        yield f"{len(journal.failed_calls)} of {journal.calls} calls failed, the first with: {journal.failed_calls[0]}."


def _still_called(journal: Journal, node: str, since: float | None) -> Iterator[str]:
    count = sum(each.node == node and since is not None and each.at > since + _GRACE for each in journal.attempts)
    if count:
        yield f"{node} was called {count} more times after it was heard to leave."


def _first(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin
