"""Addresses, interfaces, and which address is announced in which network."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from microreg import net
from microreg.errors import ConfigError, InvalidService
from microreg.net import (
    ADVERTISE_VARIABLE,
    Advertised,
    Interface,
    address_problem,
    advertised,
    advertised_host,
    check_advertised,
    free_port,
    interfaces,
    is_virtual,
    join_address,
    source_address,
    split_address,
)

LABEL = "a" * 63


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:8080", ("::1", 8080)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[fe80::1%br-0.5]:1", ("fe80::1%br-0.5", 1)),
        ("[::ffff:10.0.0.1]:80", ("::ffff:10.0.0.1", 80)),
        ("localhost:1", ("localhost", 1)),
        ("my_host-1.example.org:443", ("my_host-1.example.org", 443)),
        ("example.org.:443", ("example.org.", 443)),
        ("xn--bcher-kva.example:443", ("xn--bcher-kva.example", 443)),
        ("1host:2", ("1host", 2)),
        (f"{LABEL}.{LABEL}.{LABEL}:80", (f"{LABEL}.{LABEL}.{LABEL}", 80)),
    ],
)
def test_split_address_and_back(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected
    assert join_address(*expected) == text
    assert address_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "of type NoneType: expected a str"),
        (b"a:1", "of type bytes: expected a str"),
        (("a", 1), "of type tuple"),
        ("", "empty"),
        ("host", "port is missing"),
        ("host:", "port must be a number from 1 to 65535"),
        ("host:0", "port must be"),
        ("host:65536", "port must be"),
        ("host:70000", "port must be"),
        ("host:-1", "port must be"),
        ("host:080", "port must be"),
        ("host:http", "port must be"),
        ("host:٨٠", "port must be"),
        ("host:1" + "0" * 200, "port must be"),
        (":80", "host is empty"),
        ("[]:80", "not an IPv6 address"),
        ("::1", "needs brackets"),
        ("::1:80", "needs brackets"),
        ("fe80::1%eth0:80", "needs brackets"),
        ("[::1:80", "brackets are not balanced"),
        ("::1]:80", "brackets are not balanced"),
        ("[[::1]]:80", "brackets are not balanced"),
        ("[::1]", "port is missing"),
        ("[::1]80", "port is missing"),
        ("[::1]:0", "port must be"),
        ("[10.0.0.1]:80", "not an IPv6 address"),
        ("[::g]:80", "not an IPv6 address"),
        ("[1::2::3]:80", "not an IPv6 address"),
        ("[fe80::1%]:80", "not an IPv6 address"),
        ("10.0.0.256:80", "looks like an IPv4 address"),
        ("10.0.1:80", "looks like an IPv4 address"),
        ("1:80", "looks like an IPv4 address"),
        ("*:80", "wildcard"),
        ("ho st:80", "space"),
        ("host:80 ", "space"),
        ("host:80\n", "space"),
        ("ho\x00st:80", "control character"),
        ("ho\udc80st:80", "surrogate"),
        ("bücher.example:80", "xn--"),
        ("-host:80", "must be a DNS name"),
        ("a..b:80", "must be a DNS name"),
        (f"{LABEL}a:80", "must be a DNS name"),
        ("http://host:80", "without scheme"),
        ("host:80/path", "without scheme"),
        ("user@host:80", "without scheme"),
        ("a" * 256 + ":80", "longer than 255 bytes"),
    ],
)
def test_split_address_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidService, match="^address ") as caught:
        split_address(text)
    assert says in str(caught.value)
    assert address_problem(text) in str(caught.value)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(InvalidService) as caught:
        split_address("http://user:hunter2@host:80")
    assert "hunter2" not in str(caught.value)


@given(st.text() | st.text("[]:%.0123456789abf*@-", max_size=20))
@example("[::%]:1")
@example("\ud800:1")
@example("1.2.3.4.:5")
def test_split_address_raises_nothing_else(text: str) -> None:
    try:
        host, port = split_address(text)
    except InvalidService as error:
        str(error).encode()
        assert address_problem(text)
    else:
        assert join_address(host, port) == text


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_survives(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    assert split_address(join_address(str(ip), port)) == (str(ip), port)


def test_join_address_refuses_what_split_address_does() -> None:
    assert join_address("[::1]", 80) == "[::1]:80"
    for host, port in [("", 80), ("host", 0), ("a b", 80), ("user@host", 80)]:
        with pytest.raises(InvalidService):
            join_address(host, port)


@pytest.mark.parametrize("address", ["10.0.0.1:80", "127.0.0.1:80", "[fe80::1%eth0]:80", "localhost:80", "a.b:80"])
def test_check_advertised_accepts(address: str) -> None:
    check_advertised(address)
    assert address_problem(address) == ""


@given(
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(0, 70_000))
    | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}:[0-9]{1,5}", fullmatch=True)
)
@example("10.0.0.1:80\n")
@example("010.0.0.1:80")
@example("10.0.0.1:080")
@example("223.255.255.255:59999")
@example("0.0.0.1:80")
def test_the_short_way_of_checking_an_address_says_what_the_long_way_says(address: str) -> None:
    found: list[str] = []
    for pattern in (net._COMMON, re.compile("(?!)")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(net, "_COMMON", pattern)
            try:
                check_advertised(address)
            except InvalidService as error:
                found.append(str(error))
            else:
                found.append("")
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:80", "wildcard"),
        ("[::]:80", "wildcard"),
        ("[::ffff:0.0.0.0]:80", "wildcard"),
        ("*:80", "wildcard"),
        ("224.0.0.251:5353", "multicast"),
        ("[ff02::fb]:5353", "multicast"),
        ("255.255.255.255:80", "broadcast"),
        ("host", "port is missing"),
    ],
)
def test_check_advertised_refuses(address: str, says: str) -> None:
    with pytest.raises(InvalidService, match=says):
        check_advertised(address)


def test_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0


def test_source_address_of_loopback() -> None:
    assert source_address("127.0.0.1:2379") == "127.0.0.1"
    assert source_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("towards", ["", "no such host", "\udc80", "a" * 300, "300.300.300.300:1", "[::1", "x\x00y"])
def test_source_address_of_nonsense_is_none(towards: str) -> None:
    assert source_address(towards) is None


def test_interfaces_of_this_machine() -> None:
    found = interfaces()
    assert any("127.0.0.1" in interface.addresses for interface in found)
    for interface in found:
        assert interface.name and interface.addresses
        for address in interface.addresses:
            assert ("%" in address) is ipaddress.ip_address(address).is_link_local or "." in address


@pytest.mark.parametrize(
    "name",
    "docker0 docker_gwbridge br-3f2a veth12ab tun0 tap1 utun4 wg0 virbr0 vmnet8 cni0 flannel.1 cali12 lxcbr0 "
    "lxdbr0 podman1 tailscale0 ztabc".split(),
)
def test_virtual_interfaces(name: str) -> None:
    assert is_virtual(name)


@pytest.mark.parametrize("name", "eth0 eno1 enp3s0 ens5 en0 wlan0 wlp2s0 bond0 br0 lo team0 Ethernet Wi-Fi".split())
def test_physical_interfaces(name: str) -> None:
    assert not is_virtual(name)


# Network layouts: "interface address address; interface …", the source address, and what is announced.
LAYOUTS: dict[str, tuple[str, str | None, str]] = {
    "one card": ("lo 127.0.0.1 ::1; eth0 192.168.1.7 fe80::1%eth0", None, "192.168.1.7"),
    "source address wins over order": ("eth0 192.168.1.7; eth1 10.0.0.7", "10.0.0.7", "10.0.0.7"),
    "source on a tunnel: the store is behind it": ("eth0 192.168.1.7; wg0 10.9.0.2", "10.9.0.2", "10.9.0.2"),
    "source is loopback: the store is local": ("lo 127.0.0.1; eth0 192.168.1.7", "127.0.0.1", "192.168.1.7"),
    "source is IPv6 loopback": ("lo ::1; eth0 192.168.1.7", "::1", "192.168.1.7"),
    "source is link-local": ("eth0 fe80::1%eth0 10.0.0.7", "fe80::1%eth0", "10.0.0.7"),
    "source is a wildcard": ("eth0 10.0.0.7", "0.0.0.0", "10.0.0.7"),
    "source is global IPv6": ("eth0 10.0.0.7 2001:db8::7", "2001:db8::7", "2001:db8::7"),
    "source no interface lists (container NAT)": ("eth0 172.17.0.2", "172.17.0.3", "172.17.0.3"),
    "no route to the store": ("eth0 10.0.0.7", None, "10.0.0.7"),
    "Debian's 127.0.1.1": ("lo 127.0.0.1 127.0.1.1; eth0 10.0.0.7", "127.0.1.1", "10.0.0.7"),
    "docker host": ("docker0 172.17.0.1; br-12 172.18.0.1; eth0 10.0.0.7", None, "10.0.0.7"),
    "in a container": ("lo 127.0.0.1; eth0 172.17.0.2", None, "172.17.0.2"),
    "Kubernetes node": (
        "cni0 10.244.0.1; flannel.1 10.244.0.0; cali9 169.254.1.1; ens5 10.1.2.3",
        None,
        "10.1.2.3",
    ),
    "libvirt and laptop": ("virbr0 192.168.122.1; wlp2s0 192.168.1.20", None, "192.168.1.20"),
    "VPN up": ("tun0 10.8.0.2; wlan0 192.168.1.20", None, "192.168.1.20"),
    "VPN only": ("lo 127.0.0.1; wg0 10.9.0.2", None, "10.9.0.2"),
    "two cards: the system's order": ("eth0 10.0.0.7; eth1 192.168.1.7", None, "10.0.0.7"),
    "public and private address": ("eth0 203.0.113.9 10.0.0.7", None, "203.0.113.9"),
    "IPv6 only": ("lo ::1; eth0 fe80::1%eth0 2001:db8::7", None, "2001:db8::7"),
    "IPv6 unique-local only": ("lo ::1; eth0 fe80::1%eth0 fd00::7", None, "fd00::7"),
    "IPv6 global before unique-local": ("eth0 fd00::7 2001:db8::7", None, "2001:db8::7"),
    "IPv4 before IPv6": ("eth0 2001:db8::7 10.0.0.7", None, "10.0.0.7"),
    "physical IPv6 before virtual IPv4": ("docker0 172.17.0.1; eth0 2001:db8::7", None, "2001:db8::7"),
    "DHCP failed on one card": ("eth0 169.254.3.4; eth1 10.0.0.7", None, "10.0.0.7"),
    "bridge of the host's own": ("br0 10.0.0.7; veth1 169.254.9.9; eth0 fe80::1%eth0", None, "10.0.0.7"),
    "macOS": ("lo0 127.0.0.1 ::1 fe80::1%lo0; en0 192.168.1.3; utun3 fe80::2%utun3", None, "192.168.1.3"),
    "Windows": ("vEthernet (WSL) 172.20.0.1; Ethernet 192.168.1.5", None, "192.168.1.5"),
    "carrier-grade NAT address": ("ppp0 100.64.0.9; lo 127.0.0.1", None, "100.64.0.9"),
}


def layout(text: str) -> tuple[Interface, ...]:
    found = []
    for index, entry in enumerate(filter(None, text.split("; ")), 1):
        words = entry.split()
        addresses = tuple(word for word in words[1:] if "." in word or ":" in word)
        found.append(Interface(words[0], index, addresses))
    return tuple(found)


def choose(
    text: str,
    source: str | None = None,
    env: Mapping[str, str] | None = None,
    *,
    allow_loopback: bool = False,
) -> Advertised:
    return advertised(
        towards="store:1",
        allow_loopback=allow_loopback,
        env=env or {},
        available=lambda: layout(text),
        source=lambda towards: source,
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    text, source, expected = LAYOUTS[name]
    assert choose(text, source) == (expected, None)


@pytest.mark.parametrize(
    ("text", "source", "says"),
    [
        ("", None, ["no interface with an address"]),
        (
            "lo 127.0.0.1 ::1",
            None,
            ["127.0.0.1 (interface lo): a loopback", "::1 (interface lo): a loopback"],
        ),
        ("lo 127.0.0.1", "127.0.0.1", ["127.0.0.1 (source address towards the registry): a loopback"]),
        (
            "eth0 169.254.1.2 fe80::1%eth0",
            None,
            ["169.254.1.2 (interface eth0): a link-local", "fe80::1%eth0"],
        ),
    ],
)
def test_nothing_left_lists_what_was_refused(text: str, source: str | None, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(text, source)
    message = str(caught.value)
    assert all(part in message for part in [*says, "address=", ADVERTISE_VARIABLE])


def test_loopback_when_asked_for_is_still_the_last_choice() -> None:
    assert choose("lo 127.0.0.1 ::1", allow_loopback=True).host == "127.0.0.1"
    assert choose("lo 127.0.0.1; eth0 10.0.0.7", allow_loopback=True).host == "10.0.0.7"
    assert choose("lo 127.0.0.1; docker0 172.17.0.1", allow_loopback=True).host == "172.17.0.1"
    assert choose("eth0 10.0.0.7", "127.0.0.1", allow_loopback=True).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("203.0.113.9", ("203.0.113.9", None)),
        ("203.0.113.9:8443", ("203.0.113.9", 8443)),
        ("api.example.org", ("api.example.org", None)),
        ("api.example.org:80", ("api.example.org", 80)),
        ("2001:db8::7", ("2001:db8::7", None)),
        ("[2001:db8::7]", ("2001:db8::7", None)),
        ("[2001:db8::7]:80", ("2001:db8::7", 80)),
    ],
)
def test_the_variable_wins(told: str, expected: tuple[str, int | None]) -> None:
    assert choose("eth0 10.0.0.7", "10.0.0.7", {ADVERTISE_VARIABLE: told}) == expected


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("0.0.0.0", "wildcard"),
        ("*", "wildcard"),
        ("[::]:80", "wildcard"),
        ("127.0.0.1", "loopback"),
        ("localhost:80", "loopback"),
        ("app.localhost", "loopback"),
        ("fe80::1%eth0", "link-local"),
        ("169.254.1.1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("host:0", "expected a host name, an IP address, or host:port"),
        ("http://host", "expected a host name"),
        ("ho st", "expected a host name"),
        ("ho\udc80st", "surrogate"),
        ("[::1", "expected a host name"),
    ],
)
def test_a_bad_variable_is_an_error_and_not_passed_over(told: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        choose("eth0 10.0.0.7", "10.0.0.7", {ADVERTISE_VARIABLE: told})
    assert ADVERTISE_VARIABLE in str(caught.value)


def test_the_variable_may_name_loopback_when_allowed() -> None:
    told = {ADVERTISE_VARIABLE: "localhost:80"}
    assert choose("", None, told, allow_loopback=True) == ("localhost", 80)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADVERTISE_VARIABLE, "203.0.113.9:80")
    assert advertised_host() == "203.0.113.9"
    monkeypatch.setenv(ADVERTISE_VARIABLE, "")
    assert advertised_host(available=lambda: layout("eth0 10.0.0.7")) == "10.0.0.7"


def test_without_a_store_nothing_is_asked_for_its_route() -> None:
    def source(towards: str) -> str | None:
        raise AssertionError("asked")

    found = advertised_host(env={}, available=lambda: layout("eth0 10.0.0.7"), source=source)
    assert found == "10.0.0.7"


@given(
    st.lists(st.tuples(st.sampled_from(["lo", "eth0", "docker0", "wg0"]), st.ip_addresses().map(str))),
    st.none() | st.ip_addresses().map(str),
)
def test_what_is_chosen_can_always_be_announced(found: list[tuple[str, str]], source: str | None) -> None:
    try:
        host = choose("; ".join(f"{name} {address}" for name, address in found), source).host
    except ConfigError:
        return
    check_advertised(join_address(host, 80))
    ip = ipaddress.ip_address(host)
    assert not (ip.is_loopback or ip.is_link_local)
    assert host == source or host in [address for _, address in found]
