"""``suspect``: what a Selector says of a node whose call failed reaches the backend through every layer."""

from __future__ import annotations

import asyncio

import pytest

import support
from microreg import Node, Selector, Service
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.layers.cache import CacheLayer
from microreg.layers.mirror import MirrorRegistry
from microreg.layers.namespace import NamespaceLayer, NamespaceOptions
from microreg.options import Options
from microreg.registry import Registry
from microreg.url import RegistryURL
from timeless import run

URL = RegistryURL.parse("memory://")
BROKEN = Service("greeter", nodes=[Node("10.0.0.1:80", id="broken")])
DOWN = ConnectionRefusedError("nobody listens there")


class Suspicious(MemoryRegistry):
    """A store that notes what is suspected."""

    def __init__(self, name: str = "") -> None:
        super().__init__(RegistryURL.parse(f"memory://{name}"), Options())
        self.suspected: list[tuple[str, str]] = []

    def suspect(self, name: str, id: str) -> None:
        self.suspected.append((name, id))
        raise RuntimeError("a backend with a fault")


async def fail(registry: Registry) -> None:
    """One call to the node that fails, and one that does not."""
    async with registry, Selector(registry) as selector:
        await registry.register(BROKEN)
        node = await selector.select("greeter")
        selector.report(node, latency=0.1)
        selector.report(node, error=asyncio.CancelledError())
        selector.report(node, error=DOWN)


@pytest.mark.parametrize("layer", ["none", "cache", "namespace"])
def test_a_failed_call_is_told_once(layer: str) -> None:
    store = Suspicious()
    registry: Registry = Checked(store)
    if layer == "cache":
        registry = CacheLayer(registry, URL, Options())
    if layer == "namespace":
        registry = NamespaceLayer(registry, URL, NamespaceOptions(prefix="team-a"))
    run(fail(registry))
    assert store.suspected == [("team-a.greeter" if layer == "namespace" else "greeter", "broken")]


def test_every_part_of_a_composite_is_told() -> None:
    parts = [Suspicious("a"), Suspicious("b")]
    run(fail(Checked(MirrorRegistry([Checked(part) for part in parts], URL, Options()))))
    assert [part.suspected for part in parts] == [[("greeter", "broken")]] * 2


def test_a_report_of_another_thread_is_told_in_the_loop() -> None:
    store = Suspicious()

    async def main() -> None:
        async with Checked(store) as registry, Selector(registry) as selector:
            await registry.register(BROKEN)
            node = await selector.select("greeter")
            await asyncio.to_thread(selector.report, node, error=DOWN)
            await asyncio.to_thread(registry.suspect, "greeter", "broken")  # not from there
            await support.wait_until(lambda: store.suspected)

    support.run(main())
    assert store.suspected == [("greeter", "broken")]


def test_a_registry_that_is_not_open_tells_nothing() -> None:
    store = Suspicious()

    async def main() -> None:
        registry = Checked(store)
        registry.suspect("greeter", "broken")
        async with registry:
            pass
        registry.suspect("greeter", "broken")

    run(main())
    assert not store.suspected
