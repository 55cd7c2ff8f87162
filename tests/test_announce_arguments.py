"""What announce() takes, what it refuses, and which address it finds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import cast

import pytest

import microreg
from announcing import Store, greeter, opened, state
from microreg import net
from microreg.announce.announcement import State
from microreg.checked import Checked
from microreg.errors import (
    ConfigError,
    InvalidService,
)
from microreg.model import Endpoint, Node, Service
from microreg.net import Advertised
from timeless import run

pytestmark = pytest.mark.filterwarnings("ignore:the announcement of:RuntimeWarning")

# -- arguments -------------------------------------------------------------------------------------------


def kind(value: object) -> str:
    """What pytest calls a case whose value is too long to be shown."""
    return type(value).__name__


ONE = Service("greeter", nodes=[Node("10.0.0.1:80", id="a")])
TWO = Service("greeter", nodes=[Node("10.0.0.1:80", id="a"), Node("10.0.0.2:80", id="b")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": None}, "needs port=8080"),
        ({"port": 0}, "port 0: expected a number from 1 to 65535"),
        ({"port": 70000}, "port 70000"),
        ({"port": -1}, "port -1"),
        ({"port": True}, "port True"),
        ({"port": "80"}, "port '80'"),
        ({"port": 80.0}, r"port 80\.0"),
        ({"address": "0.0.0.0"}, "wildcard"),
        ({"address": "[::]"}, "wildcard"),
        ({"address": "a b"}, "space"),
        ({"address": ""}, "host is empty"),
        ({"address": "10.0.0.1:99"}, "has a port already"),
        ({"address": 5}, "address of type int"),
        ({"port": None, "address": "10.0.0.1"}, "port is missing"),
        ({"port": None, "address": "::1"}, "brackets"),
        ({"port": None, "address": "http://10.0.0.1:80"}, "without scheme"),
        ({"service": ""}, "service name ''"),
        ({"service": "two words"}, "service name 'two words'"),
        ({"service": "x" * 64}, "1 to 63"),
        ({"service": None}, "got NoneType"),
        ({"id": ""}, "node id"),
        ({"id": "a/b"}, "node id"),
        ({"version": 2}, "version"),
        ({"metadata": {"k": 1}}, "value of 'k'"),
        ({"metadata": ["k"]}, "metadata"),
        ({"endpoints": ["hello"]}, "endpoint"),
        ({"ttl": 0}, "ttl 0"),
        ({"ttl": -5}, "ttl -5"),
        ({"ttl": float("nan")}, "ttl nan"),
        ({"ttl": "15s"}, "ttl '15s'"),
        ({"ttl": True}, "ttl True"),
        ({"ttl": 1e6}, "one day"),
        ({"drain_delay": -1}, "drain_delay -1"),
        ({"drain_delay": float("nan")}, "drain_delay nan"),
        ({"drain_delay": "1s"}, "drain_delay '1s'"),
        ({"interval": 0}, "interval 0"),
        ({"interval": -1}, "interval -1"),
        ({"interval": float("nan")}, "interval nan"),
        ({"interval": "5s"}, "interval '5s'"),
        ({"interval": 12}, r"interval 12: expected a number of seconds from 0.1 to 11.25, three quarters of ttl=15"),
        ({"service": ONE}, "complete Service and also fields"),
        ({"service": ONE, "port": None, "id": "x"}, "complete Service and also fields"),
        ({"service": ONE, "port": None, "metadata": {"a": "b"}}, "complete Service and also fields"),
        ({"service": TWO, "port": None}, "exactly one node"),
        ({"service": Service("greeter"), "port": None}, "exactly one node"),
        ({"service": Service("greeter", nodes=[Node("10.0.0.1:0", id="a")]), "port": None}, "1 to 65535"),
    ],
)
def test_arguments_that_cannot_be_registered(arguments: dict[str, object], message: str) -> None:
    given_: dict[str, object] = {"service": "greeter", "port": 8080} | arguments
    with pytest.raises(InvalidService, match=message):
        microreg.announce(Checked(Store()), **given_)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", ["x" * 100_000, b"x" * 100_000, ["x"] * 100_000, 10**400, 10**5000], ids=kind)
def test_a_port_of_any_length_is_shown_in_part(port: object) -> None:
    with pytest.raises(InvalidService, match="^port .*: expected a number from 1 to 65535") as caught:
        microreg.announce(Checked(Store()), "greeter", port=port)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 550


@pytest.mark.parametrize("timeout", ["x", float("nan"), 10**400, [], True], ids=kind)
def test_a_timeout_is_a_number_of_seconds(timeout: object) -> None:
    async def main() -> None:
        async with opened() as (registry, _), greeter(registry) as announcement:
            for wait in (announcement.wait_live, partial(announcement.changed, None)):
                with pytest.raises(ConfigError, match="^timeout .*: expected a number of seconds$"):
                    await wait(timeout=cast(float, timeout))

    run(main())


@pytest.mark.parametrize("check", ["https://x/", "ftp://x:1", "http://", "tcp://x", "http://x:0/", "nonsense", 5, ""])
def test_a_check_that_cannot_be_asked(check: object) -> None:
    with pytest.raises(ConfigError, match="expected http://host:port/path, tcp://host:port, or a function"):
        greeter(Checked(Store()), check=check)


@pytest.mark.parametrize("registry", ["memory://", None, ONE])
def test_the_registry_comes_first(registry: object) -> None:
    with pytest.raises(ConfigError, match="takes first the registry"):
        microreg.announce(registry, "greeter", port=80)  # type: ignore[arg-type]


def test_a_complete_service_is_taken_as_it_is() -> None:
    announcement = microreg.announce(Checked(Store()), ONE, metadata={}, endpoints=[])
    assert announcement.service == ONE and announcement.ttl == 15 and state(announcement) is State.REGISTERING


def test_what_is_given_is_what_is_announced() -> None:
    announcement = microreg.announce(
        Checked(Store()),
        "greeter",
        port=8080,
        address="::1",
        version="1.2",
        metadata={"zone": "a"},
        endpoints=[Endpoint("hello")],
        id="n-1",
        ttl=3,
    )
    node = Node("[::1]:8080", id="n-1", metadata={"zone": "a"})
    assert announcement.service == Service("greeter", "1.2", endpoints=[Endpoint("hello")], nodes=[node])
    assert microreg.announce(Checked(Store()), "greeter", address="db.internal:5432").node.address == "db.internal:5432"
    ids = {microreg.announce(Checked(Store()), "greeter", port=80).node.id for _ in range(100)}
    assert len(ids) == 100


# -- the address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "variable", "known", "expected"),
    [
        ("10.0.0.9", "10.0.0.8", "10.0.0.7", "10.0.0.9:80"),
        (None, "10.0.0.8", "10.0.0.7", "10.0.0.8:80"),
        (None, "10.0.0.8:9999", "10.0.0.7", "10.0.0.8:9999"),
        (None, "127.0.0.1", "10.0.0.7", "127.0.0.1:80"),
        (None, "[::1]:443", None, "[::1]:443"),
        (None, "host.example", None, "host.example:80"),
        (None, "", "10.0.0.7", "10.0.0.7:80"),
        (None, None, "10.0.0.7", "10.0.0.7:80"),
        (None, None, "fd00::7", "[fd00::7]:80"),
        (None, None, None, "10.9.9.9:80"),
        (None, "", None, "10.9.9.9:80"),
    ],
)
def test_the_address_is_given_or_told_or_known_or_found(
    given_: str | None, variable: str | None, known: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = net.advertised

    def advertised(
        *, towards: str | None = None, allow_loopback: bool = False, env: Mapping[str, str] | None = None
    ) -> Advertised:
        assert towards is None, "the store is in this process"
        if os.environ.get("MICROREG_ADVERTISE"):
            found = real(allow_loopback=allow_loopback)
            assert isinstance(found, Advertised)
            return found
        assert not allow_loopback, "an interface's loopback address is nobody's wish"
        return Advertised("10.9.9.9", None)

    monkeypatch.setattr("microreg.net.advertised", advertised)
    if variable is not None:
        monkeypatch.setenv("MICROREG_ADVERTISE", variable)
    store = Store()
    store.host = known
    assert microreg.announce(Checked(store), "greeter", port=80, address=given_).node.address == expected


@pytest.mark.parametrize("variable", ["0.0.0.0", "a b", "169.254.1.1", "http://10.0.0.1"])
def test_a_wrong_advertise_variable_is_never_passed_over(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_ADVERTISE", variable)
    with pytest.raises(ConfigError, match="MICROREG_ADVERTISE="):
        greeter(Checked(Store()))


def test_an_announcement_that_is_never_entered_warns() -> None:
    with pytest.warns(RuntimeWarning, match="'greeter' was never entered.*async with"):
        greeter(Checked(Store()))
