"""mdns://: which interfaces the config string means, and what is refused."""

from __future__ import annotations

import pytest

from microreg import connect
from microreg.backends.mdns import MdnsRegistry
from microreg.backends.mdns.interfaces import Link, choose, parse_location
from microreg.errors import ConfigError, RegistryUnavailable
from microreg.net import Interface
from support import run

LO = Interface("lo", 1, ("127.0.0.1", "::1"))
ETH = Interface("eth0", 2, ("fe80::1%eth0", "2001:db8::1", "192.0.2.7"))
SIX = Interface("eth1", 3, ("2001:db8:1::1", "fe80::2%eth1"))
DOCKER = Interface("docker0", 4, ("172.17.0.1",))


@pytest.mark.parametrize(
    ("location", "items"),
    [
        ("", ()),
        ("eth0", ("eth0",)),
        ("127.0.0.1,eth0", ("127.0.0.1", "eth0")),
        ("[fe80::1%25eth1]", ("fe80::1%eth1",)),
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


def test_sensible_interfaces_are_the_physical_ones() -> None:
    assert choose((), lambda: [LO, ETH, SIX, DOCKER]) == (
        Link("eth0", 2, "192.0.2.7"),
        Link("eth1", 3, "fe80::2%eth1"),
    )


def test_else_the_virtual_ones_and_else_loopback() -> None:
    assert choose((), lambda: [LO, DOCKER]) == (Link("docker0", 4, "172.17.0.1"),)
    assert choose((), lambda: [LO]) == (Link("lo", 1, "127.0.0.1"),)
    with pytest.raises(RegistryUnavailable, match="no network interface"):
        choose((), lambda: [])


def test_named_interfaces() -> None:
    there = [LO, ETH, SIX]
    assert choose(("eth1", "192.0.2.7"), lambda: there) == (
        Link("eth1", 3, "fe80::2%eth1"),
        Link("eth0", 2, "192.0.2.7"),
    )
    assert choose(("eth0", "192.0.2.7"), lambda: there) == (Link("eth0", 2, "192.0.2.7"),)
    assert choose(("2001:db8::1",), lambda: there) == (Link("eth0", 2, "2001:db8::1"),)


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
