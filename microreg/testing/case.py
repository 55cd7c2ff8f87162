"""One run of one check: its clients, names and watches, what it expects, and the record of what happened."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import NoReturn, TypeVar

from microreg.errors import RegistryError, ServiceNotFound
from microreg.model import EMPTY, Node, Service
from microreg.registry import Layer, Registry
from microreg.testing.check import Check, ConformanceError
from microreg.testing.faults import Faults
from microreg.testing.harness import Harness
from microreg.testing.listener import Listener
from microreg.testing.process import ClientProcess
from microreg.testing.show import printable, show
from microreg.testing.virtual import VirtualLoop

__all__ = ["Case", "Client"]

T = TypeVar("T")
E = TypeVar("E", bound=RegistryError)
_LONG = 120.0
_LOG = 400
_CLEANUP = 5.0


class Case:
    """What a check works with. Everything it opens is closed, and every node it registered is withdrawn, at the end."""

    def __init__(self, check: Check, harness: Harness) -> None:
        self.check = check
        self.harness = harness
        self.rng = random.Random(f"{harness.seed} {check.id}")
        self.stem = f"kit-{random.SystemRandom().getrandbits(40):010x}"
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._log: list[tuple[float, str, int]] = []
        self._names: set[str] = set()
        self._clients = 0
        self._watches = 0
        self._stack = AsyncExitStack()

    # -- what a check starts from ------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """What can be done to the store."""
        return self.harness.faults

    def name(self, suffix: str = "") -> str:
        """A service name that nobody else uses."""
        name = f"{self.stem}{suffix}" if suffix else f"{self.stem}-{len(self._names)}"
        return self.own(name)

    def own(self, name: str) -> str:
        """Count this name as one of the check's own: watches of all names tell of it."""
        self._names.add(name)
        return name

    def service(
        self, name: str, *ids: str, version: str = "1.0", metadata: Mapping[str, str] = EMPTY, port: int = 8000
    ) -> Service:
        """A service with a node of each id, at ports that count up from ``port``."""
        nodes = [Node(f"127.0.0.1:{port + index}", id=id) for index, id in enumerate(ids)]
        return Service(name, version, metadata, nodes=nodes)

    async def client(self) -> Client:
        """One more client of the store, open."""
        self._clients += 1
        client = Client(self.harness.connect(), f"client {self._clients}", self.log)
        await client.open()
        self._stack.push_async_callback(client.leave)
        return client

    async def process(self, service: Service, ttl: float) -> ClientProcess:
        """A process that has registered this service once, and holds still until it is killed."""
        process = ClientProcess(self.harness.command or (), self.harness.url, service, ttl)
        self.log(f"a process registers {show(service)} for {ttl:g} s")
        return await self._stack.enter_async_context(process)

    async def watch(self, client: Registry, name: str | None = None) -> Listener:
        """An open watch whose Snapshot has been read."""
        listener = self.listener(client, name)
        await self._stack.enter_async_context(listener)
        await listener.start()
        return listener

    def listener(self, client: Registry, name: str | None = None) -> Listener:
        """A watch that is not open yet; use it with ``async with``, then ``await start()``."""
        self._watches += 1
        label = f"watch {self._watches} of {name or 'all names'}"
        return Listener(client.watch(name), label, self, self._names)

    # -- what a check expects ----------------------------------------------------------------------

    def fail(self, expected: str, seen: object) -> NoReturn:
        """End the check: the registry broke the sentence."""
        raise ConformanceError(self.explain(expected, seen))

    def expect(self, condition: bool, expected: str, seen: object) -> None:
        """Fail unless the condition holds."""
        if not condition:
            self.fail(expected, seen)

    def explain(self, expected: str, seen: object) -> str:
        """The text of a failure."""
        lines = [
            f"{self.check.id}: {self.check.sentence}",
            f"  expected: {printable(expected)}",
            f"  seen:     {show(seen)}",
            f"  registry: {self.harness.title} (seed {self.harness.seed})",
            "  what happened, in seconds:",
        ]
        if len(self._log) > _LOG:
            lines.append(f"    … {len(self._log) - _LOG} lines before")
        for moment, text, times in self._log[-_LOG:]:
            lines.append(f"    {moment:7.3f}  {text}" + (f"  ({times} times)" if times > 1 else ""))
        return "\n".join(lines)

    def log(self, text: str) -> None:
        """Add a line to the record that a failure shows; what is said again and again is said once."""
        line = printable(text)
        moment, before, times = self._log[-1] if self._log else (0.0, "", 0)
        if line == before:
            self._log[-1] = moment, line, times + 1
        else:
            self._log.append((self._loop.time() - self._began, line, 1))

    async def found(self, client: Registry, name: str) -> tuple[Service, ...]:
        """What ``get_service`` answers; nothing where it is ServiceNotFound."""
        try:
            return await client.get_service(name)
        except ServiceNotFound:
            return ()

    async def shows(self, client: Registry, name: str, *expected: Service, within: float | None = None) -> None:
        """Wait until ``get_service`` answers exactly this (nothing: ServiceNotFound), within the patience."""

        def wanted(answer: tuple[Service, ...]) -> bool:
            return answer == expected

        await self.until(
            partial(self.found, client, name),
            wanted,
            f"get_service({name!r}) answers {show(expected) or 'ServiceNotFound'}",
            within,
        )

    async def until(
        self, ask: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], expected: str, within: float | None = None
    ) -> T:
        """Ask again and again until the answer is the wanted one, within the patience."""
        seconds = self.harness.patience if within is None else within
        deadline = self._loop.time() + seconds
        pause = 0.002
        while True:
            answer = await ask()
            if wanted(answer):
                return answer
            if self._loop.time() > deadline:
                self.fail(f"{expected}, within {seconds:g} s", answer)
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 1.5)

    async def raises(self, kind: type[E], call: Callable[[], Awaitable[object]], what: str) -> E:
        """The error that this call must raise."""
        try:
            answer = await call()
        except kind as error:
            return error
        except Exception as error:
            self.fail(f"{what} raises {kind.__name__}", f"{type(error).__name__}: {error}")
        self.fail(f"{what} raises {kind.__name__}", f"it returned {show(answer)}")

    async def settle(self) -> None:
        """Wait until what has not been heard is not coming."""
        await asyncio.sleep(self.harness.settle)

    async def sleep_until(self, moment: float) -> None:
        """Sleep until ``loop.time()`` is at least this."""
        await asyncio.sleep(max(0.0, moment - self._loop.time()))

    def time(self) -> float:
        """``loop.time()``."""
        return self._loop.time()

    @property
    def virtual(self) -> bool:
        """Whether time is virtual, so that waiting for a long time costs nothing."""
        return isinstance(self._loop, VirtualLoop)

    async def close(self) -> None:
        """Withdraw what was registered and close everything; bounded in time."""
        bound = max(_CLEANUP, self.harness.patience)
        try:
            async with asyncio.timeout(bound):
                await self._stack.aclose()
        except TimeoutError:
            self.fail("the registry closes", f"close was not done after {bound:g} s")


