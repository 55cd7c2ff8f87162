"""mdns://: which interfaces the config string means, what is refused, and how they are followed."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from microreg import connect
from microreg.backends.mdns import MdnsRegistry
from microreg.backends.mdns.interfaces import Choice, Link, best, choose, follows, look, parse_location, read_flags
from microreg.backends.mdns.sockets import Target
from microreg.backends.mdns.station import Station
from microreg.backends.mdns.transport import _Socket
from microreg.errors import ConfigError, RegistryUnavailable
from microreg.model import Node, Service
from microreg.net import Interface
from support import run, wait_until

LO = Interface("lo", 1, ("127.0.0.1", "::1"))
ETH = Interface("eth0", 2, ("fe80::1%eth0", "2001:db8::1", "192.0.2.7"))
SIX = Interface("eth1", 3, ("2001:db8:1::1", "fe80::2%eth1"))
DOCKER = Interface("docker0", 4, ("172.17.0.1",))
FINE = 0x1 | 0x40 | 0x1000


@pytest.mark.parametrize(
    ("location", "items"),
    [
        ("", ()),
        ("eth0", ("eth0",)),
        ("127.0.0.1,eth0", ("127.0.0.1", "eth0")),
        ("[fe80::1%25eth1]", ("fe80::1%eth1",)),
        ("eth0,[fe80::1%25eth1]", ("eth0", "fe80::1%eth1")),
        ("[::1]", ("::1",)),
    ],
)
def test_location(location: str, items: tuple[str, ...]) -> None:
    assert parse_location(location) == items


@pytest.mark.parametrize("location", ["eth0,", ",", "eth0,eth0", "127.0.0.1:5353", "::1", "[eth0", "a b", "é"])
def test_what_is_no_interface_is_refused_before_anything_is_opened(location: str) -> None:
    with pytest.raises(ConfigError, match="mdns://"):
        parse_location(location)


@pytest.mark.parametrize(
    "url", ["mdns://127.0.0.1/path", "mdns://user@127.0.0.1", "mdns://u:p@", "mdns://?settle=0s", "mdns://?settle=2h"]
)
def test_urls_that_mean_nothing_here(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert "u:p" not in str(caught.value)


def found(named: Sequence[str], there: Sequence[Interface], **flags: int) -> Choice:
    """What is chosen of these interfaces with these flags; those without are up, running and can multicast."""
    return choose(named, lambda: there, lambda names: {name: flags.get(name, FINE) for name in names})


def test_sensible_interfaces_are_the_physical_ones() -> None:
    choice = found((), [LO, ETH, SIX, DOCKER])
    assert choice.links == (
        Link("eth0", 2, "192.0.2.7"),
        Link("eth1", 3, "fe80::2%eth1", reachable="2001:db8:1::1"),
    )
    assert choice.left_out == {"docker0": "its name is that of a bridge, tunnel or virtual network"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (0x1000, "it is down"),
        (0x1 | 0x10 | 0x1000, "it is a tunnel, from one point to another"),
        (0x1 | 0x40, "it has no multicast"),
    ],
)
def test_what_cannot_be_of_use_is_left_out_whatever_its_name(flags: int, why: str) -> None:
    choice = found((), [LO, ETH, SIX], eth1=flags)
    assert [link.name for link in choice.links] == ["eth0"]
    assert choice.left_out == {"eth1": why}
    assert [link.name for link in found((), [LO, SIX], eth1=flags).links] == ["lo"]
    assert [link.name for link in found(("eth1",), [LO, ETH, SIX], eth1=flags).links] == ["eth1"]


@pytest.mark.parametrize(
    "name",
    ["docker0", "br-0a1b2c3d4e5f", "veth12ab", "cni0", "flannel.1", "virbr0", "tun0", "tap1", "wg0", "tailscale0"],
)
def test_bridges_and_tunnels_are_left_out(name: str) -> None:
    assert found((), [LO, ETH, Interface(name, 9, ("172.20.0.1",))]).left_out.keys() == {name}
    assert found((name,), [LO, ETH, Interface(name, 9, ("172.20.0.1",))]).links == (Link(name, 9, "172.20.0.1"),)


def test_else_the_virtual_ones_and_else_loopback() -> None:
    choice = found((), [LO, DOCKER])
    assert (choice.links, choice.left_out) == ((Link("docker0", 4, "172.17.0.1"),), {})
    assert found((), [LO]).links == (Link("lo", 1, "127.0.0.1"),)
    with pytest.raises(RegistryUnavailable, match="no network interface"):
        found((), [])


def test_named_interfaces() -> None:
    there = [LO, ETH, SIX]
    assert found(("eth1", "192.0.2.7"), there).links == (
        Link("eth1", 3, "fe80::2%eth1", reachable="2001:db8:1::1"),
        Link("eth0", 2, "192.0.2.7"),
    )
    assert found(("eth0", "192.0.2.7"), there).links == (Link("eth0", 2, "192.0.2.7"),)
    assert found(("2001:db8::1",), there).links == (Link("eth0", 2, "2001:db8::1"),)


def test_one_that_is_named_and_not_there_is_refused_at_first_and_awaited_later() -> None:
    with pytest.raises(ConfigError, match="no interface 'eth1'"):
        found(("eth0", "eth1"), [LO, ETH])
    later = look(("eth0", "eth1"), lambda: [LO, ETH], lambda _: {})
    assert (later.links, later.left_out) == ((Link("eth0", 2, "192.0.2.7"),), {"eth1": "it is not there"})


def test_the_address_that_stands_for_the_machine() -> None:
    local, wide = Link("eth0", 2, "fe80::1%eth0"), Link("eth1", 3, "fe80::2%eth1", reachable="2001:db8::2")
    assert (local.host, wide.host) == ("fe80::1%eth0", "2001:db8::2")
    assert best([local, wide]) == wide
    assert best([local]) == local
    assert best([]) is None


def test_unique_local_addresses_come_after_global_ones() -> None:
    both = Interface("eth0", 2, ("fd00::1", "fe80::1%eth0", "2001:db8::1"))
    assert [link.host for link in found((), [LO, both]).links] == ["2001:db8::1"]


def test_loopback_addresses_are_not_looked_for() -> None:
    def never() -> Sequence[Interface]:
        raise AssertionError("this costs system calls, every second")

    assert look(("127.0.0.1", "127.0.0.2"), never).links == (Link("lo", 0, "127.0.0.1"), Link("lo", 0, "127.0.0.2"))
    assert not follows(("127.0.0.1",))
    assert follows(()) and follows(("127.0.0.1", "lo"))


def test_flags_are_those_of_the_system() -> None:
    flags = read_flags(["lo", "no-such-thing"])
    assert flags.keys() == ({"lo"} if sys.platform == "linux" else set())
    assert all(each & 0x8 for each in flags.values())  # IFF_LOOPBACK


# -- while it is used ------------------------------------------------------------------------------

ONE, TWO = Link("lo", 0, "127.0.0.1"), Link("lo", 0, "127.0.0.2")


class Sight:
    """The interfaces, as a test wants them seen."""

    def __init__(self) -> None:
        self.shows((ONE,))

    def shows(self, links: tuple[Link, ...], running: tuple[Link, ...] | None = None, **left_out: str) -> None:
        self.choice = Choice(links, frozenset(links if running is None else running), left_out)

    def __call__(self) -> Choice:
        return self.choice


@asynccontextmanager
async def following(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None = None
) -> AsyncGenerator[tuple[Station, Sight]]:
    monkeypatch.setattr("microreg.backends.mdns.station._LOOK_EVERY", 0.01)
    sight = Sight()
    station = Station(sight.choice, 0.1, chosen=lambda: chosen, look=sight)
    await station.open()
    try:
        yield station, sight
    finally:
        await station.close()


def test_interfaces_are_followed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A node is told again, under a new revision and with the address that there is now; all is said in the log."""
    caplog.set_level("INFO", "microreg.mdns")

    async def main() -> None:
        async with following(monkeypatch, "127.0.0.1") as (station, sight):
            told: list[Service] = []
            station.responder.told = told.append
            own = station.responder.put(Service("x", nodes=[Node("127.0.0.1:80", id="a")]), 15)
            first = own.revision
            sight.shows((TWO,), wg0="it is a tunnel, from one point to another")
            await wait_until(lambda: station.transport.links == (TWO,))
            await wait_until(lambda: len(told) == 2)
            assert [record.nodes[0].address for record in told] == ["127.0.0.1:80", "127.0.0.2:80"]
            assert own.revision > first
            sight.shows(())
            await wait_until(lambda: station.transport.links == ())
            sight.shows((ONE,))
            await wait_until(lambda: station.transport.links == (ONE,))

    run(main())
    assert caplog.messages == [
        "mDNS on lo (127.0.0.1)",
        "mDNS on lo (127.0.0.2); left out are wg0: it is a tunnel, from one point to another",
        "mDNS on no interface",
        "mDNS on lo (127.0.0.1)",
    ]


