"""Server processes, the proxy before them and what both do to a store; with a small server, and with real etcd."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from microreg.errors import ConfigError
from microreg.testing import CHECKS, Harness, Proxy, ServerFaults, ServerProcess, contract, running
from microreg.testing.pipe import Connection, Line
from microreg.testing.ports import reserve_port
from microreg.toolkit import in_thread
from microreg.url import Duration, RegistryURL
from mined import MineOptions, MineRegistry
from servers import consul, etcd, etcd_cluster, leader, nats, nats_cluster, tls
from servers.etcd import etcd_program
from support import ROOT, clean_env, run

MINED = str(ROOT / "tests" / "mined.py")


def mined(**options: object) -> ServerProcess:
    """A small store, not started yet."""
    return ServerProcess("mined", lambda server: [sys.executable, MINED, str(server.port), server.data], **options)  # type: ignore[arg-type]


def scripted(code: str, **options: object) -> ServerProcess:
    """A server that is this Python code; sys.argv[1] is its port."""
    return ServerProcess("scripted", lambda server: [sys.executable, "-c", code, str(server.port)], **options)  # type: ignore[arg-type]


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def tell(link: socket.socket, *request: str) -> None:
    link.sendall(json.dumps(request).encode() + b"\n")


def hear(link: socket.socket) -> object:
    data = b""
    while not data.endswith(b"\n"):
        more = link.recv(65536)
        if not more:
            raise EOFError(data)
        data += more
    return json.loads(data)


def ask(port: int, *request: str) -> object:
    with dial(port) as link:
        tell(link, *request)
        return hear(link)


def silent(link: socket.socket, seconds: float = 0.1) -> bool:
    return not select.select([link], [], [], seconds)[0]


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """As support.wait_until, outside a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        select.select([], [], [], 0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(name="server")
def _server() -> Iterator[ServerProcess]:
    with mined() as server:
        yield server


@pytest.fixture(name="proxy")
def _proxy(server: ServerProcess) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


# -- the process --------------------------------------------------------------------------------------


def test_a_server_keeps_its_port_over_restarts_and_its_data_until_it_is_wiped(server: ServerProcess) -> None:
    port, pid = server.port, server.pid
    ask(port, "put", "a", "1", "60")
    server.kill()
    assert not server.is_running and gone(pid)
    with pytest.raises(ConnectionRefusedError):
        dial(port)
    server.restart()
    assert ask(port, "read", "") == {"a": "1"} and server.port == port and server.pid != pid
    server.restart(wipe=True)
    assert ask(port, "read", "") == {}
    assert server.log.read_text(encoding="utf-8") == f"serving {port}\n" * 3
    server.stop()
    server.stop()
    server.start()
    assert ask(port, "echo", "back") == "back"


def test_a_closed_server_leaves_no_process_no_folder_and_may_be_started_again() -> None:
    server = mined()
    for _ in range(2):
        with server:
            ask(server.port, "put", "a", "1", "60")
            assert ask(server.port, "read", "") == {"a": "1"}
            folder, pid = server.folder, server.pid
        assert gone(pid) and not folder.exists()
        with pytest.raises(RuntimeError, match=r"mined on 127\.0\.0\.1:\d+ does not run: start it first"):
            _ = server.pid
    server.close()


def test_a_frozen_server_stands_still_and_answers_when_it_thaws(server: ServerProcess) -> None:
    with dial(server.port) as link:
        server.freeze()
        server.freeze()
        assert server.is_running
        assert Path(f"/proc/{server.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
        tell(link, "echo", "late")
        assert silent(link)
        server.thaw()
        server.thaw()
        assert hear(link) == "late"


@pytest.mark.parametrize("end", [ServerProcess.kill, ServerProcess.stop, ServerProcess.close])
def test_a_frozen_server_can_be_ended(server: ServerProcess, end: Callable[[ServerProcess], None]) -> None:
    pid = server.pid
    server.freeze()
    end(server)
    assert gone(pid)
    with pytest.raises(RuntimeError, match="does not run"):
        server.freeze()


def test_a_server_that_is_gone_can_be_killed_and_thawed_and_started(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running)
    with pytest.raises(RuntimeError, match=r"ended by itself \(killed by SIGKILL\)"):
        server.freeze()
    server.thaw()
    server.kill()
    server.kill()
    server.start()
    with pytest.raises(RuntimeError, match="runs already"):
        server.start()
    assert ask(server.port, "echo", "x") == "x"


def test_a_server_that_ends_at_once_says_how_and_shows_the_end_of_its_log() -> None:
    code = "import sys\nfor n in range(99): print('line', n, flush=True)\nsys.exit('no such option: --port')"
    with pytest.raises(RuntimeError, match=r"ended by itself \(exit code 1\)") as caught, scripted(code):
        raise AssertionError("started")
    assert str(caught.value).endswith("line 98\nno such option: --port") and "line 70" not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"\(exit code 0\); it printed nothing"), scripted(""):
        raise AssertionError("started")


def test_a_server_that_does_not_get_ready_is_killed_and_says_why() -> None:
    pids: list[int] = []

    def probe(server: ServerProcess) -> bool:
        pids.append(server.pid)
        return False

    server = scripted("import time; print('loading', flush=True); time.sleep(60)", ready=probe, deadline=0.5)
    with pytest.raises(TimeoutError, match=r"after 0\.5 s \(its probe said no\); the end of its log:\nloading"):
        server.start()
    assert gone(pids[0]) and not server.is_running
    server.close()
    deaf = scripted("import time; time.sleep(60)", deadline=0.3)
    with pytest.raises(TimeoutError, match="ConnectionRefusedError"), deaf:
        raise AssertionError("started")


def test_a_mistake_in_the_probe_or_the_command_leaves_no_process() -> None:
    pids: list[int] = []

    def probe(server: ServerProcess) -> bool:
        pids.append(server.pid)
        raise KeyError("mistake")

    with pytest.raises(KeyError), scripted("import time; time.sleep(60)", ready=probe):
        raise AssertionError("started")
    assert gone(pids[0])
    nothing = ServerProcess("nothing", lambda server: [server.folder / "no-such-program"])
    with pytest.raises(FileNotFoundError, match="no-such-program"), nothing:
        raise AssertionError("started")


def test_a_server_that_ignores_sigterm_is_killed_and_one_that_heeds_it_may_say_goodbye() -> None:
    code = """
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.signal(signal.SIGTERM, {})
print("here", flush=True)
while True: listener.accept()
"""
    with scripted(code.format("signal.SIG_IGN"), patience=0.2, ready=lambda server: "here" in server.tail()) as server:
        pid = server.pid
        server.stop()
        assert gone(pid)
    polite = code.format("lambda *_: sys.exit('bye')")
    with scripted(polite, patience=30.0, ready=lambda server: "here" in server.tail()) as server:
        server.stop()
        assert server.tail() == "here\nbye"


def test_the_environment_of_a_server_is_the_path_and_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINED_SECRET", "from the shell")
    with mined(env={"MINED_MODE": "test", "LC_CTYPE": "C.UTF-8"}) as server:
        found = ask(server.port, "env")
    assert found == {"PATH": os.environ["PATH"], "MINED_MODE": "test", "LC_CTYPE": "C.UTF-8"}


def test_the_children_of_a_wrapper_are_ended_with_it(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\n"$@" &\necho child $!\nwait\n', encoding="utf-8")
    wrapper.chmod(0o700)
    server = ServerProcess("wrapped", lambda it: [wrapper, sys.executable, MINED, str(it.port), it.data])
    for end in (ServerProcess.kill, ServerProcess.stop):
        with server:
            child = int(server.log.read_text(encoding="utf-8").split()[1])
            assert not gone(child)
            end(server)
            until(lambda pid=child: gone(pid))  # type: ignore[misc]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_does_not_survive_whoever_started_it(ending: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import sys, threading
from microreg.testing import ServerProcess
server = ServerProcess("orphan", lambda it: [sys.executable, {MINED!r}, str(it.port), it.data])
starter = threading.Thread(target=server.start)     # it survives the thread that started it
starter.start(); starter.join()
server.freeze()                                     # and dies although it is frozen
print(server.pid, flush=True)
sys.stdin.read()
"""
    env = clean_env(TMPDIR=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not gone(pid) and list(tmp_path.iterdir())
        owner.send_signal(ending)
    until(lambda: gone(pid))
    until(lambda: not list(tmp_path.iterdir()))


def test_processor_time_is_counted() -> None:
    busy = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nwhile True: pass"
    with scripted(busy) as server:
        before = server.cpu_seconds()
        until(lambda: server.cpu_seconds() > before + 0.05)


def test_a_port_is_given_to_one_owner_only_and_never_to_an_outgoing_connection() -> None:
    owners = [mined() for _ in range(50)]
    ports = {owner.port for owner in owners}
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    assert len(ports) == 50 and max(ports) < lowest
    claims = Path("/proc/net/unix").read_text(encoding="ascii", errors="replace")
    assert all(f"@microreg.testing.port.{port}\n" in claims for port in ports)
    assert reserve_port(owners[0]) not in ports


def test_a_reservation_ends_with_its_owner() -> None:
    def name() -> str:
        return f"@microreg.testing.port.{mined().port}\n"

    ended = name()
    gc.collect()
    assert ended not in Path("/proc/net/unix").read_text(encoding="ascii", errors="replace")


# -- the proxy ----------------------------------------------------------------------------------------


def test_the_proxy_carries_both_ways_and_counts(proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "echo", "hello")
        assert hear(link) == "hello"
        assert (proxy.connections, proxy.accepted) == (1, 1)
        assert (proxy.sent, proxy.received) == (len(b'["echo", "hello"]\n'), len(b'"hello"\n'))
    until(lambda: proxy.connections == 0)
    assert ask(proxy.port, "echo", "again") == "again" and proxy.accepted == 2


def test_large_messages_arrive_as_they_were(proxy: Proxy) -> None:
    text = random.Random(1).randbytes(3_000_000).hex()
    assert ask(proxy.port, "echo", text) == text
    assert proxy.received == len(text) + 3


def test_a_client_that_has_said_all_still_hears_the_answer(proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "echo", "last words")
        link.shutdown(socket.SHUT_WR)
        assert hear(link) == "last words"
        assert link.recv(1) == b""
    until(lambda: proxy.connections == 0)


def test_what_the_server_does_to_a_connection_its_client_sees(server: ServerProcess, proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "reset")
        with pytest.raises(ConnectionResetError):
            hear(link)
    with dial(proxy.port) as link:
        tell(link, "echo", "x")
        hear(link)
        server.kill()
        with pytest.raises((ConnectionResetError, EOFError)):
            hear(link)
    with pytest.raises(ConnectionResetError), dial(proxy.port) as link:
        hear(link)


def test_a_reset_of_the_client_reaches_the_server(proxy: Proxy) -> None:
    link = dial(proxy.port)
    tell(link, "echo", "x")
    hear(link)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    until(lambda: proxy.connections == 0)


def test_delay_is_each_way_and_for_many_messages_at_once(proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        proxy.delay = 0.15
        began = time.monotonic()
        for number in range(20):
            tell(link, "echo", str(number))
        heard = b""
        while heard.count(b"\n") < 20:
            heard += link.recv(65536)
        took = time.monotonic() - began
        assert heard.split() == [f'"{number}"'.encode() for number in range(20)]
        assert 0.3 <= took < 20 * 0.3
        proxy.delay = 0.0
        tell(link, "echo", "fast")
        assert hear(link) == "fast"


def test_a_throttled_line_lets_so_many_bytes_through_in_a_second(proxy: Proxy) -> None:
    text = "x" * 4000
    proxy.throttle = 20_000
    began = time.monotonic()
    assert ask(proxy.port, "echo", text) == text
    assert time.monotonic() - began >= 0.38
    proxy.throttle = 0
    assert ask(proxy.port, "echo", text) == text


def test_a_black_hole_swallows_in_silence_and_gives_back_when_it_ends(server: ServerProcess, proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "echo", "before")
        assert hear(link) == "before"
        proxy.black_hole = True
        assert proxy.black_hole
        sent, received = proxy.sent, proxy.received
        tell(link, "put", "a", "1", "60")
        tell(link, "echo", "during")
        with dial(proxy.port) as new:
            tell(new, "echo", "new")
            assert silent(link) and silent(new, 0.0)
            assert (proxy.sent, proxy.received) == (sent, received)
            assert ask(server.port, "read", "") == {}
            proxy.black_hole = False
            assert hear(new) == "new"
        with link.makefile("rb") as lines:
            assert [lines.readline(), lines.readline()] == [b"null\n", b'"during"\n']
        assert ask(server.port, "read", "") == {"a": "1"}


def test_a_connection_given_up_in_a_black_hole_never_was(server: ServerProcess, proxy: Proxy) -> None:
    proxy.black_hole = True
    with dial(proxy.port) as link:
        tell(link, "put", "a", "1", "60")
    until(lambda: proxy.accepted == 1)
    with dial(proxy.port) as link:
        tell(link, "echo", "x")
        server.freeze()  # a server that goes away meanwhile is not heard of either
        server.restart()
        assert silent(link)
        proxy.black_hole = False
        assert hear(link) == "x"
    until(lambda: proxy.connections == 0)
    assert ask(server.port, "read", "") == {}


def test_cutting_resets_every_open_connection(proxy: Proxy) -> None:
    with dial(proxy.port) as one, dial(proxy.port) as two:
        for link in (one, two):
            tell(link, "echo", "x")
            hear(link)
        proxy.cut()
        assert proxy.connections == 0
        for link in (one, two):
            with pytest.raises(ConnectionResetError):
                link.recv(1)
    proxy.cut()
    assert ask(proxy.port, "echo", "x") == "x"


def test_refusing_leaves_open_connections_alone(proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "echo", "x")
        hear(link)
        for _ in range(2):
            proxy.refuse = True
        with pytest.raises(ConnectionRefusedError):
            dial(proxy.port)
        tell(link, "echo", "still here")
        assert hear(link) == "still here" and proxy.refuse
        for _ in range(2):
            proxy.refuse = False
        assert ask(proxy.port, "echo", "y") == "y"


def test_hanging_up_resets_a_client_that_does_not_listen(proxy: Proxy) -> None:
    with dial(proxy.port) as link:
        tell(link, "echo", "x")
        hear(link)
        proxy.hang_up()
        until(lambda: proxy.connections == 0)
        assert link.recv(1) == b""
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            until(lambda: tell(link, "echo", "anybody?"))


def test_hanging_up_on_a_client_whose_reset_was_not_read_yet(server: ServerProcess) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, dial(listener.getsockname()[1]) as link:
            connection = Connection(Line(), listener.accept()[0])
            running = asyncio.create_task(connection.run(server.port))
            tell(link, "echo", "x")
            await in_thread(hear, link)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()
            await connection.hang_up(1.0)
            await asyncio.wait_for(running, 5)

    run(main())


def test_a_closed_proxy_leaves_nothing_and_may_be_started_again_as_it_was_switched(server: ServerProcess) -> None:
    proxy = Proxy(server.port)
    proxy.black_hole, proxy.refuse = True, True
    proxy.cut()
    proxy.close()
    for _ in range(2):
        with proxy, pytest.raises(ConnectionRefusedError):
            dial(proxy.port)
    proxy.refuse = False
    with proxy, dial(proxy.port) as link:
        tell(link, "echo", "x")
        assert silent(link)
        with pytest.raises(RuntimeError, match="runs already"):
            proxy.start()
        proxy.black_hole = False
        assert hear(link) == "x"
        proxy.close()
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("proxy")] == []


def test_a_proxy_whose_port_is_taken_says_so() -> None:
    proxy = Proxy(1)
    with socket.create_server(("127.0.0.1", proxy.port)), pytest.raises(OSError, match="in use"):
        proxy.start()
    with proxy, pytest.raises(ConnectionResetError), dial(proxy.port) as link:
        hear(link)


# -- faults and contract ------------------------------------------------------------------------------


def test_faults_of_a_server_need_a_proxy_only_for_the_network() -> None:
    server = mined()
    assert ServerFaults(server).offered == {"kill", "wipe", "freeze"}
    with pytest.raises(ConfigError, match="has no proxy before it"):
        _ = ServerFaults(server).proxy

    class Raw(ServerFaults):
        async def write_raw(self, name: str, id: str, data: bytes | None) -> None:
            raise AssertionError("not to be used")

    assert Raw(server, Proxy(server.port)).offered == {"kill", "wipe", "freeze", "black_hole", "slow", "write_raw"}


def test_faults_run_in_any_loop_and_do_not_hold_it_up(server: ServerProcess, proxy: Proxy) -> None:
    faults = ServerFaults(server, proxy)

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with faults.down():
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            before = ticks
        assert ticks > before and server.is_running
        assert await asyncio.to_thread(ask, proxy.port, "echo", "x") == "x"
        ticking.cancel()
        await asyncio.wait([ticking])

    for _ in range(2):
        run(main())


def test_a_slow_store_gets_what_was_asked_meanwhile_late_and_what_is_asked_then_at_once(
    server: ServerProcess, proxy: Proxy
) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with ServerFaults(server, proxy).slow(4.0):
            writer.write(b'["put", "late", "1", "60"]\n')
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await reader.read()
            ended = asyncio.create_task(reader.read())
            ended.add_done_callback(lambda _: writer.close())
        assert await ended == b""
        assert await asyncio.to_thread(ask, proxy.port, "read", "") == {}
        await asyncio.to_thread(until, lambda: ask(proxy.port, "read", "") == {"late": "1"})

    run(main())


def test_a_black_hole_ends_with_its_block(server: ServerProcess, proxy: Proxy) -> None:
    async def main() -> None:
        hole = ServerFaults(server, proxy).black_hole()
        await hole.__aenter__()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b'["echo", "x"]\n')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        assert not await hole.__aexit__(KeyError, KeyError(), None)
        assert await reader.readline() == b'"x"\n'
        writer.close()

    run(main())


@contextmanager
def noted(what: list[str]) -> Generator[None]:
    what.append("entered")
    yield
    what.append("left")


def outcome_of(kind: type[unittest.TestCase]) -> unittest.TestResult:
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(outcome)
    return outcome


def test_a_backend_of_a_stranger_is_proven_under_faults() -> None:
    server = mined()
    proxy = Proxy(server.port)
    url = RegistryURL.parse(f"mine://127.0.0.1:{proxy.port}?timeout=1s")
    harness = Harness(
        factory=lambda: MineRegistry(url, MineOptions(timeout=Duration(1.0))), faults=ServerFaults(server, proxy)
    )
    wanted = {"general.own-errors", "watch.resyncs", "register.restores-forgotten", "general.bounded"}
    checks = [each for each in CHECKS if each.id in wanted | {"general.calling-again"}]
    noticed: list[str] = []
    outcome = outcome_of(contract(harness, checks, around=lambda: running(noted(noticed), server, proxy)))
    assert [text for _, text in outcome.failures + outcome.errors] == []
    assert outcome.testsRun == len(checks) == 5 and outcome.skipped == []
    assert noticed == ["entered", "left"] and not server.is_running


def test_around_may_skip_or_fail_every_test_visibly() -> None:
    def missing(error: Exception) -> NoReturn:
        raise error

    harness, skip = Harness("memory://kit"), unittest.SkipTest("no server")
    skipped = outcome_of(contract(harness, CHECKS[:2], around=lambda: missing(skip)))
    assert [reason for _, reason in skipped.skipped] == ["no server"] and skipped.wasSuccessful()
    failed = outcome_of(contract(harness, CHECKS[:2], around=lambda: missing(OSError("no port"))))
    assert len(failed.errors) == 1 and "no port" in failed.errors[0][1]


def test_what_was_entered_is_left_also_when_the_checks_cannot_run() -> None:
    noticed: list[str] = []

    def fails(checks: object) -> object:
        checks.close()  # type: ignore[attr-defined]
        raise OSError("no loop")

    kind = contract(Harness("memory://kit"), CHECKS[:1], run=fails, around=lambda: noted(noticed))  # type: ignore[arg-type]
    assert len(outcome_of(kind).errors) == 1
    assert noticed == ["entered", "left"]


# -- etcd ---------------------------------------------------------------------------------------------


def post(port: int, path: str, body: dict[str, object], context: ssl.SSLContext | None = None) -> dict[str, object]:
    """A call of etcd's HTTP gateway."""
    url = f"{'http' if context is None else 'https'}://127.0.0.1:{port}/v3/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return dict(json.loads(answer.read()))


def put(port: int, key: str, value: str = "") -> None:
    post(port, "kv/put", {"key": b64encode(key.encode()).decode(), "value": b64encode(value.encode()).decode()})


def count(port: int, key: str) -> int:
    return int(str(post(port, "kv/range", {"key": b64encode(key.encode()).decode()}).get("count", "0")))


def test_etcd_is_killed_frozen_and_started_again_with_and_without_its_data() -> None:
    with etcd() as server, Proxy(server.port) as proxy:
        put(proxy.port, "a")
        server.kill()
        with pytest.raises((urllib.error.URLError, ConnectionResetError)):
            count(proxy.port, "a")
        server.start()
        assert count(proxy.port, "a") == 1
        server.freeze()
        with dial(proxy.port) as link:
            link.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert silent(link)
            server.thaw()
            assert b"true" in link.makefile("rb").read()
        server.restart(wipe=True)
        assert count(proxy.port, "a") == 0


def test_an_etcd_whose_disk_is_full_restarts_all_the_same() -> None:
    with etcd(quota=200_000) as server:

        def full() -> bool:
            try:
                put(server.port, "big", "x" * 50_000)
            except urllib.error.HTTPError as error:
                return b"space exceeded" in error.read()
            return False

        until(full, 20.0)
        server.restart()
        assert full()


def test_etcd_asks_for_certificates_when_told_to(tmp_path: Path) -> None:
    files = tls(tmp_path, client="reader")
    trusting = ssl.create_default_context(cafile=str(files.ca))
    with etcd(tls=files, client_certs=True) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError, urllib.error.URLError)):
            post(server.port, "maintenance/status", {}, trusting)
        trusting.load_cert_chain(files.client_cert, files.client_key)
        assert post(server.port, "maintenance/status", {}, trusting)["version"]


