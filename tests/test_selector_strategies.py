"""Strategies: who gets how many calls, on equal and unequal nodes, in simulated time, seeded."""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import microreg
from microreg.errors import ConfigError, NoNodeAvailable
from microreg.model import Node, Service
from microreg.selector import Key, Keyed, Member, Selector, Strategy, strategies
from microreg.selector.members import Peers, weight_of
from selecting import greeters, members, selecting
from timeless import run

EQUAL = ("random", "round_robin", "weighted", "p2c", "least_outstanding")


def strategy(name: str) -> Strategy:
    return cast(Strategy, getattr(strategies, name))


def chi2(counts: Counter[str], expected: dict[str, float]) -> float:
    return sum((counts[id] - wanted) ** 2 / wanted for id, wanted in expected.items())


# -- shares ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EQUAL)
def test_equal_nodes_get_equally_many_calls(name: str) -> None:
    pick = strategy(name)(members(greeters(20)), random.Random(1))
    counts = Counter(pick().id for _ in range(20_000))
    assert chi2(counts, dict.fromkeys(counts, 1000)) < 43.8, "p > 0.001 with 19 degrees of freedom"
    assert len(counts) == 20


@pytest.mark.parametrize("name", EQUAL)
def test_many_clients_do_not_begin_with_the_same_node(name: str) -> None:
    """A thousand clients, each with a random source of its own and nothing learned yet."""
    of = members(greeters(20))
    firsts, seconds = Counter[str](), Counter[str]()
    for seed in range(1000):
        pick = strategy(name)(of, random.Random(seed))
        firsts[pick().id] += 1
        seconds[pick().id] += 1
    expected = {member.id: 50.0 for member in of}
    assert chi2(firsts, expected) < 43.8 and chi2(seconds, expected) < 43.8


@pytest.mark.parametrize("name", ["weighted", "p2c"])
@pytest.mark.parametrize("weights", [[1, 2, 3, 4], [0.5, 0.25, 0.25], [0, 1, 3], [100, 1, 1], [1e300, 1e300]])
def test_shares_follow_weights(name: str, weights: list[float]) -> None:
    pick = strategy(name)(members(weighing(weights)), random.Random(3))
    counts = Counter(pick().id for _ in range(10_000))
    total = sum(weight / max(weights) for weight in weights)
    expected = {f"n{number}": 10_000 * weight / max(weights) / total for number, weight in enumerate(weights) if weight}
    assert counts.keys() <= expected.keys(), "a weight of 0 means no calls"
    assert chi2(counts, expected) < 16.3, "p > 0.001 with 3 degrees of freedom"


def weighing(weights: Iterable[object]) -> tuple[Node, ...]:
    return tuple(
        Node(f"10.0.0.{number}:80", id=f"n{number}", metadata={"weight": str(weight)})
        for number, weight in enumerate(weights)
    )


@pytest.mark.parametrize("name", [*EQUAL, "rendezvous"])
@pytest.mark.parametrize("weights", [[0, 0, 0], [0], [7], [5e-324, 1e308]])
def test_odd_weights_leave_somebody_to_pick(name: str, weights: list[float]) -> None:
    of = members(weighing(weights))
    pick = strategy(name)(of, random.Random(3))
    assert {pick().id for _ in range(200)} <= {member.id for member in of}
    assert max(weights) > 0 or len({pick().id for _ in range(200)}) == len(of), "nobody has a weight: all are equal"


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40).filter(lambda weights: max(weights) > 0))
def test_an_alias_table_is_exact(weights: list[float]) -> None:
    keep, other = strategies._alias_table(weights)
    shares = [0.0] * len(weights)
    for slot, (kept, instead) in enumerate(zip(keep, other, strict=True)):
        assert -1e-9 <= kept <= 1 + 1e-9
        shares[slot] += kept / len(weights)
        shares[instead] += (1 - kept) / len(weights)
    assert shares == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "weight"),
    [("3", 3.0), ("0.5", 0.5), ("0", 0.0), (" 2 ", 2.0)]
    + [(bad, None) for bad in ("", "much", "-1", "nan", "inf", "1e999", "9" * 400, "٣x", "1,5")],
)
def test_a_weight_is_a_finite_number_from_0_on(text: str, weight: float | None) -> None:
    assert weight_of(Node("10.0.0.1:80", metadata={"weight": text})) == weight
    assert weight_of(Node("10.0.0.1:80")) == 1


