"""acquire, track, report, call, retries and explain: what a Selector learns of calls, from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

import microreg
import support
from microreg.errors import ConfigError, InvalidService, NoNodeAvailable, RegistryClosed
from microreg.model import Node, Service, Status
from microreg.registry import Registry
from microreg.selector import Explanation, Member, RetryBudget, Selector, Standing
from microreg.selector.pool import Pool
from selecting import greeters, selecting
from support import store_of, wait_until
from timeless import run


async def put(registry: Registry, *nodes: Node, name: str = "greeter") -> None:
    await registry.register(Service(name, "1", nodes=nodes), ttl=86_400)
    await asyncio.sleep(0.01)


def standing(selector: Selector, id: str = "n00000") -> Standing:
    return next(each for each in selector.explain("greeter").nodes if each.node.id == id)


# -- acquire and track -------------------------------------------------------------------------------


def test_acquire_counts_the_call_and_reports_its_latency() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(1))
            async with selector.acquire("greeter") as node:
                assert node == greeters(1)[0]
                async with selector.acquire("greeter"):
                    assert standing(selector).outstanding == 2
                await asyncio.sleep(0.25)
                assert standing(selector).outstanding == 1
            assert standing(selector).outstanding == 0
            assert standing(selector).latency == pytest.approx(0.025, abs=0.01)

    run(main())


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (ConnectionResetError(), 1),
        (TimeoutError(), 1),
        (EOFError(), 1),
        (ValueError("the caller's own"), 0),
        (asyncio.CancelledError(), 0),
        (KeyboardInterrupt(), 0),
    ],
)
def test_only_errors_of_the_connection_are_the_nodes_fault(error: BaseException, failures: int) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(1))
            with pytest.raises(type(error)):
                async with selector.acquire("greeter"):
                    raise error
            assert standing(selector).failures == failures and standing(selector).outstanding == 0
            assert (standing(selector).latency is None) == (failures == 0)

    run(main())


def test_other_errors_are_where_somebody_says_so() -> None:
    class Reset(Exception):
        pass

    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            async with Selector(registry, failures=Reset) as selector:
                await put(registry, *greeters(1))
                for error, failures in ((Reset(), 1), (OSError(), 1)):
                    with pytest.raises(type(error)):
                        async with selector.acquire("greeter"):
                            raise error
                    assert standing(selector).failures == failures
                with pytest.raises(OSError), selector.track("greeter", greeters(1)[0], failures=OSError):
                    raise OSError
                assert standing(selector).failures == 2

                async def fail(node: Node) -> None:
                    raise KeyError

                with pytest.raises(KeyError):
                    await selector.call("greeter", fail, retry_on=KeyError)
                assert standing(selector).failures == 3

    run(main())


def test_a_cancelled_call_is_nobodys_fault() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(1))

            async def hangs(node: Node) -> None:
                await asyncio.sleep(1e6)

            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await selector.call("greeter", hangs)
            assert (standing(selector).failures, standing(selector).outstanding) == (0, 0)

    run(main())


def test_a_long_answer_is_no_long_latency_but_may_still_break() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            (node,) = greeters(1)
            await put(registry, node)
            await selector.select("greeter")
            for failures in (1, 2):
                tracked = selector.track("greeter", node)
                with pytest.raises(ConnectionResetError), tracked:
                    await asyncio.sleep(0.1)
                    tracked.answered()
                    assert (standing(selector).outstanding, standing(selector).failures) == (1, failures - 1)
                    await asyncio.sleep(3600)
                    raise ConnectionResetError
                assert standing(selector).failures == failures, "in a row, though both began to answer"
            with selector.track("greeter", node):
                await asyncio.sleep(0.1)
            assert standing(selector).failures == 0

    run(main())


def test_a_node_that_leaves_during_a_call_is_no_harm() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            nodes = greeters(2)
            await put(registry, *nodes)
            await selector.select("greeter")
            with selector.track("greeter", nodes[0]), selector.track("greeter", Node("10.9.9.9:1")):
                await registry.deregister(Service("greeter", nodes=nodes[:1]))
                await asyncio.sleep(0.3)
            selector.report(nodes[0], latency=0.1)
            await put(registry, nodes[0])
            assert standing(selector).latency == pytest.approx(0.3) and standing(selector).outstanding == 0
            with selector.track("never heard of", nodes[0]) as node:
                assert node == nodes[0]

    run(main())


def test_a_call_that_outlives_its_node_puts_nobody_up_for_a_probe() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            nodes = greeters(3)
            await put(registry, *nodes)
            await selector.select("greeter")
            with selector.track("greeter", nodes[0]):
                await registry.deregister(Service("greeter", nodes=nodes[:1]))
                await asyncio.sleep(1)
            for _ in range(200):
                await asyncio.sleep(0.5)
                node = selector.pick("greeter")
                assert node.id != "n00000"
                selector.report(node, latency=0.1)

    run(main())


def test_a_probe_is_no_call_to_a_node_that_must_not_be_called() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            nodes = greeters(2)
            await put(registry, *nodes)
            await selector.select("greeter")
            selector.report(nodes[0], latency=1)
            probes = selector._names.pools["greeter"].membership.peers.probes
            while not probes:
                await asyncio.sleep(1)
                selector.report(nodes[1], latency=0.1)
            assert [member.id for member in probes] == ["n00000"]
            await put(registry, nodes[0].replace(status=Status.DRAINING))
            assert {selector.pick("greeter").id for _ in range(20)} == {"n00001"}

    run(main())


# -- report ------------------------------------------------------------------------------------------


def test_reports_by_hand() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            (node,) = greeters(1)
            await put(registry, node)
            assert await selector.select("greeter") == node
            selector.report(node, latency=2)
            selector.report(node)
            assert standing(selector).latency == 2
            selector.report(node, error=ValueError("what is reported is meant"))
            selector.report(node, error=ConnectionError(), latency=1)
            selector.report(node, error=asyncio.CancelledError())
            assert standing(selector).failures == 2
            selector.report(node)
            assert standing(selector).failures == 0
            selector.report(Node("10.9.9.9:9"), latency=1)
            for latency in (-1, float("nan"), float("inf"), 10**400, "1", None.__class__, True):
                with pytest.raises(ConfigError, match="latency .*: expected a number of seconds"):
                    selector.report(node, latency=cast(float, latency))

    run(main())


def test_latencies_beyond_all_measure_stay_numbers() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            nodes = greeters(2)
            await put(registry, *nodes)
            await selector.select("greeter")
            for node in nodes * 3:
                selector.report(node, latency=1e308)
                selector.report(node, error=OSError())
            for _ in range(200):
                await asyncio.sleep(1)
                for node in nodes:
                    selector.report(node, latency=0.1)
            assert [each.latency for each in selector.explain("greeter").nodes] == pytest.approx([0.1, 0.1])

    run(main())


def test_what_is_no_node_and_no_name() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(2))
            node = await selector.select("greeter")
            for bad in (None, "n00000", 5):
                for use in (selector.report, partial(selector.track, "greeter"), selector.retries("greeter", 3)):
                    with pytest.raises(ConfigError, match="expected a Node, as pick"):
                        cast(Callable[[object], object], use)(bad)
            unnameable: tuple[object, ...] = (None, [], {}, "")
            for name in unnameable:
                with pytest.raises(InvalidService):
                    selector.retries(cast(str, name), 3)
                with pytest.raises(InvalidService):
                    selector.track(cast(str, name), node)
                with pytest.raises(InvalidService):
                    await selector.call(cast(str, name), refuse)

    run(main())


def test_one_id_under_two_names_is_two_nodes() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            here, there = Node("10.0.0.1:80", id="n00000"), Node("10.0.0.2:80", id="n00000")
            await put(registry, here)
            await put(registry, there, name="other")
            await selector.select("greeter")
            await selector.select("other")
            selector.report(there, error=OSError())
            assert standing(selector).failures == 0 and selector.explain("other").nodes[0].failures == 1
            with pytest.raises(OSError), selector.track("greeter", here):
                raise OSError
            assert standing(selector).failures == 1 and selector.explain("other").nodes[0].failures == 1

    run(main())


def stopped(thread: threading.Thread) -> bool:
    return not thread.is_alive()


def test_threads_report_and_track_by_way_of_the_loop() -> None:
    async def main() -> None:
        async with selecting("p2c") as (selector, registry):
            await put(registry, *greeters(4))
            await selector.select("greeter")
            problems = list[BaseException]()

            def work() -> None:
                try:
                    for turn in range(300):
                        node = selector.pick("greeter")
                        with selector.track("greeter", node):
                            pass
                        selector.report(node, latency=0.5)
                        if turn % 3 == 0:
                            selector.explain("greeter")
                except BaseException as error:
                    problems.append(error)

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            bad = greeters(1)[0]

            def blame() -> None:
                for _ in range(5):
                    selector.report(bad, error=OSError())

            failing = threading.Thread(target=blame)
            for thread in threads:
                await wait_until(partial(stopped, thread), timeout=20)
                thread.join()
            failing.start()
            await wait_until(lambda: standing(selector).ejected > 0)
            failing.join()
            assert problems == []
            assert [each.outstanding for each in selector.explain("greeter").nodes] == [0] * 4
            await wait_until(lambda: not selector._names._reports._woken)
            assert not selector._names._reports._waiting

    support.run(main())


def test_threads_that_report_without_end_leave_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = 0

    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(1))
            node = await selector.select("greeter")
            waiting = selector._names._reports._waiting

            def learn(pool: Pool, *report: object) -> None:
                nonlocal heard
                heard += 1
                if heard < 20_000:  # the thread has reported again meanwhile
                    waiting.append(cast("tuple[Pool, Member, None, bool, float]", (pool, *report)))

            monkeypatch.setattr(Pool, "learn", learn)

            def report() -> None:
                for _ in range(700):
                    selector.report(node)

            reporting = threading.Thread(target=report)
            reporting.start()
            reporting.join()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert heard <= 1000 and waiting
            await asyncio.sleep(3600)
            assert heard >= 20_000 and not waiting and not selector._names._reports._woken

    run(main())


# -- retries -----------------------------------------------------------------------------------------


async def refuse(node: Node) -> None:
    raise ConnectionRefusedError(node.id)


def test_retries_are_bounded_by_the_budget() -> None:
    async def main() -> None:
        async with selecting(outliers=None, retry_budget=RetryBudget(share=0.5, least=0)) as (selector, registry):
            await put(registry, *greeters(5))
            await put(registry, *greeters(5), name="other")
            await selector.select("greeter")
            tried = list[str]()

            async def fail(node: Node) -> None:
                tried.append(node.id)
                raise ConnectionRefusedError

            for _ in range(20):
                with pytest.raises(ConnectionRefusedError):
                    await selector.call("greeter", fail)
            assert len(tried) == 30, "20 calls, and half of that"
            assert selector.explain("greeter").retries == 0
            tried.clear()
            for _ in range(4):
                with pytest.raises(ConnectionRefusedError):
                    await selector.call("other", fail, attempts=5)
            assert len(tried) == 5, "each name has its own: the first call of a name is none of those known"

    run(main())


def test_the_budget_of_those_who_call_rarely_and_of_those_who_call_much() -> None:
    async def main() -> None:
        async with selecting(outliers=None) as (selector, registry):
            await put(registry, *greeters(5))
            await selector.select("greeter")
            assert selector.explain("greeter").retries == 30, "three a second, for ten seconds"

            def spend() -> int:
                spent = 0
                while (following := selector.retries("greeter", 2))(greeters(1)[0]) is not None:
                    spent += 1
                    assert following is not None
                return spent

            assert spend() == 37, "30, and a fifth of the calls"
            await asyncio.sleep(1)
            assert 2 <= selector.explain("greeter").retries <= 3
            for _ in range(3000):
                selector.retries("greeter", 3)
                await asyncio.sleep(0.01)
            assert 190 <= selector.explain("greeter").retries <= 240, (
                "and a fifth of 100 calls a second, for ten seconds"
            )
            await asyncio.sleep(1000)
            assert 29 <= selector.explain("greeter").retries <= 30

    run(main())


def test_retries_by_hand() -> None:
    async def main() -> None:
        async with selecting("round_robin") as (selector, registry):
            await put(registry, *greeters(3))
            node: Node | None = await selector.select("greeter")
            following = selector.retries("greeter", 9)
            tried = list[str]()
            while node is not None:
                tried.append(node.id)
                node = following(node)
            assert sorted(tried) == ["n00000", "n00001", "n00002"]
            assert selector.retries("never heard of", 3)(greeters(1)[0]) is None

    run(main())


@pytest.mark.parametrize("errors", [5, "x", None, (OSError, 5), BaseException, asyncio.CancelledError, OSError()])
def test_what_is_retried_are_exceptions(errors: object) -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(2))
            with pytest.raises(ConfigError, match="retry_on .*: expected a subclass of Exception, or a tuple of them"):
                await selector.call("greeter", refuse, retry_on=cast(type[Exception], errors))

    run(main())


# -- explain -----------------------------------------------------------------------------------------


def test_explain_tells_every_node_and_why() -> None:
    async def main() -> None:
        async with selecting("p2c", "zone:a", slow_start=0) as (selector, registry):
            explanation = selector.explain("greeter")
            assert (explanation.nodes, explanation.note) == ((), "the registry has not answered yet")
            assert str(explanation).startswith(
                "greeter: 0 of 0 nodes selected by p2c, 30 retries left; unknown; the registry"
            )
            nodes = [*greeters(4, zone="a"), Node("10.0.0.9:80", id="z"), *greeters(5, Status.CRITICAL)[4:]]
            await put(registry, *nodes)
            for _ in range(5):
                selector.report(nodes[0], error=OSError())
            selector.report(nodes[1], latency=0.0123)
            with selector.track("greeter", nodes[1]):
                explanation = selector.explain("greeter")
            assert isinstance(explanation, Explanation)
            assert [each.node.id for each in explanation.nodes] == sorted(node.id for node in nodes)
            assert [node.id for node in explanation.selected] == ["n00001", "n00002", "n00003"]
            lines = str(explanation).splitlines()
            assert lines[0] == "greeter: 3 of 6 nodes selected by p2c, 30 retries left; live"
            for text in (
                "- n00000 1 10.0.0.0:80 passing 1 ? 0 5 ejected for 10 s after 5 failures",
                "* n00001 1 10.0.0.1:80 passing 1 by load 12.3 ms 1 0",
                "* n00002 1 10.0.0.2:80 passing 1 by load ? 0 0",
                "- n00004 1 10.0.0.4:80 critical 1 ? 0 0 its status is critical",
                "- z 1 10.0.0.9:80 passing 1 ? 0 0 left out by the filter zone:a",
            ):
                assert text in [" ".join(line.split()) for line in lines[2:]], str(explanation)
            first = explanation.nodes[1]
            assert (first.selected, first.weight, first.share, first.latency) == (True, 1, 1, 0.0123)
            assert (first.outstanding, first.failures, first.ejected, first.why) == (1, 0, 0, "")
            assert first.version == "1"

    run(main())


def test_explain_tells_what_decides_and_who_gets_how_much() -> None:
    heavy, light, hidden = (Node(f"10.0.0.{n}:80", id=f"n{n}", metadata={"weight": str(n)}) for n in (3, 1, 0))

    async def main() -> None:
        for strategy, portions in (
            ("weighted", {"n3": 0.75, "n1": 0.25, "n0": 0.0}),
            ("random", {"n3": 1 / 3, "n1": 1 / 3, "n0": 1 / 3}),
            ("p2c", {"n3": None, "n1": None, "n0": None}),
        ):
            async with selecting(strategy) as (selector, registry):
                await put(registry, heavy, light, hidden, *greeters(1, Status.DRAINING))
                await selector.select("greeter")
                explanation = selector.explain("greeter")
                assert {each.node.id: each.portion for each in explanation.nodes if each.selected} == portions
                verdicts = {each.node.id: each.verdict for each in explanation.nodes}
                assert verdicts == {"n3": "selected", "n1": "selected", "n0": "selected", "n00000": "status"}
                assert explanation.nodes[1].portion == 0, "draining"
                await registry.deregister(Service("greeter", nodes=[heavy, light, hidden]))

    run(main())


def test_explain_says_what_it_was_told_and_what_it_has_not_heard_of() -> None:
    async def main() -> None:
        async with selecting("random", ["zone:a", "version:1"], zone="a") as (selector, registry):
            await put(registry, *greeters(1, zone="a"), Node("10.0.9.9:80", id="z", metadata={"zone": "b"}))
            node = await selector.select("greeter")
            explanation = selector.explain("greeter")
            assert (explanation.filters, explanation.zone) == (("zone:a", "version:1"), "a")
            assert [each.verdict for each in explanation.nodes] == ["selected", "filter"]
            assert "zone:a and version:1; zone a is preferred" in explanation.heading
            assert not explanation.heard and "has heard of no call yet" in str(explanation)
            assert explanation.nodes[0].portion == 1.0
            selector.report(node, latency=0.1)
            await asyncio.sleep(0.1)
            explanation = selector.explain("greeter")
            assert explanation.heard and "has heard of no call yet" not in str(explanation)
            assert not explanation.panic

    run(main())


def test_explain_tells_that_a_store_is_not_believed() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(3))
            await selector.select("greeter")
            store_of(registry).wipe()
            await asyncio.sleep(10)
            explanation = selector.explain("greeter")
            assert explanation.selected == greeters(3) and explanation.freshness.kind == "stale"
            assert "the store has lost most nodes" in str(explanation) and "cache.grace" in str(explanation)

    run(main())


def test_explain_says_an_error_once() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            store_of(registry).down = True
            selector.explain("greeter")
            await asyncio.sleep(10)
            text = str(selector.explain("greeter"))
            assert text.count("switched off") == 1 and "unknown; the registry is away" in text

    run(main())


def test_explain_tells_how_fresh_it_is() -> None:
    async def main() -> None:
        async with selecting() as (selector, registry):
            await put(registry, *greeters(1))
            await selector.select("greeter")
            store_of(registry).down = True
            await asyncio.sleep(60)
            explanation = selector.explain("greeter")
            assert explanation.freshness.kind == "stale" and 50 < explanation.freshness.age < 70
            assert "retries left; stale, " in str(explanation) and explanation.selected == greeters(1)

    run(main())


def test_explain_names_the_strategy_that_fails() -> None:
    def choosy(members: object, rng: object) -> Callable[[], Node]:
        raise LookupError("never")

    async def main() -> None:
        async with selecting(choosy) as (selector, registry):
            await put(registry, *greeters(1))
            with pytest.raises(NoNodeAvailable):
                await selector.select("greeter", timeout=0.1)
            explanation = selector.explain("greeter")
            assert explanation.note == explanation.nodes[0].why == "the strategy raised LookupError: never"
            assert explanation.selected == () and "choosy" in explanation.strategy

    run(main())


# -- life --------------------------------------------------------------------------------------------


def test_nothing_can_be_said_before_and_after() -> None:
    async def main() -> None:
        async with microreg.connect("memory://") as registry:
            await put(registry, *greeters(1))
            selector = Selector(registry)
            (node,) = greeters(1)
            calls: list[Callable[[], object]] = [
                lambda: selector.report(node),
                lambda: selector.track("greeter", node),
                lambda: selector.retries("greeter", 1),
                lambda: selector.explain("greeter"),
            ]
            for call in calls:
                with pytest.raises(RegistryClosed, match="is not open"):
                    call()
            async with selector:
                await selector.select("greeter")
                with selector.track("greeter", node):
                    await selector.close()
            for call in calls:
                with pytest.raises(RegistryClosed, match="was closed"):
                    call()
            with pytest.raises(RegistryClosed):
                async with selector.acquire("greeter"):
                    pass

    run(main())