def test_a_cluster_goes_on_when_its_leader_is_killed() -> None:
    with etcd_cluster(3) as members:
        put(members[0].port, "a")
        old = leader(members)
        assert old is not None
        old.kill()
        others = [member for member in members if member is not old]
        until(lambda: leader(others), 20.0)
        assert [count(member.port, "a") for member in others] == [1, 1]
        put(others[0].port, "b")
        old.start()
        until(lambda: count(old.port, "b") == 1)
    assert not any(member.is_running for member in members)


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("nats, etcd", "1 error"), ("nats", "1 skipped")])
def test_a_server_that_is_missing_skips_visibly_or_fails_where_it_is_required(
    required: str, outcome: str, tmp_path: Path
) -> None:
    module = tmp_path / "test_it.py"
    module.write_text(
        "import pytest\nfrom servers import etcd\n\n\n"
        "@pytest.fixture\ndef server():\n    with etcd() as server:\n        yield server\n\n\n"
        "def test_it(server):\n    assert server.is_running\n",
        encoding="utf-8",
    )
    missing = str(tmp_path / "etcd")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", module],
        capture_output=True,
        text=True,
        env=clean_env(MICROREG_REQUIRE=required, MICROREG_ETCD=missing),
        timeout=50,
        check=False,
    )
    assert outcome in done.stdout and f"MICROREG_ETCD={missing}" in done.stdout, done.stdout + done.stderr


