"""The same questions to every backend: what the kit proves of each, and where a capability makes a difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from microreg.registry import Registry
from microreg.testing import CHECKS
from microreg.testing.needs import CAPABILITIES

__all__ = ["sameness"]


@dataclass(frozen=True, slots=True)
class _Question:
    """A question, the checks that prove the ``answer``; ``otherwise`` where a backend has not the ``capability``."""

    question: str
    checks: tuple[str, ...]
    answer: str
    capability: str = ""
    otherwise: str = ""

    def __post_init__(self) -> None:
        known = {check.id for check in CHECKS}
        assert known.issuperset(self.checks), f"{self.question}: expected ids of checks, got {self.checks}"
        assert not self.capability or self.capability in CAPABILITIES, self.capability

    def answered(self, backend: type[Registry]) -> str:
        if not self.capability or self.capability in backend.capabilities:
            return self.answer
        return f"{self.otherwise} (no `{self.capability}`)"


_QUESTIONS = (
    _Question(
        "`get_service` of a name that nobody has",
        ("get.not-found",),
        "`ServiceNotFound`, for certain",
        "authoritative",
        "`ServiceNotFound`, nobody answered",
    ),
    _Question("the time that takes", ("get.prompt",), "one answer of the store", "authoritative", "option `settle`"),
    _Question("is the ttl honoured?", ("register.expires", "register.rounds-up", "register.default-ttl"), "yes"),
    _Question(
        "what a watch hears of an expiry",
        ("register.expires", "watch.reasons"),
        "`delete`, `expired`",
        "reasons",
        "`delete`, `removed`",
    ),
    _Question("a watch of all names", ("watch.all-names",), "hears of every name"),
    _Question("a service without a version in a watch", ("watch.law",), "like any other"),
    _Question(
        "a consumer that is slower than the changes",
        ("watch.coalesces", "watch.drops-nothing", "watch.bounded"),
        "at most one change waits per node, no state is lost",
    ),
    _Question("registering again with other metadata", ("register.publishes-changes",), "`update`"),
    _Question("several nodes in one `register`", ("register.all-nodes",), "all are written"),
    _Question("the caller's deadline", ("general.bounded", "general.cancellable"), "kept: `timeout` and cancellation"),
    _Question(
        "the names in `list_services`",
        ("list.complete",),
        "all",
        "complete_list",
        "of those who answer",
    ),
    _Question(
        "a write that timed out and comes after the `deregister`",
        ("deregister.fenced", "deregister.backstop"),
        "changes nothing",
        "fenced",
        "is gone after one ttl",
    ),
)


def sameness(backends: Iterable[tuple[str, type[Registry]]]) -> str:
    """A Markdown table: a row for each question, a column for all backends that answer alike."""
    columns = list(backends)
    rows = [["question", *(f"`{scheme}://`" for scheme, _ in columns), "proved by"], ["---"] * (len(columns) + 2)]
    for each in _QUESTIONS:
        proof = ", ".join(f"`{check}`" for check in each.checks)
        rows.append([each.question, *(each.answered(backend) for _, backend in columns), proof])
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in row) + "|" for row in rows)
