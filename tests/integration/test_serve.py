"""``microreg serve`` and ``http://``, as processes: start, end, tokens, TLS, limits, and watches that go on."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from microreg import Node, Service, connect
from microreg.errors import InvalidService, PermissionDenied, RegistryUnavailable
from microreg.events import Action, Change, Event, Reason, Snapshot
from microreg.testing import Proxy, ServerProcess
from microreg.toolkit import in_thread
from servers import TLS, microreg_server, tls
from support import ROOT, clean_env, run, wait_until

pytestmark = pytest.mark.timeout(180)

MICROREG = (sys.executable, "-m", "microreg")
GREETER = Service("greeter", "1.0", nodes=[Node("10.0.0.1:80", id="g1")])


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[ServerProcess]:
    with microreg_server() as server:
        yield server


@pytest.fixture(name="certificates", scope="module")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


def status(url: str, **headers: str) -> int:
    """The status of the answer to a GET."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=named), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_without_options_it_serves_memory_on_loopback() -> None:
    """The default port may be taken here: what it would do is in its help."""
    done = subprocess.run([*MICROREG, "serve", "--help"], capture_output=True, text=True, timeout=30, env=clean_env())
    assert "127.0.0.1:4214" in done.stdout and "memory://" in done.stdout
    process = subprocess.Popen(
        [*MICROREG, "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(MICROREG_REGISTRY="static://a=10.0.0.1:80"),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("microreg serves memory:// at http://127.0.0.1:")
    assert status(f"{line.split()[-1]}/v1/services") == 200
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_it_starts_soon() -> None:
    began = time.monotonic()
    with microreg_server():
        assert time.monotonic() - began < 10  # a second, on a machine that has nothing else to do


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "127.0.0.1"], 2, "--listen"),
        (["--registry", "nothing://"], 2, "nothing"),
        (["--token-file", "/nowhere"], 2, "--token-file"),
        (["--tls-cert", "/nowhere"], 2, "belong together"),
        (["--max-body", "0"], 2, "max-body"),
        (["--rate", "-1"], 2, "rate"),
    ],
)
def test_what_it_cannot_do_it_says_at_once(arguments: list[str], code: int, text: str) -> None:
    listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*MICROREG, "serve", *listen, *arguments], capture_output=True, text=True, timeout=30, env=clean_env()
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken(server: ServerProcess) -> None:
    done = subprocess.run(
        [*MICROREG, "serve", "--listen", f"127.0.0.1:{server.port}"],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_env(),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1, port {server.port}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(number: signal.Signals, new_port: Callable[[], int]) -> None:
    """Streams end at once, a request that is open is answered, and nobody new is let in."""
    port = new_port()
    process = subprocess.Popen(
        [*MICROREG, "serve", "--listen", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_env(),
    )
    assert process.stdout is not None
    process.stdout.readline()
    body = b'{"name":"a","nodes":[{"id":"x","address":"10.0.0.1:80"}]}'
    with ExitStack() as stack:
        slow, stream = (stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(2))
        head = f"PUT /v1/services/a/nodes/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body[:10])
        stream.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = b""
        while b"snapshot" not in heard:
            heard += stream.recv(10_000)
        process.send_signal(number)
        while piece := stream.recv(10_000):
            heard += piece
        assert heard.endswith(b"0\r\n\r\n")
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), 10).close()
        slow.sendall(body[10:])
        assert slow.recv(1000).startswith(b"HTTP/1.1 204")
    assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 0


