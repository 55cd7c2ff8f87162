"""mdns:// beside avahi, Debian's mDNS software: each sees what the other announces, on one host and on two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from debian import Programs, Unobtainable, obtain
from microreg.net import join_address
from needs import need
from networks import Host, Network, Process, Program, network, unavailable
from support import run, wait_until

PROGRAM = Path(__file__).with_name("mdns_host.py")
TYPE = "_microreg._tcp"
SUBTYPE = f"_greeter._sub.{TYPE}"
pytestmark = pytest.mark.timeout(500)  # the packages may have to be downloaded

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""

DAEMON = """[server]
host-name=neighbour
use-ipv4=yes
use-ipv6=yes
[publish]
publish-workstation=no
"""


@pytest.fixture(scope="module")
def packages() -> Programs:
    try:
        return obtain("avahi-daemon", "avahi-utils", "dbus")
    except Unobtainable as error:
        need("avahi", str(error))


@pytest.fixture
def net() -> Iterator[Network]:
    if why := unavailable():
        need("avahi", why)
    with network() as net:
        yield net


class Avahi:
    """An avahi-daemon on a host, with a D-Bus of its own, and the programs that talk to it."""

    def __init__(self, host: Host, programs: Programs, folder: Path) -> None:
        self._host, self._programs, self._folder = host, programs, folder
        self._bus = folder / "bus"
        self._env = programs.env | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self._bus}", "LC_ALL": "C.UTF-8"}
        (folder / "bus.conf").write_text(BUS.format(path=self._bus))
        (folder / "daemon.conf").write_text(DAEMON)
        (folder / "run").mkdir()
        for name, line in ("passwd", "avahi:x:65533:65533::/:/bin/false"), ("group", "avahi:x:65533:"):
            (folder / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")
        self._mounts = {f"/{path}": str(folder / Path(path).name) for path in ("run", "etc/passwd", "etc/group")}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        bus = "dbus-daemon", f"--config-file={self._folder / 'bus.conf'}", "--nofork", "--nopidfile"
        daemon = "avahi-daemon", "--no-drop-root", "--no-chroot", f"--file={self._folder / 'daemon.conf'}"
        async with self.run(*bus):
            await wait_until(self._bus.exists, 30)
            async with self.run(*daemon, mounts=self._mounts):
                async with asyncio.timeout(30):
                    while not await self._answers():
                        pass
                yield

    def run(
        self, program: str, *args: str, mounts: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Process]:
        return self._host.process(self._programs.find(program), *args, env=self._env, mounts=mounts)

    async def _answers(self) -> bool:
        async with self.run("avahi-browse", "--all", "--terminate", "--parsable") as asking:
            await wait_until(lambda: asking.ended, 30)
            return await asking.status() == 0


def resolved(browse: Process) -> dict[str, list[str]]:
    """What avahi-browse says of each instance on eth0: host, address, port and TXT; none of what has gone."""
    found: dict[str, list[str]] = {}
    for line in browse.lines:
        sign, interface, _, instance, _, _, *rest = line.split(";")
        if interface == "eth0" and sign == "=":
            found[instance] = [*rest[:3], *sorted(rest[3].strip('"').split('" "'))]
        elif interface == "eth0" and sign == "-":
            found.pop(instance, None)
    return found


def nodes(program: Program) -> object:
    return next((line["nodes"] for line in reversed(program.said) if "nodes" in line), {})


@pytest.mark.parametrize(
    ("together", "network_of"),
    [(True, "10.0.0.{}/24"), (False, "10.0.0.{}/24"), (False, "fe80::{}/64")],
    ids=["one-host", "two-hosts", "two-hosts-IPv6"],
)
def test_avahi_sees_us_and_we_see_it(
    net: Network, packages: Programs, tmp_path: Path, together: bool, network_of: str
) -> None:
    lan = net.segment()
    theirs, ours = net.host(), net.host()
    theirs.plug(lan, network_of.format(1))
    ours.plug(lan, network_of.format(2))
    avahi = Avahi(theirs, packages, tmp_path)
    host, number = (theirs, 1) if together else (ours, 2)
    address = network_of.format(number).partition("/")[0]
    neighbour = network_of.format(1).partition("/")[0]
    mine = {"n1": join_address(f"{address}%eth0" if ":" in address else address, 8080)}
    its = {join_address(neighbour, 99): join_address(f"{neighbour}%eth0" if ":" in address else neighbour, 99)}
    browse = "avahi-browse", "--resolve", "--parsable"
    publish = "avahi-publish", "-s", f"--subtype={SUBTYPE}", "Their Greeter", TYPE, "99", "n=greeter", "m.zone=us"

    async def main() -> None:
        async with (
            avahi.running(),
            host.program(PROGRAM, "mdns://", "greeter") as program,
            avahi.run(*browse, TYPE) as all,
            avahi.run(*browse, SUBTYPE) as greeters,
        ):
            await wait_until(lambda: program.heard(event="snapshot"), 30)
            program.tell(announce="n1", port=8080, ttl=60, version="1.2", metadata={"zone": "eu", "motto": "guten Tag"})
            metadata = {"m.zone": "eu", "m.motto": "guten Tag"}
            for browser in all, greeters:
                await wait_until(partial(resolved, browser), 30)
                [(instance, [target, *rest])] = resolved(browser).items()
                assert instance.startswith("greeter-n1-")
                assert target.startswith("microreg-") and target.endswith(".local")
                assert rest[:2] == [address, "8080"]
                text = dict(entry.split("=", 1) for entry in rest[2:])
                del text["r"], text["g"]
                assert text == {"n": "greeter", "i": "n1", "a": join_address(address, 8080), "v": "1.2"} | metadata

            async with avahi.run(*publish):
                await wait_until(lambda: nodes(program) == mine | its, 30, what=lambda: f"known is {nodes(program)}")
                program.tell(get="greeter")
                await wait_until(lambda: program.heard(event="got", nodes=mine | its), 30)
            await wait_until(lambda: nodes(program) == mine, 30, what=lambda: f"known is {nodes(program)}")
            gone = [(line["id"], line["reason"]) for line in program.heard(event="delete")]
            assert gone == [(id, "deregistered") for id in its]
            assert [line["id"] for line in program.heard(event="create")] == ["n1", *its]
            assert program.heard(event="update") == []

            program.tell(leave="n1")
            await wait_until(lambda: not resolved(all) and not resolved(greeters), 30)

    run(main())
