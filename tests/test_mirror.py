"""mirror: one registration in several stores, and no store that is away is felt by the caller."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microreg
from composing import TROUBLES, mirror, one, plain
from microreg.checked import Checked
from microreg.errors import (
    PermissionDenied,
    RecordTooLarge,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)
from microreg.events import Action, Change, Snapshot
from microreg.layers.mirror import MirrorRegistry
from support import wait_until
from timeless import run

DENIED = PermissionDenied("wrong password")


def parts_of(registry: Checked) -> MirrorRegistry:
    found = registry.unwrap(MirrorRegistry)
    assert found is not None
    return found


def now() -> float:
    return asyncio.get_running_loop().time()


def test_every_write_goes_to_all_parts_and_reading_is_of_the_first() -> None:
    async def main() -> None:
        async with mirror(3) as (registry, parts), plain(parts[1]) as second, registry.watch() as events:
            assert await anext(events) == Snapshot()
            await second.register(one("elsewhere"))
            await registry.register(one())
            assert [part.ids() for part in parts] == [{"a"}] * 3
            assert await registry.get_service("orders") == (one(),) and await registry.list_services() == ("orders",)
            change = await anext(events)
            assert isinstance(change, Change) and (change.action, change.service) == (Action.CREATE, one())
            with pytest.raises(ServiceNotFound):
                await registry.get_service("elsewhere")
            await registry.deregister(one())
            assert [part.ids() for part in parts] == [set[str]()] * 3
            assert [part.state for part in parts_of(registry).parts] == ["live"] * 3

    run(main())


def test_the_outcome_is_that_of_the_first_and_the_others_are_written_all_the_same() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            first.store.down = True
            for _ in range(2):
                with pytest.raises(RegistryUnavailable, match="switched off"):
                    await registry.register(one())
                assert second.ids() == {"a"}
            with pytest.raises(RegistryUnavailable):
                await registry.deregister(one())
            assert second.ids() == set()

    run(main())


def test_a_part_that_is_away_costs_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            part = parts_of(registry).parts[1]
            assert str(part.state) == "unknown"
            second.store.down = True
            began = now()
            for number in range(100):
                await registry.register(one(zone=str(number)))
            assert now() == began and first.ids() == {"a"}
            assert str(part.state) == "lost" and "switched off" in str(part.error) and part.losses == 1
            second.store.down = False
            await wait_until(lambda: second.ids() == {"a"}, timeout=11)
            assert second.store.catalog.services("orders") == (one(zone="99"),)
            assert part.state == "live" and part.error is None
            assert len(second.written) < 20

    with caplog.at_level(logging.INFO, "microreg.composite"):
        run(main())
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "part 2 (memory://part-2) is lost: the memory store was switched off or wiped by a test"),
        ("INFO", "part 2 (memory://part-2) is back"),
    ]


def test_a_black_hole_costs_a_second_once() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            second.line.cut = True
            began = now()
            await registry.register(one())
            assert now() - began <= 1.0
            began = now()
            for _ in range(50):
                await registry.register(one())
            assert now() == began and first.ids() == {"a"}
            second.line.cut = False
            await wait_until(lambda: second.ids() == {"a"}, timeout=16)

    run(main())


def test_nothing_is_written_after_the_ttl_and_no_record_lives_longer() -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            second.store.down = True
            began = now()
            await registry.register(one(), ttl=30)
            await registry.register(one(id="b"), ttl=5)
            await asyncio.sleep(12)
            second.store.down = False
            await wait_until(lambda: second.ids() == {"a"}, timeout=11)
            _, verb, id, ttl = second.written[-1]
            assert (verb, id) == ("register", "a") and now() + ttl == pytest.approx(began + 30, abs=0.1)
            assert all(moment < began + 5 for moment, _, id, _ in second.written if id == "b")
            await asyncio.sleep(began + 30.1 - now())
            assert second.ids() == set()
            count = len(second.written)
            await asyncio.sleep(3600)
            assert len(second.written) == count

    run(main())


def test_a_second_that_forgets_everything_knows_it_again_with_the_next_renewal() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            async with microreg.announce(registry, one(), ttl=15, drain_delay=0) as announcement:
                await announcement.wait_live(1)
                second.store.wipe()
                assert first.ids() == {"a"} and second.ids() == set()
                await wait_until(lambda: second.ids() == {"a"}, timeout=6)

    run(main())


@pytest.mark.parametrize("ttl", [1, 15])
def test_a_slow_part_gets_the_whole_ttl_or_what_is_left_of_it(ttl: int) -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            second.store.down = True
            for number in range(8):
                await registry.register(one(id=str(number)), ttl=ttl)
                await asyncio.sleep(0.1)
            second.store.down = False
            await asyncio.sleep(11)
            assert all(1 <= seconds <= ttl for _, _, _, seconds in second.written)

    run(main())


def test_a_deregister_waits_for_the_register_on_its_way() -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            second.line.delay = 3.0
            await registry.register(one())
            second.line.delay = 0.0
            await registry.deregister(one())
            assert parts_of(registry)._followers[0].pending == 2
            await wait_until(lambda: not parts_of(registry)._followers[0].pending)
            assert second.ids() == set()
            assert [verb for _, verb, _, _ in second.written] == ["register", "deregister"]

    run(main())


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["register", "deregister"]), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.sampled_from(TROUBLES), st.just(""), st.integers(0, 3)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_the_second_ends_as_it_was_told(operations: list[tuple[str, str, int]]) -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            held: set[str] = set()
            for what, id, seconds in operations:
                match what:
                    case "register":
                        await registry.register(one(id=id, zone=str(seconds)), ttl=3600)
                        held.add(id)
                    case "deregister":
                        await registry.deregister(one(id=id))
                        held.discard(id)
                    case trouble:
                        second.suffer(trouble)
                await asyncio.sleep(seconds)
            for end in ("up", "healed", "fast"):
                second.suffer(end)
            follower = parts_of(registry)._followers[0]
            await wait_until(lambda: not follower.pending, timeout=40, step=0.5)
            assert first.ids() == second.ids() == held
            assert first.store.catalog.services("orders") == second.store.catalog.services("orders")

    run(main())


def test_what_another_part_refuses_for_good_is_raised_with_its_name() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            for refusal in (RecordTooLarge("too large", size=9, limit=5), Unsupported("it is fixed")):
                second.refusal = refusal
                said = rf"part 2 \(memory://part-2\): {refusal}"
                with pytest.raises(type(refusal), match=said) as caught:
                    await registry.register(one())
                if isinstance(caught.value, RecordTooLarge):
                    assert (caught.value.size, caught.value.limit) == (9, 5)
                assert first.ids() == {"a"}
            first.refusal = RecordTooLarge("larger", size=9, limit=4)
            with pytest.raises(RecordTooLarge, match="^larger$"):
                await registry.register(one())
            assert parts_of(registry).parts[0].state == "live"
            await asyncio.sleep(3600)
            assert [verb for _, verb, _, _ in second.written] == ["register"] * 3

    run(main())


def test_what_a_late_part_refuses_is_told_by_its_state(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            part = parts_of(registry).parts[1]
            second.store.down = True
            await registry.register(one())
            second.refusal = RecordTooLarge("too large", size=9, limit=5)
            second.store.down = False
            await asyncio.sleep(11)
            assert str(part.state) == "lost" and isinstance(part.error, RecordTooLarge)
            await asyncio.sleep(5)
            assert part.state == "live", "nobody asks for it any more"

    run(main())
    assert [record.levelname for record in caplog.records if record.name == "microreg.composite"] == ["WARNING"]


def test_wrong_credentials_for_hours(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            second.refusal = DENIED
            async with microreg.announce(registry, one(), drain_delay=0) as announcement:
                await announcement.wait_live(1)
                await asyncio.sleep(3600)
                assert announcement.state == "live" and first.ids() == {"a"} and second.ids() == set()
                assert len(second.written) < 3600
                assert parts_of(registry).parts[1].error is DENIED
                second.refusal = None
                await wait_until(lambda: second.ids() == {"a"}, timeout=11)
            assert first.ids() == second.ids() == set()

    with caplog.at_level(logging.INFO, "microreg.composite"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_name_that_a_part_denies_holds_up_no_other() -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            second.refusal, second.refuses = DENIED, frozenset({"secret"})
            for _ in range(20):
                await registry.register(one("secret"))
                await registry.register(one())
                assert second.ids() == {"a"}
                await asyncio.sleep(5)
            assert parts_of(registry).parts[1].state == "lost" and parts_of(registry).parts[1].losses == 1
            await registry.deregister(one("secret"))
            await registry.deregister(one())
            assert second.ids() == set()

    run(main())


def test_an_announcement_lives_in_the_second_while_the_first_is_away() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            async with microreg.announce(registry, one(), drain_delay=0) as announcement:
                await announcement.wait_live(1)
                first.store.down = True
                for _ in range(3600):
                    await asyncio.sleep(1)
                    assert second.ids() == {"a"}
                assert announcement.state == "lost"
                first.store.down = False
                await announcement.wait_live(31)
                assert first.ids() == second.ids() == {"a"}
            assert first.ids() == second.ids() == set()

    run(main())


def test_thousands_of_nodes_wait_for_a_part_without_a_storm() -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)):
            second.store.down = True
            records = [one(id=f"n{number}") for number in range(1000)]
            for record in records:
                await registry.register(record, ttl=600)
            assert len(second.written) == 1, "one finds out"
            await asyncio.sleep(300)
            assert len(second.written) < 150
            second.store.down, second.line.delay = False, 0.01
            await wait_until(lambda: len(second.ids()) == 1000, timeout=12)

    run(main())


def test_closing_writes_what_is_still_to_be_withdrawn() -> None:
    async def main() -> None:
        async with mirror() as (registry, (_, second)), plain(second) as witness:
            await registry.register(one())
            second.store.down = True
            await registry.deregister(one())
            second.store.down = False
            await registry.close()
            with pytest.raises(ServiceNotFound):
                await witness.get_service("orders")

    run(main())


@pytest.mark.parametrize("ttl", [1, 3600])
def test_closing_takes_a_moment_whatever_the_parts_do(ttl: int) -> None:
    async def main() -> None:
        async with mirror(3) as (registry, (_, second, third)):
            await registry.register(one(), ttl=ttl)
            second.line.cut = third.store.down = True
            await registry.register(one(zone="b"), ttl=ttl)
            await registry.deregister(one())
            began = now()
            await asyncio.gather(registry.close(), registry.close())
            assert now() - began <= 1.1

    run(main())


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.5, 2.5, 4.0])
def test_a_cancelled_call_leaves_nothing_behind(moment: float) -> None:
    async def main() -> None:
        async with mirror() as (registry, parts):
            for part in parts:
                part.line.delay = 2.0
            for verb in (registry.register, registry.deregister):
                task = asyncio.create_task(verb(one()))
                await asyncio.sleep(moment)
                task.cancel()
                await asyncio.wait([task])
                for part in parts:
                    part.line.delay = 0.0
                await verb(one())
                await asyncio.sleep(3)
                assert [bool(part.ids()) for part in parts] == [verb == registry.register] * 2
                for part in parts:
                    part.line.delay = 2.0

    run(main())


def test_a_first_part_that_is_late_says_so_itself() -> None:
    async def main() -> None:
        async with mirror() as (registry, (first, second)):
            first.line.cut = True
            with pytest.raises(RegistryTimeout, match="memory://part-1 did not answer within 5 s"):
                await registry.register(one())
            assert second.ids() == {"a"}

    run(main())


def test_capabilities_are_those_of_reading_and_fenced_only_where_all_are() -> None:
    assert microreg.connect("mirror:memory://a|memory://b").capabilities >= {"fenced", "reasons", "authoritative"}
    mixed = microreg.connect("mirror:memory://a|static://orders=10.0.0.1:80").capabilities
    assert "fenced" not in mixed and {"reasons", "push", "authoritative"} <= mixed


def test_programs_that_offer_and_call_need_one_string_and_two_rounds() -> None:
    async def main() -> None:
        strings = [
            "memory://old",
            "mirror:memory://old|memory://new",
            "mirror:memory://new|memory://old",
            "memory://new",
        ]
        async with microreg.connect("memory://old"), microreg.connect("memory://new"):  # the stores live on
            programs = [Program(number) for number in range(6)]
            for program in programs:
                await program.restart(strings[0])
            for string in strings[1:]:
                for program in programs:
                    await program.restart(string)
                    for other in programs:
                        await other.call_all(len(programs))
            for program in programs:
                await program.stop()

    run(main())


class Program:
    """Offers a service of its own, of which there is one more node, and calls all."""

    def __init__(self, number: int) -> None:
        self._name, self._id = f"service-{number // 2}", f"node-{number}"
        self._stack = AsyncExitStack()
        self._selector: microreg.Selector | None = None

    async def restart(self, url: str) -> None:
        await self.stop()
        registry = await self._stack.enter_async_context(microreg.connect(url))
        announcement = await self._stack.enter_async_context(
            microreg.announce(registry, one(self._name, self._id), drain_delay=0.1)
        )
        await announcement.wait_live(1)
        self._selector = await self._stack.enter_async_context(microreg.Selector(registry))

    async def stop(self) -> None:
        stack, self._stack, self._selector = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def call_all(self, programs: int) -> None:
        if self._selector is not None:
            for number in range(programs // 2):
                node = await self._selector.select(f"service-{number}", timeout=0.5)
                assert node.id in (f"node-{2 * number}", f"node-{2 * number + 1}")
