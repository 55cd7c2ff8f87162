"""mdns:// on networks that change: every host converges to the truth, and nothing is gone that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from networks import Host, Network, Port, Program, Segment
from support import run, wait_until

PROGRAM = Path(__file__).with_name("mdns_host.py")
TTL = 3
PORT = 8080


@asynccontextmanager
async def programs(*hosts: Host, url: str = "mdns://") -> AsyncGenerator[list[Program]]:
    """A program on each host that watches, after its snapshot."""
    async with AsyncExitStack() as stack:
        started = await asyncio.gather(
            *(stack.enter_async_context(host.program(PROGRAM, url, "greeter", "log")) for host in hosts)
        )
        for each in started:
            await wait_until(partial(each.heard, event="snapshot"), 40)
        yield started


def nodes(program: Program) -> Mapping[str, str]:
    """What it knows now."""
    program.heard()
    return next((line["nodes"] for line in reversed(program.said) if "nodes" in line), {})


async def agreed(truth: Mapping[str, str], *all: Program, timeout: float = 40) -> None:
    """Wait until everybody knows just this."""
    await wait_until(
        lambda: [program for program in all if nodes(program) != truth] == [],
        timeout,
        what=lambda: f"expected {truth}, known are {[nodes(program) for program in all]}",
    )


def deleted(*all: Program) -> list[dict[str, Any]]:
    return [line for program in all for line in program.heard(event="delete")]


def announce(program: Program, id: str, **more: object) -> None:
    program.tell(announce=id, **({"port": PORT, "ttl": TTL} | more))


async def says(program: Program, id: str, address: str) -> None:
    """Wait until the announcement itself says this address: it looks with each renewal."""

    def asked() -> object:
        program.tell(where=id)
        return program.heard(event="where", id=id, address=address)

    await wait_until(asked, 40, step=0.1, what=lambda: f"said are {program.heard(event='where')[-3:]}")


def three(net: Network, lan: Segment) -> tuple[list[Host], list[Port], dict[str, str]]:
    """Three hosts on a segment, their interfaces, and what is true when each has announced a node."""
    hosts = [net.host() for _ in range(3)]
    ports = [host.plug(lan, f"10.0.0.{number}/24") for number, host in enumerate(hosts, 1)]
    return hosts, ports, {f"n{number}": f"10.0.0.{number}:{PORT}" for number in (1, 2, 3)}


@asynccontextmanager
async def announced(
    *hosts: Host, truth: Mapping[str, str], url: str = "mdns://", ttl: int = TTL, timeout: float = 40
) -> AsyncGenerator[list[Program]]:
    """A program on each host, with a node each, when all know all of them."""
    async with programs(*hosts, url=url) as all:
        for number, program in enumerate(all, 1):
            announce(program, f"n{number}", ttl=ttl)
        await agreed(truth, *all, timeout=timeout)
        yield all


def test_three_hosts(net: Network) -> None:
    """Also programs that come late know all with their first snapshot, from their own host and from others."""
    hosts, _, truth = three(net, net.segment())

    async def main() -> None:
        async with announced(*hosts, truth=truth) as all:
            async with programs(hosts[0], hosts[1], url="mdns://?settle=1s") as late:
                assert [nodes(program) for program in late] == [truth, truth]
                assert [len(program.heard(event="create")) for program in late] == [0, 0]
            all[1].tell(leave="n2")
            del truth["n2"]
            await agreed(truth, *all)
            assert [(line["id"], line["reason"]) for line in deleted(*all)] == [("n2", "deregistered")] * 3

    run(main())


@pytest.mark.parametrize("noticed", [True, False], ids=["carrier-lost", "unnoticed"])
def test_a_cable_is_pulled_for_a_moment_and_for_longer_than_the_ttl(net: Network, noticed: bool) -> None:
    """First nothing is reported gone, and what was said meanwhile arrives; then both sides lose and find each other."""
    hosts, ports, truth = three(net, net.segment())

    async def main() -> None:
        async with announced(*hosts, truth=truth) as all:
            ports[2].pull(noticed=noticed)
            announce(all[2], "late", port=PORT + 1)
            announce(all[0], "later", port=PORT + 1)
            await asyncio.sleep(TTL / 2)
            ports[2].put()
            truth.update(late=f"10.0.0.3:{PORT + 1}", later=f"10.0.0.1:{PORT + 1}")
            await agreed(truth, *all)
            assert deleted(*all) == []

            ports[2].pull(noticed=noticed)
            far = {"late", "n3"}
            await agreed({id: truth[id] for id in truth.keys() - far}, *all[:2])
            await agreed({id: truth[id] for id in far}, all[2])
            ports[2].put()
            await agreed(truth, *all)
            gone = [{line["id"] for line in deleted(program)} for program in all]
            assert gone == [far, far, truth.keys() - far]

    run(main())


def test_an_address_is_replaced_by_another(net: Network) -> None:
    hosts, ports, truth = three(net, net.segment())

    async def main() -> None:
        async with announced(*hosts, truth=truth) as all:
            ports[0].add("10.0.1.1/16")
            ports[0].remove("10.0.0.1/24")
            ports[1].add("10.0.1.2/16")
            ports[2].add("10.0.1.3/16")
            truth["n1"] = f"10.0.1.1:{PORT}"
            await agreed(truth, *all)
            await says(all[0], "n1", truth["n1"])
            await says(all[1], "n2", truth["n2"])  # it has a second one now, and keeps the first
            await agreed(truth, *all)
            assert deleted(*all) == []
            all[0].tell(leave="n1")
            del truth["n1"]
            await agreed(truth, *all)

    run(main())


def test_the_last_address_goes_and_another_one_comes(net: Network) -> None:
    hosts, ports, truth = three(net, net.segment())

    async def main() -> None:
        async with announced(*hosts, truth=truth) as all:
            ports[2].remove("10.0.0.3/24")
            del truth["n3"]
            await agreed(truth, *all[:2])
            await agreed({"n3": f"127.0.0.1:{PORT}"}, all[2])
            ports[2].add("10.0.0.33/24")
            truth["n3"] = f"10.0.0.33:{PORT}"
            await agreed(truth, *all)
            assert all[2].heard(event="log", level="INFO", text="mDNS on eth0 (10.0.0.33)")
            gone = [[line["id"] for line in deleted(program)] for program in all]
            assert [sorted(ids) for ids in gone] == [["n3"], ["n3"], ["n1", "n2"]]

    run(main())


def test_a_network_that_loses_and_delays(net: Network) -> None:
    """20 % loss at every receiver and 100 ms: for three times the ttl nobody is taken to be gone.

    They call each other, as services do. Neighbours that never did have to find each other's hardware address first
    (ARP), which has no more than three tries of a second each, and is lost in one of twenty cases.
    """
    hosts, _, truth = three(net, net.segment(loss=0.2, delay=0.1))

    async def main() -> None:
        async with announced(*hosts, truth=truth, url="mdns://?settle=1s", ttl=5) as all:
            for server, address in zip(all, truth.values(), strict=True):
                server.tell(listen=PORT)
                await wait_until(partial(server.heard, event="listening"))
                await asyncio.gather(*(met(client, address) for client in all if client is not server))
            await asyncio.sleep(3 * 5)
            await agreed(truth, *all)
            assert deleted(*all) == []
            all[0].tell(leave="n1")
            del truth["n1"]
            await agreed(truth, *all)
            assert [line["id"] for line in deleted(*all)] == ["n1"] * 3

    run(main())


def test_link_local_ipv6_alone(net: Network) -> None:
    """The address is told without a zone and gets that of the interface it was heard on, so that it can be used."""
    lan = net.segment()
    hosts = [net.host() for _ in range(3)]
    for number, (host, name) in enumerate(zip(hosts, ("eth0", "eth7", "enp3s0"), strict=True), 1):
        host.plug(lan, f"fe80::{number}/64", name=name)

    def seen(zone: str) -> dict[str, str]:
        return {f"n{number}": f"[fe80::{number}%{zone}]:{PORT}" for number in (1, 2, 3)}

    async def main() -> None:
        async with programs(*hosts) as all:
            for number, program in enumerate(all, 1):
                announce(program, f"n{number}")
            for program, zone in zip(all, ("eth0", "eth7", "enp3s0"), strict=True):
                await agreed(seen(zone), program)
            await calls(all[0], all[2], seen("enp3s0")["n1"])

    run(main())


def test_global_ipv6_alone(net: Network) -> None:
    """What is told is the address that is valid beyond the link."""
    lan = net.segment()
    hosts = [net.host() for _ in range(3)]
    for number, host in enumerate(hosts, 1):
        host.plug(lan, f"fe80::{number}/64", f"2001:db8::{number}/64", f"fd00::{number}/64")
    truth = {f"n{number}": f"[2001:db8::{number}]:{PORT}" for number in (1, 2, 3)}

    async def main() -> None:
        async with announced(*hosts, truth=truth) as all:
            await calls(all[1], all[0], truth["n2"])

    run(main())


def test_ipv4_and_ipv6(net: Network) -> None:
    """With both, IPv4 is spoken; who wants both names both, and then sees and serves hosts that have only one."""
    lan = net.segment()
    both, four, six = net.host(), net.host(), net.host()
    both.plug(lan, "10.0.0.1/24", "fe80::1/64")
    four.plug(lan, "10.0.0.2/24")
    six.plug(lan, "fe80::3/64")
    dual = "mdns://eth0,[fe80::1%25eth0]"

    async def main() -> None:
        async with programs(both, url=dual) as [one], programs(four, six) as [two, three]:
            for id, program in ("n1", one), ("n2", two), ("n3", three):
                announce(program, id)
            n1, n2, n3 = f"10.0.0.1:{PORT}", f"10.0.0.2:{PORT}", f"[fe80::3%eth0]:{PORT}"
            await agreed({"n1": n1, "n2": n2, "n3": n3}, one)
            await agreed({"n1": n1, "n2": n2}, two)
            await agreed({"n1": f"[fe80::1%eth0]:{PORT}", "n3": n3}, three)
            assert one.heard(event="log", text="mDNS on eth0 (10.0.0.1), eth0 (fe80::1%eth0)")
            assert two.heard(event="log", text="mDNS on eth0 (10.0.0.2)")

    run(main())


def test_two_interfaces_on_two_networks(net: Network) -> None:
    """On each network a node is told with the address that the machine has there; an address given stays as it is."""
    left, right = net.segment(), net.segment()
    middle, west, east = net.host(), net.host(), net.host()
    cable = middle.plug(left, "10.0.0.1/24", name="eth0")
    middle.plug(right, "10.1.0.1/24", name="eth1")
    west.plug(left, "10.0.0.2/24")
    east.plug(right, "10.1.0.3/24")

    async def main() -> None:
        async with programs(middle, west, east) as [one, two, three]:
            for id, program in ("n1", one), ("n2", two), ("n3", three):
                announce(program, id)
            announce(one, "fix", port=None, address=f"10.1.0.1:{PORT}")
            fix, n2, n3 = f"10.1.0.1:{PORT}", f"10.0.0.2:{PORT}", f"10.1.0.3:{PORT}"
            n1 = f"10.0.0.1:{PORT}", f"10.1.0.1:{PORT}"
            await agreed({"fix": fix, "n1": n1[0], "n2": n2, "n3": n3}, one)
            await agreed({"fix": fix, "n1": n1[0], "n2": n2}, two)
            await agreed({"fix": fix, "n1": n1[1], "n3": n3}, three)
            await calls(one, two, n1[0])
            await calls(one, three, n1[1])

            cable.remove("10.0.0.1/24")
            await agreed({"fix": fix, "n1": n1[1], "n3": n3}, one)
            await agreed({"n2": n2}, two)
            cable.add("10.0.0.11/24")
            await agreed({"fix": fix, "n1": f"10.0.0.11:{PORT}", "n2": n2, "n3": n3}, one)
            await agreed({"fix": fix, "n1": f"10.0.0.11:{PORT}", "n2": n2}, two)
            await says(one, "n1", f"10.0.0.11:{PORT}")
            await says(one, "fix", fix)
            assert nodes(three) == {"fix": fix, "n1": n1[1], "n3": n3}
            assert deleted(three) == []

    run(main())


def test_a_watcher_on_two_networks_keeps_what_it_still_hears_on_one(net: Network) -> None:
    """Two hosts with two networks in common: the cable of one is pulled, and the address becomes the other one."""
    left, right = net.segment(), net.segment()
    hosts = [net.host() for _ in range(2)]
    ports = [
        (host.plug(left, f"10.0.0.{number}/24", name="eth0"), host.plug(right, f"10.1.0.{number}/24", name="eth1"))
        for number, host in enumerate(hosts, 1)
    ]

    async def main() -> None:
        async with programs(*hosts) as [one, two]:
            announce(one, "n1")
            await agreed({"n1": f"10.0.0.1:{PORT}"}, one)
            await wait_until(lambda: "n1" in nodes(two))
            heard_on = nodes(two)["n1"].startswith("10.1.")
            ports[1][heard_on].pull()
            await agreed({"n1": f"10.{int(not heard_on)}.0.1:{PORT}"}, two)
            assert deleted(one, two) == []

    run(main())


async def calls(server: Program, client: Program, address: str) -> None:
    """A call from one host to the other arrives at the address that was found."""
    if not server.heard(event="listening"):
        server.tell(listen=PORT)
        await wait_until(lambda: server.heard(event="listening"))
    client.tell(connect=address)
    [done] = await wait_until(lambda: client.heard(event="connected", address=address), 30)
    assert done["error"] == ""


async def met(client: Program, address: str) -> None:
    """A call to this address has come through; the first ones may not find the host at all."""
    done: list[dict[str, Any]] = []
    while not client.heard(event="connected", address=address, error=""):
        client.tell(connect=address)
        done = await wait_until(partial(_more, client, len(done), address), 30)


def _more(client: Program, count: int, address: str) -> list[dict[str, Any]]:
    done = client.heard(event="connected", address=address)
    return done if len(done) > count else []


def test_bridges_and_tunnels_are_left_out_unless_named(net: Network) -> None:
    lan, containers = net.segment(), net.segment()
    one, two, inside = net.host(), net.host(), net.host()
    one.plug(lan, "10.0.0.1/24")
    one.plug(containers, "172.17.0.1/16", name="docker0")
    two.plug(lan, "10.0.0.2/24")
    inside.plug(containers, "172.17.0.2/16")
    why = "mDNS on eth0 (10.0.0.1); left out are docker0: its name is that of a bridge, tunnel or virtual network"

    async def main() -> None:
        async with programs(one, two, inside) as all, programs(one, url="mdns://docker0") as [named]:
            announce(all[0], "n1")
            await agreed({"n1": f"10.0.0.1:{PORT}"}, *all[:2])
            announce(named, "n2")
            await agreed({"n2": f"172.17.0.1:{PORT}"}, named, all[2])
            assert nodes(all[0]) == nodes(all[1]) == {"n1": f"10.0.0.1:{PORT}"}
            assert len(all[0].heard(event="log", text=why)) == 1

    run(main())


def test_a_program_that_began_without_a_network(net: Network) -> None:
    """Loopback is all there is, until an interface comes; one that is named may go and come back."""
    lan = net.segment()
    early, other = net.host(), net.host()
    other.plug(lan, "10.0.0.2/24")

    async def main() -> None:
        async with programs(early) as [one], programs(other, url="mdns://eth0") as [two]:
            announce(one, "n1")
            announce(two, "n2")
            await agreed({"n1": f"127.0.0.1:{PORT}"}, one)
            early.plug(lan, "10.0.0.1/24")
            await agreed({"n1": f"10.0.0.1:{PORT}", "n2": f"10.0.0.2:{PORT}"}, one, two)
            assert deleted(one, two) == []

    run(main())
