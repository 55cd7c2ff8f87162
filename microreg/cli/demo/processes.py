"""The demo's services as child processes, none of which ever outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from microreg.cli.demo.journal import Journal

__all__ = ["ChildDied", "Processes"]

_LEAVING = 6.0
"""Seconds that children get to leave by themselves; draining may take 5."""
_STDERR = 4096


class ChildDied(Exception):
    """A service ended that nobody had asked to."""


class Processes:
    """Starts, kills and drains services; leaving ends and joins all of them, by their pids."""

    def __init__(self, registry: str, name: str, ttl: float, journal: Journal) -> None:
        self._registry = registry
        self._name = name
        self._ttl = ttl
        self._journal = journal
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._attendants: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for node in self._processes:
                self._signal(node, signal.SIGTERM)
            if self._attendants:
                await asyncio.wait(self._attendants.values(), timeout=_LEAVING)
        finally:
            for node in self._processes:
                self._signal(node, signal.SIGKILL)
            self.died.cancel()
            await _join(self._attendants.values())

    async def start(self, node: str) -> None:
        """Start the service of a node. The registry goes through the environment, where ``ps`` does not show it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "microreg.cli.demo.service", self._name, node, str(self._ttl)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "MICROREG_REGISTRY": self._registry},
        )
        self._processes[node] = process
        self._journal.start(node, process.pid)
        self._attendants[node] = asyncio.create_task(self._attend(node, process), name=f"microreg demo {node}")

    def kill(self, node: str) -> None:
        """SIGKILL."""
        self._signal(node, signal.SIGKILL)

    def drain(self, node: str) -> None:
        """SIGTERM."""
        self._signal(node, signal.SIGTERM)

    def _signal(self, node: str, number: signal.Signals) -> None:
        self._ending.add(node)
        process = self._processes[node]
        if process.returncode is None:
            try:
                process.send_signal(number)
            except ProcessLookupError:
                return

    async def _attend(self, node: str, process: asyncio.subprocess.Process) -> None:
        """Read what a child says until it has ended."""
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        errors = asyncio.create_task(_tail(process.stderr))
        try:
            async for line in process.stdout:
                self._hear(node, line)
            code = await process.wait()
            said = (await errors).decode(errors="replace").strip()
        finally:
            process.stdin.close()
            errors.cancel()
        self._journal.ended(node, code)
        if node not in self._ending and not self.died.done():
            last = said.splitlines()[-1] if said else "it said nothing"
            self.died.set_exception(ChildDied(f"The service {node} ended with exit code {code}: {last}"))

    def _hear(self, node: str, line: bytes) -> None:
        try:
            told = json.loads(line)
            announcing = float(told["announcing"])
        except (ValueError, KeyError, TypeError):
            return
        self._journal.announce(node, max(0.0, time.time() - announcing))


async def _join(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks that are about to end, however often the caller is cancelled meanwhile."""
    cancelled = False
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def _tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(_STDERR):
        kept = (kept + chunk)[-_STDERR:]
    return kept