def test_a_client_that_never_ends_its_request_does_not_stop_the_end(new_port: Callable[[], int]) -> None:
    port = new_port()
    process = subprocess.Popen(
        [*MICROREG, "serve", "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, env=clean_env()
    )
    assert process.stdout is not None
    process.stdout.readline()
    with socket.create_connection(("127.0.0.1", port), 10) as slow:
        slow.sendall(b"PUT /v1/services/a/nodes/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        process.terminate()
        process.communicate(timeout=25)
    assert process.returncode == 0


# -- tokens and TLS ---------------------------------------------------------------------------------


def test_tokens(tmp_path: Path) -> None:
    writers, readers = tmp_path / "writers", tmp_path / "readers"
    writers.write_text("may-write-1\n")
    readers.write_text("may-read-1\n")

    async def main(where: str) -> None:
        async with connect(f"{where}?token=may-write-1") as registry:
            await registry.register(GREETER)
        async with connect(f"{where}?token=may-read-1") as registry:
            assert await registry.get_service("greeter") == (GREETER,)
            async with registry.watch("greeter") as events:
                assert await anext(events) == Snapshot([GREETER])
            with pytest.raises(PermissionDenied, match="reading only"):
                await registry.register(GREETER)
            with pytest.raises(PermissionDenied, match="reading only"):
                await registry.deregister(GREETER)
        for url in (where, f"{where}?token=wrong-one"):
            async with connect(url) as registry:
                with pytest.raises(PermissionDenied, match=r"in the config string: \?token=") as caught:
                    await registry.get_service("greeter")
                assert "wrong-one" not in str(caught.value)
                async with registry.watch("greeter") as events:
                    await wait_until(lambda events=events: isinstance(events.error, PermissionDenied))
                    assert events.state == "resyncing"

    with microreg_server("--token-file", writers, "--read-token-file", readers) as server:
        run(main(f"http://127.0.0.1:{server.port}"))
        assert server.tail().count("\n") == 0 and "may-" not in server.tail()


def test_tls(certificates: TLS) -> None:
    async def main(port: int) -> None:
        trusted = f"ca={certificates.ca}"
        for url in (f"https://127.0.0.1:{port}?{trusted}", f"https://localhost:{port}?{trusted}"):
            async with connect(url) as registry:
                await registry.register(GREETER)
                assert await registry.get_service("greeter") == (GREETER,)
                async with registry.watch() as events:
                    assert await anext(events) == Snapshot([GREETER])
        for url, why in (
            (f"https://127.0.0.1:{port}", "TLS: .*options ca and server_name"),
            (f"https://127.0.0.1:{port}?{trusted}&server_name=other.test", "TLS: .*options ca and server_name"),
            (f"http://127.0.0.1:{port}", "http"),
        ):
            async with connect(url) as registry:
                with pytest.raises(RegistryUnavailable, match=why):
                    await registry.get_service("greeter")
        async with connect(f"https://127.0.0.1:{port}?{trusted}&server_name=localhost") as registry:
            assert await registry.list_services() == ("greeter",)

    with microreg_server(tls=certificates) as server:
        run(main(server.port))


def test_tls_to_a_server_without(server: ServerProcess, certificates: TLS) -> None:
    async def main() -> None:
        async with connect(f"https://127.0.0.1:{server.port}?ca={certificates.ca}") as registry:
            with pytest.raises(RegistryUnavailable, match="TLS"):
                await registry.get_service("greeter")

    run(main())


# -- what the page says -----------------------------------------------------------------------------

PAGE = (ROOT / "docs/reference/http.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```sh\n([^`]*curl [^`]*)^```\n(?:\n```json\n(.*?)^```\n)?", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
def test_the_examples_of_the_page() -> None:
    assert len(EXAMPLES) == 6
    with microreg_server() as server:
        for command, answer in EXAMPLES:
            script = command.replace("127.0.0.1:4214", f"127.0.0.1:{server.port}")
            stream = "curl -N" in script
            script = script.replace("curl", f"curl -sS --max-time {'1' if stream else '10 --fail-with-body'}")
            done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30, check=False)
            expected = 28 if stream else 22 if "nobody" in command else 0
            assert done.returncode == expected, f"{script}\n{done.stdout}\n{done.stderr}"
            if answer:
                assert json.loads(done.stdout) == json.loads(answer)
            if stream:
                assert done.stdout.startswith('event: snapshot\ndata: {"name":"orders","services":[{"name":"orders"')


# -- limits -----------------------------------------------------------------------------------------


def test_limits() -> None:
    limits = ("--max-body", "2000", "--max-nodes", "2", "--max-services", "2", "--max-per-client", "2")

    async def main(where: str) -> None:
        async with connect(where) as registry, connect(where) as other:
            metadata = {f"k{number}": "v" * 1000 for number in range(3)}
            large = Service("large", nodes=[Node("10.0.0.1:80", id="x", metadata=metadata)])
            with pytest.raises(InvalidService, match="at most 2000 bytes"):
                await registry.register(large)
            for name in "ab":
                await registry.register(Service(name, nodes=[Node("10.0.0.1:80", id="x")]))
            with pytest.raises(RegistryUnavailable, match="takes no more"):
                await registry.register(Service("a", nodes=[Node("10.0.0.1:80", id="y")]))
            async with registry.watch("a") as first, registry.watch("b") as second, other.watch("a") as third:
                for events in (first, second, third):  # one client, one stream
                    assert isinstance(await anext(events), Snapshot)
                async with connect(where) as last, last.watch("a") as refused:
                    await wait_until(lambda: refused.error)
                    assert "there are 2 streams from your address" in str(refused.error)

    with microreg_server(*limits) as server:
        run(main(f"http://127.0.0.1:{server.port}"))


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["--trust-proxy", "127.0.0.1"], "203.0.113.9")])
def test_the_access_log_names_the_client_and_believes_only_proxies_that_are_trusted(
    trusted: list[str], client: str
) -> None:
    with microreg_server("--access-log", *trusted) as server:
        url = f"http://127.0.0.1:{server.port}/v1/services/nobody?x=1"
        assert status(url, X_Forwarded_For="203.0.113.9") == 400
        run(wait_until(lambda: '"status": 400' in server.tail()))
        told = json.loads(server.tail().splitlines()[-1])
        assert (told["method"], told["path"], told["client"]) == ("GET", "/v1/services/nobody", client)


