"""announce(): live at once, healed for ever. An hour of it takes milliseconds."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack, suppress
from itertools import pairwise

import pytest

import microreg
from announcing import Store, fails, greeter, hangs, now, opened, state, states, told, watched
from microreg import plugins
from microreg.announce.announcement import Announcement, State, Transition
from microreg.checked import Checked
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
from microreg.events import Action, Reason
from microreg.hookspecs import hookimpl
from microreg.model import Endpoint, Node, Service, Status
from timeless import run

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


def test_a_store_that_answers_late_is_renewed_before_its_ttl_ends() -> None:
    class Late(Store):
        async def register(self, service: Service, *, ttl: float = 15.0) -> None:
            await super().register(service, ttl=ttl)
            await asyncio.sleep(2.2)

    async def main() -> None:
        async with Checked(Late()) as registry, watched(registry) as seen:
            async with greeter(registry, ttl=3):
                await asyncio.sleep(60)
                assert [action for action, _, _ in told(seen)] == [Action.CREATE]

    run(main())


def test_the_interval_between_renewals_can_be_told() -> None:
    asked: list[float] = []

    async def check() -> bool:
        asked.append(now())
        return True

    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry, ttl=60, interval=2, check=check):
                await asyncio.sleep(600)
                gaps = [after - before for before, after in pairwise(store.times())]
                assert 270 < len(gaps) < 330 and 1.8 <= min(gaps) and max(gaps) <= 2.2
                assert 270 < len(asked) < 330, "the check is asked before every renewal"

    run(main())


@pytest.mark.parametrize("interval", [0.5, 1.0, 1.5, 2.25])
def test_a_check_that_is_now_quick_and_now_slow_lets_no_node_expire(interval: float) -> None:
    """It may take a third of the ttl, also where renewals are as rare as can be."""
    rng = random.Random(3)

    async def check() -> None:
        await asyncio.sleep(rng.choice([0.0, 0.5, 0.95]))

    async def main() -> None:
        async with opened() as (registry, _), watched(registry) as seen:
            async with greeter(registry, ttl=3, interval=interval, check=check) as announcement:
                await asyncio.sleep(600)
                assert states(announcement) == [State.LIVE]
                assert [action for action, *_ in told(seen)] == [Action.CREATE]

    run(main())


def test_a_renewal_that_is_not_answered_within_the_ttl_leaves_nothing_live() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry, ttl=3) as announcement:
            answers = asyncio.Event()

            async def fault(verb: str, _: Service) -> None:
                await answers.wait()

            store.fault = fault
            while store.node() is not None:
                assert state(announcement) is State.LIVE
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
            assert state(announcement) is State.LOST and "has not answered a renewal for 3 s" in str(announcement.error)
            answers.set()
            await announcement.wait_live(timeout=5)
            await asyncio.sleep(60)
            assert states(announcement) == [State.LIVE, State.LOST, State.LIVE]

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


@pytest.mark.parametrize(("ttl", "fewest", "most", "longest"), [(15, 600, 900, 10), (90, 150, 400, 30)])
def test_an_hour_of_outage_ends_within_one_back_off_and_is_no_hot_loop(
    ttl: float, fewest: int, most: int, longest: float
) -> None:
    async def main(seed: int) -> None:
        async with opened() as (registry, store), greeter(registry, ttl=ttl, rng=random.Random(seed)) as announcement:
            await asyncio.sleep(10)
            store.store.down, begin = True, now()
            await asyncio.sleep(3600)
            assert state(announcement) is State.LOST and isinstance(announcement.error, RegistryUnavailable)
            assert store.node() is None, "it has expired"
            attempts = [time for time in store.times() if time > begin]
            gaps = [after - before for before, after in pairwise(attempts)]
            assert fewest < len(attempts) < most, "full jitter: as often as renewals, or every 15 s"
            assert 0.05 - 1e-9 <= min(gaps) < 0.9 and longest * 2 / 3 < max(gaps) <= longest and max(gaps[:3]) < 8
            store.store.down = False
            await announcement.wait_live(timeout=longest + 0.1)
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


# -- hearing of changes --------------------------------------------------------------------------------


async def follow(announcement: Announcement, heard: list[Transition]) -> None:
    while news := await announcement.changed(heard[-1] if heard else None):
        heard += news


def test_every_transition_is_heard_once_by_everybody_who_waits() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            healthy = True
            announcement = greeter(registry, check=lambda: healthy)
            heard: list[list[Transition]] = [[] for _ in range(20)]
            late: list[Transition] = []
            async with asyncio.TaskGroup() as group:
                for each in heard:
                    group.create_task(follow(announcement, each))
                await asyncio.sleep(5)
                async with announcement:
                    store.fault = fails(RegistryUnavailable("away"))
                    await announcement.update()
                    store.fault = None
                    await announcement.update(status=Status.WARNING)
                    await announcement.update(metadata={"zone": "b"})  # no transition: only the record changes
                    healthy = False
                    await asyncio.sleep(6)
                    group.create_task(follow(announcement, late))
            for each in (*heard, late):
                assert tuple(each) == announcement.history
            assert [(each.state, each.status, type(each.error)) for each in late] == [
                (State.LIVE, Status.PASSING, type(None)),
                (State.LOST, Status.PASSING, RegistryUnavailable),
                (State.LIVE, Status.WARNING, type(None)),
                (State.LIVE, Status.CRITICAL, type(None)),
                (State.DRAINING, Status.DRAINING, type(None)),
                (State.GONE, Status.DRAINING, type(None)),
            ]

    run(main())


def test_what_happened_between_two_looks_is_told_by_the_next() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            (first,) = await announcement.changed()
            assert (first.time, first.state) == (0, State.LIVE)
            for down in (True, False):
                store.store.down = down
                await announcement.update()
            lost, live = await announcement.changed(first)
            assert (lost.state, live.state) == (State.LOST, State.LIVE)
            assert await announcement.changed(lost) == (live,)
            assert await announcement.changed() == (first, lost, live)

    run(main())


def test_who_falls_behind_gets_what_is_remembered() -> None:
    async def main() -> None:
        async with opened() as (registry, store), greeter(registry) as announcement:
            (first,) = await announcement.changed()
            for number in range(100):
                store.store.down = number % 2 == 0
                await announcement.update()
            assert await announcement.changed(first) == announcement.history
            assert len(announcement.history) == 64

    run(main())


def test_waiting_for_a_change_ends_by_timeout_by_cancellation_and_when_it_is_gone() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            announcement = greeter(registry, drain_delay=0)
            assert await announcement.changed(timeout=1) == () and now() == 1
            async with announcement:
                (live,) = await announcement.changed(timeout=0)
                assert await announcement.changed(live, timeout=0) == ()
                waits = [asyncio.create_task(announcement.changed(live)) for _ in range(2)]
                await asyncio.sleep(1)
                waits[0].cancel()
            draining, gone = await waits[1] + await announcement.changed((await waits[1])[-1])
            assert (draining.state, gone.state) == (State.DRAINING, State.GONE)
            assert waits[0].cancelled()
            for _ in range(2):
                assert await announcement.changed(gone) == ()
            assert await announcement.changed(live) == (draining, gone)

    run(main())


def test_an_attempt_that_can_never_succeed_is_heard_of() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.fault = fails(Unsupported("read only"))
            announcement, heard = greeter(registry), list[Transition]()
            async with asyncio.TaskGroup() as group:
                group.create_task(follow(announcement, heard))
                with pytest.raises(Unsupported):
                    await announcement.__aenter__()
            assert [each.state for each in heard] == [State.REGISTERING, State.GONE]
            assert str(heard[-1].error) == "read only"

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
            announcement = greeter(fixed, address="10.0.0.1")
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
                store.store.down = True
                await asyncio.sleep(6)
                calls, waiting = len(store.calls), asyncio.create_task(announcement.wait_live())
                await asyncio.sleep(0)
                await registry.close()
                await asyncio.sleep(20)
                assert state(announcement) is State.LOST and isinstance(announcement.error, RegistryClosed)
                assert len(store.calls) == calls, "the writer has given up"
                with pytest.raises(RegistryUnavailable, match="is lost, not live: .* was closed"):
                    await waiting
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
            await asyncio.sleep(600)
            assert state(it) is State.LOST and "renewal is withheld" in str(it.error) and store.node() is None
            assert [reason for _, _, reason in told(seen)] == [None, Reason.EXPIRED]
            assert 60 < len(asked) < 70, "it is asked as often as before, each time for ttl/3"
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
            await asyncio.sleep(1)
            assert store.node() is None, "its late answer brings nothing back"

    run(main())


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


def test_a_node_moves_with_its_machine() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            store.host = "10.0.0.1"
            async with microreg.announce(registry, "greeter", port=8080, ttl=15) as announcement:
                first = announcement.node
                for host, seen in (("10.0.0.2", "10.0.0.2"), (None, None), ("10.0.0.3", "10.0.0.3")):
                    store.host = host
                    await asyncio.sleep(6)
                    node = store.node()
                    assert node is not None and node.id == first.id
                    assert seen is None or node.address == announcement.node.address == f"{seen}:8080"
                await announcement.update(address="10.9.9.9:80")
                store.host = "10.0.0.4"
                await asyncio.sleep(60)
                node = store.node()
                assert node is not None and node.address == "10.9.9.9:80", "from then on it is told"

    run(main())


def test_an_address_that_was_told_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(**told: str) -> None:
        async with opened() as (registry, store):
            store.host = "10.0.0.1"
            async with microreg.announce(registry, "greeter", port=8080, **told) as announcement:  # type: ignore[arg-type]
                store.host = "10.0.0.2"
                await asyncio.sleep(60)
                assert announcement.node.address == "192.0.2.1:8080"

    run(main(address="192.0.2.1"))
    monkeypatch.setenv("MICROREG_ADVERTISE", "192.0.2.1")
    run(main())


def test_the_address_of_a_thousand_announcements_is_looked_up_once_a_second() -> None:
    looked: list[float] = []

    def look() -> str:
        looked.append(now())
        return "10.0.0.1"

    async def main() -> None:
        async with opened() as (registry, store):
            vars(store)["advertised_host"] = look
            async with AsyncExitStack() as stack:
                for number in range(20):
                    announcement = microreg.announce(registry, f"greeter-{number}", port=8080, drain_delay=0)
                    await stack.enter_async_context(announcement)
                await asyncio.sleep(20)
            assert len(looked) <= 21

    run(main())


def test_announcements_of_one_loop_are_renewed_together() -> None:
    async def main() -> None:
        async with opened() as (registry, store), AsyncExitStack() as stack:
            for number in range(100):
                announcement = microreg.announce(registry, f"greeter-{number}", port=8080, drain_delay=0)
                await stack.enter_async_context(announcement)
            store.calls.clear()
            await asyncio.sleep(30)
            assert len(store.calls) > 500
            assert len({round(time, 6) for time in store.times()}) < 400

    run(main())
