"""The only one that writes the record of an announcement: registers, renews, heals, withdraws."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from microreg import process
from microreg.announce.journal import Journal, State
from microreg.announce.probe import Probe
from microreg.errors import InvalidService, RegistryClosed, RegistryError, RegistryTimeout, WrongLoop
from microreg.model import Service, Status
from microreg.registry import Registry
from microreg.translation import unexpected
from microreg.watch import HOPELESS

__all__ = ["BACKOFF_CAP", "STOP_BUDGET", "Writer"]

log = logging.getLogger("microreg.announce")

_BACKOFF_BASE = 1.0
"""Seconds within which the first attempt after a failure is made; each further failure doubles them."""
BACKOFF_CAP = 30.0
"""Seconds between two attempts at most, however long the store is away."""
STOP_BUDGET = 5.0
"""Seconds that leaving may take in all (or ``drain_delay`` and one more, where that is longer)."""
_FLOOR = 0.05
"""Seconds between two attempts at least."""
_GRACE = 1.0
"""Seconds that a call which is under way may take to end."""
_CHECK = 1 / 3
"""Of the ttl: a check may take that long."""
_LATEST = 0.85
"""Of the ttl: a write that comes after a check of that length begins this long after the last at the latest."""
_OVER = (RegistryClosed, WrongLoop)
"""Errors after which not even leaving can be told to the store."""

_Attempt = asyncio.Future[None]


class Writer:
    """One task that makes the store hold ``wanted``, again and again, until it is stopped."""

    def __init__(
        self,
        registry: Registry,
        service: Service,
        ttl: float,
        interval: float,
        probe: Probe | None = None,
        find: Callable[[], str | None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.registry = registry
        self.ttl = ttl
        self.interval = interval
        self.journal = Journal(service.name, service.nodes[0].status)
        self.wanted = service
        self.find = find
        """Where the node is now; None while nobody can tell. Not there: its address was told."""
        self.stopping = False
        self.ended = False
        self._accepted = service
        self._probe = probe
        self._probe_due = float("-inf")
        self._healthy = True
        self._rng = rng or random.Random()
        self._was_live = False
        self._writing = False
        self._began = 0.0
        self._lapse: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._waiting: list[_Attempt] = []
        process.in_child(self, Writer._after_fork)

    @property
    def started(self) -> bool:
        """Whether ``start`` was called."""
        return self._task is not None

    @property
    def service(self) -> Service:
        """What the store should hold now: ``wanted``, or critical, or draining."""
        node = self.wanted.nodes[0]
        if self.stopping:
            node = node.replace(status=Status.DRAINING)
        elif not self._healthy:
            node = node.replace(status=Status.CRITICAL)
        return self.wanted.with_nodes(node)

    def start(self) -> _Attempt:
        """Begin to write; the result is done after the first attempt."""
        attempt = self.publish()
        self._accepted = self.wanted
        self._task = asyncio.create_task(self._run(), name=f"microreg announce {self.wanted.name}")
        return attempt

    def publish(self) -> _Attempt:
        """Make another attempt at once. The result is done after it, with the error of a record that was refused."""
        attempt: _Attempt = asyncio.get_running_loop().create_future()
        self._waiting.append(attempt)
        self._changed.set()
        return attempt

    async def stop(self) -> None:
        """Cancel and join the task; one that ignores its cancellation is left behind after a second."""
        self.stopping = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            done, _ = await asyncio.wait([self._task], timeout=_GRACE)
            if not done:
                name = self.wanted.name
                log.warning("%s: a check or call ignores its cancellation", name, extra={"service": name})

    async def leave(self, delay: float) -> None:
        """Draining, deregistered, and ``delay`` seconds for the watchers; all within the stop budget."""
        assert self._task is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + max(STOP_BUDGET, delay + _GRACE) - delay
        self._changed.set()
        if self._writing:
            await asyncio.wait([self._task], timeout=min(_GRACE, (end - loop.time()) / 4))
        await self.stop()
        self.journal.move(State.DRAINING, self.journal.error, Status.DRAINING)
        if not isinstance(self.journal.error, _OVER):
            await self._withdraw(end)
            if self._was_live:
                await asyncio.sleep(delay)

    def _after_fork(self) -> None:
        """In the child the node is the parent's: nothing is written, and nobody waits for it."""
        self.stopping = self.ended = True
        self.journal.state = State.GONE
        self.journal.error = RegistryClosed(f"the announcement of {self.wanted.name!r} {process.FORKED}")

    # -- writing ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        try:
            while not self.ended:
                failures = 0 if await self._attempt() else failures + 1
                if self.stopping or isinstance(self.journal.error, _OVER):
                    break
                await self._pause(self._backoff(failures) if failures else self._until_renewal())
        finally:
            self.ended = True
            self._live_until(None)
            _release(self._waiting, None)
            self.journal.notify()

    async def _attempt(self) -> bool:
        """One check and one write; whether the next is due as planned."""
        answered = await self._ask()
        self._began = asyncio.get_running_loop().time()
        self._changed.clear()
        covered, self._waiting = self._waiting, []
        try:
            if not answered:
                withheld = RegistryTimeout(f"the check took more than {self.ttl * _CHECK:g} s; renewal is withheld")
                self.journal.count(withheld)
                self._lose(withheld)
            elif not self.stopping:
                self._follow()
                wanted, record, self._writing = self.wanted, self.service, True
                error = await self._call(self.registry.register(record, ttl=self.ttl))
                self.journal.count(error)
                self._settle(wanted, record.nodes[0].status, error, covered)
        finally:
            self._writing = False
            _release(covered, None)
        return not answered or self.journal.error is None

    def _follow(self) -> None:
        address = self.find() if self.find is not None else None
        node = self.wanted.nodes[0]
        if address is not None and address != node.address:
            log.info("%s moves from %s to %s", self.wanted.name, node.address, address)
            self.wanted = self.wanted.with_nodes(node.replace(address=address))

    async def _ask(self) -> bool:
        """Ask the check, unless it answered a moment ago; whether it answers in time."""
        loop = asyncio.get_running_loop()
        if self._probe is None or loop.time() < self._probe_due:
            return True
        try:
            async with asyncio.timeout(self.ttl * _CHECK):
                self._healthy = await self._probe()
        except TimeoutError:
            return False
        self._probe_due = loop.time() + self.interval * 0.75
        return True

    def _settle(self, wanted: Service, status: Status, error: RegistryError | None, covered: list[_Attempt]) -> None:
        """What follows from one write, for the state and for those who wait for it."""
        if error is None:
            self._accepted = wanted
            self.journal.move(State.LIVE, None, status)
            self._was_live = True
            self._live_until(self._began + self.ttl)
        elif isinstance(error, InvalidService) and wanted is not self._accepted:
            # Updates build on each other: what came after the refused one cannot stay either.
            self.wanted = self._accepted
            self.journal.move(self.journal.state, error)
            for attempts in (covered, self._waiting):
                _release(attempts, error)
            self._changed.set()
        else:
            self._lose(error)

    def _live_until(self, moment: float | None) -> None:
        """Be lost from this moment on, unless another write is answered before: the store may have let it expire."""
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = None if moment is None else asyncio.get_running_loop().call_at(moment, self._lapsed)

    def _lapsed(self) -> None:
        if self.journal.state is State.LIVE:
            self._lose(RegistryTimeout(f"{self.registry.url} has not answered a renewal for {self.ttl:g} s, its ttl"))

    def _lose(self, error: RegistryError) -> None:
        self.journal.move(State.LOST if self._was_live else State.REGISTERING, error)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _until_renewal(self) -> float:
        """The interval ± 10 %, up to a moment that others of this loop renew at too: they wake it together.

        It counts from when the last write began, as the ttl may do in the store. The slowest check has its time.
        """
        grid = self.interval / 100
        due = math.ceil((self._began + self.interval * self._rng.uniform(0.9, 1.09)) / grid) * grid
        if self._probe is not None:
            due = min(due, self._began + self.ttl * (_LATEST - _CHECK))
        return max(_FLOOR, due - asyncio.get_running_loop().time())

    def _backoff(self, failures: int) -> float:
        """Full jitter. On average never rarer than renewals: a fleet that asks for its store is no more than its load.

        So the node is back long before caches stop to guard what they last knew of it.
        """
        ceiling = min(BACKOFF_CAP, 2 * self.interval, _BACKOFF_BASE * 2.0 ** min(failures, 16))
        return max(_FLOOR, self._rng.uniform(0, ceiling))

    async def _call(self, call: Awaitable[None]) -> RegistryError | None:
        """Await a call of the registry; what it raised. Whatever that is, the writer outlives it."""
        try:
            await call
        except RegistryError as error:
            return error
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and process.cancelling():
                raise
            return unexpected(error, self.registry.url)
        return None

    # -- withdrawing -----------------------------------------------------------------------------

    async def _withdraw(self, end: float) -> None:
        failures = 0
        try:
            async with asyncio.timeout_at(end):
                if self._was_live:
                    await self._tell_draining((end - asyncio.get_running_loop().time()) / 2)
                while not await self._deregister():
                    failures += 1
                    await asyncio.sleep(self._backoff(failures))
        except TimeoutError:
            why = RegistryTimeout(f"{self.registry.url} did not deregister in time; what it has expires by its ttl")
            self.journal.error = why
            log.warning("%s left without deregistering: %s", self.wanted.name, why, extra={"service": self.wanted.name})

    async def _tell_draining(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                error = await self._call(self.registry.register(self.service, ttl=self.ttl))
        except TimeoutError:
            error = RegistryTimeout(f"{self.registry.url} did not answer within {timeout:.3g} s")
        self.journal.move(State.DRAINING, error)

    async def _deregister(self) -> bool:
        error = await self._call(self.registry.deregister(self.wanted))
        self.journal.move(State.DRAINING, error)
        return error is None or isinstance(error, HOPELESS)


def _release(attempts: list[_Attempt], error: RegistryError | None) -> None:
    """Tell those who wait that their attempt was made."""
    for attempt in attempts:
        if not attempt.done():
            attempt.set_result(None) if error is None else attempt.set_exception(error)
    attempts.clear()