def test_a_carrier_that_comes_back_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with following(monkeypatch) as (station, sight):
            own = station.responder.put(Service("x", nodes=[Node("127.0.0.1:80", id="a")]), 15)
            first = own.revision
            sight.shows((ONE,), running=())
            await wait_until(lambda: station._choice.running == frozenset())
            assert own.revision == first
            sight.shows((ONE,))
            await wait_until(lambda: own.revision > first)

    run(main())


def test_an_interface_that_refuses_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has 192.0.2.99 here; it is said once, and the others work on."""
    absent = Link("eth9", 0, "192.0.2.99")

    async def main() -> None:
        async with following(monkeypatch) as (station, sight):
            sight.shows((ONE, absent))
            await wait_until(lambda: absent in station.transport._refused)
            for _ in range(3):
                await station.transport.change((ONE, absent))
            assert station.transport.links == (ONE,)

    run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_no_interface_at_all_is_an_error_at_first() -> None:
    async def main() -> None:
        station = Station(Choice((Link("eth9", 0, "192.0.2.99"),), frozenset(), {}), 0.1)
        with pytest.raises(RegistryUnavailable, match=r"possible on no interface: eth9 \(192\.0\.2\.99\)"):
            await station.open()
        await station.close()

    run(main())


def test_an_interface_that_is_not_there_is_told_with_those_that_are() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"no interface 'eth99'.*lo \(127\.0\.0\.1"):
            await connect("mdns://eth99").open()

    run(main())


def test_the_advertised_host_is_that_of_the_interface() -> None:
    registry = connect("mdns://127.0.0.1").unwrap(MdnsRegistry)
    assert registry is not None
    assert registry.advertised_host() == "127.0.0.1"
    nowhere = connect("mdns://eth99").unwrap(MdnsRegistry)
    assert nowhere is not None
    assert nowhere.advertised_host() is None


def test_where_nothing_can_be_sent_nobody_is_told_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on ``mdns://[::1]`` where loopback has no route for multicast."""
    record = Service("greeter", nodes=[Node("127.0.0.1:8080", id="a")])
    where = r"mDNS can send on no interface: lo \(127\.0\.0\.1\): .*unreachable.*name another interface"

    def sendto(*_: object) -> int:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    async def main() -> None:
        async with connect("mdns://127.0.0.1?settle=20ms") as registry:
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "sendto", sendto)
                for _ in range(2):
                    with pytest.raises(RegistryUnavailable, match=where):
                        await registry.register(record)
                with pytest.raises(RegistryUnavailable, match=where):
                    await registry.list_services()
                with pytest.raises(RegistryUnavailable, match=where):
                    await registry.get_service("other")
            await registry.register(record)
            assert await registry.get_service("greeter") == (record,)

    run(main())
    [warning] = caplog.messages
    assert "lo (127.0.0.1): [Errno" in warning


def test_one_interface_on_which_nothing_can_be_sent_is_told_and_the_other_works_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = _Socket.send

    def send(sock: _Socket, packet: bytes, to: Target) -> OSError | None:
        return original(sock, packet, to) if sock._link == ONE else OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(_Socket, "send", send)

    async def main() -> None:
        async with connect("mdns://127.0.0.1,127.0.0.2?settle=20ms") as registry:
            record = Service("greeter", nodes=[Node("127.0.0.1:8080", id="a")])
            await registry.register(record)
            assert "greeter" in await registry.list_services()

    run(main())
    [warning] = caplog.messages
    assert "lo (127.0.0.2): [Errno" in warning