def test_a_page_elsewhere_gets_nothing(server: ServerProcess) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/services"
    assert status(url) == 200
    assert status(url, Origin="https://attacker.example") == 403
    assert status(url, Host="attacker.example") == 421


def test_many_connections_that_say_nothing_stall_nobody(server: ServerProcess) -> None:
    with ExitStack() as stack:
        for number in range(500):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            if number % 2:
                each.sendall(b"GET /v1/serv")
        assert status(f"http://127.0.0.1:{server.port}/v1/services") == 200


# -- one client's stream ----------------------------------------------------------------------------


async def take(events: object, count: int) -> list[Event]:
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]  # type: ignore[call-overload]


def named(event: Event) -> tuple[Action, str, Reason | None]:
    assert isinstance(event, Change)
    return event.action, event.node.id, event.reason


def node(id: str, name: str = "a") -> Service:
    return Service(name, nodes=[Node("10.0.0.1:80", id=id)])


def test_all_watches_of_a_client_share_a_stream(server: ServerProcess) -> None:
    async def main(port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        async with connect(url) as registry, connect(f"http://127.0.0.1:{server.port}") as writer:
            watches = [registry.watch(f"shared-{number}") for number in range(300)]
            for watch in watches:
                await watch.__aenter__()
            for watch in watches:
                assert isinstance(await anext(watch), Snapshot)
            await writer.register(node("x", "shared-7"))
            assert named((await take(watches[7], 1))[0]) == (Action.CREATE, "x", None)
            assert proxy.connections <= 2
            async with registry.watch() as everything:
                assert "shared-7" in [service.name for service in (await anext(everything)).services]  # type: ignore[union-attr]
                await writer.register(node("y", "shared-8"))
                assert named((await take(everything, 1))[0]) == (Action.CREATE, "y", None)
                assert named((await take(watches[8], 1))[0]) == (Action.CREATE, "y", None)
            await writer.register(node("z", "shared-9"))
            assert named((await take(watches[9], 1))[0]) == (Action.CREATE, "z", None)
            for watch in watches:
                await watch.close()
            await wait_until(lambda: proxy.connections <= 1)

    with Proxy(server.port) as proxy:
        run(main(proxy.port))


def test_a_stream_that_breaks_goes_on_where_it_was(server: ServerProcess) -> None:
    async def main(proxy: Proxy) -> None:
        url = f"http://127.0.0.1:{server.port}"
        async with connect(f"http://127.0.0.1:{proxy.port}") as registry, connect(url) as writer:
            await writer.register(node("stays"))
            await writer.register(node("goes"))
            async with registry.watch("a") as events:
                assert isinstance(await anext(events), Snapshot)
                proxy.refuse = True
                await in_thread(proxy.cut)
                await wait_until(lambda: events.state == "resyncing")
                await writer.deregister(node("goes"))
                await writer.register(node("comes"))
                proxy.refuse = False
                told = await take(events, 2)
                assert [named(each) for each in told] == [
                    (Action.DELETE, "goes", Reason.DEREGISTERED),  # not `lost`: nothing was missed
                    (Action.CREATE, "comes", None),
                ]
                assert events.state == "live"
                await in_thread(proxy.cut)  # resumed at once: nobody notices
                await writer.register(node("later"))
                assert named((await take(events, 1))[0]) == (Action.CREATE, "later", None)

    with Proxy(server.port) as proxy:
        run(main(proxy))


def test_renewals_of_all_nodes_are_one_request() -> None:
    async def main(server: ServerProcess) -> None:
        def asked(word: str) -> int:
            return sum(word in line for line in server.log.read_text(encoding="utf-8").splitlines())

        async with connect(f"http://127.0.0.1:{server.port}") as registry:
            many = Service("many", nodes=[Node("10.0.0.1:80", id=f"n{number}") for number in range(200)])
            await registry.register(many)
            await registry.register(many)
            await registry.list_services()  # the log has a line for it after those for the others
            await wait_until(lambda: asked('"/v1/services"'))
            assert asked('"PUT"') == 200
            assert 1 <= asked("/v1/renewals") <= 10  # one, on a machine that has nothing else to do

    with microreg_server("--access-log") as server:
        run(main(server))
