"""The config string: what is refused, what TLS takes, and what a person reads when the agent cannot be reached."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import microreg
from consul_store import record
from microreg.errors import ConfigError, PermissionDenied, RegistryError, RegistryUnavailable, ServiceNotFound
from microreg.testing import ServerProcess, running
from microreg.toolkit import Sockets, in_thread
from microreg_consul import ConsulRegistry
from microreg_consul.transport import Consul, session
from servers import TLS, consul, tls
from support import run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(files: TLS) -> Iterator[ServerProcess]:
    secure = consul("secure", dev=True, tls=files, client_certs=True)
    with running(secure):
        yield secure


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("consul://user:password@127.0.0.1", "tokens, no users"),
        ("consul://very-secret@127.0.0.1", r"^consul://\*\*\*@127.0.0.1: Consul knows tokens, no users"),
        ("consul://127.0.0.1/prefix", "the option dc"),
        ("consul://10.0.0.1,10.0.0.2", "expected one agent"),
        ("consul://127.0.0.1?ca=/etc/ca.pem", "consuls://"),
        ("consuls://127.0.0.1?cert=/etc/cert.pem", "belong together"),
        ("consul://127.0.0.1?layout=etcd", "one of microreg, go-micro"),
        ("consul://127.0.0.1?datacenter=dc1", "known:"),
        ("consul://127.0.0.1:x", "port"),
    ],
)
def test_what_does_not_fit_together_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        microreg.connect(url)


def test_a_token_is_not_shown() -> None:
    registry = microreg.connect("consul://127.0.0.1?token=s3cret-t0ken")
    inner = registry.unwrap(ConsulRegistry)
    assert inner is not None
    for text in (repr(registry), str(registry.url), repr(inner.options), repr(inner)):
        assert "s3cret" not in text


def test_what_is_imported_is_little_until_a_registry_is_opened() -> None:
    code = "import sys, microreg_consul; sys.exit(bool({'aiohttp', 'consul', 'requests'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_tls_with_a_client_certificate(server: ServerProcess, files: TLS) -> None:
    port = server.ports[2]
    given = f"ca={files.ca}&cert={files.client_cert}&key={files.client_key}"

    async def main() -> None:
        async with microreg.connect(f"consuls://127.0.0.1:{port}?{given}") as registry:
            async with registry.watch("tls") as events:
                await anext(events)
                await registry.register(record("tls", "a"))
                async with asyncio.timeout(40):
                    await anext(events)
            assert await registry.get_service("tls") == (record("tls", "a"),)
            await registry.deregister(record("tls", "a"))
        for options, said in (
            (given + "&server_name=elsewhere.test", "option server_name"),
            (f"ca={files.ca}", "options cert and key"),
            ("", "option ca"),
        ):
            await _fails(f"consuls://127.0.0.1:{port}?{options}", said)
        async with microreg.connect(f"consuls://127.0.0.1:{port}?{given}&server_name=localhost") as registry:
            with pytest.raises(ServiceNotFound):
                await registry.get_service("tls")
        await _fails(f"consul://127.0.0.1:{port}", "consuls://")
        await _fails(f"consuls://127.0.0.1:{server.port}?{given}", "consul://")

    run(main())


def test_a_connection_whose_request_was_cancelled_ends_with_the_registry(files: TLS) -> None:
    """Its TLS would be closed in order, for which asyncio waits as long as the other side takes, and nobody for it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    asked, over = threading.Event(), threading.Event()

    def stand(listener: socket.socket) -> None:
        with listener.accept()[0] as raw, context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(65_536)
            asked.set()
            over.wait(60)

    async def main(port: int) -> None:
        async with microreg.connect(f"consuls://127.0.0.1:{port}?ca={files.ca}") as registry:
            call = asyncio.ensure_future(registry.get_service("x"))
            assert await in_thread(asked.wait, 60)
            before = open_files()
            call.cancel()
            await asyncio.wait([call])
        assert open_files() == before - 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        standing = threading.Thread(target=stand, args=(listener,))
        standing.start()
        try:
            run(main(listener.getsockname()[1]))
        finally:
            over.set()
            standing.join()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ports_that_are_not_the_one_for_http(server: ServerProcess) -> None:
    dns, rpc = server.ports[1], server.ports[3]

    async def main() -> None:
        await _fails(f"consul://127.0.0.1:{rpc}", "is this its HTTP port? If it is: ")
        await _fails(f"consul://127.0.0.1:{dns}", "is this its HTTP port? If it is: ")

    run(main())


def test_what_a_stranger_answers_is_not_shown() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"stranger"}\r\n')
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with microreg.connect(f"consul://127.0.0.1:{port}") as registry:
                with pytest.raises(RegistryUnavailable, match="no Consul: is this its HTTP port") as caught:
                    await registry.get_service("s")
        assert "INFO" not in str(caught.value) and "stranger" not in str(caught.value)

    run(main())