def test_bad_weights_count_as_1_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with selecting("weighted") as (selector, registry):
            await registry.register(Service("greeter", nodes=weighing(["much", "-1", "2"])))
            await selector.select("greeter")
            counts = Counter(selector.pick("greeter").id for _ in range(4000))
            assert chi2(counts, {"n0": 1000, "n1": 1000, "n2": 2000}) < 13.8

    with caplog.at_level(logging.WARNING, "microreg.selector"):
        run(main())
    assert [record.message for record in caplog.records] == [
        "n0 of greeter: weight 'much' is no number from 0 on; it counts as 1"
    ]


def test_a_change_of_weight_counts_at_once() -> None:
    async def main() -> None:
        async with selecting("weighted") as (selector, registry):
            await registry.register(Service("greeter", nodes=weighing([1, 1])))
            await selector.select("greeter")
            await registry.register(Service("greeter", nodes=weighing([0, 1])))
            await asyncio.sleep(0.01)
            assert {selector.pick("greeter").id for _ in range(100)} == {"n1"}

    run(main())


# -- load --------------------------------------------------------------------------------------------


def test_the_least_outstanding_node_is_picked_by_weight_and_ties_at_random() -> None:
    of = members(weighing([1, 1, 2]))
    pick = strategies.least_outstanding(of, random.Random(1))
    for member, calls in zip(of, (1, 1, 3), strict=True):
        for _ in range(calls):
            member.begin()
    assert {pick().id for _ in range(100)} == {"n0", "n1", "n2"}, "two calls at weight 1 are as four at weight 2"
    of[0].begin()
    assert {pick().id for _ in range(100)} == {"n1", "n2"}
    for _ in range(3):
        of[2].end()
    assert {pick().id for _ in range(100)} == {"n2"}


def test_sequential_calls_do_not_all_go_to_the_first_node() -> None:
    for name in ("least_outstanding", "p2c"):
        of = members(greeters(3))
        pick = strategy(name)(of, random.Random(5))
        counts = Counter[str]()
        for _ in range(300):
            node = pick()
            counts[node.id] += 1
            next(member for member in of if member.id == node.id).learn(0.01, False, 0.0)
        assert min(counts.values()) > 60, name


@pytest.mark.parametrize("weights", [[1, 1], [2, 1]])
def test_p2c_prefers_less_latency_and_fewer_calls(weights: list[int]) -> None:
    one, two = of = members(weighing(weights))
    pick = strategies.p2c(of, random.Random(1))

    def picked() -> set[str]:
        counts = Counter(pick().id for _ in range(300))
        return {id for id, count in counts.items() if count > 30}  # by weight, two draws may be of one node

    assert picked() == {"n0", "n1"}
    one.learn(0.010, False, 0.0)
    assert picked() == {"n0", "n1"}, "one that was never heard of counts as the mean of all"
    two.learn(0.020, False, 0.0)
    assert picked() == {"n0"}
    one.begin()
    one.begin()
    assert picked() == {"n1"}
    assert one.load == pytest.approx(0.030) and one.outstanding == 2


def test_two_draws_are_of_two_nodes() -> None:
    """Otherwise the slowest of five would get every 25th call, and set the 99th percentile."""
    for weights in ([1] * 5, [1, 1, 1, 1, 2]):
        of = members(weighing(weights))
        for member in of:
            member.learn(1.0 if member.id == "n0" else 0.1, False, 0.0)
        pick = strategies.p2c(of, random.Random(1))
        assert "n0" not in {pick().id for _ in range(2000)}, weights


def test_failing_fast_attracts_no_calls() -> None:
    one, two = of = members(greeters(2))
    pick = strategies.p2c(of, random.Random(1))
    for _ in range(10):
        one.learn(0.001, True, 0.0)
        two.learn(0.100, False, 0.0)
    assert {pick().id for _ in range(100)} == {two.id}
    assert one.failures == 10 and two.peers.latency == pytest.approx(0.1), "failures are no part of the mean"


