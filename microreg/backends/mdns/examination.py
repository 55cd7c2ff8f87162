"""What ``microreg doctor`` finds on every interface: whether a question and an answer really travel there."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from microreg.backends.mdns.interfaces import Choice, Link, look
from microreg.backends.mdns.names import SERVICE_TYPE
from microreg.backends.mdns.records import claim_in, identity_in, too_far
from microreg.backends.mdns.sockets import PORT, asking_socket, group, on_link, shared_socket
from microreg.backends.mdns.wire import MAX_PACKET, PTR, RESPONSE, Malformed, Message, Question, Record, encode, parse
from microreg.backends.mdns.wire import name as wire_name
from microreg.findings import SETTLE_SHORT, Finding, Kind, Severity
from microreg.net import is_virtual

__all__ = ["examine"]

_TRAVELS = Kind(
    "mdns.travels",
    Severity.OK,
    "on this interface a multicast question and its answer come through, as far as this machine can tell alone, and "
    "how many nodes have answered: to be sure of another machine, run it there too",
)
_DEAF = Kind(
    "mdns.deaf",
    Severity.ERROR,
    "what is sent to the group on this interface does not even come back to this machine",
    "let UDP port 5353 and the group 224.0.0.251 (IPv6 ff02::fb) through the firewall of this machine, in and out",
)
_MUTE = Kind(
    "mdns.mute",
    Severity.ERROR,
    "nothing can be sent to the group on this interface",
    "add a route for multicast (224.0.0.0/4, IPv6 ff00::/8), let it through the firewall, or name another interface",
)
_TAKEN = Kind(
    "mdns.port-taken",
    Severity.ERROR,
    "another program holds UDP port 5353 for itself",
    "stop that program (ss -ulnp 'sport = 5353' names it), or let it share the port (SO_REUSEADDR)",
)
_SHARED = Kind(
    "mdns.port-shared",
    Severity.NOTE,
    "other mDNS software (such as avahi) shares UDP port 5353, as it should",
)
_NO_CARRIER = Kind(
    "mdns.no-carrier",
    Severity.WARNING,
    "an interface that is spoken on has no carrier: the cable is out, or the network is off",
    "plug it in; microreg speaks there again as soon as it is up",
)
_LEFT_OUT = Kind(
    "mdns.left-out",
    Severity.NOTE,
    "an interface that is not spoken on, and why",
    "name it where you want it all the same: mdns://eth0,docker0",
)
_LOOPBACK_ONLY = Kind(
    "mdns.loopback-only",
    Severity.WARNING,
    "only loopback is there to speak on: nobody outside this machine is found, or finds this one",
    "bring a network interface up; mdns://127.0.0.1 says that this is meant",
)
_VIRTUAL_ONLY = Kind(
    "mdns.virtual-only",
    Severity.WARNING,
    "only bridges or virtual networks are there to speak on: other machines are not reached",
    "in a container, use the host's network (docker run --network host); or name the interface",
)
_NOWHERE = Kind(
    "mdns.nowhere",
    Severity.ERROR,
    "there is no network interface with an address, not even loopback",
    "bring one up: ip link set lo up",
)
_CLOCK_AHEAD = Kind(
    "mdns.clock-ahead",
    Severity.WARNING,
    "a neighbour's record is more than a day ahead of this clock: such records are believed only if nobody contradicts",
    "set the clock that is wrong, here or there, and let it follow a time server (NTP)",
)

_SENDINGS = (0.0, 0.1, 0.3)
_PATIENCE = 0.6
_PAUSE = 0.01
_SOONEST, _LATEST = 1.5, 3.0
"""Seconds for which answers of others are waited for: longer than ``settle``, to see who is late."""


async def examine(named: Sequence[str], settle: float, clock: Callable[[], float] = time.time) -> tuple[Finding, ...]:
    """Look at the interfaces, then try each that would be spoken on, all at once. ``clock`` is for tests."""
    choice = look(named)
    found = list(_of_choice(named, choice))
    if others := _others():
        found.append(_SHARED(f"{others} other sockets of this machine share UDP port {PORT}"))
    tried = await asyncio.gather(*(_Probe(link, settle, clock).run() for link in choice.links))
    return (*found, *(finding for findings in tried for finding in findings))


def _of_choice(named: Sequence[str], choice: Choice) -> Iterator[Finding]:
    for name, why in choice.left_out.items():
        yield _LEFT_OUT(f"{name} is left out: {why}")
    if not choice.links:
        yield _NOWHERE("this machine has no network interface with an address, not even loopback")
    for link in choice.links:
        if link not in choice.running:
            yield _NO_CARRIER(f"{_shown(link)} has no carrier")
    if not named and choice.links:
        if all(_is_loopback(link) for link in choice.links):
            yield _LOOPBACK_ONLY("mDNS speaks on loopback only")
        elif all(is_virtual(link.name) for link in choice.links):
            yield _VIRTUAL_ONLY(f"mDNS speaks on {', '.join(map(_shown, choice.links))} only")


class _Probe:
    """One question to the group of one link, from a socket of its own; and an answer to it from port 5353."""

    def __init__(self, link: Link, settle: float, clock: Callable[[], float]) -> None:
        self._link = link
        self._settle = settle
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._name = wire_name(f"doctor-{os.urandom(6).hex()}", "_microreg", "_tcp", "local")
        self._heard = asyncio.Event()
        self._answered = asyncio.Event()
        self._began = self._last = 0.0
        self._nodes, self._ahead = set[bytes](), set[bytes]()

    async def run(self) -> list[Finding]:
        """What was found on this link."""
        where = _shown(self._link)
        with ExitStack() as stack:
            try:
                shared = stack.enter_context(shared_socket(self._link))
                asking = stack.enter_context(asking_socket(self._link))
            except OSError as error:
                kind = _TAKEN if error.errno == errno.EADDRINUSE else _MUTE
                return [kind(f"mDNS cannot be spoken on {where}: {error.strerror}")]
            tasks = [
                asyncio.create_task(self._listen(shared, lambda data, to: self._question(shared, data, to))),
                asyncio.create_task(self._listen(asking, lambda data, _: self._answer(data))),
            ]
            try:
                return await self._ask(asking, where)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _ask(self, asking: socket.socket, where: str) -> list[Finding]:
        self._began = self._loop.time()
        packet = encode([Question(self._name, PTR), Question(SERVICE_TYPE, PTR)])
        for pause in _SENDINGS:
            await asyncio.sleep(pause)
            try:
                asking.sendto(packet, group(self._link))
            except OSError as error:
                return [_MUTE(f"nothing can be sent to the group on {where}: {error.strerror}")]
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._answered.wait()
        if not self._answered.is_set():
            what = "an answer to it" if self._heard.is_set() else "a question to the group"
            return [_DEAF(f"on {where} {what} does not come back to this machine")]
        over = self._began + min(_LATEST, max(_SOONEST, 2 * self._settle))
        await asyncio.sleep(over - self._loop.time())
        heard = f"nodes that answered: {len(self._nodes)}"
        return [_TRAVELS(f"on {where} a question and its answer come through; {heard}"), *self._of_others(where)]

    def _of_others(self, where: str) -> Iterator[Finding]:
        if self._last > self._settle:
            yield SETTLE_SHORT(f"on {where} answers come up to {self._last:.2g} s late; settle is {self._settle:g} s")
        if self._ahead:
            yield _CLOCK_AHEAD(f"{len(self._ahead)} records heard on {where} are more than a day ahead of this clock")

    async def _listen(self, sock: socket.socket, take: Callable[[Message, tuple[str, int]], None]) -> None:
        while True:
            try:
                data, address = await self._loop.sock_recvfrom(sock, MAX_PACKET + 1)
                take(parse(data), (str(address[0]), int(address[1])))
            except (OSError, Malformed):  # somebody else's; a port that nobody listens at
                await asyncio.sleep(_PAUSE)

    def _question(self, shared: socket.socket, message: Message, sender: tuple[str, int]) -> None:
        if message.response or all(question.name != self._name for question in message.questions):
            return
        self._heard.set()
        answer = Record(self._name, PTR, 0, b"", self._name)
        with suppress(OSError):
            packet = encode(message.questions, [answer], flags=RESPONSE, id=message.id, unicast=True)
            shared.sendto(packet, on_link(sender, self._link))

    def _answer(self, message: Message) -> None:
        if not message.response:
            return
        if any(record.name == self._name for record in message.records):
            self._answered.set()
            return
        for text in message.texts:
            with suppress(IndexError, ValueError):
                identity, claim = identity_in(text.data), claim_in(text.data)
                self._last = max(self._last, self._loop.time() - self._began - sum(_SENDINGS))
                self._nodes.add(identity)
                if too_far(claim.revision, self._clock()):
                    self._ahead.add(identity)


def _others() -> int:
    """How many sockets of other programs have port 5353; 0 where the system is not Linux."""
    if sys.platform != "linux":
        return 0
    own = set[str]()
    with suppress(OSError):
        for entry in os.scandir("/proc/self/fd"):
            with suppress(OSError):
                own.add(os.readlink(entry.path))
    found = set[str]()
    for table in ("udp", "udp6"):
        with suppress(OSError):
            for line in Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[1].endswith(f":{PORT:04X}"):
                    found.add(f"socket:[{words[9]}]")
    return len(found - own)


def _is_loopback(link: Link) -> bool:
    return link.address.startswith("127.") or link.address == "::1"


def _shown(link: Link) -> str:
    return f"{link.name} ({link.address})"
