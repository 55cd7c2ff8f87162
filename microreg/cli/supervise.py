"""How ``microreg run`` keeps a child and its announcement together: who goes first, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress

from microreg.address import split_address
from microreg.announce.announcement import Announcement, State, Transition
from microreg.announce.probe import Probe, probe
from microreg.cli.announcing import told
from microreg.cli.child import Child
from microreg.cli.errors import write_error
from microreg.cli.hanging import LastResort
from microreg.cli.signals import handling
from microreg.cli.text import safe

__all__ = ["Doorbell", "Supervisor"]

_STOPPING = ("SIGTERM", "SIGINT", "SIGQUIT")
_PASSED_ON = ("SIGHUP", "SIGUSR1", "SIGUSR2")
_JOB_CONTROL = ("SIGTSTP", "SIGCONT")

_HEARD = 0.5
"""Seconds that watchers get to hear that the node left, before the child does (``drain_delay`` of ``announce``)."""

_LATE = 10.0
"""Seconds after which a port that does not answer is worth a warning."""

_STUCK = 2.0
"""Seconds that the registry may hold us up after the signal which says that nobody is to wait for it any longer."""

_RING = 0.05
_RING_CAP = 0.5
_NO_ANSWER = 1.0
_NO_VERDICT = 5.0


class Doorbell:
    """Tells when a program is ready: its port takes connections, or the check passes."""

    def __init__(self, port: int, announced: str, check: str | None) -> None:
        self.port = port
        self._announced = announced
        self._check = check
        self._probes = [probe(check)] if check else [probe(f"tcp://{host}:{port}") for host in ("127.0.0.1", "[::1]")]
        host, mapped = split_address(announced)
        outside = not check and mapped == port and host not in ("127.0.0.1", "::1", "localhost")
        self._outside = probe(f"tcp://{announced}") if outside else None

    async def answered(self) -> None:
        """Return when somebody answers. After ten seconds without an answer one warning says so, and why."""
        with _muted(), suppress(TimeoutError):
            async with asyncio.timeout(_LATE):
                return await self._rung()
        what = f"the check {self._check} does not pass" if self._check else f"port {self.port} does not answer"
        say(f"warning: {what} after {_LATE:g} s; the program runs on, and is announced as soon as it does")
        if self._check:
            self._probes = [probe(self._check)]  # a new one tells again what is wrong
        await self._rung()

    async def _rung(self) -> None:
        pause = _RING
        while not await self._answers():
            await asyncio.sleep(pause)
            pause = min(_RING_CAP, pause * 1.5)

    async def _answers(self) -> bool:
        """Ask on the announced address, then on loopback, which may be all that this machine itself can reach."""
        if self._outside is not None and await _asked(self._outside, _NO_ANSWER):
            return True
        for ask in self._probes:
            if await _asked(ask, _NO_VERDICT if self._check else _NO_ANSWER):
                if self._outside is not None:
                    say(f"warning: port {self.port} answers on loopback, but not at {self._announced}, as announced")
                return True
        return False


@contextmanager
def _muted() -> Generator[None, None, None]:
    """Probes that fail are nothing to tell of: a program needs a moment to start."""

    def nothing(_: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger("microreg.announce.probe")
    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


async def _asked(ask: Probe, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await ask()
    except TimeoutError:
        return False


class Supervisor:
    """One announcement and one child: the announcement begins after the child answers, and ends before it."""

    def __init__(self, announcement: Announcement, door: Doorbell, last_resort: LastResort) -> None:
        self._announcement = announcement
        self._door = door
        self._last_resort = last_resort
        self._child: Child | None = None
        self._told: Transition | None = None
        self._signal = 0
        self._asked = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None

    @contextmanager
    def signals(self) -> Generator[None, None, None]:
        """Every signal of the process is ours, from before the child starts until it has ended."""
        with (
            handling(_STOPPING, self._signalled, self._last_resort),
            handling((*_PASSED_ON, *_JOB_CONTROL), self._signalled),
        ):
            yield

    async def watch_over(self, child: Child) -> int:
        """The exit code of the child, when it has ended and its node is deregistered.

        Raises what keeps the announcement from ever succeeding; the child was stopped then.
        """
        self._child = child
        ended = asyncio.create_task(child.wait(), name="microreg run child")
        self._announcing = announcing = asyncio.create_task(self._announce(), name="microreg run announcement")
        asked = asyncio.create_task(self._asked.wait(), name="microreg run signal")
        reporter = asyncio.create_task(self._report(), name="microreg run output")
        try:
            await asyncio.wait([ended, announcing, asked], return_when=asyncio.FIRST_COMPLETED)
            await self._withdraw(announcing, ended)
            if not ended.done() and not child.stopping:
                child.stop(self._signal or signal.SIGTERM)
            code = await ended
            await child.end_rest()
        finally:
            child.send_group(signal.SIGKILL)
            for task in (asked, announcing, reporter):
                task.cancel()
            await asyncio.wait([asked, announcing, reporter, ended])
        self._tell(await self._announcement.changed(self._told, timeout=0))
        if not announcing.cancelled() and (error := announcing.exception()):
            raise error
        return code

    async def _announce(self) -> None:
        await self._door.answered()
        async with self._announcement:
            await asyncio.Event().wait()

    async def _withdraw(self, announcing: asyncio.Task[None], ended: asyncio.Task[int]) -> None:
        """Deregister, and let watchers hear it while the child still answers."""
        announcing.cancel()
        await asyncio.wait([announcing])
        live = any(transition.state is State.LIVE for transition in self._announcement.history)
        if live and not ended.done():
            await asyncio.wait([ended], timeout=_HEARD)

    def _signalled(self, number: int) -> None:
        child, name = self._child, signal.Signals(number).name
        if name == "SIGTSTP":
            if child is not None:
                child.send_group(signal.SIGSTOP)  # the kernel discards SIGTSTP in a session without a terminal
            os.kill(os.getpid(), signal.SIGSTOP)
        elif name == "SIGCONT":
            if child is not None:
                child.send_group(number)
        elif name in _PASSED_ON:
            if child is not None:
                child.send(number)
        elif not self._asked.is_set():
            self._signal = number
            self._asked.set()
        elif child is not None and child.running:
            child.stop(number)
        elif self._announcing is not None:
            self._announcing.cancel()  # for the second time: nobody is to wait for the store any longer
            self._last_resort.within(_STUCK)

    async def _report(self) -> None:
        while news := await self._announcement.changed(self._told):
            self._tell(news)

    def _tell(self, news: Iterable[Transition]) -> None:
        for self._told in news:
            state, rest = told(self._announcement, self._told)
            say(f"{state}: {rest}")


def say(text: str) -> None:
    """One line on stderr, which is the child's too. Where nobody reads it the line is lost, and nothing waits."""
    try:
        if select.select([], [2], [], 0)[1]:
            write_error(f"microreg: {safe(text)}")
    except (OSError, ValueError):
        return
