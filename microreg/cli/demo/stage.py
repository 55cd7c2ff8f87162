"""Puts the script, the processes, the client and the view together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine

from microreg.cli.demo.client import keep_calling
from microreg.cli.demo.journal import Journal
from microreg.cli.demo.processes import ChildDied, Processes
from microreg.cli.demo.scenario import play
from microreg.cli.demo.view import View
from microreg.registry import Registry
from microreg.selector import Selector
from microreg.watch import Watch

__all__ = ["RealStage", "perform"]

_PATIENCE = 10.0
"""Seconds that a step's effect may take to be heard, beyond what the ttl explains."""
_TICK = 0.1


class RealStage:
    """Does what the script says with real processes."""

    def __init__(self, processes: Processes, journal: Journal, patience: float, pace: float) -> None:
        self._processes = processes
        self._journal = journal
        self._patience = patience
        self._pace = pace
        self._news = asyncio.Event()
        journal.listeners.append(lambda _: self._news.set())

    async def start(self, node: str) -> None:
        """Start the process of a node."""
        await self._processes.start(node)

    async def kill(self, node: str) -> None:
        """SIGKILL."""
        self._journal.kill(node)
        self._processes.kill(node)

    async def drain(self, node: str) -> None:
        """SIGTERM."""
        self._journal.drain(node)
        self._processes.drain(node)

    async def until(self, happened: Callable[[], bool]) -> bool:
        """Wait for it, with patience; every line of the journal is a reason to look again."""
        try:
            async with asyncio.timeout(self._patience):
                while not happened():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def pause(self, seconds: float) -> None:
        """Let calls go on."""
        await asyncio.sleep(seconds * self._pace)


async def perform(
    registry: Registry,
    registry_text: str,
    journal: Journal,
    view: View,
    *,
    ttl: float,
    pace: float,
    limit: float,
    skip: frozenset[str],
) -> list[str]:
    """Perform the demo on an open registry; sentences about what broke it (none where nothing did).

    ``registry_text`` is the config string that the services get. Returns with every child ended and joined.
    """
    name = f"demo-{os.urandom(4).hex()}"
    scope = asyncio.timeout(limit)
    try:
        async with (
            scope,
            registry.watch(name) as watch,
            Selector(registry, strategy="round_robin") as selector,
            Processes(registry_text, name, ttl, journal) as processes,
        ):
            stage = RealStage(processes, journal, ttl + _PATIENCE, pace)
            await _first_of(
                play(stage, journal, skip),
                _hear(watch, journal),
                keep_calling(selector, name, journal),
                _tick(view, journal),
                _died(processes),
            )
    except ChildDied as error:
        return [str(error)]
    except TimeoutError:
        if not scope.expired():
            raise
        return [f"It was not over within {limit:g} s."]
    finally:
        view.tick(journal)
    return []


async def _first_of(first: Coroutine[object, object, None], *others: Coroutine[object, object, None]) -> None:
    """Run all until the first argument is done or one fails; then cancel and join the rest."""
    leader = asyncio.create_task(first, name="microreg demo script")
    tasks = [leader, *(asyncio.create_task(other) for other in others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _hear(watch: Watch, journal: Journal) -> None:
    async for event in watch:
        journal.hear(event)


async def _tick(view: View, journal: Journal) -> None:
    while True:
        view.tick(journal)
        await asyncio.sleep(_TICK)


async def _died(processes: Processes) -> None:
    await asyncio.shield(processes.died)
