"""The script of the demo: what is done, in which order, and what is waited for. Pure: the stage does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from microreg.cli.demo.journal import Journal

__all__ = ["DRAINED", "FIRST", "KILLED", "LATE", "STEPS", "Stage", "play"]

FIRST = ("alpha", "beta", "gamma")
KILLED, DRAINED, LATE = "beta", "gamma", "delta"
STEPS = ("kill", "drain", "late")
"""The steps that can be left out (so that a test sees the demo fail)."""

_ACTION = 2.0
"""Seconds to look at what is, before the next step."""


class Stage(Protocol):
    """Who does what the script says."""

    async def start(self, node: str) -> None:
        """Start the process of a node."""

    async def kill(self, node: str) -> None:
        """Kill the process of a node."""

    async def drain(self, node: str) -> None:
        """Ask the process of a node to leave."""

    async def until(self, happened: Callable[[], bool]) -> bool:
        """Wait until it has happened; False where patience ended first."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let calls go on for a while."""


async def play(stage: Stage, journal: Journal, skip: frozenset[str] = frozenset()) -> None:
    """Play every step, one after the other; end at the first that does not have its effect."""
    for step in (_begin, _kill, _drain, _late):
        if step.__name__.strip("_") in skip:
            continue
        if not await step(stage, journal):
            return
        await stage.pause(_ACTION)
    journal.step("that was all")


async def _begin(stage: Stage, journal: Journal) -> bool:
    journal.step("three services start; a client finds them and calls them in turn")
    for node in FIRST:
        await stage.start(node)
    return await stage.until(lambda: all(_called(journal, node) for node in FIRST))


async def _kill(stage: Stage, journal: Journal) -> bool:
    journal.step(f"{KILLED} is killed: until it expires, its calls go to another node")
    await stage.kill(KILLED)
    return await stage.until(lambda: journal.story(KILLED).heard_gone is not None)


async def _drain(stage: Stage, journal: Journal) -> bool:
    journal.step(f"{DRAINED} is asked to leave: it drains first, so no call fails")
    await stage.drain(DRAINED)
    story = journal.story(DRAINED)
    return await stage.until(lambda: story.heard_gone is not None and story.exit_code is not None)


async def _late(stage: Stage, journal: Journal) -> bool:
    journal.step(f"{LATE} starts late: nobody is told, and it is found")
    await stage.start(LATE)
    return await stage.until(lambda: _called(journal, LATE))


def _called(journal: Journal, node: str) -> bool:
    return journal.story(node).answered > 0