def test_another_etcd_can_be_named() -> None:
    code = "from servers.etcd import etcd_program; print(etcd_program())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_env(MICROREG_ETCD="/bin/sh", PYTHONPATH=str(ROOT / "tests")),
        timeout=20,
        check=False,
    )
    assert done.stdout == "/bin/sh\n", done.stderr
    assert etcd_program().name == "etcd"


# -- Consul -------------------------------------------------------------------------------------------


def consul_kv(port: int, key: str, value: bytes | None = None, condition: str = "") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/kv/{key}?raw&{condition}", value, method="GET" if value is None else "PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def test_consul_is_killed_frozen_and_started_again_with_and_without_its_data() -> None:
    with consul() as server, Proxy(server.port) as proxy:
        assert consul_kv(proxy.port, "a", b"1") == b"true"
        server.kill()
        server.start()
        assert consul_kv(proxy.port, "a", condition="consistent") == b"1", "it may lead before it has read its log"
        server.freeze()
        with dial(proxy.port) as link:
            link.sendall(b"GET /v1/kv/a?raw HTTP/1.0\r\n\r\n")
            assert silent(link)
            server.thaw()
            assert link.makefile("rb").read().endswith(b"\r\n\r\n1")
        server.restart(wipe=True)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            consul_kv(proxy.port, "a")


