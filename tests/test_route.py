"""The way to a store whose host is an address, a name, or a name that is not known yet. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from microreg.route import Route
from support import python
from timeless import run

NAMES = {"store.internal": ["10.9.0.5"], "twice.internal": ["fd00::5", "10.9.0.6"], "here.internal": ["10.9.0.2"]}


class Names:
    """A resolver that knows some names, after some seconds; it notes when it was asked."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.known = dict(NAMES)
        self.asked: list[tuple[float, str]] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append((asyncio.get_running_loop().time(), host))
        await asyncio.sleep(self.delay)
        if host not in self.known:
            raise OSError("name or service not known")
        return self.known[host]


def source(address: str) -> str | None:
    """This machine is 10.9.0.2, and has no way to IPv6."""
    if "127." in address:
        return address.replace("127.0.0.1", "127.0.0.9")
    return "10.9.0.2" if address.startswith("10.9.") else None


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        ("", None),
        ("10.9.0.5", "10.9.0.5"),
        ("10.9.0.2", None),
        ("127.0.0.1", None),
        ("fd00::5", None),
        ("127.0.0.1 10.9.0.5", "10.9.0.5"),
        ("store.internal", "10.9.0.5"),
        ("twice.internal store.internal", "10.9.0.6"),
        ("here.internal", None),
        ("nosuch.internal", None),
        ("nosuch.internal store.internal", "10.9.0.5"),
        ("localhost", None),
        ("::ffff:127.0.0.1", None),
        ("fe80::1%eth0 10.9.0.5", "10.9.0.5"),
    ],
)
def test_the_first_that_is_elsewhere(hosts: str, address: str | None) -> None:
    async def main() -> None:
        names = Names()
        route = Route(hosts.split(), resolve=names, source=source)
        await route.open()
        assert route.address() == address
        assert {host for _, host in names.asked} == {host for host in hosts.split() if host.endswith(".internal")}
        await route.close()
        await route.close()

    run(main())


def test_opening_does_not_wait_long_and_what_comes_later_counts() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        route = Route(["store.internal"], resolve=Names(delay=2.0), source=source)
        await route.open()
        assert loop.time() == pytest.approx(0.5)
        assert route.address() is None
        await asyncio.sleep(2)
        assert route.address() == "10.9.0.5"
        await route.close()

    run(main())


def test_a_name_that_is_not_known_is_looked_up_again_now_and_then_while_somebody_asks() -> None:
    async def main() -> None:
        names = Names()
        late = names.known.pop("store.internal")
        route = Route(["store.internal"], resolve=names, source=source)
        await route.open()
        for _ in range(120):
            assert route.address() is None
            await asyncio.sleep(0.1)
        assert [round(when) for when, _ in names.asked] == [0, 5, 10]
        await asyncio.sleep(60)
        assert len(names.asked) == 3  # nobody asked
        names.known["store.internal"] = late
        route.address()
        await asyncio.sleep(0.1)
        assert route.address() == "10.9.0.5"
        await asyncio.sleep(60)
        assert route.address() == "10.9.0.5" and len(names.asked) == 4
        await route.close()

    run(main())


def test_hosts_are_looked_up_at_once_and_what_a_resolver_raises_is_no_trouble() -> None:
    async def main() -> None:
        hanging = asyncio.Event()

        async def resolve(host: str) -> Sequence[str]:
            if host == "slow.internal":
                await hanging.wait()
            if host == "odd.internal":
                raise RuntimeError("a resolver with a fault")
            return ["10.9.0.5"]

        route = Route(["slow.internal", "odd.internal", "store.internal"], resolve=resolve, source=source)
        await route.open()
        assert route.address() == "10.9.0.5"
        await route.close()

    run(main())


def test_a_name_server_that_is_silent_does_not_hold_up_the_end_of_the_program() -> None:
    code = """
import asyncio, socket, threading, time, microreg

silent = threading.Event()
socket.getaddrinfo = lambda *_, **__: silent.wait(60)

async def main():
    async with microreg.connect("http://store.internal") as registry:
        assert registry.advertised_host() != "nowhere"

began = time.monotonic()
asyncio.run(main())
print(time.monotonic() - began < 30)
"""
    assert python(code) == "True\n"


def test_closing_ends_a_look_up_and_without_a_loop_none_begins() -> None:
    route = Route(["store.internal"], resolve=Names(), source=source)
    assert route.address() is None

    async def main() -> None:
        slow = Route(["store.internal"], resolve=Names(delay=3600.0), source=source)
        await slow.open()
        await slow.close()
        await asyncio.sleep(60)
        assert slow.address() is None
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody begins again after that"

    run(main())