def test_a_latency_forgets_with_time() -> None:
    (member,) = members(greeters(1))
    member.learn(1.0, False, 0.0)
    assert member.latency == 1
    member.learn(0.1, False, 0.0)
    assert member.latency == pytest.approx(0.91)
    member.learn(0.1, False, 10.0)
    assert 0.1 < member.latency < 0.25
    member.learn(0.0, False, 100.0)
    assert member.latency > 0, "no call takes no time, or the node would be infinitely good"
    before = member.latency
    member.learn(None, False, 101.0)
    assert member.latency == before
    member.learn(0.2, False, 50.0)
    assert before < member.latency < 0.2, "a clock that another thread read a little earlier is no harm"


def test_one_silent_node_at_a_time_gets_one_call_as_a_probe() -> None:
    of = members(greeters(10))
    peers = of[0].peers
    pick = strategies.p2c(of, random.Random(1))
    for member in of:
        member.learn(1.0 if member is of[3] else 0.1, False, 0.0)
    picked = list[tuple[float, str]]()
    for turn in range(1, 6001):  # 50 calls a second for two minutes
        node = pick()
        now = turn / 50
        if node.id == of[3].id:
            picked.append((now, node.id))
        next(member for member in of if member.id == node.id).learn(1.0 if node.id == of[3].id else 0.1, False, now)
    gaps = [after - before for (before, _), (after, _) in pairwise(picked)]
    assert 9 <= len(picked) <= 12 and all(10 <= gap < 12 for gap in gaps)
    assert not peers.probes
    peers.forget(of[3])
    assert of[3] not in peers._heard.values()


def test_with_few_calls_most_are_no_probes() -> None:
    """A pool that is larger than its calls are many: every node is silent for long."""
    of = members(greeters(100))
    pick = strategies.p2c(of, random.Random(1))
    by_id = {member.id: member for member in of}
    probes = 0
    for turn in range(2000):
        probes += bool(of[0].peers.probes)
        by_id[pick().id].learn(0.1, False, turn * 1.0)
    assert 100 <= probes <= 200


def test_a_node_that_wants_no_calls_gets_no_probe() -> None:
    of = members(greeters(3))
    for member in of:
        member.learn(0.1, False, 0.0)
    of[1].update(of[1].service, of[1].node.replace(metadata={"weight": "0"}))
    pick = strategies.p2c(of, random.Random(1))
    by_id = {member.id: member for member in of}
    picked = set[str]()
    for turn in range(1, 1001):
        picked.add(id := pick().id)
        by_id[id].learn(0.1, False, turn * 1.0)
    assert picked == {of[0].id, of[2].id}


def test_threads_that_take_the_same_probe() -> None:
    class Emptied(list[Member]):
        def __bool__(self) -> bool:
            return True

    peers = Peers()
    peers.probes = Emptied()
    of = tuple(Member(Service("greeter"), node, peers) for node in greeters(3))
    assert strategies.p2c(of, random.Random(1))() in greeters(3)


# -- quality, in simulated time ----------------------------------------------------------------------


def percentile(latencies: list[float], share: float) -> float:
    return statistics.quantiles(latencies, n=1000)[round(share * 1000) - 1]


def simulated(name: str, slow: int, *, calls: int = 2000, rate: float = 200.0) -> list[float]:
    """The latencies of random arrivals at five nodes, of which so many answer ten times slower."""
    rng, latencies = random.Random(11), list[float]()

    async def one(selector: Selector) -> None:
        async with selector.acquire("greeter") as node:
            latency = rng.uniform(0.008, 0.012) * (10 if int(node.id[1:]) < slow else 1)
            await asyncio.sleep(latency)
            latencies.append(latency)

    async def main() -> None:
        async with selecting(name) as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(5)), ttl=3600)
            await selector.select("greeter")
            async with asyncio.TaskGroup() as group:
                for _ in range(calls):
                    group.create_task(one(selector))
                    await asyncio.sleep(rng.expovariate(rate))

    run(main())
    return latencies


