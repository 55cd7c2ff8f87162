"""Who asks Consul's DNS finds what was registered here: programs that know nothing but names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from consul_dns import Place, ask_srv
from microreg import Node, Service, Status, connect
from microreg.testing import ServerProcess
from servers import consul
from support import run, wait_until


@pytest.fixture(scope="module", name="agent")
def _agent() -> Iterator[ServerProcess]:
    with consul("named", dev=True) as agent:
        yield agent


async def answered(agent: ServerProcess, name: str, *expected: Place) -> None:
    """DNS says this, once the agent has told the catalog."""
    said: set[Place] = set()

    async def so() -> bool:
        nonlocal said
        said = await asyncio.to_thread(ask_srv, agent.ports[1], name)
        return said == set(expected)

    found: bool = await wait_until(so, 40, what=lambda: f"{name} is {said}, not {expected}", step=0.05)
    assert found


@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_every_node_is_an_srv_record_with_its_port_and_weight(agent: ServerProcess, layout: str) -> None:
    async def main() -> None:
        name = f"every-{layout}"
        nodes = [
            Node("10.0.0.7:8080", id=f"{name}-1", metadata={"weight": "3"}),
            Node("10.0.0.8:8081", id=f"{name}-2"),
            Node("[2001:db8::1]:8082", id=f"{name}-3"),
        ]
        service = Service(name, "1.0", nodes=nodes)
        expected = [Place("10.0.0.7", 8080, 3), Place("10.0.0.8", 8081, 1), Place("2001:db8::1", 8082, 1)]
        async with connect(f"consul://127.0.0.1:{agent.port}?layout={layout}") as registry:
            await registry.register(service)
            await answered(agent, f"{name}.service.consul", *expected)
            await answered(agent, f"_{name}._tcp.service.consul", *expected)
            await registry.deregister(service.with_nodes(nodes[0]))
            await answered(agent, f"{name}.service.consul", *expected[1:])
            await registry.deregister(service)
            await answered(agent, f"{name}.service.consul")

    run(main())


def test_a_tag_picks_a_version_or_a_zone(agent: ServerProcess) -> None:
    async def main() -> None:
        async with connect(f"consul://127.0.0.1:{agent.port}") as registry:
            for version, zone, port in (("1.0", "a", 1), ("1.0", "b", 2), ("2.0", "b", 3)):
                node = Node(f"10.0.0.7:{port}", id=f"n{port}", metadata={"zone": zone})
                await registry.register(Service("tagged", version, nodes=[node]))
            one, two, three = (Place("10.0.0.7", port, 1) for port in (1, 2, 3))
            await answered(agent, "tagged.service.consul", one, two, three)
            await answered(agent, "zone=b.tagged.service.consul", two, three)
            await answered(agent, "version=1.0.tagged.service.consul", one, two)
            await answered(agent, "_tagged._zone=a.service.consul", one)

    run(main())


@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_nodes_that_want_no_calls_are_not_named(agent: ServerProcess, layout: str) -> None:
    async def main() -> None:
        name = f"willing-{layout}"

        def service(status: Status) -> Service:
            return Service(name, nodes=[Node("10.0.0.7:80", id=f"{name}-1", status=status)])

        async with connect(f"consul://127.0.0.1:{agent.port}?layout={layout}") as registry:
            for status in (*Status, *Status):
                await registry.register(service(status))
                expected = [Place("10.0.0.7", 80, 1)] if status.selectable else []
                await answered(agent, f"{name}.service.consul", *expected)

    run(main())


def test_a_node_that_crashed_is_not_named_any_more(agent: ServerProcess) -> None:
    async def main() -> None:
        async with connect(f"consul://127.0.0.1:{agent.port}") as registry:
            await registry.register(Service("crashed", nodes=[Node("10.0.0.7:80", id="n")]), ttl=4)
            await answered(agent, "crashed.service.consul", Place("10.0.0.7", 80, 1))
            await answered(agent, "crashed.service.consul")

    run(main())
