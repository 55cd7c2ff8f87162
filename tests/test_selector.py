"""Selector: which node next, from a pool that is always true, without I/O and from any thread."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import cast

import pytest

import microreg
from microreg.errors import (
    ConfigError,
    InvalidService,
    NoNodeAvailable,
    RegistryClosed,
    RegistryUnavailable,
    WrongLoop,
)
from microreg.model import Node, Service, Status
from microreg.registry import Registry
from microreg.selector import Selector
from microreg.selector.members import Member, Peers
from microreg.selector.strategies import Pick, round_robin
from microreg.selector.strategies import random as uniform
from support import store_of, wait_until
from timeless import run


def nodes(count: int, status: Status = Status.PASSING) -> tuple[Node, ...]:
    return tuple(Node(f"10.0.{n // 250}.{n % 250}:80", id=f"n{n:05}", status=status) for n in range(count))


def service(members: Iterable[Node], name: str = "greeter") -> Service:
    return Service(name, nodes=members)


@asynccontextmanager
async def selecting(
    strategy: str | Callable[..., Pick] = "random", url: str = "memory://", seed: int = 7
) -> AsyncGenerator[tuple[Selector, Registry]]:
    async with microreg.connect(url) as registry, Selector(registry, strategy, rng=random.Random(seed)) as selector:
        yield selector, registry


def kind(value: object) -> str:
    """What pytest calls a case whose value is too long to be shown."""
    return type(value).__name__


def members(of: Iterable[Node]) -> tuple[Member, ...]:
    peers = Peers()
    return tuple(Member(service([node]), node, peers) for node in of)


def ids(picked: Iterable[Node]) -> list[str]:
    return [node.id for node in picked]


# -- strategies --------------------------------------------------------------------------------------


def test_random_picks_every_node_equally_often() -> None:
    pick = uniform(members(nodes(20)), random.Random(1))
    counts = Counter(ids(pick() for _ in range(20_000)))
    chi2 = sum((counts[node.id] - 1000) ** 2 / 1000 for node in nodes(20))
    assert chi2 < 43.8, "p > 0.001 with 19 degrees of freedom"


def test_random_has_no_order() -> None:
    pick = uniform(members(nodes(2)), random.Random(1))
    pairs = Counter((pick().id, pick().id) for _ in range(8000))
    assert len(pairs) == 4 and all(1800 < count < 2200 for count in pairs.values())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
def test_random_never_leaves_the_pool(count: int) -> None:
    class Extreme(random.Random):
        def getrandbits(self, k: int, /) -> int:
            return (1 << k) - 1

    assert uniform(members(nodes(count)), Extreme())() in nodes(count)


def test_round_robin_cycles_from_a_random_start() -> None:
    five = nodes(5)
    starts = Counter[str]()
    for seed in range(200):
        pick = round_robin(members(five), random.Random(seed))
        first = [pick() for _ in range(5)]
        assert sorted(ids(first)) == ids(five) and [pick() for _ in range(10)] == first * 2
        begin = five.index(first[0])
        assert tuple(first) == five[begin:] + five[:begin]
        starts[first[0].id] += 1
    assert len(starts) == 5 and max(starts.values()) < 80


def test_a_strategy_is_named_or_given() -> None:
    async def main() -> None:
        async with selecting("round_robin") as (selector, registry):
            await registry.register(service(nodes(3)))
            await selector.select("greeter")
            assert sorted(ids(selector.pick("greeter") for _ in range(3))) == ids(nodes(3))

        def last(members: tuple[Member, ...], rng: random.Random) -> Pick:
            assert isinstance(rng, random.Random)
            return lambda: members[-1].node

        async with selecting(last) as (selector, registry):
            await registry.register(service(nodes(3)))
            assert (await selector.select("greeter")).id == "n00002"

    run(main())


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("fastest", r"no strategy 'fastest' is installed \(installed: .*p2c, random, rendezvous, round_robin.*\)"),
        ("randm", "did you mean 'random'"),
        (5, "expected a name or a function"),
        (None, "expected a name or a function"),
    ],
)
def test_an_unknown_strategy_says_what_there_is(strategy: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selector(microreg.connect("memory://"), strategy)


def test_a_selector_needs_a_registry() -> None:
    with pytest.raises(ConfigError, match="takes the registry that connect"):
        Selector("memory://")  # type: ignore[arg-type]


def test_a_strategy_that_raises_is_the_reason_why_there_is_no_node(caplog: pytest.LogCaptureFixture) -> None:
    def choosy(members: tuple[Member, ...], rng: random.Random) -> Pick:
        if len(members) < 2:
            raise LookupError("I need two")
        return uniform(members, rng)

    async def main() -> None:
        async with selecting(choosy) as (selector, registry):
            await registry.register(service(nodes(1)))
            with pytest.raises(NoNodeAvailable, match="the strategy raised LookupError: I need two"):
                await selector.select("greeter", timeout=1)
            await registry.register(service(nodes(2)))
            assert await selector.select("greeter", timeout=1) in nodes(2)

    run(main())
    assert "a strategy failed" in caplog.text


# -- the pool ----------------------------------------------------------------------------------------


def test_the_pool_follows_changes_at_once() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(3)))
            await selector.select("greeter")
            await wait_until(lambda: seen(selector) == set(ids(nodes(3))), timeout=0.1)
            await registry.deregister(service(nodes(1)))
            await wait_until(lambda: seen(selector) == {"n00001", "n00002"}, timeout=0.1)
            await registry.register(service(nodes(5)))
            await wait_until(lambda: seen(selector) == set(ids(nodes(5))), timeout=0.1)
            moved = Node("10.9.9.9:99", id="n00004")
            await registry.register(service([moved]))
            await registry.deregister(service(nodes(4)))
            await wait_until(lambda: selector.pick("greeter") == moved, timeout=0.1)
            assert {selector.pick("greeter") for _ in range(100)} == {moved}

    run(main())


def seen(selector: Selector) -> set[str]:
    return set(ids(selector.pick("greeter") for _ in range(100)))


@pytest.mark.parametrize("status", [Status.CRITICAL, Status.DRAINING, Status.STARTING])
def test_nodes_that_must_not_be_called_are_never_picked(status: Status) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            good = nodes(2)
            await registry.register(service([good[0], good[1].replace(status=Status.WARNING), *bad(status)]))
            await selector.select("greeter")
            assert seen(selector) == set(ids(good))
            await registry.register(service([node.replace(status=status) for node in good]))
            await wait_until(lambda: fails(selector, "4 known, none is passing or warning"), timeout=0.1)
            await registry.register(service(good[:1]))
            assert await selector.select("greeter", timeout=0.1) == good[0]

    run(main())


def bad(status: Status) -> tuple[Node, ...]:
    return tuple(Node(f"10.1.1.{n}:80", id=f"bad{n}", status=status) for n in range(2))


def fails(selector: Selector, why: str) -> bool:
    try:
        selector.pick("greeter")
    except NoNodeAvailable as error:
        return why in str(error)
    return False


def test_a_node_that_expires_is_picked_no_more() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)), ttl=5)
            await selector.select("greeter")
            await asyncio.sleep(5.1)
            with pytest.raises(NoNodeAvailable, match="none is registered"):
                selector.pick("greeter")

    run(main())


def test_what_was_known_is_picked_while_the_store_is_away() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(2)), ttl=86_400)
            await selector.select("greeter")
            store_of(registry).down = True
            await asyncio.sleep(3600)
            assert selector.pick("greeter") in nodes(2)

    run(main())


def test_names_do_not_mix() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1), "greeter"))
            await registry.register(service(nodes(3)[1:2], "Greeter"))
            assert (await selector.select("greeter")).id == "n00000"
            assert (await selector.select("Greeter")).id == "n00001"
            with pytest.raises(NoNodeAvailable):
                await selector.select("greet", timeout=0.1)

    run(main())


# -- select and pick ---------------------------------------------------------------------------------


def test_select_waits_for_a_node() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            loop = asyncio.get_running_loop()
            waiting = [asyncio.create_task(selector.select("greeter", timeout=60)) for _ in range(10)]
            await asyncio.sleep(30)
            await registry.register(service(nodes(2, Status.STARTING)))
            await asyncio.sleep(10)
            assert not any(task.done() for task in waiting)
            await registry.register(service(nodes(2)))
            assert set(await asyncio.gather(*waiting)) <= set(nodes(2))
            assert loop.time() == pytest.approx(40)

    run(main())


def test_select_gives_up_and_says_why() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            begin = asyncio.get_running_loop().time()
            with pytest.raises(NoNodeAvailable, match="no node of 'greeter' within 2 s: none is registered"):
                await selector.select("greeter", timeout=2)
            assert asyncio.get_running_loop().time() - begin == pytest.approx(2)
            await registry.register(service(nodes(3, Status.CRITICAL)))
            with pytest.raises(NoNodeAvailable, match="3 known, none is passing or warning"):
                await selector.select("greeter", timeout=0)
            store_of(registry).down = True
            with pytest.raises(NoNodeAvailable, match="within 2 s: the registry is away: .*switched off"):
                await selector.select("other", timeout=2)

    run(main())


def test_a_cancelled_select_leaves_the_others_waiting() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            first, second = (asyncio.create_task(selector.select("greeter")) for _ in range(2))
            await asyncio.sleep(1)
            first.cancel()
            await asyncio.wait([first])
            assert first.cancelled()
            await registry.register(service(nodes(1)))
            assert await second == nodes(1)[0]

    run(main())


def test_the_first_pick_begins_to_follow() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)))
            with pytest.raises(NoNodeAvailable, match="can be selected now: the registry has not answered yet$"):
                selector.pick("greeter")
            await wait_until(lambda: not fails(selector, ""), timeout=0.1)
            assert selector.pick("greeter") == nodes(1)[0]

    run(main())


def test_other_threads_may_pick_what_was_selected() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(3)))
            await registry.register(service(nodes(1, Status.CRITICAL), "sick"))
            await selector.select("greeter")
            with pytest.raises(NoNodeAvailable):
                await selector.select("sick", timeout=0.1)
            picked: list[object] = []

            def pick(name: str) -> None:
                try:
                    picked.append(selector.pick(name))
                except Exception as error:
                    picked.append(error)

            for name in ("greeter", "sick", "unknown"):
                thread = threading.Thread(target=pick, args=(name,))
                thread.start()
                thread.join()
            assert picked[0] in nodes(3)
            assert isinstance(picked[1], NoNodeAvailable) and "none is passing" in str(picked[1])
            assert isinstance(picked[2], WrongLoop) and "select() the name once" in str(picked[2])

    run(main())


def test_threads_pick_while_the_pool_changes() -> None:
    async def main() -> None:
        async with selecting("round_robin") as (selector, registry):
            await registry.register(service(nodes(2)))
            await selector.select("greeter")
            over, problems = threading.Event(), list[BaseException]()

            def work() -> None:
                try:
                    while not over.is_set():
                        assert selector.pick("greeter").id in {"n00000", "n00001", "n00002"}
                except BaseException as error:
                    problems.append(error)

            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for turn in range(40):
                await (registry.deregister if turn % 2 else registry.register)(service(nodes(3)[2:]))
                await asyncio.sleep(0)
            over.set()
            for thread in threads:
                thread.join()
            assert problems == []

    run(main())


def test_another_loop_is_told_so() -> None:
    async def main() -> None:
        async with selecting() as (selector, _):
            with pytest.raises(NoNodeAvailable):
                await selector.select("greeter", timeout=0.1)
            errors: list[Exception] = []

            def elsewhere() -> None:
                for name in ("greeter", "unknown"):
                    try:
                        asyncio.run(selector.select(name, timeout=1))
                    except Exception as error:
                        errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert [type(error) for error in errors] == [WrongLoop, WrongLoop]

    run(main())


def test_pick_costs_the_same_at_every_size() -> None:
    def cost(count: int) -> float:
        pick = uniform(members(nodes(count)), random.Random(1))
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(5_000):
                pick()
            best = min(best, time.perf_counter() - begin)
        return best

    assert cost(10_000) < 10 * cost(10)


def test_a_pool_is_built_once_per_burst_and_never_by_pick() -> None:
    built: list[int] = []

    def counting(members: tuple[Member, ...], rng: random.Random) -> Pick:
        built.append(len(members))
        return uniform(members, rng)

    async def main() -> None:
        async with selecting(counting) as (selector, registry):
            await registry.register(service(nodes(2000)))
            await selector.select("greeter")
            await wait_until(lambda: built[-1] == 2000)
            before = len(built)
            assert before <= 3
            for _ in range(1000):
                selector.pick("greeter")
            assert len(built) == before

    run(main())


# -- call --------------------------------------------------------------------------------------------


def refusing(
    tried: list[str], error: BaseException, *, until: int = 99
) -> Callable[[Node], Coroutine[None, None, str]]:
    async def function(node: Node) -> str:
        tried.append(node.id)
        if len(tried) < until:
            raise error
        return f"answer of {node.id}"

    return function


@pytest.mark.parametrize("strategy", ["random", "round_robin"])
def test_call_tries_each_node_once_and_not_more_than_attempts(strategy: str) -> None:
    async def main() -> None:
        async with selecting(strategy) as (selector, registry):
            await registry.register(service(nodes(5)))
            await selector.select("greeter")
            await wait_until(lambda: len(seen(selector)) == 5)
            for attempts, expected in ((1, 1), (2, 2), (3, 3), (5, 5), (50, 5)):
                tried: list[str] = []
                with pytest.raises(ConnectionRefusedError, match="no"):
                    await selector.call("greeter", refusing(tried, ConnectionRefusedError("no")), attempts=attempts)
                assert len(tried) == len(set(tried)) == expected
            tried = []
            assert await selector.call("greeter", refusing(tried, OSError(), until=3)) == f"answer of {tried[2]}"
            assert len(set(tried)) == 3

    run(main())


def test_call_finds_the_only_other_node_also_when_the_strategy_never_names_it() -> None:
    async def main() -> None:
        async with selecting(lambda members, rng: lambda: members[0].node) as (selector, registry):
            await registry.register(service(nodes(3)))
            await selector.select("greeter")
            await asyncio.sleep(1)
            tried: list[str] = []
            with pytest.raises(OSError, match="x"):
                await selector.call("greeter", refusing(tried, OSError("x")))
            assert sorted(tried) == ids(nodes(3))

    run(main())


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), LookupError()])
def test_call_repeats_only_what_it_was_told_to(error: BaseException) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(3)))
            tried: list[str] = []
            with pytest.raises(type(error)):
                await selector.call("greeter", refusing(tried, error))
            assert len(tried) == 1
            if isinstance(error, Exception):
                with pytest.raises(type(error)):
                    await selector.call("greeter", refusing(tried, error), retry_on=type(error), attempts=2)
                assert len(tried) == 3

    run(main())


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), EOFError(), RegistryUnavailable("x")])
def test_call_repeats_what_a_broken_connection_raises(error: Exception) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(2)))
            await selector.select("greeter")
            await asyncio.sleep(0.1)
            assert await selector.call("greeter", refusing([], error, until=2))

    run(main())


def test_a_cancelled_call_is_passed_on() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(2)))
            cancelled: list[str] = []

            async def function(node: Node) -> None:
                try:
                    await asyncio.sleep(1e5)
                except asyncio.CancelledError:
                    cancelled.append(node.id)
                    raise

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await selector.call("greeter", function)
            assert len(cancelled) == 1

    run(main())


def test_call_sees_the_pool_as_it_is_at_each_attempt() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)))
            await selector.select("greeter")
            tried: list[str] = []

            async def function(node: Node) -> str:
                tried.append(node.id)
                if len(tried) == 1:
                    await registry.deregister(service([node]))
                    await registry.register(service(nodes(2)[1:]))
                    await asyncio.sleep(0.1)
                    raise ConnectionResetError
                return node.id

            assert await selector.call("greeter", function) == "n00001"

            async def leaves(node: Node) -> str:
                await registry.deregister(service([node]))
                await asyncio.sleep(0.1)
                raise ConnectionResetError("the last one has left")

            with pytest.raises(ConnectionResetError, match="the last one has left"):
                await selector.call("greeter", leaves)
            with pytest.raises(NoNodeAvailable):
                await selector.call("greeter", leaves, timeout=0.1)

    run(main())


@pytest.mark.parametrize("attempts", [0, -1, None, "3", 1.5, True])
def test_call_needs_an_attempt(attempts: object) -> None:
    async def main() -> None:
        async with selecting() as (selector, _):
            with pytest.raises(ConfigError, match="expected at least 1"):
                await selector.call("greeter", refusing([], OSError()), attempts=cast(int, attempts))

    run(main())


def test_call_needs_a_function() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)))
            with pytest.raises(ConfigError, match="function None .*: expected an async function that takes a node"):
                await selector.call("greeter", cast(Callable[[Node], Awaitable[None]], None))

    run(main())


@pytest.mark.parametrize(
    "timeout", [None, "x", "x" * 100_000, 10**400, 10**5000, float("nan"), True, [], b"5"], ids=kind
)
def test_a_timeout_is_a_number_of_seconds(timeout: object) -> None:
    async def main() -> None:
        async with selecting() as (selector, _):
            with pytest.raises(ConfigError, match="^timeout .*: expected a number of seconds$") as caught:
                await selector.select("nobody", timeout=cast(float, timeout))
            assert len(str(caught.value)) < 500

    run(main())


def test_a_timeout_may_be_over_already_or_far_away() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            for over in (0, -1, -1.5):
                with pytest.raises(NoNodeAvailable):
                    await selector.select("greeter", timeout=over)
            waiting = asyncio.create_task(selector.select("greeter", timeout=float("inf")))
            await registry.register(service(nodes(1)))
            assert (await waiting).id == "n00000"

    run(main())


# -- life --------------------------------------------------------------------------------------------


def test_the_registry_stays_open_when_the_selector_closes() -> None:
    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            await registry.register(service(nodes(1)))
            selector = Selector(registry)
            async with selector:
                await selector.select("greeter")
            await selector.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert len(await registry.get_service("greeter")) == 1
            for call in (selector.select("greeter"), selector.select("other")):
                with pytest.raises(RegistryClosed, match="Selector was closed"):
                    await call
            with pytest.raises(RegistryClosed, match="Selector was closed"):
                selector.pick("greeter")
            with pytest.raises(RegistryClosed, match="used before"):
                await selector.__aenter__()

    run(main())


def test_a_cached_registry_is_not_wrapped_again_and_goes_on() -> None:
    async def main() -> None:
        async with microreg.connect("cache+memory://") as registry:
            await registry.register(service(nodes(1)))
            async with Selector(registry) as selector:
                await selector.select("greeter")
                tasks = len(asyncio.all_tasks())
                async with Selector(registry, "round_robin") as other:
                    assert await other.select("greeter") == nodes(1)[0]
                    assert len(asyncio.all_tasks()) == tasks, "both stand on one watch"
                with pytest.raises(RegistryClosed):
                    other.pick("greeter")
                assert selector.pick("greeter") == nodes(1)[0]
            with pytest.raises(RegistryClosed):
                await selector.select("other")
            assert len(await registry.get_service("greeter")) == 1

    run(main())


def test_closing_ends_a_select_that_waits() -> None:
    async def main() -> None:
        async with selecting() as (selector, _):
            waiting = [asyncio.create_task(selector.select("greeter", timeout=60)) for _ in range(3)]
            await asyncio.sleep(1)
            await selector.close()
            for task in waiting:
                with pytest.raises(RegistryClosed, match="the Selector was closed"):
                    await task
            assert asyncio.get_running_loop().time() == 1

    run(main())


def test_a_registry_that_closes_ends_a_select_that_waits() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)))
            await selector.select("greeter")
            waiting = asyncio.create_task(selector.select("other", timeout=60))
            await asyncio.sleep(1)
            await registry.close()
            with pytest.raises(RegistryClosed, match="was closed"):
                await waiting
            assert asyncio.get_running_loop().time() == 1
            with pytest.raises(NoNodeAvailable, match="was closed"):
                selector.pick("greeter")
            for name in ("greeter", "other", "new"):
                with pytest.raises(RegistryClosed):
                    await selector.select(name, timeout=60)

    run(main())


def test_a_selector_or_registry_that_is_not_open() -> None:
    async def main() -> None:
        registry = microreg.connect("memory://")
        selector = Selector(registry)
        for attempt in (selector.select("greeter"), selector.call("greeter", refusing([], OSError()))):
            with pytest.raises(RegistryClosed, match="Selector is not open"):
                await attempt
        with pytest.raises(RegistryClosed, match="Selector is not open"):
            selector.pick("greeter")
        async with selector:
            for _ in range(2):
                with pytest.raises(RegistryClosed, match="not open yet"):
                    await selector.select("greeter")
                with pytest.raises(RegistryClosed, match="not open yet"):
                    selector.pick("greeter")
            async with registry:
                await registry.register(service(nodes(1)))
                assert await selector.select("greeter") == nodes(1)[0]

    run(main())


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\ud800", 5, None, [], ["greeter"], {}])
def test_names_that_cannot_be(name: object) -> None:
    async def main() -> None:
        async with selecting() as (selector, _):
            for _ in range(2):
                with pytest.raises(InvalidService):
                    await selector.select(cast(str, name), timeout=1)
                with pytest.raises(InvalidService):
                    selector.pick(cast(str, name))

    run(main())


def test_names_that_nobody_registers_are_not_followed_for_ever() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await registry.register(service(nodes(1)), ttl=86_400)
            await selector.select("greeter")
            waiting = asyncio.create_task(selector.select("wanted", timeout=3600))
            await asyncio.sleep(0.1)
            for number in range(1500):
                with pytest.raises(NoNodeAvailable):
                    selector.pick(f"made-up-{number}")
            assert len(selector._names.pools) == 1001
            await asyncio.sleep(10)
            assert sum("microreg cache" in task.get_name() for task in asyncio.all_tasks()) == 1001
            await registry.register(service(nodes(1), "wanted"))
            assert await waiting == nodes(1)[0]
            await registry.register(service(nodes(1), "made-up-0"))
            assert await selector.select("made-up-0") == selector.pick("greeter") == nodes(1)[0]

    run(main())


def test_static_nodes_are_selected_too() -> None:
    async def main() -> None:
        async with selecting(url="static://greeter=10.0.0.1:80,10.0.0.2:80") as (selector, _):
            await selector.select("greeter")
            assert seen(selector) == {"10.0.0.1:80", "10.0.0.2:80"}

    run(main())


def test_two_selectors_that_a_fork_made_out_of_one_choose_apart() -> None:
    async def chosen(selector: Selector) -> list[str]:
        async with selector:
            await selector.select("greeter", timeout=5)
            return [selector.pick("greeter").id for _ in range(50)]

    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            await registry.register(Service("greeter", nodes=[Node("10.0.0.1:80", id=id) for id in "abcdefgh"]))
            parents = Selector(registry)
            child = copy.copy(parents)
            child._names = copy.copy(parents._names)
            assert await chosen(parents) != await chosen(child)

    run(main())
