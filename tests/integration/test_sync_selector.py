"""The blocking Selector: calls of real threads, reported to the portal's loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest

import microreg.sync
from microreg.errors import ConfigError, NoNodeAvailable, RegistryClosed
from microreg.model import Node, Service
from microreg.selector import Key, Outliers, RetryBudget, Standing

NODES = tuple(Node(f"10.0.0.{number}:80", id=f"n{number}") for number in range(4))


@pytest.fixture(name="registry")
def _registry() -> Iterator[microreg.sync.Registry]:
    with microreg.sync.connect("memory://") as registry:
        registry.register(Service("greeter", "2.0", nodes=NODES))
        yield registry


@pytest.fixture(name="selector")
def _selector(registry: microreg.sync.Registry) -> Iterator[microreg.sync.Selector]:
    with microreg.sync.Selector(registry, outliers=Outliers(failures=3)) as selector:
        yield known(selector)


def known(selector: microreg.sync.Selector) -> microreg.sync.Selector:
    selector.select("greeter")
    eventually(lambda: len(selector.explain("greeter").nodes) == len(NODES))
    return selector


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.005)


def standing(selector: microreg.sync.Selector, node: Node) -> Standing:
    return next(each for each in selector.explain("greeter").nodes if each.node.id == node.id)


def test_acquire_is_a_plain_context_manager(selector: microreg.sync.Selector) -> None:
    with selector.acquire("greeter", timeout=1) as node:
        assert node in NODES
        assert standing(selector, node).outstanding == 1
    assert standing(selector, node).outstanding == 0
    eventually(lambda: standing(selector, node).latency is not None)
    with pytest.raises(ConnectionError), selector.acquire("greeter") as node:
        raise ConnectionError
    eventually(lambda: standing(selector, node).failures == 1)
    with pytest.raises(NoNodeAvailable), selector.acquire("nobody", timeout=0.01):
        pass


def test_reports_of_this_thread_eject_a_node(selector: microreg.sync.Selector) -> None:
    for _ in range(3):
        selector.report(NODES[0], error=ConnectionRefusedError())
    eventually(lambda: standing(selector, NODES[0]).ejected > 0)
    assert "n0" not in {selector.pick("greeter").id for _ in range(100)}
    assert "ejected for" in str(selector.explain("greeter"))
    with selector.track("greeter", NODES[1]) as node:
        assert node == NODES[1]


def test_threads_call_at_once(registry: microreg.sync.Registry) -> None:
    """They make thousands of calls before the loop hears of the first: more retries than any budget for the network."""
    with microreg.sync.Selector(registry, "random", retry_budget=RetryBudget(least=1000)) as selector:
        calling(known(selector))
        eventually(lambda: picked(selector) == {"n2", "n3"})


def test_threads_call_at_once_the_less_loaded(registry: microreg.sync.Registry) -> None:
    """Where nobody reports any more, p2c may stay with the one of the two good nodes that was clearly faster."""
    with microreg.sync.Selector(registry, "p2c", retry_budget=RetryBudget(least=1000)) as selector:
        calling(known(selector))
        eventually(lambda: picked(selector) <= {"n2", "n3"})


def picked(selector: microreg.sync.Selector) -> set[str]:
    return {selector.pick("greeter").id for _ in range(50)}


def calling(selector: microreg.sync.Selector) -> None:
    problems = list[BaseException]()

    def refuse_half(node: Node) -> str:
        if node.id in ("n0", "n1"):
            raise ConnectionRefusedError
        return node.id

    def work() -> None:
        try:
            for _ in range(100):
                assert selector.call("greeter", refuse_half) in ("n2", "n3")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [each.outstanding for each in selector.explain("greeter").nodes] == [0] * 4


def test_retries_by_hand(selector: microreg.sync.Selector) -> None:
    node: Node | None = selector.select("greeter")
    following, tried = selector.retries("greeter", 9), list[str]()
    while node is not None:
        tried.append(node.id)
        node = following(node)
    assert sorted(tried) == ["n0", "n1", "n2", "n3"]


def test_keys(registry: microreg.sync.Registry) -> None:
    with microreg.sync.Selector(registry, "rendezvous", "version:>=2") as selector:
        first = selector.select("greeter", key="alice")
        known(selector)
        first = selector.pick("greeter", key="alice")
        assert {selector.select("greeter", key="alice") for _ in range(20)} == {first}
        assert selector.call("greeter", lambda node: node, key="alice") == first
        with selector.acquire("greeter", key="alice") as node:
            assert node == first
        with pytest.raises(ConfigError, match="expected str, bytes or int"):
            selector.pick("greeter", key=cast(Key, []))


def test_what_was_closed_says_so(registry: microreg.sync.Registry) -> None:
    selector = microreg.sync.Selector(registry)
    with pytest.raises(RegistryClosed, match="is not open"):
        selector.explain("greeter")
    with ExitStack() as stack:
        stack.enter_context(selector)
        node = stack.enter_context(known(selector).acquire("greeter"))
        selector.close()
    for call in (lambda: selector.report(node), lambda: selector.track("greeter", node)):
        with pytest.raises(RegistryClosed, match="was closed"):
            call()
