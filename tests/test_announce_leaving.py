"""The end of an announcement: drained first, within five seconds, and nothing is written after it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support
from announcing import Fault, Store, fails, greeter, hangs, now, opened, state, told, watched
from microreg.announce.announcement import Announcement, State
from microreg.backends.memory import MemoryRegistry
from microreg.errors import (
    PermissionDenied,
    RegistryClosed,
    RegistryTimeout,
    RegistryUnavailable,
)
from microreg.events import Action, Reason
from microreg.model import Service, Status
from microreg.registry import Registry
from timeless import run

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
                updates = [asyncio.create_task(announcement.update(version="2"))]
                await asyncio.sleep(0.1)
                updates.append(asyncio.create_task(announcement.update(version="3")))
                await asyncio.sleep(0.1)

                async def only_register_hangs(verb: str, service: Service) -> None:
                    if verb == "register":
                        await hangs(verb, service)

                store.fault = only_register_hangs
                begin = now()
            assert store.node() is None and now() - begin < 5
            assert all(update.done() for update in updates)
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


def test_a_leaving_that_is_cancelled_before_it_has_begun_still_ends_the_writer() -> None:
    async def main() -> None:
        async with opened() as (registry, _):
            announcement = greeter(registry)

            def cancel_the_leaving() -> None:
                for task in asyncio.all_tasks():
                    if task.get_name().startswith("microreg drain"):
                        task.cancel()

            async with announcement:
                asyncio.get_running_loop().call_soon(cancel_the_leaving)
            assert announcement.state is State.GONE and asyncio.all_tasks() == {asyncio.current_task()}

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


def test_a_write_that_takes_its_time_to_be_cancelled_is_waited_for() -> None:
    async def main() -> None:
        async with opened() as (registry, store):

            async def cancelled_late(verb: str, service: Service) -> None:
                if verb == "register" and service.version == "2" and service.nodes[0].status is Status.PASSING:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(1e6)
                    await asyncio.sleep(0.3)

            async with greeter(registry) as announcement:
                store.fault = cancelled_late
                update = asyncio.create_task(announcement.update(version="2"))
                await asyncio.sleep(0.1)
            await update
            assert store.node() is None and store.calls[-1][1] == "deregister"

    run(main())


def test_a_write_that_is_under_way_is_not_torn_off() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            ends: list[str] = []

            async def slow(verb: str, service: Service) -> None:
                try:
                    await asyncio.sleep(0.3)
                    ends.append(verb)
                except asyncio.CancelledError:
                    ends.append("cancelled")
                    raise

            async with greeter(registry, drain_delay=0) as announcement:
                store.fault = slow
                update = asyncio.create_task(announcement.update(version="2"))
                await asyncio.sleep(0.1)
            await update
            assert ends == ["register", "register", "deregister"] and now() < 1

    run(main())


def test_a_forked_child_neither_renews_nor_deregisters() -> None:
    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                store.store.down = True
                await asyncio.sleep(6)
                store.store.down = False
                calls, waiting = len(store.calls), asyncio.create_task(announcement.wait_live())
                await asyncio.sleep(0)
                vars(announcement)["_writer"]._after_fork()
                store.store.wipe()
                await asyncio.sleep(60)
                assert len(store.calls) == calls and store.node() is None
                with pytest.raises(RegistryClosed, match="cannot change any more"):
                    await announcement.update(version="2")
                with pytest.raises(RegistryUnavailable, match="is gone, not live: .* before fork"):
                    await waiting
                begin = now()
            assert len(store.calls) == calls and now() == begin and state(announcement) is State.GONE

    run(main())


def test_a_record_that_is_left_to_expire_is_told() -> None:
    async def silent(verb: str, _: Service) -> None:
        if verb == "deregister":
            await asyncio.sleep(1e6)

    async def main() -> None:
        async with opened() as (registry, store):
            async with greeter(registry) as announcement:
                store.fault = silent
            assert state(announcement) is State.GONE
            assert isinstance(announcement.error, RegistryTimeout)

    run(main())
