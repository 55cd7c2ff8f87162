"""mdns://: which address of this machine a node is told with on each link, and how link-local ones are read."""

from __future__ import annotations

import ipaddress
import random

import pytest

from microreg.backends.mdns.interfaces import Link
from microreg.backends.mdns.own import Own, Want, packets
from microreg.backends.mdns.reader import Reader
from microreg.backends.mdns.wire import IPV4, IPV6, RESPONSE, SRV, TXT, Question, Record, encode, name, parse
from microreg.errors import RecordTooLarge
from microreg.model import Node, Service
from support import run

ETH, WLAN, SIX = Link("eth0", 2, "10.0.0.1"), Link("wlan0", 3, "10.1.0.1"), Link("eth1", 4, "fe80::1%eth1")
PRINTER = name("printer", "local")
LABEL = name("x", "_microreg", "_tcp", "local")


def own(address: str, chosen: str | None = None, **metadata: str) -> Own:
    return Own(Service("greeter", nodes=[Node(address, id="a", metadata=metadata)]), 15, 7, lambda: chosen)


def read(*packets: bytes, zone: str = "en0", asked: list[Question] | None = None) -> list[Node]:
    """The nodes in packets that came in on this interface; what is asked then goes to ``asked``."""

    async def main() -> list[Node]:
        reader = Reader((asked if asked is not None else []).extend)
        found: list[Node] = []
        for packet in packets:
            message = parse(packet)
            message.zone = zone
            texts = {record.data for record in message.records if record.kind == TXT}
            found += [text.record.nodes[0] for text, _ in reader.read(message, texts) if text.record is not None]
        return found

    return run(main())


def foreign(*addresses: str, host: bytes = PRINTER, label: bytes = LABEL) -> bytes:
    """What other software announces, with these addresses of its host."""
    packed = [ipaddress.ip_address(address).packed for address in addresses]
    answers = [
        Record(label, SRV, 120, bytes(4) + (99).to_bytes(2, "big"), host),
        Record(label, TXT, 120, b"\x09n=greeter"),
        *(Record(host, IPV4 if len(each) == 4 else IPV6, 120, each) for each in packed),
    ]
    return encode((), answers, flags=RESPONSE)


def told(own: Own, link: Link | None, zone: str = "en0") -> str:
    [packet] = packets([own.answer(Want.ALL, link)])
    [node] = read(packet, zone=zone)
    return node.address


def test_an_address_that_was_chosen_is_on_each_link_the_one_there() -> None:
    node = own("10.0.0.1:80", "10.0.0.1")
    assert [told(node, link) for link in (ETH, WLAN, None)] == ["10.0.0.1:80", "10.1.0.1:80", "10.0.0.1:80"]
    assert [node.on(link).record.nodes[0].address for link in (ETH, SIX)] == ["10.0.0.1:80", "[fe80::1%eth1]:80"]
    assert {node.on(link).target for link in (ETH, WLAN, SIX)} == {
        name("microreg-10-0-0-1", "local"),
        name("microreg-10-1-0-1", "local"),
        name("microreg-fe800000000000000000000000000001", "local"),
    }


def test_what_we_say_on_one_link_is_no_contradiction_on_another() -> None:
    node = own("10.0.0.1:80", "10.0.0.1")
    there = node.on(WLAN).txt
    assert node.says(there)
    node.update(node.record, 15, 8)
    assert not node.says(there)


def test_an_address_that_was_given_is_told_as_it_is() -> None:
    assert {told(own("10.0.0.1:80"), link) for link in (ETH, WLAN, SIX)} == {"10.0.0.1:80"}
    assert {told(own("app.example:80", "10.0.0.1"), link) for link in (ETH, WLAN)} == {"app.example:80"}


def test_a_link_local_address_gets_the_zone_of_who_hears_it() -> None:
    node = own("[fe80::1%eth1]:80", "fe80::1%eth1")
    assert b"%" not in node.on(SIX).txt
    assert [told(node, SIX, zone) for zone in ("en0", "7")] == ["[fe80::1%en0]:80", "[fe80::1%7]:80"]
    assert told(own("[2001:db8::1]:80"), SIX) == "[2001:db8::1]:80"


def test_a_record_that_is_too_large_with_a_longer_address_keeps_the_one_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {f"k{n}": random.Random(n).randbytes(400).hex() for n in range(4)}
    short = own("1.1.1.1:80", "1.1.1.1", **noise).on(None).txt
    monkeypatch.setattr("microreg.backends.mdns.records.MAX_TXT", len(short))
    node = own("1.1.1.1:80", "1.1.1.1", **noise)
    assert node.on(SIX).record.nodes[0].address == "1.1.1.1:80"
    with pytest.raises(RecordTooLarge):
        own("[2001:db8:1234:5678:9abc::1]:80", **noise)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["10.0.0.9"], "10.0.0.9:99"),
        (["2001:db8::9", "fe80::9", "10.0.0.9"], "10.0.0.9:99"),
        (["fe80::9", "2001:db8::9"], "[2001:db8::9]:99"),
        (["fe80::9"], "[fe80::9%en0]:99"),
    ],
)
def test_other_software_tells_the_address_in_records_of_its_host(hosts: list[str], expected: str) -> None:
    [node] = read(foreign(*hosts))
    assert (node.address, node.id) == (expected, expected.replace("%en0", ""))


def test_an_address_that_is_missing_is_remembered_or_asked_for() -> None:
    asked: list[Question] = []
    assert read(foreign(), foreign(), asked=asked) == []
    assert asked == [Question(LABEL, SRV), Question(LABEL, TXT)]
    asked.clear()
    assert [node.address for node in read(foreign("10.0.0.9"), foreign(), asked=asked)] == ["10.0.0.9:99"] * 2
    [node] = read(foreign(host=name("app", "example")), asked=asked)
    assert node.address == "app.example:99"
    assert asked == []


def test_a_flood_of_records_without_addresses_asks_little_and_is_forgotten() -> None:
    asked: list[Question] = []
    labels = [name(f"x{n}", "_microreg", "_tcp", "local") for n in range(2000)]
    assert read(*(foreign(label=label) for label in labels), asked=asked) == []
    assert len(asked) == 40
    hosts = [name(f"h{n}", "local") for n in range(2000)]
    nodes = read(*(foreign("10.0.0.9", host=host) for host in hosts), foreign(host=hosts[0]), foreign(host=hosts[-1]))
    assert len(nodes) == 2001


def test_an_address_that_was_given_stays_when_it_is_the_chosen_one_some_day() -> None:
    chosen = "10.0.0.1"
    record = Service("greeter", nodes=[Node("10.1.0.1:80", id="a")])
    node = Own(record, 15, 7, lambda: chosen)
    chosen = "10.1.0.1"
    node.update(record, 20, 8)
    assert told(node, ETH) == "10.1.0.1:80"
    moved = record.with_nodes(Node("10.1.0.2:80", id="a"))
    chosen = "10.1.0.2"
    node.update(moved, 20, 9)
    assert told(node, ETH) == f"{ETH.host}:80"