class Client(Layer):
    """A client of the store that writes down every call."""

    def __init__(self, inner: Registry, label: str, log: Callable[[str], None]) -> None:
        super().__init__(inner, inner.url, inner.options)
        self._label = label
        self._log = log
        self._written: dict[tuple[str, str], Service] = {}

    async def register(self, service: Service, *, ttl: float = _LONG) -> None:
        """See :meth:`Registry.register`; for longer than a check may take, where none says otherwise."""
        self._written |= {(record.name, record.nodes[0].id): record for record in service.records()}
        await self._told(f"register {show(service)} for {ttl:g} s", self.inner.register(service, ttl=ttl))

    async def deregister(self, service: Service) -> None:
        """See :meth:`Registry.deregister`."""
        await self._told(f"deregister {show(service)}", self.inner.deregister(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """See :meth:`Registry.get_service`."""
        return await self._told(f"get_service {name}", self.inner.get_service(name))

    async def list_services(self) -> tuple[str, ...]:
        """See :meth:`Registry.list_services`."""
        return await self._told("list_services", self.inner.list_services())

    async def leave(self) -> None:
        """Withdraw everything that was registered here, as far as possible, and close."""
        try:
            async with asyncio.timeout(_CLEANUP / 2), asyncio.TaskGroup() as group:
                for record in self._written.values():
                    group.create_task(self.inner.deregister(record))
        except* (RegistryError, TimeoutError):
            pass
        await self.inner.close()

    async def _told(self, what: str, call: Awaitable[T]) -> T:
        try:
            answer = await call
        except BaseException as error:
            self._log(f"{self._label}: {what} → {type(error).__name__}: {error}")
            if isinstance(error, Exception | asyncio.CancelledError | KeyboardInterrupt):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}, which ends a whole program") from error
        self._log(f"{self._label}: {what}" + ("" if answer is None else f" → {show(answer)}"))
        return answer
