"""Hours of bad weather: announcements, watches and catalogs over a store and lines on which everything goes wrong.

Each example is 10,000 simulated seconds and follows from its numbers and its ``seed``, which a failure prints.
``MICROREG_SIMULATION=500`` in the environment plays 500 examples instead of the few of every day.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from typing import NoReturn, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import microreg
from microreg.announce.announcement import Announcement, State
from microreg.announce.writer import BACKOFF_CAP, Writer
from microreg.backends.memory import MemoryStore
from microreg.checked import Checked
from microreg.errors import RegistryError, ServiceNotFound
from microreg.events import Change, Reason, Snapshot
from microreg.model import Node, Service, Status, merge
from microreg.testing import Harness
from microreg.testing.faulty import FaultyMemory
from microreg.testing.line import Line
from microreg.testing.listener import Listener
from microreg.testing.virtual import VirtualLoop
from microreg.url import Options, RegistryURL
from microreg.watch import Watch

T = TypeVar("T")

EXAMPLES = int(os.environ.get("MICROREG_SIMULATION", "0")) or 3
SECONDS = 10_000.0
TIMEOUT = 5.0
LATE = 4.0
"""A line delays by so much, and by so much more at random; what comes twice comes the second time later still."""
TTLS = (15.0, 45.0, 90.0)
CALM = 4 * LATE + max(BACKOFF_CAP, max(TTLS) / 3 * 1.1) + 2 * TIMEOUT + 1
"""After the last late write: one back-off at most or one renewal, one call that hangs, and a bit."""
NAMES = ("alpha", "beta")
LINES = 3

lines = st.integers(0, LINES - 1)
ports = st.integers(1, 3)


class Client:
    """A client with a line of its own."""

    def __init__(self, rng: random.Random) -> None:
        self.line = Line(rng)
        self.memory = FaultyMemory(RegistryURL.parse("memory://sim"), Options(), self.line)
        self.registry = Checked(self.memory)


class Judge:
    """What a Listener needs to complain."""

    harness = Harness("memory://sim", patience=1.0)

    def log(self, text: str) -> None:
        """Nothing: hypothesis prints how it came to that."""

    def fail(self, expected: str, seen: object) -> NoReturn:
        raise AssertionError(f"expected {expected}\nseen {seen!r}")


class Announced:
    """An announcement, the client it writes through, and when it left."""

    def __init__(self, client: Client, announcement: Announcement) -> None:
        self.client = client
        self.announcement = announcement
        self.key = announcement.service.name, announcement.node.id
        self.left: float | None = None

    @property
    def withdrawn(self) -> bool:
        """Whether the store has applied its deregister."""
        return self.key in vars(self.client.memory)["_fences"]


class World:
    """The store, its clients, who is announced, and who watches; in virtual time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(max_seconds=10 * SECONDS))
        self.clients = [Client(random.Random(self.rng.random())) for _ in range(LINES)]
        self.announced: list[Announced] = []
        self.listeners: list[Listener] = []
        self.sound = True
        for client in self.clients:
            self.run(client.registry.open())

    def run(self, main: Coroutine[object, object, T]) -> T:
        return self.runner.run(main)

    def now(self) -> float:
        return self.runner.get_loop().time()

    @property
    def store(self) -> MemoryStore:
        return self.clients[0].memory.store

    @property
    def staying(self) -> list[Announced]:
        return [each for each in self.announced if each.left is None]

    def sleep(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # -- who is there ------------------------------------------------------------------------------

    def announce(self, line: int, name: str, port: int, ttl: float) -> None:
        client = self.clients[line]
        service = Service(name, "1", nodes=[Node(f"10.0.0.1:{port}", id=f"a{len(self.announced)}")])
        rng = random.Random(self.rng.random())
        announcement = microreg.announce(client.registry, service, ttl=ttl, rng=rng)
        self.announced.append(Announced(client, announcement))
        self.run(announcement.__aenter__())

    def leave(self, who: Announced) -> None:
        began, line = self.now(), who.client.line
        fair = not (self.store.down or line.cut or line.delay or line.jitter)
        self.run(who.announcement.__aexit__(None, None, None))
        who.left = self.now()
        assert who.left - began < 7, f"leaving took {who.left - began:.1f} s"
        assert who.announcement.state is State.GONE
        assert who.withdrawn or not fair, f"{who.key} left in fair weather without a deregister"

    def write(self, line: int, name: str, number: int, port: int) -> None:
        """A program without announce(): it writes once, or withdraws (port 0), and shrugs at errors."""
        client = self.clients[line].registry
        service = Service(name, "2", nodes=[Node(f"10.0.0.2:{port or 1}", id=f"w{number}")])

        async def main() -> None:
            try:
                await (client.register(service, ttl=30) if port else client.deregister(service))
            except RegistryError:
                pass

        self.run(main())

    def watch(self, line: int, name: str | None) -> None:
        async def main() -> None:
            watch = self.clients[line].registry.watch(name)
            self.listeners.append(Listener(watch, f"watch {len(self.listeners)}", Judge(), NAMES))
            await watch.__aenter__()

        self.run(main())

    def read(self, listener: Listener) -> None:
        """Take everything there is. Each event must fit to what was told before."""

        async def main() -> None:
            if not vars(listener.watch)["_backlog"].told:
                if listener.watch.state != "live":
                    return
                await listener.start(0.0)
            while await listener.next(0.0) is not None:
                pass
            del listener.changes[:]

        self.run(main())

    # -- the weather -------------------------------------------------------------------------------

    def weather(self) -> None:
        """Any change of the weather."""
        client = self.rng.choice(self.clients)
        line = client.line
        changes: list[Callable[[], object]] = [
            lambda: setattr(line, "cut", not line.cut),
            lambda: setattr(line, "delay", self.rng.choice((0.0, 0.1, LATE))),
            lambda: setattr(line, "jitter", self.rng.choice((0.0, LATE))),
            lambda: setattr(line, "duplicates", not line.duplicates),
            lambda: setattr(self.store, "down", not self.store.down),
            self.store.wipe,
            self.clear,
        ]
        self.rng.choice(changes)()

    def clear(self) -> None:
        """Fair weather."""
        self.store.down = False
        for client in self.clients:
            client.line.delay = client.line.jitter = 0.0
            client.line.cut = client.line.duplicates = False

    # -- what must hold ----------------------------------------------------------------------------

    def no_zombies(self) -> None:
        """At any time: what the store has withdrawn stays away, and the rest goes with its ttl."""
        for who in self.announced:
            if who.left is not None and self.store.catalog.get(*who.key) is not None:
                assert not who.withdrawn, f"{who.key} is back after its deregister"
                age = self.now() - who.left
                assert age < who.announcement.ttl + 4 * LATE, f"{who.key} is still there, {age:.1f} s after it left"

    def calm(self) -> None:
        """In fair weather, after a while: every promise."""
        self.sound = False
        self.clear()
        self.sleep(CALM)
        self.no_zombies()
        for who in self.staying:
            announcement = who.announcement
            assert announcement.state is State.LIVE, f"{who.key} is {announcement.state}: {announcement.error}"
            assert self.store.catalog.get(*who.key) == announcement.service
        for listener in self.listeners:
            assert listener.watch.state == "live", f"{listener.watch.name}: {listener.watch.error!r}"
        for _ in range(5):
            if self.lawful():
                self.sound = True
                return
            self.sleep(0.3)
        raise AssertionError("a watch does not fold into what get_service says")

    def lawful(self) -> bool:
        """Whether every watch folds into what every client finds. A record that expires meanwhile may be in between."""
        found = [self.run(self.found(client)) for client in self.clients]
        for listener in self.listeners:
            self.read(listener)
        after = [self.run(self.found(client)) for client in self.clients]
        told = [merge(listener.catalog.records()) for listener in self.listeners]
        wanted = [
            tuple(each for each in found[0] if listener.watch.name in (None, each.name)) for listener in self.listeners
        ]
        return found == after and found.count(found[0]) == len(found) and told == wanted

    async def found(self, client: Client) -> tuple[Service, ...]:
        services: list[Service] = []
        for name in await client.registry.list_services():
            try:
                services += await client.registry.get_service(name)
            except ServiceNotFound:
                continue
        ids = [(each.name, node.id) for each in services for node in each.nodes]
        assert len(ids) == len(set(ids)), f"a node is there twice: {ids}"
        return tuple(services)

    # -- the end -----------------------------------------------------------------------------------

    def rest_of_the_day(self) -> None:
        """Whatever comes, until the time is over; then calm."""
        while self.now() < SECONDS - CALM:
            self.weather()
            self.sleep(min(self.rng.choice((0.5, 20.0, 300.0, 1000.0)), SECONDS - self.now()))
            self.no_zombies()
        self.calm()

    def close(self) -> None:
        self.clear()

        async def main() -> None:
            for who in self.staying:
                await who.announcement.__aexit__(None, None, None)
            for listener in self.listeners:
                await listener.watch.close()
            for client in self.clients:
                await client.registry.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        try:
            self.run(main())
        finally:
            self.runner.close()


class Simulation(RuleBasedStateMachine):
    """Bad weather by rules, so that a failure shrinks to the few steps that it takes."""

    world: World | None = None

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.announce(0, "alpha", 1, TTLS[1])
        self.world.watch(1, None)
        self.world.watch(2, "alpha")

    @property
    def there(self) -> World:
        assert self.world is not None
        return self.world

    @precondition(lambda self: len(self.there.staying) < 3)
    @rule(line=lines, name=st.sampled_from(NAMES), port=ports, ttl=st.sampled_from(TTLS))
    def announce(self, line: int, name: str, port: int, ttl: float) -> None:
        self.there.announce(line, name, port, ttl)

    @precondition(lambda self: self.there.staying)
    @rule(who=st.integers(0, 2), status=st.sampled_from(Status), port=ports)
    def update(self, who: int, status: Status, port: int) -> None:
        staying = self.there.staying
        announcement = staying[who % len(staying)].announcement
        self.there.run(announcement.update(status=status, address=f"10.0.0.1:{port}"))

    @precondition(lambda self: self.there.staying)
    @rule(who=st.integers(0, 2))
    def leave(self, who: int) -> None:
        self.there.leave(self.there.staying[who % len(self.there.staying)])

    @rule(line=lines, name=st.sampled_from(NAMES), number=st.integers(0, 1), port=st.integers(0, 2))
    def write(self, line: int, name: str, number: int, port: int) -> None:
        self.there.write(line, name, number, port)

    @precondition(lambda self: len(self.there.listeners) < 5)
    @rule(line=lines, name=st.sampled_from([None, *NAMES]))
    def watch(self, line: int, name: str | None) -> None:
        self.there.watch(line, name)

    @rule(number=st.integers(0, 4))
    def read(self, number: int) -> None:
        self.there.read(self.there.listeners[number % len(self.there.listeners)])

    @rule(line=lines, cut=st.booleans())
    def partition(self, line: int, cut: bool) -> None:
        self.there.clients[line].line.cut = cut

    @rule(line=lines, delay=st.sampled_from([0.0, 0.1, LATE]), jitter=st.sampled_from([0.0, LATE]), twice=st.booleans())
    def disorder(self, line: int, delay: float, jitter: float, twice: bool) -> None:
        there = self.there.clients[line].line
        there.delay, there.jitter, there.duplicates = delay, jitter, twice

    @rule(down=st.booleans(), wipe=st.booleans())
    def store(self, down: bool, wipe: bool) -> None:
        self.there.store.down = down
        if wipe:
            self.there.store.wipe()

    @rule(line=lines)
    def timed_out_and_applied_later(self, line: int) -> None:
        """A write that takes longer than anybody waits for it, just when its node leaves."""
        client = self.there.clients[line]
        staying = [each for each in self.there.staying if each.client is client]
        client.line.delay = TIMEOUT + 1
        self.there.sleep(7.0)
        client.line.delay = 0.0
        if staying:
            self.there.leave(staying[0])

    @rule(seconds=st.sampled_from([0.01, 1.0, 7.0, 40.0, 400.0]))
    def time(self, seconds: float) -> None:
        self.there.sleep(seconds)

    @rule()
    def calm(self) -> None:
        self.there.calm()

    @invariant()
    def no_zombies(self) -> None:
        if self.world is not None:
            self.world.no_zombies()

    def teardown(self) -> None:
        world, self.world = self.world, None
        if world is not None:
            try:
                if world.sound:
                    world.rest_of_the_day()
                    assert world.now() >= SECONDS
            finally:
                world.close()


TestSimulation = Simulation.TestCase
TestSimulation.settings = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 3,  # the same few every day; a long run looks for new ones
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # no explanation: it traces, and takes hours
)


