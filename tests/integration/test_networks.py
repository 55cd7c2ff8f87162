"""tests/networks.py: cables do what a test wants, and nothing is left behind, whatever happens to the test."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import need
from networks import Network, network, unavailable
from support import clean_env

CRASHING = """
import asyncio, sys
from networks import network

async def main():
    with network() as net:
        program = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
        async with net.host().process(sys.executable, "-c", program) as running:
            while not running.lines:
                await asyncio.sleep(0.01)
            print(running.lines[0], flush=True)
            await asyncio.sleep(99)

asyncio.run(main())
"""


@pytest.fixture
def net() -> Iterator[Network]:
    if why := unavailable():
        need("networks", why)
    with network(seed=5) as net:
        yield net


def received(sock: socket.socket, patience: float = 0.3) -> list[bytes]:
    """What has come, and comes until nothing has for some time."""
    sock.settimeout(patience)
    found: list[bytes] = []
    while True:
        try:
            found.append(sock.recv(100))
        except TimeoutError:
            return found


def test_cables_lose_delay_and_break(net: Network) -> None:
    lan = net.segment()
    one, two = net.host(), net.host()
    one.plug(lan, "10.0.0.1/24")
    cable = two.plug(lan, "10.0.0.2/24")
    sender, receiver = one.udp("10.0.0.1"), two.udp("10.0.0.2", 9)

    def send(count: int) -> None:
        for number in range(count):
            sender.sendto(b"%d" % number, ("10.0.0.2", 9))

    send(3)
    assert received(receiver) == [b"0", b"1", b"2"]
    lan.loss = 0.2
    send(200)
    assert 120 < len(received(receiver)) < 190
    lan.loss, lan.delay = 0.0, 0.1
    begun = time.monotonic()
    send(5)
    assert receiver.recv(9) == b"0"
    assert time.monotonic() - begun >= 0.1
    assert len(received(receiver)) == 4
    lan.delay = 0.0
    cable.pull(noticed=False)
    send(3)
    assert received(receiver) == []
    cable.put()
    send(3)
    assert len(received(receiver)) == 3


def test_hosts_cannot_see_each_other_without_a_cable_nor_this_machine(net: Network) -> None:
    host = net.host()
    host.plug(net.segment(), "10.0.0.1/24")
    net.host().plug(net.segment(), "10.0.0.2/24")
    host.udp("10.0.0.1").sendto(b"x", ("10.0.0.2", 9))
    with pytest.raises(OSError, match="unreachable"):
        host.udp().sendto(b"x", ("192.0.2.1", 9))


def test_after_a_crash_nothing_is_left(net: Network) -> None:
    """The process is killed, so it cannot clean up; what it started on a host dies with it."""
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING],
        stdout=subprocess.PIPE,
        env=clean_env(PYTHONPATH=str(Path(__file__).parent.parent)),
    ) as crashing:
        assert crashing.stdout is not None
        program = os.pidfd_open(int(crashing.stdout.readline()))
        try:
            assert select.select([program], [], [], 0)[0] == []
            crashing.kill()
            assert select.select([program], [], [], 10)[0] == [program]
        finally:
            os.close(program)
