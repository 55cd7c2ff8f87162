"""static://: the config string is the registry."""

from __future__ import annotations

import asyncio

import pytest

from microreg import connect
from microreg.errors import ConfigError, ServiceNotFound, Unsupported
from microreg.events import Snapshot
from microreg.model import Node, Service
from strategies import record
from timeless import run


async def everything(url: str) -> dict[str, list[str]]:
    async with connect(url) as registry:
        return {
            name: [node.address for service in await registry.get_service(name) for node in service.nodes]
            for name in await registry.list_services()
        }


@pytest.mark.parametrize(
    ("url", "services"),
    [
        ("static://", {}),
        ("static://?timeout=1s", {}),
        ("static://orders=10.0.0.1:80", {"orders": ["10.0.0.1:80"]}),
        (
            "static://orders=10.0.0.2:80,10.0.0.1:80;users=users.internal:8080;",
            {"orders": ["10.0.0.1:80", "10.0.0.2:80"], "users": ["users.internal:8080"]},
        ),
        ("static://a=[::1]:80,[2001:db8::1]:81/", {"a": ["[2001:db8::1]:81", "[::1]:80"]}),
        ("static://a=[fe80::1%25eth0]:80", {"a": ["[fe80::1%eth0]:80"]}),
        ("static://a=10.0.0.1:80,10.0.0.1:81", {"a": ["10.0.0.1:80", "10.0.0.1:81"]}),
        ("static://A=h:1;a=h:1", {"A": ["h:1"], "a": ["h:1"]}),
        ("static://a%20b=h:1", {"a b": ["h:1"]}),
        ("static://a=localhost:1,127.0.0.1:1", {"a": ["127.0.0.1:1", "localhost:1"]}),
    ],
)
def test_what_the_string_says_is_what_there_is(url: str, services: dict[str, list[str]]) -> None:
    assert run(everything(url)) == services


def test_a_node_is_known_by_its_address() -> None:
    async def main() -> None:
        async with connect("static://a=[::1]:80") as registry:
            assert await registry.get_service("a") == (Service("a", nodes=[Node("[::1]:80", id="[::1]:80")]),)
            assert (await registry.get_service("a"))[0].nodes[0].url() == "http://[::1]:80"

    run(main())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("static://orders", "'orders' names no address"),
        ("static://orders=", "names no address"),
        ("static://=10.0.0.1:80", "service name ''"),
        ("static://a=10.0.0.1", "the port is missing"),
        ("static://a=10.0.0.1:0", "from 1 to 65535"),
        ("static://a=10.0.0.1:70000", "from 1 to 65535"),
        ("static://a=::1:80", "brackets"),
        ("static://a=[::1]", "port is missing"),
        ("static://a=0.0.0.0:80", "wildcard"),
        ("static://a=10.0.0.1:80,", "empty"),
        ("static://a=10.0.0.1:80,10.0.0.1:80", "given twice for 'a'"),
        ("static://a=10.0.0.1:80;a=10.0.0.2:80", "service 'a' is given twice"),
        ("static://a=10.0.0.1:80/prefix", "no path"),
        ("static://a=b=10.0.0.1:80", "address"),
        ("static://" + "n" * 256 + "=h:1", "1 to 255 bytes"),
        ("static://a=10.0.0.1:80?color=red", "no option color"),
    ],
)
def test_a_bad_string_is_a_config_error_that_says_why(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert text in str(caught.value)
    assert "expected static://name=host:port" in str(caught.value) or "given twice" in text or "option" in text


def test_nothing_can_be_registered() -> None:
    async def main() -> None:
        async with connect("static://a=10.0.0.1:80") as registry:
            with pytest.raises(Unsupported, match="nothing can be registered in it"):
                await registry.register(record())
            with pytest.raises(Unsupported, match="nothing can be deregistered from it"):
                await registry.deregister(record())
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("greeter")
            assert caught.value.authoritative

    run(main())


def test_a_watch_tells_one_snapshot_and_then_nothing_for_a_day() -> None:
    async def main() -> None:
        async with connect("static://a=h:1;b=h:2") as registry:
            async with registry.watch("a") as one, registry.watch("c") as none, registry.watch() as every:
                assert await anext(one) == Snapshot([Service("a", nodes=[Node("h:1", id="h:1")])])
                assert await anext(none) == Snapshot()
                assert len((await anext(every)).services) == 2  # type: ignore[union-attr]
                for events in (one, none, every):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(anext(events), 10_000)
                    assert (events.state, events.error) == ("live", None)

    run(main())
