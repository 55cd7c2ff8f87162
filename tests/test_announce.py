"""announce(): live at once, healed for ever, drained at the end. An hour of it takes milliseconds."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microreg
import support
from microreg import net, plugins
from microreg.announcement import Announcement, State
from microreg.backends.memory import MemoryRegistry
from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RecordTooLarge,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.events import Action, Change, Reason
from microreg.hookspecs import hookimpl
from microreg.model import Endpoint, Node, Service, Status
from microreg.net import Advertised
from microreg.options import Options
from microreg.registry import Checked, Registry
from microreg.testing.virtual import VirtualLoop
from microreg.url import RegistryURL

T = TypeVar("T")
Fault = Callable[[str, Service], Awaitable[None]]


def run(main: Coroutine[object, object, T]) -> T:
    return support.run(main, timeout=None, loop_factory=VirtualLoop)


class Store(MemoryRegistry):
    """A memory registry that notes its calls and does what a test has in mind before it obeys."""

    def __init__(self) -> None:
        super().__init__(RegistryURL.parse("memory://"), Options())
        self.calls: list[tuple[float, str, Service]] = []
        self.fault: Fault | None = None
        self.host: str | None = "127.0.0.1"

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        await self._note("register", service)
        await super().register(service, ttl=ttl)

    async def deregister(self, service: Service) -> None:
        await self._note("deregister", service)
        await super().deregister(service)

    async def _note(self, verb: str, service: Service) -> None:
        self.calls.append((now(), verb, service))
        if self.fault is not None:
            await self.fault(verb, service)

    def advertised_host(self) -> str | None:
        return self.host

    def node(self) -> Node | None:
        records = list(self.store.catalog.records("greeter"))
        return records[0].nodes[0] if records else None

    def times(self, verb: str = "register") -> list[float]:
        return [time for time, what, _ in self.calls if what == verb]


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[Checked, Store]]:
    store = Store()
    async with Checked(store) as registry:
        yield registry, store


def greeter(registry: Registry, **more: object) -> Announcement:
    arguments: dict[str, object] = {"port": 8080, "id": "n1", "rng": random.Random(7)}
    return microreg.announce(registry, "greeter", **(arguments | more))  # type: ignore[arg-type]


def fails(error: Exception, *verbs: str) -> Fault:
    async def fault(verb: str, _: Service) -> None:
        if not verbs or verb in verbs:
            raise error

    return fault


async def hangs(_verb: str, _service: Service) -> None:
    await asyncio.sleep(1e6)


@asynccontextmanager
async def watched(registry: Registry) -> AsyncGenerator[list[tuple[float, Change]]]:
    """What a watcher of the name hears after its Snapshot, and when."""
    seen: list[tuple[float, Change]] = []
    ready = asyncio.Event()

    async def follow() -> None:
        async with registry.watch("greeter") as events:
            async for event in events:
                ready.set()
                if isinstance(event, Change):
                    seen.append((now(), event))

    task = asyncio.create_task(follow())
    await ready.wait()
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


def told(seen: list[tuple[float, Change]]) -> list[tuple[Action, Status, Reason | None]]:
    return [(change.action, change.node.status, change.reason) for _, change in seen]


def state(announcement: Announcement) -> State:
    return announcement.state  # a call, so that a type checker expects another answer next time


def states(announcement: Announcement) -> list[State]:
    return [transition.state for transition in announcement.history]


# -- the good days -----------------------------------------------------------------------------------


def test_live_at_once_renewed_and_gone_at_the_end() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, ttl=15) as announcement:
                assert state(announcement) is State.LIVE and now() == 0
                assert store.node() == announcement.node == Node("127.0.0.1:8080", id="n1")
                await asyncio.sleep(3600)
                assert state(announcement) is State.LIVE and store.node() is not None
                gaps = [after - before for before, after in pairwise(store.times())]
                assert 650 < len(gaps) < 800
                assert 4.5 <= min(gaps) < 4.6 and 5.4 < max(gaps) <= 5.5, "ttl/3 +- 10 %, all of it used"
            assert state(announcement) is State.GONE and announcement.error is None and store.node() is None
            assert states(announcement) == [State.LIVE, State.DRAINING, State.GONE]

    run(main())


def test_a_renewal_is_no_event_and_changes_are_published_at_once() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement, watched(registry) as seen:
            await asyncio.sleep(60)
            assert seen == []
            start = now()
            await announcement.update(status=Status.WARNING)
            await announcement.update(metadata={"zone": "b"})
            await announcement.update(address="127.0.0.2:9090")
            await announcement.update(version="2.0.0")
            await announcement.update(endpoints=[Endpoint("hello")])
            await asyncio.sleep(0.001)
            assert now() - start < 0.01
            wanted = Service(
                "greeter",
                "2.0.0",
                endpoints=[Endpoint("hello")],
                nodes=[Node("127.0.0.2:9090", id="n1", metadata={"zone": "b"}, status=Status.WARNING)],
            )
            assert seen[-1][1].service == wanted == announcement.service
            assert list(store.store.catalog.records()) == [wanted]
            await announcement.update()
            assert store.calls[-1][2] == wanted

    run(main())


def test_several_updates_at_once_all_hold() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            await asyncio.gather(
                announcement.update(status=Status.WARNING),
                announcement.update(metadata={"zone": "b"}),
                announcement.update(version="2"),
            )
            assert store.node() == Node("127.0.0.1:8080", id="n1", metadata={"zone": "b"}, status=Status.WARNING)
            assert len(store.calls) == 2, "one write for all three"

    run(main())


def test_an_update_during_a_write_is_written_by_the_next() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry, drain_delay=0) as announcement:

            async def slow(verb: str, service: Service) -> None:
                await asyncio.sleep(1)

            store.fault = slow
            first = asyncio.create_task(announcement.update(version="1"))
            await asyncio.sleep(0.5)
            await announcement.update(version="2")
            assert first.done() and now() == 2
            assert [record.version for _, _, record in store.calls] == ["", "1", "2"]

    run(main())


def test_an_update_before_the_beginning_is_in_the_first_record() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            announcement = greeter(registry)
            await announcement.update(version="2", status=Status.STARTING)
            async with announcement:
                assert [record.version for _, _, record in store.calls] == ["2"]
                node = store.node()
                assert node is not None and node.status is Status.STARTING

    run(main())


# -- the bad days ------------------------------------------------------------------------------------


def test_an_hour_of_outage_ends_within_one_back_off_and_is_no_hot_loop() -> None:
    async def main(seed: int) -> None:
        async with opened() as (registry, store), greeter(registry, rng=random.Random(seed)) as announcement:
            await asyncio.sleep(10)
            store.store.down, begin = True, now()
            await asyncio.sleep(3600)
            assert state(announcement) is State.LOST and isinstance(announcement.error, RegistryUnavailable)
            assert store.node() is None, "it has expired"
            attempts = [time for time in store.times() if time > begin]
            gaps = [after - before for before, after in pairwise(attempts)]
            assert 150 < len(attempts) < 400, "full jitter below 30 s: about every 15 s"
            assert min(gaps) >= 0.05 - 1e-9 and max(gaps) <= 30 and max(gaps[:3]) < 8
            store.store.down = False
            await announcement.wait_live(timeout=30.1)
            assert store.node() is not None
            assert states(announcement) == [State.LIVE, State.LOST, State.LIVE]

    for seed in range(5):
        run(main(seed))


def test_a_wiped_store_gets_the_record_back_with_the_next_renewal() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            await asyncio.sleep(16)
            store.store.wipe()
            assert store.node() is None
            await asyncio.sleep(5.5)
            assert store.node() == announcement.node and states(announcement) == [State.LIVE]

    run(main())


def test_a_store_that_is_down_at_the_start_is_no_error() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.store.down = True
            async with greeter(registry) as announcement:
                assert now() <= 1 and state(announcement) is State.REGISTERING
                assert isinstance(announcement.error, RegistryUnavailable)
                with pytest.raises(RegistryUnavailable, match="'greeter' is registering, not live: the memory store"):
                    await announcement.wait_live(timeout=20)
                assert now() <= 21
                store.store.down = False
                await announcement.wait_live(timeout=30)
                assert store.node() is not None
            assert states(announcement) == [State.REGISTERING, State.LIVE, State.DRAINING, State.GONE]

    run(main())


def test_a_store_that_does_not_answer_lets_the_program_start_after_a_second() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.fault = hangs
            async with greeter(registry) as announcement:
                assert now() == 1 and state(announcement) is State.REGISTERING and announcement.error is None
                store.fault = None
                await announcement.wait_live()
                assert now() < 8

    run(main())


def test_refused_credentials_are_retried_and_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.fault = fails(PermissionDenied("the token was refused"))
            async with greeter(registry) as announcement:
                assert state(announcement) is State.REGISTERING and isinstance(announcement.error, PermissionDenied)
                store.fault = fails(RegistryUnavailable("away"))
                await asyncio.sleep(31)
                store.fault = None
                await announcement.wait_live(timeout=30)
                kinds = [(transition.state, type(transition.error)) for transition in announcement.history]
                assert kinds == [
                    (State.REGISTERING, PermissionDenied),
                    (State.REGISTERING, RegistryUnavailable),
                    (State.LIVE, type(None)),
                ]

    with caplog.at_level(logging.WARNING, "microreg"):
        run(main())
    assert [record.__dict__["error"] for record in caplog.records] == ["the token was refused", "away"]


@pytest.mark.parametrize("error", [KeyError("bug in a backend"), asyncio.CancelledError(), TimeoutError("x")])
def test_whatever_a_registry_raises_the_writer_outlives_it(error: Exception) -> None:
    class Bare(Store):
        """Not inside Checked, so that nothing translates its errors."""

    async def main() -> None:
        async with Bare() as store:
            store.fault = fails(error)
            async with greeter(store) as announcement:
                assert state(announcement) is State.REGISTERING and isinstance(announcement.error, RegistryError)
                store.fault = None
                await announcement.wait_live(timeout=5)
                store.fault = fails(error, "register")
            assert store.node() is None

    run(main())


def test_the_history_is_bounded() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            for _ in range(100):
                store.store.down = True
                await announcement.update()
                store.store.down = False
                await announcement.update()
            assert len(announcement.history) == 64 and announcement.history[-1].state is State.LIVE
            assert len(store.calls) == 201

    run(main())


# -- changes that cannot be published ------------------------------------------------------------------


def test_an_update_while_the_store_is_down_is_published_later() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            store.store.down = True
            await announcement.update(metadata={"zone": "b"})
            assert state(announcement) is State.LOST and announcement.node.metadata == {"zone": "b"}
            store.store.down = False
            await asyncio.sleep(5)
            assert store.node() == announcement.node == Node("127.0.0.1:8080", id="n1", metadata={"zone": "b"})

    run(main())


@pytest.mark.parametrize(
    "change",
    [
        {"address": "nonsense"},
        {"address": "0.0.0.0:80"},
        {"metadata": {"a key": "x"}},
        {"metadata": 5},
        {"metadata": {"k": "x" * 2000}},
        {"version": "\ud800"},
        {"status": "up"},
        {"endpoints": ["hello"]},
        {"endpoints": 5},
    ],
)
def test_an_invalid_update_raises_and_changes_nothing(change: dict[str, object]) -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            before = announcement.service
            with pytest.raises(InvalidService):
                await announcement.update(**change)  # type: ignore[arg-type]
            await asyncio.sleep(20)
            assert announcement.service == before == store.calls[-1][2]
            assert states(announcement) == [State.LIVE]

    run(main())


async def too_large(verb: str, service: Service) -> None:
    if len(service.nodes[0].metadata.get("big", "")) > 10:
        raise RecordTooLarge("too large for this store", size=900, limit=800)


def test_a_record_that_only_the_store_refuses_is_taken_back() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement, watched(registry) as seen:
            store.fault = too_large
            await announcement.update(metadata={"zone": "b"})
            with pytest.raises(RecordTooLarge):
                await announcement.update(metadata={"big": "x" * 20})
            assert announcement.node.metadata == {"zone": "b"}
            await asyncio.sleep(1)
            assert state(announcement) is State.LIVE and announcement.error is None
            assert State.LOST not in states(announcement), "the store holds the record all the time"
            await announcement.update(metadata={"big": "small"})
            await asyncio.sleep(60)
            assert store.node() == announcement.node == Node("127.0.0.1:8080", id="n1", metadata={"big": "small"})
            assert Action.DELETE not in [change.action for _, change in seen]

    run(main())


def test_a_refused_record_takes_back_what_was_built_on_it_and_tells_everybody() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            store.fault = too_large
            answers = await asyncio.gather(
                announcement.update(metadata={"big": "x" * 20}),
                announcement.update(version="2"),
                return_exceptions=True,
            )
            assert [type(answer) for answer in answers] == [RecordTooLarge, RecordTooLarge]
            await asyncio.sleep(60)
            assert state(announcement) is State.LIVE and announcement.service.version == ""
            await announcement.update(version="2")
            assert store.calls[-1][2].version == "2"

    run(main())


def test_an_update_that_fails_later_does_not_cost_the_registration() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            store.store.down = True
            await announcement.update(metadata={"big": "x" * 20})
            store.fault, store.store.down = too_large, False
            await asyncio.sleep(10)
            assert state(announcement) is State.LIVE and announcement.node.metadata == {}
            assert any(isinstance(transition.error, RecordTooLarge) for transition in announcement.history)

    run(main())


def test_leaving_right_after_a_refused_update_still_deregisters() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                store.fault = too_large
                with suppress(RecordTooLarge):
                    await announcement.update(metadata={"big": "x" * 20})
            assert store.node() is None and store.calls[-1][1] == "deregister"

    run(main())


# -- what can never succeed ----------------------------------------------------------------------------


def test_hopeless_errors_at_the_beginning_are_raised_and_leave_nothing() -> None:
    async def main() -> None:
        async with microreg.connect("static://greeter=10.0.0.1:80") as fixed:
            announcement = greeter(fixed)
            with pytest.raises(Unsupported, match="static"):
                async with announcement:
                    raise AssertionError("entered")
            assert state(announcement) is State.GONE
            await announcement.drain()
        async with opened() as (registry, store):
            store.fault = fails(InvalidService("this store knows no such names"))
            with pytest.raises(InvalidService, match="knows no such"):
                await greeter(registry).__aenter__()
            store.fault = None
            async with greeter(registry):
                assert store.node() is not None
        assert now() < 1

    run(main())


def test_a_registry_that_is_not_open_is_refused() -> None:
    async def main() -> None:
        registry = Checked(Store())
        with pytest.raises(RegistryClosed, match="not open yet"):
            async with greeter(registry):
                raise AssertionError("entered")
        async with registry:
            pass
        with pytest.raises(RegistryClosed, match="was closed"):
            async with greeter(registry):
                raise AssertionError("entered")

    run(main())


def test_a_registry_that_closes_first_ends_the_announcement_quietly() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            registry, store = await stack.enter_async_context(opened())
            async with greeter(registry) as announcement:
                await registry.close()
                await asyncio.sleep(20)
                assert state(announcement) is State.LOST and isinstance(announcement.error, RegistryClosed)
                assert len(store.calls) == 1, "the writer has given up"
                with pytest.raises(RegistryClosed, match="cannot change any more"):
                    await announcement.update(version="2")
                with pytest.raises(RegistryUnavailable, match="lost"):
                    await announcement.wait_live()
                begin = now()
            assert state(announcement) is State.GONE and now() == begin

    run(main())


def test_the_same_node_twice_is_an_error_until_the_first_is_gone() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, id="one"):
                second = greeter(registry, id="one", port=9090)
                with pytest.raises(InvalidService, match="'one' of service 'greeter' is announced twice"):
                    await second.__aenter__()
                assert [record.nodes[0].port for _, _, record in store.calls] == [8080]
                async with microreg.announce(registry, "other", port=8081, id="one"), greeter(registry, id="two"):
                    pass
            async with second:
                node = store.node()
                assert node is not None and node.port == 9090

    run(main())


def test_an_announcement_serves_once() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            announcement = greeter(registry)
            await announcement.drain()
            with pytest.raises(RegistryClosed, match="has not begun"):
                await announcement.wait_live()
            async with announcement:
                with pytest.raises(RegistryClosed, match="used before"):
                    await announcement.__aenter__()
                assert state(announcement) is State.LIVE
            with pytest.raises(RegistryClosed, match="used before"):
                await announcement.__aenter__()
            with pytest.raises(RegistryClosed, match="is gone and cannot change"):
                await announcement.update(status=Status.WARNING)
            with pytest.raises(RegistryUnavailable, match="is gone"):
                await announcement.wait_live()

    run(main())


# -- the check -----------------------------------------------------------------------------------------


def test_a_failing_check_makes_the_node_critical_and_back() -> None:
    answers: list[object] = [True, False, ValueError("broken"), None]

    def check() -> bool | None:
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bool | None)
        return answer

    async def main() -> None:
        async with opened() as (registry, store), greeter(registry, check=check) as announcement:
            for expected in (Status.PASSING, Status.CRITICAL, Status.CRITICAL, Status.PASSING):
                await asyncio.sleep(6)
                node = store.node()
                assert node is not None and node.status is expected is announcement.node.status
                assert state(announcement) is State.LIVE
                answers.pop(0)
                answers.append(None)

    run(main())


def test_a_check_that_fails_at_once_is_never_seen_as_passing() -> None:
    async def main() -> None:
        async with opened() as (registry, _), watched(registry) as seen:
            async with greeter(registry, check=lambda: False) as announcement:
                await announcement.update(status=Status.WARNING)
                await asyncio.sleep(10)
            assert {status for _, status, _ in told(seen)} == {Status.CRITICAL}

    run(main())


def test_a_check_that_hangs_withholds_the_renewal_until_it_answers() -> None:
    healthy = asyncio.Event()
    asked: list[float] = []

    async def check() -> None:
        asked.append(now())
        await healthy.wait()

    async def main() -> None:
        healthy.set()
        async with opened() as (registry, store), watched(registry) as seen, greeter(registry, check=check) as it:
            await asyncio.sleep(20)
            healthy.clear()
            await asyncio.sleep(30)
            assert state(it) is State.LOST and "renewal is withheld" in str(it.error) and store.node() is None
            assert [reason for _, _, reason in told(seen)] == [None, Reason.EXPIRED]
            assert len(asked) < 15, "it is not asked more often than before"
            healthy.set()
            await it.wait_live(timeout=11)
            assert store.node() == it.node
            assert states(it) == [State.LIVE, State.LOST, State.LIVE]

    run(main())


def test_a_check_that_hangs_from_the_start_registers_nothing() -> None:
    async def main() -> None:
        async with opened() as (registry, store):

            async def check() -> None:
                await asyncio.sleep(1e6)

            async with greeter(registry, check=check) as announcement:
                assert now() == 1 and state(announcement) is State.REGISTERING
                await asyncio.sleep(60)
                assert state(announcement) is State.REGISTERING and store.calls == []
                begin = now()
            assert [verb for _, verb, _ in store.calls] == ["deregister"] and now() - begin < 0.1

    run(main())


def test_a_check_that_is_cancelled_from_inside_is_a_failed_check() -> None:
    async def main() -> None:
        async with opened() as (registry, _):

            async def check() -> None:
                inner = asyncio.create_task(asyncio.sleep(10))
                inner.cancel()
                await inner

            async with greeter(registry, check=check) as announcement:
                await asyncio.sleep(60)
                assert state(announcement) is State.LIVE and announcement.node.status is Status.CRITICAL

    run(main())


def test_an_update_and_a_back_off_do_not_ask_the_check_more_often() -> None:
    asked: list[float] = []

    async def main() -> None:
        def check() -> None:
            asked.append(now())

        async with opened() as (registry, store), greeter(registry, check=check) as announcement:
            for _ in range(50):
                await announcement.update()
            assert len(asked) == 1 and len(store.calls) == 51
            await asyncio.sleep(60)
            assert 11 <= len(asked) <= 15

    run(main())


def test_a_check_that_ignores_its_cancellation_delays_the_end_by_a_second_only() -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def stubborn() -> None:
            while not over.is_set():
                with suppress(asyncio.CancelledError):
                    await over.wait()

        async with opened() as (registry, store):
            async with greeter(registry, check=stubborn):
                begin = now()
            assert now() - begin < 5 and store.node() is None
            over.set()

    run(main())


# -- leaving -------------------------------------------------------------------------------------------


def test_a_watcher_has_time_to_hear_that_the_node_goes() -> None:
    async def main() -> None:
        async with opened() as (registry, _), watched(registry) as seen:
            async with greeter(registry, drain_delay=2) as announcement:
                await asyncio.sleep(1)
                begin = now()
            assert now() - begin == pytest.approx(2)
            assert told(seen)[0] == (Action.CREATE, Status.PASSING, None)
            assert seen[-1][1].reason is Reason.DEREGISTERED
            assert seen[-1][0] < begin + 0.1
            assert state(announcement) is State.GONE

    run(main())


def test_a_watcher_of_a_store_that_takes_its_time_sees_every_step() -> None:
    async def main() -> None:
        async with opened() as (registry, store), watched(registry) as seen:

            async def slow(verb: str, service: Service) -> None:
                await asyncio.sleep(0.01)

            store.fault = slow
            async with greeter(registry):
                pass
            assert told(seen) == [
                (Action.CREATE, Status.PASSING, None),
                (Action.UPDATE, Status.DRAINING, None),
                (Action.DELETE, Status.DRAINING, Reason.DEREGISTERED),
            ]

    run(main())


@pytest.mark.parametrize("drain_delay", [0, 0.5, 4])
@pytest.mark.parametrize("fault", [hangs, fails(RegistryUnavailable("away")), fails(PermissionDenied("no"))])
def test_leaving_takes_five_seconds_at_most(fault: Fault, drain_delay: float, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, drain_delay=drain_delay) as announcement:
                store.fault, begin = fault, now()
            assert 4.9 < now() - begin <= 5.01
            assert state(announcement) is State.GONE
            assert "deregister" in [verb for _, verb, _ in store.calls], "it was tried all the same"

    run(main())
    assert "left without deregistering" in caplog.text


def test_a_longer_drain_delay_leaves_time_to_deregister() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, drain_delay=30):
                store.fault = fails(RegistryUnavailable("away"))
                asyncio.get_running_loop().call_later(0.3, setattr, store, "fault", None)
                begin = now()
            assert store.node() is None and 30 < now() - begin <= 31

    run(main())


def test_leaving_deregisters_as_soon_as_the_store_is_back() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, rng=random.Random(1)):
                store.store.down, begin = True, now()
                asyncio.get_running_loop().call_later(1, setattr, store.store, "down", False)
            assert store.node() is None and now() - begin < 5

    run(main())


def test_a_write_that_hangs_does_not_keep_the_node_from_being_withdrawn() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                store.fault = hangs
                update = asyncio.create_task(announcement.update(version="2"))
                await asyncio.sleep(0.1)

                async def only_register_hangs(verb: str, service: Service) -> None:
                    if verb == "register":
                        await hangs(verb, service)

                store.fault = only_register_hangs
                begin = now()
            assert store.node() is None and now() - begin < 5
            await update
            assert [verb for _, verb, _ in store.calls].count("deregister") == 1

    run(main())


def test_an_unanswered_first_write_is_withdrawn_too() -> None:
    async def main() -> None:
        async with opened() as (registry, store):

            async def lost_answer(verb: str, service: Service) -> None:
                if verb == "register":
                    await MemoryRegistry.register(store, service)
                    raise RegistryUnavailable("the answer was lost")

            store.fault = lost_answer
            async with greeter(registry) as announcement:
                assert state(announcement) is State.REGISTERING and store.node() is not None
            assert store.node() is None

    run(main())


def test_draining_twice_is_draining_once() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                await asyncio.gather(announcement.drain(), announcement.drain())
                assert state(announcement) is State.GONE and now() == 0.5
                await announcement.drain()
                with pytest.raises(RegistryClosed, match="is gone and cannot change"):
                    await announcement.update(version="2")
            assert now() == 0.5
            assert [verb for _, verb, _ in store.calls] == ["register", "register", "deregister"]

    run(main())


def test_waiting_for_live_ends_when_draining_begins() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.store.down = True
            async with greeter(registry) as announcement:
                waiting = asyncio.create_task(announcement.wait_live())
                update = asyncio.create_task(announcement.update(version="2"))
                await asyncio.sleep(0)
            with pytest.raises(RegistryUnavailable):
                await waiting
            await update

    run(main())


def test_a_cancelled_body_is_still_drained_completely() -> None:
    async def main() -> None:
        async with opened() as (registry, store), watched(registry) as seen:

            async def body() -> None:
                async with greeter(registry):
                    await asyncio.sleep(1e5)

            task = asyncio.create_task(body())
            await asyncio.sleep(3)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and now() == pytest.approx(3.5) and store.node() is None
            assert told(seen)[-1][2] is Reason.DEREGISTERED

    run(main())


def test_a_second_cancellation_ends_the_leaving_at_once() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            announcement = greeter(registry)

            async def body() -> None:
                async with announcement:
                    store.fault = hangs
                    await asyncio.sleep(1e5)

            task = asyncio.create_task(body())
            await asyncio.sleep(3)
            task.cancel()
            await asyncio.sleep(1)
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and now() == pytest.approx(4)
            assert state(announcement) is State.GONE
            await support.wait_until(lambda: len(asyncio.all_tasks()) == 1, timeout=0.1)
            store.fault = None
            async with greeter(registry) as again:
                assert state(again) is State.LIVE, "the claim was given back"

    run(main())


def test_two_cancellations_before_the_leaving_has_begun() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            announcement = greeter(registry)

            async def body() -> None:
                async with announcement:
                    try:
                        await asyncio.sleep(1e5)
                    finally:
                        current = asyncio.current_task()
                        assert current is not None
                        current.cancel()

            task = asyncio.create_task(body())
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and now() == 1 and state(announcement) is State.GONE
            assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_first_cancellation_during_the_leaving_is_kept_for_its_end() -> None:
    async def main() -> None:
        async with opened() as (registry, store):

            async def body() -> None:
                async with greeter(registry, drain_delay=3):
                    pass

            task = asyncio.create_task(body())
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and now() == pytest.approx(3) and store.node() is None

    run(main())


def test_a_drain_that_is_given_up_goes_on_and_the_end_waits_for_it() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, drain_delay=2) as announcement:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await announcement.drain()
                assert state(announcement) is State.DRAINING
            assert state(announcement) is State.GONE and now() == 2 and store.node() is None

    run(main())


def test_a_cancelled_beginning_leaves_nothing_registered() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            applied = asyncio.Event()

            async def applied_but_unanswered(verb: str, service: Service) -> None:
                if verb == "register":
                    await MemoryRegistry.register(store, service)
                    applied.set()
                    await asyncio.sleep(1e6)

            store.fault = applied_but_unanswered
            announcement = greeter(registry)
            task = asyncio.create_task(announcement.__aenter__())
            await applied.wait()
            assert store.node() is not None
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and state(announcement) is State.GONE and store.node() is None
            assert len(asyncio.all_tasks()) == 1

    run(main())


def test_an_error_in_the_body_comes_through_after_the_drain() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            with pytest.raises(LookupError, match="mine"):
                async with greeter(registry):
                    raise LookupError("mine")
            assert store.node() is None

    run(main())


def test_a_loop_that_ends_takes_the_node_along() -> None:
    stores: list[Store] = []

    async def main() -> None:
        async with opened() as (registry, store):
            stores.append(store)
            task = asyncio.create_task(forever(registry), name="forever")
            await asyncio.sleep(1)
            assert store.node() is not None
            for other in asyncio.all_tasks() - {asyncio.current_task()}:
                other.cancel()
            await asyncio.wait([task])
            assert store.node() is None

    async def forever(registry: Registry) -> None:
        async with greeter(registry):
            await asyncio.sleep(1e5)

    run(main())
    assert len(stores) == 1


# -- one writer, in order --------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["update", "down", "up", "wipe", "hang", "answer", "refuse", "cancel"]),
        st.floats(0, 8),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_nothing_is_published_after_deregister_and_the_newest_wins(steps: list[tuple[str, float]], seed: int) -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            updates: list[asyncio.Task[None]] = []
            announcement = greeter(registry, rng=random.Random(seed))
            async with announcement:
                for number, (step, pause) in enumerate(steps):
                    await turn(step, number, announcement, store, updates)
                    await asyncio.sleep(pause)
                begin = now()
            assert now() - begin <= 5.01 and state(announcement) is State.GONE
            written = [(verb, record) for _, verb, record in store.calls]
            last = written[-1][0]
            assert last == "deregister" or "deregister" not in [verb for verb, _ in written]
            assert "register" not in [verb for verb, _ in written[first_removal(written) :]]
            versions = [int(record.version or -1) for verb, record in written if verb == "register"]
            assert versions == sorted(versions), "nothing older is written after something newer"
            before = len(store.calls)
            store.fault, store.store.down = None, False
            await asyncio.sleep(100)
            assert len(store.calls) == before and store.node() is None
            await asyncio.gather(*updates, return_exceptions=True)

    run(main())


def first_removal(written: list[tuple[str, Service]]) -> int:
    return next((index for index, (verb, _) in enumerate(written) if verb == "deregister"), len(written))


async def turn(
    step: str, number: int, announcement: Announcement, store: Store, updates: list[asyncio.Task[None]]
) -> None:
    match step:
        case "update":
            updates.append(asyncio.create_task(announcement.update(version=str(number))))
        case "cancel" if updates:
            updates[-1].cancel()
        case "down" | "up":
            store.store.down = step == "down"
        case "wipe":
            store.store.wipe()
        case "hang":
            store.fault = hangs
        case "refuse":
            store.fault = fails(PermissionDenied("no"))
        case _:
            store.fault = None


def test_a_write_that_arrives_late_is_the_last_thing_before_deregister() -> None:
    """A backend whose write cannot be cancelled: leaving waits for it, so that it cannot bring the node back."""

    async def main() -> None:
        async with opened() as (registry, store):

            async def stubborn(verb: str, service: Service) -> None:
                if verb == "register" and service.version == "2":
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.4)

            async with greeter(registry) as announcement:
                store.fault = stubborn
                update = asyncio.create_task(announcement.update(version="2"))
                await asyncio.sleep(0.1)
            await update
            assert store.node() is None and store.calls[-1][1] == "deregister"

    run(main())


def test_a_forked_child_neither_renews_nor_deregisters(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                calls = len(store.calls)
                child = os.getpid() + 1
                monkeypatch.setattr(os, "getpid", lambda: child)
                store.store.wipe()
                await asyncio.sleep(60)
                assert len(store.calls) == calls and store.node() is None
                with pytest.raises(RegistryClosed, match="cannot change any more"):
                    await announcement.update(version="2")
                begin = now()
            assert len(store.calls) == calls and now() == begin and state(announcement) is State.GONE

    run(main())


# -- arguments -------------------------------------------------------------------------------------------

ONE = Service("greeter", nodes=[Node("10.0.0.1:80", id="a")])
TWO = Service("greeter", nodes=[Node("10.0.0.1:80", id="a"), Node("10.0.0.2:80", id="b")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": None}, "needs port=8080"),
        ({"port": 0}, "port 0: expected a number from 1 to 65535"),
        ({"port": 70000}, "port 70000"),
        ({"port": -1}, "port -1"),
        ({"port": True}, "port True"),
        ({"port": "80"}, "port '80'"),
        ({"port": 80.0}, r"port 80\.0"),
        ({"address": "0.0.0.0"}, "wildcard"),
        ({"address": "[::]"}, "wildcard"),
        ({"address": "a b"}, "space"),
        ({"address": ""}, "host is empty"),
        ({"address": "10.0.0.1:99"}, "has a port already"),
        ({"address": 5}, "address of type int"),
        ({"port": None, "address": "10.0.0.1"}, "port is missing"),
        ({"port": None, "address": "::1"}, "brackets"),
        ({"port": None, "address": "http://10.0.0.1:80"}, "without scheme"),
        ({"service": ""}, "service name ''"),
        ({"service": "two words"}, "service name 'two words'"),
        ({"service": "x" * 64}, "1 to 63"),
        ({"service": None}, "got NoneType"),
        ({"id": ""}, "node id"),
        ({"id": "a/b"}, "node id"),
        ({"version": 2}, "version"),
        ({"metadata": {"k": 1}}, "value of 'k'"),
        ({"metadata": ["k"]}, "metadata"),
        ({"endpoints": ["hello"]}, "endpoint"),
        ({"ttl": 0}, "ttl 0"),
        ({"ttl": -5}, "ttl -5"),
        ({"ttl": float("nan")}, "ttl nan"),
        ({"ttl": "15s"}, "ttl '15s'"),
        ({"ttl": True}, "ttl True"),
        ({"ttl": 1e6}, "one day"),
        ({"drain_delay": -1}, "drain_delay -1"),
        ({"drain_delay": float("nan")}, "drain_delay nan"),
        ({"drain_delay": "1s"}, "drain_delay '1s'"),
        ({"service": ONE}, "complete Service and also fields"),
        ({"service": ONE, "port": None, "id": "x"}, "complete Service and also fields"),
        ({"service": ONE, "port": None, "metadata": {"a": "b"}}, "complete Service and also fields"),
        ({"service": TWO, "port": None}, "exactly one node"),
        ({"service": Service("greeter"), "port": None}, "exactly one node"),
        ({"service": Service("greeter", nodes=[Node("10.0.0.1:0", id="a")]), "port": None}, "1 to 65535"),
    ],
)
def test_arguments_that_cannot_be_registered(arguments: dict[str, object], message: str) -> None:
    given_: dict[str, object] = {"service": "greeter", "port": 8080} | arguments
    with pytest.raises(InvalidService, match=message):
        microreg.announce(Checked(Store()), **given_)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", ["https://x/", "ftp://x:1", "http://", "tcp://x", "http://x:0/", "nonsense", 5, ""])
def test_a_check_that_cannot_be_asked(check: object) -> None:
    with pytest.raises(ConfigError, match="expected http://host:port/path, tcp://host:port, or a function"):
        greeter(Checked(Store()), check=check)


@pytest.mark.parametrize("registry", ["memory://", None, ONE])
def test_the_registry_comes_first(registry: object) -> None:
    with pytest.raises(ConfigError, match="takes first the registry"):
        microreg.announce(registry, "greeter", port=80)  # type: ignore[arg-type]


def test_a_complete_service_is_taken_as_it_is() -> None:
    announcement = microreg.announce(Checked(Store()), ONE, metadata={}, endpoints=[])
    assert announcement.service == ONE and announcement.ttl == 15 and state(announcement) is State.REGISTERING


def test_what_is_given_is_what_is_announced() -> None:
    announcement = microreg.announce(
        Checked(Store()),
        "greeter",
        port=8080,
        address="::1",
        version="1.2",
        metadata={"zone": "a"},
        endpoints=[Endpoint("hello")],
        id="n-1",
        ttl=3,
    )
    node = Node("[::1]:8080", id="n-1", metadata={"zone": "a"})
    assert announcement.service == Service("greeter", "1.2", endpoints=[Endpoint("hello")], nodes=[node])
    assert microreg.announce(Checked(Store()), "greeter", address="db.internal:5432").node.address == "db.internal:5432"
    ids = {microreg.announce(Checked(Store()), "greeter", port=80).node.id for _ in range(100)}
    assert len(ids) == 100


# -- the address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "variable", "known", "expected"),
    [
        ("10.0.0.9", "10.0.0.8", "10.0.0.7", "10.0.0.9:80"),
        (None, "10.0.0.8", "10.0.0.7", "10.0.0.8:80"),
        (None, "10.0.0.8:9999", "10.0.0.7", "10.0.0.8:9999"),
        (None, "127.0.0.1", "10.0.0.7", "127.0.0.1:80"),
        (None, "[::1]:443", None, "[::1]:443"),
        (None, "host.example", None, "host.example:80"),
        (None, "", "10.0.0.7", "10.0.0.7:80"),
        (None, None, "10.0.0.7", "10.0.0.7:80"),
        (None, None, "fd00::7", "[fd00::7]:80"),
        (None, None, None, "10.9.9.9:80"),
        (None, "", None, "10.9.9.9:80"),
    ],
)
def test_the_address_is_given_or_told_or_known_or_found(
    given_: str | None, variable: str | None, known: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = net.advertised

    def advertised(*, allow_loopback: bool) -> Advertised:
        if os.environ.get("MICROREG_ADVERTISE"):
            found = real(allow_loopback=allow_loopback)
            assert isinstance(found, Advertised)
            return found
        assert not allow_loopback, "an interface's loopback address is nobody's wish"
        return Advertised("10.9.9.9", None)

    monkeypatch.setattr("microreg.net.advertised", advertised)
    if variable is not None:
        monkeypatch.setenv("MICROREG_ADVERTISE", variable)
    store = Store()
    store.host = known
    assert microreg.announce(Checked(store), "greeter", port=80, address=given_).node.address == expected


@pytest.mark.parametrize("variable", ["0.0.0.0", "a b", "169.254.1.1", "http://10.0.0.1"])
def test_a_wrong_advertise_variable_is_never_passed_over(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_ADVERTISE", variable)
    with pytest.raises(ConfigError, match="MICROREG_ADVERTISE="):
        greeter(Checked(Store()))


# -- hooks -----------------------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.heard: list[Announcement] = []

    @hookimpl
    def microreg_announced(self, announcement: object) -> None:
        assert isinstance(announcement, Announcement) and state(announcement) is State.LIVE
        self.heard.append(announcement)


class Broken:
    @hookimpl
    def microreg_announced(self, announcement: object) -> None:
        raise ConfigError("out of order")


def test_plugins_hear_once_of_an_announcement_and_a_broken_one_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Listener(), Listener()
    manager = plugins.hooks()
    for plugin, name in ((first, "first"), (Broken(), "broken"), (last, "last")):
        manager.register(plugin, name=name)

    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            await announcement.update(version="2")
            store.store.down = True
            await asyncio.sleep(60)
            store.store.down = False
            await announcement.wait_live(31)
            assert first.heard == last.heard == [announcement]

    try:
        with caplog.at_level(logging.WARNING, "microreg.plugins"):
            run(main())
    finally:
        for name in ("first", "broken", "last"):
            manager.unregister(name=name)
    broken = [record for record in caplog.records if record.name == "microreg.plugins"]
    assert len(broken) == 1 and broken[0].__dict__["plugin"] == "broken"


def test_not_found_after_the_end() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            async with greeter(registry):
                assert (await registry.get_service("greeter"))[0].nodes[0].id == "n1"
            with pytest.raises(ServiceNotFound):
                await registry.get_service("greeter")

    run(main())