async def _fails(url: str, said: str, kind: type[RegistryError] = RegistryUnavailable) -> None:
    async with microreg.connect(url) as registry:
        with pytest.raises(kind) as caught:
            await registry.get_service("s")
    assert said in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path, files: TLS) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate", encoding="utf-8")

    async def main() -> None:
        for options in (f"ca={tmp_path}/none.pem", f"ca={text}", f"ca={files.ca}&cert={text}&key={files.key}"):
            with pytest.raises(ConfigError, match="expected"):
                async with microreg.connect(f"consuls://127.0.0.1?{options}"):
                    pass

    run(main())


def test_a_datacenter_that_nobody_knows(server: ServerProcess) -> None:
    run(_fails(f"consul://127.0.0.1:{server.port}?dc=nowhere", "option dc"))


def test_nothing_listens() -> None:
    run(_fails("consul://127.0.0.1:1", "does the agent run"))


@asynccontextmanager
async def answering(head: str, body: str = "") -> AsyncGenerator[int]:
    """Something that answers everything alike; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", asked)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("head", "body", "kind", "said"),
    [
        ("200 OK", "hello", RegistryUnavailable, "no Consul"),
        ("200 OK\r\nX-Consul-Index: 7", "<html>", RegistryUnavailable, "no Consul"),
        ("200 OK\r\nX-Consul-Index: x", "[]", RegistryUnavailable, "expected a number"),
        ("404 Not Found", "", RegistryUnavailable, "no Consul"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "", RegistryUnavailable, "no Consul"),
        ("429 Too Many Requests", "slowly", RegistryUnavailable, "slowly"),
        ("500 Internal Server Error", "No cluster leader", RegistryUnavailable, "elect"),
        ("500 Internal Server Error", "rpc error making call: Permission denied", PermissionDenied, "option token"),
        ("401 Unauthorized", "ACL support disabled", PermissionDenied, "leave the option token out"),
        ("200 OK\r\nX-Consul-Index: 7\r\nX-Consul-Results-Filtered-By-ACLs: true", "[]", PermissionDenied, "no token"),
    ],
)
def test_what_answers_otherwise_than_expected(head: str, body: str, kind: type[RegistryError], said: str) -> None:
    async def main() -> None:
        async with answering(head, body) as port:
            await _fails(f"consul://127.0.0.1:{port}", said, kind)

    run(main())


@pytest.mark.parametrize("verb", ["register", "deregister"])
def test_a_write_that_answers_no_error_may_have_failed_all_the_same(verb: str) -> None:
    async def main() -> None:
        async with answering("404 Not Found") as port, microreg.connect(f"consul://127.0.0.1:{port}") as registry:
            if verb == "deregister":
                await registry.deregister(record("s", "a"))  # newer agents say so of what is not there
            else:
                with pytest.raises(RegistryUnavailable, match="no Consul"):
                    await registry.register(record("s", "a"))

    run(main())


def test_every_kind_of_request_that_py_consul_makes_works(server: ServerProcess) -> None:
    async def main() -> None:
        async with session(None, Sockets()) as connections:
            client = Consul(
                connections,
                ("127.0.0.1", server.port),
                patience=5.0,
                tls=False,
                server_name="",
                token="",
                dc="",
            )
            codes = [
                await client.http.put(lambda answer: answer.code, "/v1/kv/a b/ü?", data=b"x"),
                await client.http.get(lambda answer: answer.code, "/v1/kv/a b/ü?"),
                await client.http.delete(lambda answer: answer.code, "/v1/kv/a b/ü?"),
                await client.http.get(lambda answer: answer.code, "/v1/kv/a b/ü?"),
                await client.http.post(lambda answer: answer.code, "/v1/kv/a"),
            ]
            await client.http.close()
            assert codes == [200, 200, 200, 404, 405]

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_registry_of_its_own(server: ServerProcess) -> None:
    code = """
import asyncio, os, sys, microreg

async def main(url, id):
    async with microreg.connect(url) as registry:
        node = microreg.Node("10.0.0.1:80", id=id)
        await registry.register(microreg.Service("forked", nodes=[node]))
        async with registry.watch("forked") as events:
            await anext(events)
            if id == "parent":
                child = os.fork()
                if not child:
                    asyncio.events._set_running_loop(None)
                    os._exit(asyncio.new_event_loop().run_until_complete(main(url, "child")) or 0)
                assert os.waitpid(child, 0)[1] == 0
                await registry.register(microreg.Service("forked", nodes=[node]))
        await registry.deregister(microreg.Service("forked", nodes=[node]))

asyncio.run(main(sys.argv[1], "parent"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, f"consul://127.0.0.1:{server.port}"],
        check=False,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
