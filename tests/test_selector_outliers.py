"""Outliers, slow start and what is remembered: nodes that fail, nodes that are new, nodes that come and go."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import cast

import pytest

import microreg
from microreg.errors import ConfigError, NoNodeAvailable
from microreg.model import Node, Service, Status
from microreg.registry import Registry
from microreg.selector import Outliers, RetryBudget, Selector
from microreg.selector.pool import Pool
from selecting import greeters, selecting
from timeless import run


async def put(registry: Registry, *nodes: Node) -> None:
    await registry.register(Service("greeter", nodes=nodes), ttl=86_400)
    await asyncio.sleep(0.01)


def seen(selector: Selector) -> set[str]:
    return {selector.pick("greeter").id for _ in range(200)}


def fail(selector: Selector, node: Node, times: int = 5) -> None:
    for _ in range(times):
        selector.report(node, error=ConnectionRefusedError())


# -- ejection ----------------------------------------------------------------------------------------


def test_a_node_that_fails_again_and_again_is_left_alone_for_longer_and_longer() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            bad, *rest = greeters(4)
            await put(registry, bad, *rest)
            await selector.select("greeter")
            fail(selector, bad, 4)
            assert bad.id in seen(selector)
            selector.report(bad, latency=0.1)
            fail(selector, bad, 4)
            assert bad.id in seen(selector), "only failures in a row count"
            for times, pause in ((1, 10), (1, 20), (1, 40), (1, 80), (1, 160), (1, 300), (1, 300)):
                fail(selector, bad, times)
                assert bad.id not in seen(selector), "at once"
                await asyncio.sleep(pause - 0.5)
                assert bad.id not in seen(selector)
                await asyncio.sleep(1)
                assert bad.id in seen(selector)
            selector.report(bad, latency=0.1)
            fail(selector, bad, 4)
            assert bad.id in seen(selector), "one that answered has all its tries again"
            await asyncio.sleep(3600)
            fail(selector, bad)
            await asyncio.sleep(10.5)
            assert bad.id in seen(selector), "what was long ago is forgiven"

    run(main())


@pytest.mark.parametrize(("count", "ejected"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)])
def test_at_most_half_is_ejected_and_never_the_last(count: int, ejected: int) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(count))
            await selector.select("greeter")
            for node in greeters(count):
                fail(selector, node, 50)
            assert len(seen(selector)) == count - ejected
            assert sum(each.ejected > 0 for each in selector.explain("greeter").nodes) == ejected

    run(main())


def test_when_only_ejected_nodes_are_left_all_are_used() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            nodes = greeters(4)
            await put(registry, *nodes)
            await selector.select("greeter")
            for node in nodes[:2]:
                fail(selector, node)
            assert seen(selector) == {"n00002", "n00003"}
            await registry.deregister(Service("greeter", nodes=nodes[3:]))
            await asyncio.sleep(0.01)
            assert seen(selector) == {"n00000", "n00001", "n00002"}, "2 of 3 ejected is too many"
            explanation = selector.explain("greeter")
            assert "panic" in explanation.note and len(explanation.selected) == 3
            await registry.deregister(Service("greeter", nodes=nodes[2:3]))
            await asyncio.sleep(0.01)
            assert seen(selector) == {"n00000", "n00001"}

    run(main())


def test_an_ejected_node_is_still_there_for_retries() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            nodes = greeters(2)
            await put(registry, *nodes)
            await selector.select("greeter")
            fail(selector, nodes[0])

            async def only_the_first(node: Node) -> str:
                if node.id == "n00000":
                    return "saved"
                raise ConnectionResetError

            assert seen(selector) == {"n00001"}
            assert await selector.call("greeter", only_the_first) == "saved"

    run(main())


def test_outliers_as_told() -> None:
    async def main() -> None:
        async with selecting(outliers=Outliers(failures=1, pause=1, longest=2, share=1)) as (selector, registry):
            await put(registry, *greeters(3))
            await selector.select("greeter")
            for node in greeters(3):
                fail(selector, node, 1)
            assert seen(selector) == {"n00002"}, "all but the last"
            await asyncio.sleep(1.1)
            assert len(seen(selector)) == 3
        async with selecting(outliers=None) as (selector, registry):
            await put(registry, *greeters(3))
            await selector.select("greeter")
            fail(selector, greeters(1)[0], 100)
            assert len(seen(selector)) == 3

    run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Outliers(failures=0),
        lambda: Outliers(pause=0),
        lambda: Outliers(pause=float("nan")),
        lambda: Outliers(pause=5, longest=1),
        lambda: Outliers(share=1.5),
        lambda: Outliers(failures=cast(int, float("nan"))),
        lambda: Outliers(failures=cast(int, "5")),
        lambda: Outliers(pause=cast(float, None)),
        lambda: RetryBudget(share=cast(float, "1")),
        lambda: RetryBudget(least=1e308),
        lambda: RetryBudget(share=-1),
        lambda: RetryBudget(least=float("inf")),
        lambda: Selector(microreg.connect("memory://"), outliers=cast(Outliers, 5)),
        lambda: Selector(microreg.connect("memory://"), retry_budget=cast(RetryBudget, None)),
        lambda: Selector(microreg.connect("memory://"), slow_start=-1),
        lambda: Selector(microreg.connect("memory://"), slow_start=float("inf")),
        lambda: Selector(microreg.connect("memory://"), slow_start=cast(float, "1s")),
        lambda: Selector(microreg.connect("memory://"), failures=cast(type[Exception], "x")),
        lambda: Selector(microreg.connect("memory://"), failures=cast(type[Exception], asyncio.CancelledError)),
    ],
)
def test_settings_that_cannot_be(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match="expected"):
        make()


# -- what is remembered ------------------------------------------------------------------------------


def test_statistics_survive_every_change_but_a_long_absence() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            nodes = greeters(3)
            await put(registry, *nodes)
            await selector.select("greeter")

            def latency(id: str) -> float | None:
                return next(each.latency for each in selector.explain("greeter").nodes if each.node.id == id)

            selector.report(nodes[1], latency=0.25)
            assert latency("n00001") == 0.25
            await put(registry, nodes[1].replace(metadata={"a": "b"}), *greeters(9)[5:])
            await registry.register(Service("greeter", "7", nodes=nodes[1:2]), ttl=86_400)
            await put(registry, nodes[1].replace(status=Status.WARNING))
            await put(registry, nodes[1].replace(address="10.9.9.9:1"))
            assert latency("n00001") == 0.25
            for absence, kept in ((50, 0.25), (70, None)):
                await registry.deregister(Service("greeter", nodes=nodes[1:2]))
                await asyncio.sleep(absence)
                await put(registry, nodes[1])
                assert latency("n00001") == kept

    run(main())


def test_an_ejected_node_that_leaves_and_comes_back_is_still_ejected() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            nodes = greeters(3)
            await put(registry, *nodes)
            await selector.select("greeter")
            fail(selector, nodes[0])
            await registry.deregister(Service("greeter", nodes=nodes[:1]))
            await asyncio.sleep(1)
            await put(registry, nodes[0])
            assert seen(selector) == {"n00001", "n00002"}
            await asyncio.sleep(10)
            assert len(seen(selector)) == 3

    run(main())


def test_what_is_remembered_of_those_who_left_is_bounded() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, Node("10.0.0.1:80", id="stays"))
            await selector.select("greeter")
            for first in range(0, 2500, 500):
                wave = [Node("10.0.0.2:80", id=f"w{first + number}") for number in range(500)]
                await put(registry, *wave)
                await registry.deregister(Service("greeter", nodes=wave))
                await asyncio.sleep(0.01)
            membership = selector._names.pools["greeter"].membership
            assert len(membership._absent) == 1000 and len(membership.members) == 1
            assert selector._names.index.keys() == {"stays"}
            await asyncio.sleep(61)
            await registry.deregister(Service("greeter", nodes=[Node("10.0.0.1:80", id="stays")]))
            await asyncio.sleep(0.01)
            assert len(membership._absent) == 1

    run(main())


# -- slow start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["random", "round_robin", "weighted", "p2c", "least_outstanding"])
def test_a_new_node_begins_slowly(strategy: str) -> None:
    async def main() -> None:
        async with selecting(strategy) as (selector, registry):
            await put(registry, *greeters(3))
            await selector.select("greeter")
            await asyncio.sleep(5)
            await put(registry, greeters(4)[3])

            def share() -> float:
                return Counter(selector.pick("greeter").id for _ in range(2000))["n00003"] / 2000

            assert share() < 0.06
            assert "new: gets 10% of its share" in str(selector.explain("greeter"))
            await asyncio.sleep(5)
            assert 0.08 < share() < 0.22
            await asyncio.sleep(5.1)
            assert 0.21 < share() < 0.29
            assert not selector._names.pools["greeter"].membership.new

    run(main())


def test_a_first_snapshot_and_what_follows_at_once_are_not_new() -> None:
    async def main() -> None:
        async with selecting("round_robin") as (selector, registry):
            await put(registry, greeters(1)[0])
            await selector.select("greeter")
            await asyncio.sleep(0.5)
            await put(registry, *greeters(4))
            counts = Counter(selector.pick("greeter").id for _ in range(400))
            assert set(counts.values()) == {100}
            await registry.deregister(Service("greeter", nodes=greeters(4)))
            await asyncio.sleep(100)
            await put(registry, *greeters(8)[4:])
            counts = Counter(selector.pick("greeter").id for _ in range(400))
            assert set(counts.values()) == {100}, "who begins again from nothing has no older nodes to spare new ones"

    run(main())


def test_a_restart_of_the_whole_fleet_leaves_somebody_to_pick() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(2))
            await selector.select("greeter")
            await asyncio.sleep(60)
            await put(registry, *greeters(4)[2:])
            await registry.deregister(Service("greeter", nodes=greeters(2)))
            await asyncio.sleep(0.01)
            counts = Counter(selector.pick("greeter").id for _ in range(1000))
            assert counts.keys() == {"n00002", "n00003"} and min(counts.values()) > 400

    run(main())


def test_slow_start_as_told() -> None:
    async def main() -> None:
        async with selecting("round_robin", slow_start=0) as (selector, registry):
            await put(registry, *greeters(3))
            await selector.select("greeter")
            await asyncio.sleep(60)
            await put(registry, greeters(4)[3])
            assert set(Counter(selector.pick("greeter").id for _ in range(400)).values()) == {100}

    run(main())


# -- the pool ----------------------------------------------------------------------------------------


def test_a_large_pool_that_changes_all_the_time_is_built_ten_times_a_second() -> None:
    async def main() -> None:
        built = list[float]()
        loop = asyncio.get_running_loop()

        async with selecting() as (selector, registry):
            await put(registry, *greeters(5000))
            await selector.select("greeter")
            pool = selector._names.pools["greeter"]
            publish = pool._publish

            def noted(pool: Pool) -> None:
                built.append(loop.time())
                publish(pool)

            pool._publish = noted
            await asyncio.sleep(10)
            for turn in range(100):
                await registry.register(Service("greeter", nodes=[Node(f"10.9.9.9:{turn + 1}", id="n00000")]))
                await asyncio.sleep(0.01)
            assert 18 <= len(built) <= 24, "once per 50 ms"
            await asyncio.sleep(0.1)
            member = pool.membership.members["n00000"]
            assert member.node.port == 100 and member in pool.roster.members

    run(main())


def test_a_large_pool_of_which_every_node_fails_is_not_built_for_each() -> None:
    async def main() -> None:
        built = 0

        async with selecting() as (selector, registry):
            await put(registry, *greeters(5000))
            await selector.select("greeter")
            pool = selector._names.pools["greeter"]
            publish = pool._publish

            def counted(pool: Pool) -> None:
                nonlocal built
                built += 1
                publish(pool)

            pool._publish = counted
            await asyncio.sleep(10)
            for node in greeters(5000):
                for _ in range(5):
                    selector.report(node, error=OSError())
            await asyncio.sleep(1)
            assert built <= 3
            assert len(pool.roster.members) == 2500, "half of them, as in a small pool"

    run(main())


def test_every_log_record_says_which_node(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(2))
            await selector.select("greeter")
            fail(selector, greeters(1)[0])

    with caplog.at_level(logging.INFO, "microreg.selector"):
        run(main())
    (record,) = caplog.records
    assert (record.message, vars(record)["node"]) == ("ejected node n00000 of greeter, which fails", "n00000")


def test_why_there_is_no_node_of_several_kinds() -> None:
    async def main() -> None:
        async with selecting(filters="zone:a") as (selector, registry):
            await put(registry, *greeters(2, Status.CRITICAL), Node("10.0.0.9:80", id="z"))
            with pytest.raises(NoNodeAvailable, match=r"3 known, none fits: its status is critical \(2\); left out by"):
                await selector.select("greeter", timeout=0.1)

    run(main())