def test_the_simulation_finds_a_store_that_forgets_its_fences() -> None:
    """The invariants are not asleep: without the fence a late write brings a node back."""

    def scene(fenced: bool) -> str:
        world = World(1)
        client = world.clients[0]
        if not fenced:
            vars(client.memory)["fenced"] = lambda key, number: False
        try:
            world.announce(0, "alpha", 1, 9.0)
            client.line.delay = TIMEOUT + 1
            world.sleep(7.0)
            client.line.delay = 0.0
            world.leave(world.announced[0])
            for _ in range(20):
                world.sleep(0.5)
                world.no_zombies()
        except AssertionError as error:
            return str(error)
        finally:
            world.close()
        return ""

    assert scene(fenced=True) == ""
    assert "is back after its deregister" in scene(fenced=False)


async def _forgets_to_compare(self: Watch, snapshot: Snapshot, _reason: Reason) -> None:
    for each in snapshot.records:
        if self.name in (None, each.name):
            vars(self)["_backlog"].note((each.name, each.nodes[0].id), each, None)
    vars(self).update(_synced=True, _live=True)
    vars(Watch)["_notify"](self)


def _gives_up(_self: Writer, failures: int) -> float:
    return 1.0 if failures < 5 else 86_400.0


async def _leaves_by_expiry(_self: Writer) -> bool:
    return True