def test_consul_in_development_mode_forgets_all(tmp_path: Path) -> None:
    files = tls(tmp_path)
    with consul(dev=True, tls=files, client_certs=True) as server:
        consul_kv(server.port, "a", b"1")
        trusting = ssl.create_default_context(cafile=str(files.ca))
        trusting.load_cert_chain(files.client_cert, files.client_key)
        url = f"https://127.0.0.1:{server.ports[2]}/v1/kv/a?raw"
        with urllib.request.urlopen(url, timeout=10, context=trusting) as answer:
            assert answer.read() == b"1"
        server.restart()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            consul_kv(server.port, "a")


# -- NATS ---------------------------------------------------------------------------------------------


def nats_info(port: int) -> dict[str, object]:
    with dial(port) as link:
        return dict(json.loads(link.makefile("rb").readline().removeprefix(b"INFO ")))


def test_nats_is_killed_frozen_and_started_again() -> None:
    with nats() as server, Proxy(server.port) as proxy:
        first = nats_info(proxy.port)
        assert first["jetstream"] is True
        server.restart()
        assert nats_info(proxy.port)["server_id"] != first["server_id"]
        server.freeze()
        with dial(proxy.port) as link:
            assert silent(link)
            server.thaw()
            assert link.makefile("rb").readline().startswith(b"INFO ")


def test_nats_with_certificates_and_without_jetstream(tmp_path: Path) -> None:
    with nats(jetstream=False, tls=tls(tmp_path), client_certs=True) as server:
        info = nats_info(server.port)
        assert info.get("jetstream", False) is False
        assert (info["tls_required"], info["tls_verify"]) == (True, True)


def test_a_cluster_of_nats_has_a_leader() -> None:
    with nats_cluster(3) as members:
        assert [nats_info(member.port).get("cluster") for member in members] == ["tests"] * 3