def test_one_slow_node_of_five_does_not_slow_the_99th_percentile() -> None:
    healthy = percentile(simulated("p2c", 0), 0.99)
    assert percentile(simulated("p2c", 1), 0.99) <= 2 * healthy
    assert percentile(simulated("round_robin", 1), 0.99) >= 8 * healthy


def test_a_node_that_was_slow_comes_back() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(5)), ttl=3600)
            await selector.select("greeter")
            loop, counts = asyncio.get_running_loop(), Counter[str]()
            for _ in range(4000):  # two minutes
                await asyncio.sleep(0.03)
                node = selector.pick("greeter")
                slow = node.id == "n00000" and loop.time() < 30
                counts[node.id] += loop.time() > 80
                selector.report(node, latency=1.0 if slow else 0.1)
            assert counts["n00000"] > 130

    run(main())


# -- keys --------------------------------------------------------------------------------------------


def placed(of: tuple[Member, ...], keys: Iterable[Key]) -> dict[Key, str]:
    pick = strategies.rendezvous.build(of, random.Random(1))
    return {key: pick(key).id for key in keys}


def test_equal_keys_go_to_one_node_in_every_process_and_order() -> None:
    of = members(greeters(20))
    keys = [*map(str, range(500)), *range(500), b"raw", -(2**80), "\ud800", ""]
    assert placed(of, keys) == placed(tuple(reversed(of)), keys)
    assert placed(of[:3], ["alice", "bob", "carol", "dave"]) == {
        "alice": "n00002",
        "bob": "n00001",
        "carol": "n00002",
        "dave": "n00000",
    }, "these are for ever"


@pytest.mark.parametrize("weights", [[1] * 10, [1, 2] * 5])
def test_when_a_node_leaves_only_its_keys_move_and_to_all_others(weights: list[int]) -> None:
    of = members(weighing(weights))
    keys = range(4000)
    before = placed(of, keys)
    counts = Counter(before.values())
    expected = {f"n{number}": 4000 * weight / sum(weights) for number, weight in enumerate(weights)}
    assert chi2(counts, expected) < 27.9, "p > 0.001 with 9 degrees of freedom"
    for gone in (0, 4, 9):
        after = placed(of[:gone] + of[gone + 1 :], keys)
        moved = [key for key in keys if before[key] != after[key]]
        assert {before[key] for key in moved} == {of[gone].id}
        assert len(moved) / len(keys) <= weights[gone] / sum(weights) + 0.02
        assert len({after[key] for key in moved}) == 9


def test_a_key_is_given_where_it_is_understood() -> None:
    async def main() -> None:
        async with selecting("rendezvous") as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(8)))
            first = await selector.select("greeter", key="alice")
            assert {selector.pick("greeter", key="alice") for _ in range(20)} == {first}
            assert await selector.select("greeter", key="alice") == first
            assert len({selector.pick("greeter", key=key).id for key in range(50)}) == 8
            assert len({selector.pick("greeter").id for _ in range(100)}) == 8, "without a key any node"
            for key in ([], {}, 1.5, ("a",), object()):
                with pytest.raises(ConfigError, match="expected str, bytes or int"):
                    selector.pick("greeter", key=cast(Key, key))
                with pytest.raises(ConfigError, match="expected str, bytes or int"):
                    await selector.select("greeter", key=cast(Key, key))
            async with selector.acquire("greeter", key="alice") as node:
                assert node == first

            async def fail(node: Node) -> None:
                tried.append(node.id)
                raise ConnectionResetError

            orders = list[list[str]]()
            for _ in range(2):
                tried = list[str]()
                with pytest.raises(ConnectionResetError):
                    await selector.call("greeter", fail, key="alice")
                orders.append(tried)
            assert orders[0] == orders[1] and orders[0][0] == first.id and len(set(orders[0])) == 3
        async with selecting("p2c") as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(2)))
            with pytest.raises(ConfigError, match="the strategy p2c takes no key: .*'rendezvous'"):
                await selector.select("greeter", key="alice")

    run(main())


