"""Networks for tests: hosts that are network namespaces, and cables in between that lose, delay and break.

A host's interface is a TAP device, so it can be called ``eth0`` and lose its carrier; what it sends comes to a
thread of this process, which hands it on to all others of the segment (a hub). Neither the ``ip`` command nor
netem is needed. Nothing is named or stored anywhere: the kernel removes namespaces and devices with the last
process that holds them, and programs on a host are killed with the process that started them. Linux, as root.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import heapq
import ipaddress
import itertools
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from support import clean_env

T = TypeVar("T")

__all__ = ["Host", "Network", "Port", "Process", "Program", "Segment", "alone", "network", "unavailable"]

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETCARRIER = 0x400454CA, 0x400454E2
_IFF_TAP_NO_PI = 0x1002
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8914, 0x8933
_IFF_UP, _IFF_RUNNING = 1, 0x40
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 20, 21
_REQUEST_ACK, _CREATE_REPLACE = 5, 0x500
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
_NFNL_SUBSYS_NFTABLES = 10
_NFT_NEWTABLE, _NFT_NEWCHAIN = _NFNL_SUBSYS_NFTABLES << 8, _NFNL_SUBSYS_NFTABLES << 8 | 3
_NF_IN, _NF_OUT = 1, 3
_NETLINK_NETFILTER = 12
_PATIENCE = 20.0
_IFLA_AF_SPEC, _IFLA_INET6_ADDR_GEN_MODE = 26, 8

# Runs a program in the namespace whose file descriptor is given, with other files in the place of some, and lets it
# die with the thread that started it.
_GUARD = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        sys.exit(f"the namespace of a test: {os.strerror(ctypes.get_errno())}")
parent, namespace, mounts, *command = sys.argv[1:]
check(libc.setns(int(namespace), 0x40000000))
os.close(int(namespace))
if mounts := json.loads(mounts):
    check(libc.unshare(0x20000))
    check(libc.mount(b"none", b"/", None, 0x44000, None))
for target, source in mounts.items():
    check(libc.mount(source.encode(), target.encode(), None, 0x1000, None))
libc.prctl(1, 9)
if os.getppid() == int(parent):
    os.execvp(command[0], command)
"""


def unavailable() -> str:
    """Why no network can be made here; empty where it can."""
    if sys.platform != "linux":
        return "network namespaces are a matter of Linux"
    if os.geteuid() != 0:
        return "network namespaces and TAP devices need root"
    try:
        with network() as net:
            net.host().plug(net.segment())
    except OSError as error:
        return f"no network namespace with a TAP device can be made: {error}"
    return ""


@contextmanager
def network(seed: int = 1) -> Generator[Network]:
    """A network to build in, gone at the end; ``seed`` decides which frames get lost."""
    net = Network(seed)
    try:
        yield net
    finally:
        net.close()


