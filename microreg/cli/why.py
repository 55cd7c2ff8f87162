"""``microreg why NAME``: every node of a service, and why a Selector would call it or not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from microreg.checked import patience
from microreg.cli.common import (
    JsonOption,
    RegistryOption,
    TimeoutOption,
    configured,
    is_terminal,
    option,
    print_table,
    registered_names,
)
from microreg.cli.errors import NOT_FOUND, OK, redacted
from microreg.cli.loop import Stop, execute, write
from microreg.cli.text import STATUS_STYLE, json_line, safe, similar
from microreg.errors import RegistryError, RegistryTimeout
from microreg.rules import check_name
from microreg.selector import Explanation, Selector, Standing
from microreg.selector.explain import aligned

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["why"]

_STEP = 0.02
"""Seconds between two looks at what is known so far."""
_MORE = 0.5
"""Seconds after the first error in which a snapshot file may still help."""
_SHOWN = 5
BLIND = (
    "Ejections, slow start, latency and retries are known to the program that makes the calls, and to nobody else: "
    "there, print(selector.explain(name)) shows them."
)
"""What a command cannot know of a Selector in another process."""
_ADVICE = "Does its program run, and announce itself in this registry? microreg doctor says what may be in the way."

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the service, exactly as registered.")]
_Filters = Annotated[
    list[str] | None,
    option("--filter", "FILTER", "As the Selector has it, such as version:>=2 or zone:a; may be repeated."),
]
_Strategy = Annotated[str, typer.Option("--strategy", metavar="NAME", help="As the Selector has it.")]
_Zone = Annotated[str | None, option("--zone", "ZONE", "The zone of the program that calls, which it prefers.")]


def why(
    name: _Name,
    registry: RegistryOption = None,
    filters: _Filters = None,
    strategy: _Strategy = "p2c",
    zone: _Zone = None,
    json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> int:
    """Show every node of a service and why it gets calls or gets none: status, filters, zone, how fresh the data is.

    It asks as a program with a Selector of these settings would, beginning now. What only such a program can know,
    such as which nodes it has ejected, is told inside it by print(selector.explain(name)). Where there is no
    such service, names that look alike. Exit code 0 where a node would be selected, 1 where none would, 3 where
    the registry is away and nothing is known.
    """

    async def main(_: Stop) -> int:
        check_name(name)
        async with configured(registry, timeout) as opened:
            async with Selector(opened, strategy, filters or (), zone=zone) as selector:
                told = await _settled(selector, name, patience(opened))
                answer = _Answer(told, str(opened.url), None if told.nodes else await registered_names(opened))
        if json:
            await write(answer.json())
        elif is_terminal() and told.nodes:
            _show(told)
        else:
            await write("\n".join(map(safe, answer.text().splitlines())))
        if (error := answer.error) is not None:
            raise error
        return OK if answer.explanation.selected else NOT_FOUND

    return execute(main, as_json=json)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What there is to say. ``names`` are those registered, looked up where there is no node; None: not known."""

    explanation: Explanation
    registry: str
    names: tuple[str, ...] | None

    @property
    def error(self) -> RegistryError | None:
        """Why nothing is known; None where something is, if only that there is no such service."""
        fresh = self.explanation.freshness
        if self.explanation.nodes or fresh.kind == "live":
            return None
        return fresh.error or RegistryTimeout(self.explanation.note)

    @property
    def similar(self) -> list[str]:
        """Names that look alike, where there is no node of the one that was asked for."""
        return [] if self.explanation.nodes else similar(self.explanation.name, self.names or ())

    def nothing(self) -> list[str]:
        """What is said where there is no node: of what, what there is instead, and what to do."""
        name, names = self.explanation.name, self.names
        if self.error is not None:
            return [f"{name}: nothing is known of it, because the registry could not be asked."]
        if names:
            some = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            others = f"Registered there: {some} ({len(names)} in all)."
        else:
            others = "Which others are could not be read." if names is None else "Nothing else is registered there."
        advice = f"Did you mean {' or '.join(self.similar)}?" if self.similar else _ADVICE
        return [f"{name}: no node of that name is registered in {self.registry}.", others, advice]

    def text(self) -> str:
        told = self.explanation
        lines = [told.heading, *aligned(told.table), BLIND] if told.nodes else self.nothing()
        return redacted("\n".join(lines))

    def json(self) -> str:
        told, fresh = self.explanation, self.explanation.freshness
        return json_line(
            name=told.name,
            strategy=told.strategy,
            filters=told.filters,
            zone=told.zone,
            selected=len(told.selected),
            note=redacted(told.note),
            panic=told.panic,
            heard=told.heard,
            retries=told.retries,
            freshness={
                "kind": fresh.kind,
                "age": round(fresh.age, 3),
                "error": None if fresh.error is None else redacted(str(fresh.error)),
            },
            nodes=[_standing(each) for each in told.nodes],
            names=None if self.names is None else len(self.names),
            similar=self.similar,
            blind=BLIND,
        )


def _standing(standing: Standing) -> dict[str, object]:
    node = standing.node
    return {
        "id": node.id,
        "version": standing.version,
        "address": node.address,
        "status": str(node.status),
        "metadata": dict(node.metadata),
        "selected": standing.selected,
        "verdict": standing.verdict,
        "why": standing.why,
        "weight": standing.weight,
        "share": standing.share,
        "portion": standing.portion,
        "latency": standing.latency,
        "outstanding": standing.outstanding,
        "failures": standing.failures,
        "ejected": standing.ejected,
    }


async def _settled(selector: Selector, name: str, seconds: float) -> Explanation:
    """The explanation once the registry has answered, or has said why it does not, or ``seconds`` are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        explanation = selector.explain(name)
        fresh = explanation.freshness
        if fresh.kind == "live" or loop.time() >= end:
            return explanation
        if fresh.error is not None:
            end = min(end, loop.time() + _MORE)
        await asyncio.sleep(_STEP)


def _show(told: Explanation) -> None:
    from microreg.cli.listing import Listing

    print("\n".join(map(safe, redacted(told.heading).splitlines())))
    head, *rows = told.table
    made = Listing(*head, folds=("why",))
    for standing, row in zip(told.nodes, rows, strict=True):
        made.add_row(*(_cell(text, standing) for text in row), style="" if standing.selected else "dim")
    print_table(made)
    print(BLIND)


def _cell(text: str, standing: Standing) -> Text:
    from rich.text import Text

    return Text(safe(text), style=STATUS_STYLE[standing.node.status] if text == standing.node.status else "")