@pytest.mark.parametrize(
    ("kind", "method", "sabotage", "text"),
    [
        (Watch, "_reconcile", _forgets_to_compare, "does not fold into"),
        (Writer, "_backoff", _gives_up, "is lost: "),
        (Writer, "_deregister", _leaves_by_expiry, "without a deregister"),
    ],
)
def test_the_simulation_finds(
    kind: type, method: str, sabotage: object, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that has gaps; an announcement that gives up, or does not sign off."""
    monkeypatch.setattr(kind, method, sabotage)
    world = World(1)
    world.announce(0, "alpha", 1, 15.0)
    world.write(1, "alpha", 0, 1)
    world.watch(2, None)
    world.sleep(1.0)
    world.store.wipe()
    world.store.down = True
    world.sleep(300.0)
    with pytest.raises(AssertionError, match=text):
        world.calm()
        world.leave(world.announced[0])
    world.close()


def test_the_same_numbers_make_the_same_day() -> None:
    def day() -> list[tuple[float, object]]:
        world = World(7)
        heard: list[tuple[float, object]] = []
        for name in NAMES:
            world.announce(0, name, 1, 15.0)
        world.watch(1, None)
        for who in world.announced:
            world.store.catalog.subscribe(who.key[0], lambda change: heard.append(_told(world, change)))
        for _ in range(60):
            world.weather()
            world.sleep(13.0)
            heard += [(world.now(), listener.watch.state) for listener in world.listeners]
            heard += [(world.now(), len(who.announcement.history)) for who in world.announced]
        world.close()
        return heard

    assert day() == day()


def _told(world: World, change: Change) -> tuple[float, object]:
    return world.now(), (change.action, change.node.id)