@contextmanager
def alone() -> Generator[None]:
    """This thread, and what it starts, in a network that is nothing but loopback; where it is if none can be made.

    For tests whose packets would disturb other tests that run at the same time.
    """
    if unavailable():
        yield
        return
    with network() as net:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        net.keep(lambda: os.close(before))
        _check(_libc().setns(net.host().namespace, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc().setns(before, _CLONE_NEWNET))


class Network:
    """Segments and hosts, and the thread that carries the frames."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._late: list[tuple[float, int, Port, bytes]] = []
        self._count = itertools.count()
        self._ended = threading.Event()
        self._wake, wake = socket.socketpair()
        for each in (self._wake, wake):
            self._stack.enter_context(each)
        self._selector.register(wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._carry, name="network", daemon=True)
        self._thread.start()

    def segment(self, *, loss: float = 0.0, delay: float = 0.0) -> Segment:
        """What hosts can be plugged into: a part ``loss`` of all frames is lost, the others need ``delay`` seconds."""
        return Segment(loss, delay)

    def host(self, *, loopback: bool = True) -> Host:
        """A host with nothing but loopback, or with that down too."""
        return _elsewhere(None, lambda: Host(self, loopback))

    def close(self) -> None:
        """Stop carrying, and give up all hosts."""
        self._ended.set()
        self._wake.send(b".")
        self._thread.join()
        self._stack.close()

    def keep(self, close: Callable[[], object]) -> None:
        """Call this at the end."""
        self._stack.callback(close)

    def watch(self, port: Port) -> None:
        """Carry what this port sends from now on."""
        self._selector.register(port.tap, selectors.EVENT_READ, port)

    def _carry(self) -> None:
        while not self._ended.is_set():
            wait = self._late[0][0] - time.monotonic() if self._late else None
            for key, _ in self._selector.select(None if wait is None else max(0.0, wait)):
                if isinstance(key.data, Port):
                    self._read(key.data)
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, port, frame = heapq.heappop(self._late)
                _write(port, frame)

    def _read(self, port: Port) -> None:
        with suppress(BlockingIOError):
            while True:
                self._forward(port, os.read(port.tap, 65536))

    def _forward(self, source: Port, frame: bytes) -> None:
        segment = source.segment
        for port in segment.ports if source.connected else ():
            if port is source or not port.connected or self._rng.random() < segment.loss:
                continue
            if segment.delay:
                heapq.heappush(self._late, (time.monotonic() + segment.delay, next(self._count), port, frame))
            else:
                _write(port, frame)


def _write(port: Port, frame: bytes) -> None:
    with suppress(OSError):  # the interface is down, or its queue is full: lost, as on any network
        os.write(port.tap, frame)


class Segment:
    """A hub: every host that is plugged in hears all others. Loss and delay may be changed at any time."""

    def __init__(self, loss: float, delay: float) -> None:
        self.loss = loss
        self.delay = delay
        self.ports: list[Port] = []


class Port:
    """An interface of a host, and the cable it hangs on."""

    def __init__(self, host: Host, name: str, segment: Segment, tap: int) -> None:
        self.host, self.name, self.segment, self.tap = host, name, segment, tap
        self.connected = True

    def pull(self, *, noticed: bool = True) -> None:
        """Pull the cable; ``noticed``: at this end, so that the interface has no carrier, not somewhere behind."""
        self.connected = False
        if noticed:
            self._carrier(False)

    def put(self) -> None:
        """Put the cable back."""
        self.connected = True
        self._carrier(True)

    def running(self) -> bool:
        """Whether the interface says that it has a carrier; Linux may tell of a change a second late."""
        return bool(self.host.flags(self.name) & _IFF_RUNNING)

    def add(self, address: str) -> None:
        """Give the interface an address, like ``10.0.0.1/24`` or ``fe80::1/64``; usable at once."""
        self.host.change_address(self.name, address, add=True)

    def remove(self, address: str) -> None:
        """Take an address away."""
        self.host.change_address(self.name, address, add=False)

    def _carrier(self, there: bool) -> None:
        fcntl.ioctl(self.tap, _TUNSETCARRIER, struct.pack("i", there))


class Host:
    """A network namespace. Made by :meth:`Network.host`, in a thread that goes there."""

    def __init__(self, net: Network, loopback: bool) -> None:
        self._net = net
        _check(_libc().unshare(_CLONE_NEWNET))
        self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        net.keep(lambda: os.close(self.namespace))
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        net.keep(self._control.close)
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        net.keep(self._netlink.close)
        if loopback:
            self._up("lo")

    def plug(self, segment: Segment, *addresses: str, name: str = "eth0") -> Port:
        """A new interface with these addresses (no others: IPv6 makes none up), plugged into a segment."""
        tap = _elsewhere(self.namespace, lambda: _tap(name))
        self._net.keep(lambda: os.close(tap))
        self._without_automatic_addresses(name)
        port = Port(self, name, segment, tap)
        for address in addresses:
            port.add(address)
        self._up(name)
        segment.ports.append(port)
        self._net.watch(port)
        return port

    def udp(self, address: str = "", port: int = 0) -> socket.socket:
        """A UDP socket of this process on this host, bound there."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._net.keep(made.close)
            made.bind((address, port))
            return made

        return _elsewhere(self.namespace, make)

    def tcp(self, address: str, port: int) -> socket.socket:
        """A TCP socket of this process that listens on this host."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._net.keep(made.close)
            made.bind((address, port))
            made.listen()
            return made

        return _elsewhere(self.namespace, make)

    def drop(self, hook: Literal["in", "out"]) -> None:
        """A firewall (nftables) that drops every IPv4 packet that comes in, or goes out. Raises OSError."""
        _elsewhere(self.namespace, lambda: _drop(_NF_IN if hook == "in" else _NF_OUT))

    @asynccontextmanager
    async def process(
        self, *argv: str, env: Mapping[str, str] | None = None, mounts: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Process]:
        """Any program on this host, told to end at the end. For it, ``mounts`` are other files in the place of some."""
        process = Process(await self._start(argv, env or {}, mounts or {}))
        try:
            yield process
        finally:
            await process.close(0.0)

    @asynccontextmanager
    async def program(
        self, script: Path, *args: str, mounts: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Program]:
        """A Python program on this host that speaks JSON, and ends when its input does; ``mounts`` as of a process."""
        program = Program(await self._start((sys.executable, "-W", "error", str(script), *args), {}, mounts or {}))
        try:
            yield program
        finally:
            await program.close(_PATIENCE)

    async def _start(
        self, argv: Sequence[str], env: Mapping[str, str], mounts: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        guard = str(os.getpid()), str(self.namespace), json.dumps(dict(mounts))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", _GUARD, *guard, *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_env() | dict(env),
            pass_fds=[self.namespace],
            limit=1 << 20,
        )

    def change_address(self, name: str, address: str, *, add: bool) -> None:
        """See :meth:`Port.add` and :meth:`Port.remove`."""
        found = ipaddress.ip_interface(address)
        family = socket.AF_INET if found.version == 4 else socket.AF_INET6
        body = struct.pack("BBBBi", family, found.network.prefixlen, _IFA_F_NODAD, 0, self._index(name))
        packed = found.ip.packed
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._request(_RTM_NEWADDR if add else _RTM_DELADDR, body)

    def _without_automatic_addresses(self, name: str) -> None:
        none = _attribute(_IFLA_INET6_ADDR_GEN_MODE, b"\x01")
        spec = _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET6, none))
        self._request(_RTM_NEWLINK, struct.pack("BxHiII", 0, 0, self._index(name), 0, 0) + spec)

    def _request(self, kind: int, body: bytes) -> None:
        flags = _REQUEST_ACK | (_CREATE_REPLACE if kind == _RTM_NEWADDR else 0)
        self._netlink.send(struct.pack("IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answer = self._netlink.recv(65536)
        error = -struct.unpack_from("i", answer, 16)[0]
        if error:
            raise OSError(error, f"netlink: {os.strerror(error)}")

    def flags(self, name: str) -> int:
        """What the system says of an interface: netdevice(7)."""
        answer = fcntl.ioctl(self._control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
        flags: int = struct.unpack("16sH22x", answer)[1]
        return flags

    def _index(self, name: str) -> int:
        answer = fcntl.ioctl(self._control, _SIOCGIFINDEX, struct.pack("16si20x", name.encode(), 0))
        index: int = struct.unpack("16si20x", answer)[1]
        return index

    def _up(self, name: str) -> None:
        flags = self.flags(name) | _IFF_UP
        fcntl.ioctl(self._control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))


class Process:
    """A running program, and what it prints."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        assert running.stdin is not None and running.stdout is not None
        self._running, self._stdin, self._stdout = running, running.stdin, running.stdout
        self.lines: deque[str] = deque(maxlen=10_000)
        self._reader = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        """Whether it has closed its output."""
        return self._reader.done()

    async def status(self) -> int:
        """Wait for its end, and say how it ended."""
        return await self._running.wait()

    async def close(self, patience: float) -> None:
        """Close its input and wait for its end; after ``patience`` seconds tell it to, after more kill it."""
        self._stdin.close()
        for end, seconds in (None, patience), (self._running.terminate, _PATIENCE), (self._running.kill, None):
            if self._running.returncode is None and end is not None:
                end()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._running.wait()
        await self._reader

    async def _read(self) -> None:
        async for line in self._stdout:
            self._take(line.decode(errors="replace").rstrip("\n"))

    def _take(self, line: str) -> None:
        self.lines.append(line)


class Program(Process):
    """A process that prints a JSON object a line, and takes lines that tell it what to do."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        super().__init__(running)
        self.said: deque[dict[str, Any]] = deque(maxlen=10_000)

    def tell(self, **command: object) -> None:
        """Send it a command."""
        self._stdin.write(json.dumps(command).encode() + b"\n")

    def heard(self, **fields: object) -> list[dict[str, Any]]:
        """What it has said so far with these fields. Fails where it has ended."""
        assert not self.ended, f"the program has ended; it said at last {list(self.said)[-3:]}"
        return [line for line in self.said if fields.items() <= line.items()]

    def _take(self, line: str) -> None:
        self.said.append(json.loads(line))


def _elsewhere(namespace: int | None, work: Callable[[], T]) -> T:
    """Do something in a thread of its own, in this namespace (or to make one): the others stay where they are."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if namespace is not None:
                _check(_libc().setns(namespace, _CLONE_NEWNET))
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def _tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    except BaseException:
        os.close(tap)
        raise
    return tap


def _drop(hook: int) -> None:
    """A table with one chain, whose policy is to drop (linux/netfilter/nf_tables.h)."""
    place = _attribute(1, struct.pack("!I", hook)) + _attribute(2, struct.pack("!i", 0))
    table = _attribute(1, b"test\0")
    chain = table + _attribute(3, b"all\0") + _attribute(4 | 0x8000, place)
    chain += _attribute(5, struct.pack("!I", 0)) + _attribute(7, b"filter\0")
    steps = ((16, 0, b""), (_NFT_NEWTABLE, 2, table), (_NFT_NEWCHAIN, 2, chain), (17, 0, b""))
    batch = b""
    for kind, family, body in steps:
        part = struct.pack("!BBH", family, 0, 0 if family else _NFNL_SUBSYS_NFTABLES) + body
        flags = _REQUEST_ACK | (_CREATE_REPLACE & 0x400) if family else 1
        batch += struct.pack("IHHII", 16 + len(part), kind, flags, 1, 0) + part
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.send(batch)
        for _ in range(2):
            error = -struct.unpack_from("i", netlink.recv(65536), 16)[0]
            if error:
                raise OSError(error, f"nftables: {os.strerror(error)}")


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