# -- strategies of others ----------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[object], Node]:
    def pick(_key: object = None) -> Node:
        raise error

    return pick


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (raising(LookupError("mine")), "the strategy raised LookupError: mine"),
        (lambda: 5, r"the strategy picked 5; expected a Node"),
        (None, r"the strategy raised TypeError: returned None .*; expected a function that picks"),
    ],
)
def test_what_goes_wrong_in_a_strategy_of_others_is_said(made: object, message: str) -> None:
    async def main() -> None:
        async with selecting(lambda members, rng: cast(strategies.Pick, made)) as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(2)))
            for _ in range(2):
                with pytest.raises(NoNodeAvailable, match=message):
                    await selector.select("greeter", timeout=0.1)

    run(main())


def test_a_strategy_that_fails_at_every_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise TypeError

    def broken(members: tuple[Member, ...], rng: random.Random) -> strategies.Pick:
        raise Unspeakable

    async def main() -> None:
        async with selecting(broken) as (selector, registry):
            for count in range(1, 20):
                await registry.register(Service("greeter", nodes=greeters(count)))
                with pytest.raises(NoNodeAvailable, match="raised Unspeakable: something without a text"):
                    await selector.select("greeter", timeout=0.1)

    run(main())
    assert caplog.text.count("a strategy failed") == 1


def test_a_pick_that_fails_in_a_retry_hides_no_error() -> None:
    def once(members: tuple[Member, ...], rng: random.Random) -> strategies.Pick:
        return iter([members[0].node]).__next__

    async def main() -> None:
        async with selecting(once) as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(3)))
            tried = list[str]()

            async def fail(node: Node) -> None:
                tried.append(node.id)
                raise ConnectionRefusedError

            with pytest.raises(ConnectionRefusedError):
                await selector.call("greeter", fail)
            assert sorted(tried) == ["n00000", "n00001", "n00002"]

    run(main())


def test_who_sees_a_pick_finds_the_keyed_one_too() -> None:
    seen = list[str]()

    async def main() -> None:
        async with selecting("rendezvous") as (selector, registry):

            @Keyed
            def looking(members: tuple[Member, ...], rng: random.Random) -> strategies.KeyedPick:
                seen.extend(selector.picks)  # as another thread would at this moment
                return lambda key: members[0].node

            async with Selector(registry, looking) as selector:
                await registry.register(Service("greeter", nodes=greeters(3)))
                assert await selector.select("greeter", key="a") in greeters(3)
                selector._chooser._keyed.clear()  # in which the last node has just gone
                with pytest.raises(NoNodeAvailable, match="can be selected any more"):
                    selector.pick("greeter", key="a")

    run(main())
    assert seen == []


def test_a_keyed_strategy_of_others() -> None:
    @Keyed
    def by_length(members: tuple[Member, ...], rng: random.Random) -> strategies.KeyedPick:
        """By the length of the key."""
        return lambda key: members[len(cast(str, key)) % len(members)].node

    broken = Keyed(lambda members, rng: cast(strategies.KeyedPick, raising(LookupError("mine"))))
    strange = Keyed(lambda members, rng: lambda key: cast(Node, key))

    async def main() -> None:
        async with selecting(by_length) as (selector, registry):
            await registry.register(Service("greeter", nodes=greeters(3)))
            assert (await selector.select("greeter", key="four")).id == "n00001"
            assert selector.explain("greeter").strategy == "by_length"
        for bad, message in ((broken, "the strategy raised LookupError: mine"), (strange, "the strategy picked 'k'")):
            async with selecting(bad) as (selector, registry):
                await registry.register(Service("greeter", nodes=greeters(3)))
                with pytest.raises(NoNodeAvailable, match=message):
                    await selector.select("greeter", key="k")
                assert (await selector.select("greeter")) in greeters(3)

    assert by_length.__doc__ == "By the length of the key." and repr(by_length).endswith("by_length")
    run(main())


async def _asynchronous(members: tuple[Member, ...], rng: random.Random) -> strategies.Pick:
    return lambda: members[0].node


def test_a_strategy_is_a_plain_function() -> None:
    with pytest.raises(ConfigError, match="expected a name or a function"):
        Selector(microreg.connect("memory://"), cast(Strategy, _asynchronous))
