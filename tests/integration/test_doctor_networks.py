"""``microreg doctor`` on networks that are really broken: each finding about addresses and multicast, provoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from doctoring import absent, found
from microreg.findings import Finding, Severity
from needs import need
from networks import Host, Network, Program
from support import run, wait_until

PROGRAM = Path(__file__).with_name("doctor_host.py")
MDNS = "mdns://?settle=50ms"


@asynccontextmanager
async def programs(*hosts: Host) -> AsyncGenerator[list[Program]]:
    """A program on each host."""
    async with AsyncExitStack() as stack:
        yield list(await asyncio.gather(*(stack.enter_async_context(host.program(PROGRAM)) for host in hosts)))


async def examined(program: Program, url: str, **env: str) -> tuple[Finding, ...]:
    """What a doctor on that host finds."""
    id = f"{url} {env}"
    program.tell(examine=url, env=env, id=id)
    await wait_until(partial(program.heard, event="examined", id=id), 60)
    findings = program.heard(event="examined", id=id)[-1]["findings"]
    return tuple(Finding(**{**each, "severity": Severity(each["severity"])}) for each in findings)


def test_the_address_is_the_one_on_the_way_to_the_store(net: Network, tmp_path: Path) -> None:
    """Of a machine in two networks, by IP address and by name; and what is told while nobody knows the name."""
    host = net.host()
    host.plug(net.segment(), "192.168.7.2/24", name="eth0")
    host.plug(net.segment(), "10.9.0.2/24", name="eth1")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.9.0.5 store.internal\n10.9.0.2 me.internal\n")

    async def main() -> None:
        async with host.program(PROGRAM, mounts={"/etc/hosts": str(hosts)}) as program:
            for store, address, interface in (
                ("10.9.0.5", "10.9.0.2", "eth1"),
                ("store.internal", "10.9.0.2", "eth1"),
                ("192.168.7.5", "192.168.7.2", "eth0"),
                ("me.internal", "192.168.7.2", "eth0"),
                ("nosuch.internal", "192.168.7.2", "eth0"),
            ):
                told = await examined(program, f"http://{store}?timeout=500ms")
                what = found(told, "address.advertised").what
                assert f"others are told {address}: the address of {interface}, which fits this registry best" in what

    run(main(), 60)


def test_addresses_that_others_cannot_call_and_interfaces_that_nobody_hears(net: Network) -> None:
    lan = net.segment()
    normal, bridge, container, local, alone, taken, down = *(net.host() for _ in range(6)), net.host(loopback=False)
    cable = normal.plug(lan, "10.0.0.1/24")
    normal.plug(net.segment(), "172.17.0.1/16", name="docker0")
    bridge.plug(net.segment(), "172.17.0.1/16", name="docker0")
    container.plug(lan, "172.17.0.2/16")
    local.plug(lan, "169.254.7.7/16")
    taken.plug(lan, "10.0.0.2/24")
    taken.udp("", 5353)

    async def of_normal(program: Program) -> None:
        variable = "MICROREG_ADVERTISE"
        told = await examined(program, "static://a=nosuch.invalid:80")
        assert "10.0.0.1: the address of eth0" in found(told, "address.advertised").what
        assert "nosuch.invalid" in found(told, "static.unknown-host").what
        told = await examined(program, "static://", **{variable: "172.17.0.1"})
        assert "docker0" in found(told, "address.virtual").what
        told = await examined(program, "static://", **{variable: "127.0.0.1"})
        assert variable in found(told, "address.loopback").what
        told = await examined(program, "static://", **{variable: "0.0.0.0:80"})
        assert "wildcard" in found(told, "address.refused").what
        told = await examined(program, "static://", **{variable: "nosuch.invalid"})
        assert "nosuch.invalid" in found(told, "address.unresolvable").what
        told = await examined(program, MDNS)
        assert "eth0 (10.0.0.1)" in found(told, "mdns.travels").what
        assert found(told, "mdns.left-out").what.startswith("docker0 is left out")
        absent(told, "mdns.port-shared")
        cable.pull()
        await wait_until(lambda: not cable.running(), 10)
        assert "eth0" in found(await examined(program, "mdns://eth0?settle=50ms"), "mdns.no-carrier").what

    async def of_others(in_container: Program, alone: Program, *speaking: Program) -> None:
        inside, nowhere = await asyncio.gather(examined(in_container, "static://"), examined(alone, "static://"))
        assert "172.17.0.2" in found(inside, "address.container").what
        assert "127.0.0.1 (interface lo)" in found(nowhere, "address.none").what
        bridged, unrouted, silenced, down, lonely = await asyncio.gather(
            *(examined(each, MDNS) for each in (*speaking, alone))
        )
        assert "docker0" in found(bridged, "mdns.virtual-only").what
        assert "docker0" in found(bridged, "address.virtual").what
        assert "169.254.7.7" in found(unrouted, "address.link-local").what
        assert found(silenced, "mdns.port-taken").severity is Severity.ERROR
        assert "mDNS is possible on no interface" in found(silenced, "calls.away").what
        assert found(down, "mdns.nowhere").severity is Severity.ERROR
        assert found(lonely, "mdns.loopback-only").severity is Severity.WARNING

    async def main() -> None:
        async with programs(normal, container, alone, bridge, local, taken, down) as (first, *others):
            await asyncio.gather(of_normal(first), of_others(*others))

    run(main(), 90)


def test_a_firewall_that_drops_multicast(net: Network) -> None:
    deaf, mute = net.host(), net.host()
    deaf.plug(net.segment(), "10.0.0.1/24")
    mute.plug(net.segment(), "10.0.0.1/24")
    try:
        deaf.drop("in")
        mute.drop("out")
    except OSError as error:
        need("networks", f"no firewall can be made: {error}")

    async def main() -> None:
        async with programs(deaf, mute) as (deaf_, mute_):
            dropped, stopped = await asyncio.gather(examined(deaf_, MDNS), examined(mute_, MDNS))
            assert "a question to the group does not come back" in found(dropped, "mdns.deaf").what
            assert "eth0" in found(stopped, "mdns.mute").what

    run(main())


def test_neighbours_that_are_slow_or_live_in_another_week(net: Network) -> None:
    lan = net.segment(delay=0.3)
    here, there = net.host(), net.host()
    here.plug(lan, "10.0.0.1/24")
    there.plug(lan, "10.0.0.2/24")

    async def main() -> None:
        async with programs(here, here) as (doctor, other):
            async with there.program(PROGRAM, str(5 * 86_400)) as neighbour:
                neighbour.tell(announce="a", address="10.0.0.2:80")
                other.tell(announce="b", address="10.0.0.1:80")
                for program, id in ((neighbour, "a"), (other, "b")):
                    await wait_until(partial(program.heard, event="announced", id=id), 60)
                told = await examined(doctor, MDNS)
                assert found(told, "settle.short").what.startswith("on eth0 (10.0.0.1) answers come")
                assert found(told, "mdns.clock-ahead").what.startswith("1 records")
                assert "share UDP port 5353" in found(told, "mdns.port-shared").what

    run(main())
