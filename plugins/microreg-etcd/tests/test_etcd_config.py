"""From the config string to a registry: what it takes, what it refuses and how; loading, opening, loops and forks."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from microreg import ConfigError, Node, RegistryClosed, RegistryTimeout, RegistryUnavailable, Service, connect
from microreg.net import free_port
from microreg.testing import ServerProcess
from microreg.url import RegistryURL, describe_options
from microreg_etcd import EtcdOptions, EtcdRegistry
from microreg_etcd.endpoints import Endpoint, endpoints
from microreg_etcd.failures import failure
from microreg_etcd.stubs import rpc
from servers import TLS, etcd, tls
from support import clean_env, python, run, wait_until

SECRET = "correct-horse"


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with etcd() as server:
        yield server


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


def greeter(id: str = "a") -> Service:
    return Service("greeter", nodes=[Node("10.0.0.1:80", id=id)])


def backend(url: str) -> EtcdRegistry:
    found = connect(url).unwrap(EtcdRegistry)
    assert found is not None
    return found


async def opened(url: str) -> None:
    async with connect(url):
        pass


# -- what is said of a config string, before anything is opened --------------------------------------------------------


def test_the_options() -> None:
    known = {each.name: (each.type, each.default) for each in describe_options(EtcdOptions)}
    assert known == {
        "timeout": ("duration", "5s"),
        "ca": ("path", ""),
        "cert": ("path", ""),
        "key": ("path", ""),
        "server_name": ("text", ""),
        "layout": ("microreg|go-micro", "microreg"),
    }


@pytest.mark.parametrize("scheme", ["etcd", "etcds"])
@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        ("", ["127.0.0.1:2379"]),
        ("10.0.0.1", ["10.0.0.1:2379"]),
        ("10.0.0.1:2380", ["10.0.0.1:2380"]),
        ("etcd.internal,10.0.0.2:80", ["etcd.internal:2379", "10.0.0.2:80"]),
        ("[::1]", ["[::1]:2379"]),
        ("[2001:db8::1]:80,[::1]", ["[2001:db8::1]:80", "[::1]:2379"]),
        ("[fe80::1%25eth0]", ["[fe80::1%eth0]:2379"]),
        ("[fe80::1%25eth0]:80", ["[fe80::1%eth0]:80"]),
        ("unix,dns:53,ipv4,xds,https", ["unix:2379", "dns:53", "ipv4:2379", "xds:2379", "https:2379"]),
    ],
)
def test_hosts(scheme: str, hosts: str, addresses: list[str]) -> None:
    async def main() -> None:
        registry = backend(f"{scheme}://{hosts}")
        found = endpoints(registry.url, registry._tls)
        assert [each.address for each in found] == addresses
        await asyncio.gather(*(each.close() for each in found))

    run(main())


def test_a_host_is_never_taken_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC has schemes of its own, and would read a host named ``unix`` as the path of a socket."""
    targets: list[str] = []

    def channel(target: str, options: object) -> rpc.Channel:
        targets.append(target)
        return plain(target, [])

    async def main() -> None:
        hosts = RegistryURL.parse("etcd://unix,10.0.0.1,[::1],[fe80::1%25eth0]:80,localhost")
        await asyncio.gather(*(each.close() for each in endpoints(hosts, None)))

    plain = rpc.insecure_channel
    monkeypatch.setattr(rpc, "insecure_channel", channel)
    run(main())
    assert targets == [
        "dns:///unix:2379",
        "dns:///10.0.0.1:2379",
        "ipv6:[::1]:2379",
        "ipv6:[fe80::1%25eth0]:80",
        "dns:///localhost:2379",
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("etcd://10.0.0.1,10.0.0.1:2379", "host 2 of the etcd:// URL repeats 10.0.0.1"),
        ("etcd://10.0.0.1,,10.0.0.2", "host 2"),
        ("etcd://10.0.0.1:port", "the port must be a number"),
        ("etcd://10.0.0.1:0", "the port must be a number"),
        ("etcd://10.0.0.256", "looks like an IPv4 address but is none"),
        ("etcd://::1", "brackets"),
        ("etcd://[::g]", "not an IPv6 address"),
        ("etcd://[fe80::1%eth0]", "%25"),
        ("etcd://user@10.0.0.1", "user and password belong together"),
        ("etcd://:${PASSWORD}@10.0.0.1", "user and password belong together"),
        ("etcd://user:${UNSET_PASSWORD}@10.0.0.1", "UNSET_PASSWORD, which is not set"),
        ("etcd://10.0.0.1?ca=/etc/ca.pem", "option ca is for TLS; write etcds://"),
        ("etcd://10.0.0.1?server_name=etcd", "option server_name is for TLS; write etcds://"),
        ("etcd://10.0.0.1?cert=/c.pem&key=/k.pem", "option cert is for TLS; write etcds://"),
        ("etcds://10.0.0.1?cert=/c.pem", "cert and key belong together"),
        ("etcds://10.0.0.1?key=/k.pem", "cert and key belong together"),
        ("etcd://10.0.0.1?layout=gomicro", "expected one of microreg, go-micro, got 'gomicro'"),
        ("etcd://10.0.0.1?layouts=go-micro", "did you mean layout?"),
        ("etcd://10.0.0.1?prefix=/x", "known: ca, cert, key, layout, server_name, timeout"),
        ("etcd://10.0.0.1?timeout=0", "expected more than 0 seconds"),
        ("etcd://10.0.0.1?timeout=5", ""),
        ("etcd://user:${PASSWORD}@10.0.0.1", ""),
    ],
)
def test_what_is_wrong_is_said_when_connecting(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    if not said:
        assert isinstance(backend(url), EtcdRegistry)
        return
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("", "/microreg/"),
        ("/", "/microreg/"),
        ("/production", "/production/"),
        ("/production/", "/production/"),
        ("//a//b//", "/a//b/"),
        ("/a%2Fb", "/a/b/"),
        ("/gr%C3%B6%C3%9Fe%20x", "/größe x/"),
        ("/größe", "/größe/"),
        ("/..", "/../"),
        ("/%25%2541", "/%%41/"),
        ("/*%3F%5B", "/*?[/"),
        ("/0", "/0/"),
        ("?layout=go-micro", "/micro/registry/"),
        ("/fleet?layout=go-micro", "/fleet/"),
    ],
)
def test_prefixes(server: ServerProcess, path: str, prefix: str) -> None:
    """Records stand under the prefix and are found there, and nothing beside it is."""

    async def main() -> None:
        async with connect(url) as registry, connect(f"etcd://127.0.0.1:{server.port}{beside}") as other:
            await other.register(greeter("b"))
            await registry.register(greeter("a"))
            assert await registry.get_service("greeter") == (greeter("a"),)
            assert await registry.list_services() == ("greeter",)
            channel = rpc.insecure_channel(f"127.0.0.1:{server.port}")
            answer = await rpc.KVStub(channel).Range(rpc.RangeRequest(key=f"{prefix}greeter/a".encode()))
            assert len(answer.kvs) == 1
            await channel.close()
            for each, id in ((registry, "a"), (other, "b")):
                await each.deregister(greeter(id))

    url = f"etcd://127.0.0.1:{server.port}{path}"
    assert backend(url)._layout.prefix == prefix.encode()
    beside = "/" + "".join(f"%{byte:02X}" for byte in f"{prefix.strip('/')}0".encode())
    run(main())


def has_ipv6() -> bool:
    try:
        return free_port("::1") > 0
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_ipv6() -> None:
    async def main(port: int) -> None:
        async with connect(f"etcd://[::1]:{port}") as registry:
            await registry.register(greeter())
            assert await registry.get_service("greeter") == (greeter(),)

    with etcd("ipv6") as server:
        port = server.port
    with etcd("ipv6", flags=[f"--listen-client-urls=http://[::1]:{port}"]):
        run(main(port))


# -- TLS files, before anything is sent --------------------------------------------------------------------------------


def test_files_that_are_no_good(files: TLS, tmp_path: Path) -> None:
    garbage, empty, secret = tmp_path / "garbage.pem", tmp_path / "empty.pem", tmp_path / "encrypted.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    empty.touch()
    key = serialization.load_pem_private_key(files.client_key.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"pass phrase")))
    wrong = {
        f"ca={tmp_path}/missing.pem": ["missing.pem", "No such file"],
        f"ca={tmp_path}": [str(tmp_path)],
        f"ca={garbage}": ["garbage.pem", "certificates in PEM"],
        f"ca={empty}": ["empty.pem", "certificates in PEM"],
        f"ca={files.client_key}": ["client-key.pem", "certificates in PEM"],
        f"ca={files.ca}&cert={tmp_path}/missing.pem&key={files.key}": ["missing.pem", "No such file"],
        f"ca={files.ca}&cert={files.cert}&key={tmp_path}/missing.pem": ["missing.pem", "No such file"],
        f"cert={garbage}&key={files.key}": ["garbage.pem and", "a certificate and its private key in PEM"],
        f"cert={files.cert}&key={garbage}": ["garbage.pem", "a certificate and its private key in PEM"],
        f"cert={files.client_cert}&key={files.key}": ["client.pem", "server-key.pem", "mismatch"],
        f"cert={files.client_cert}&key={secret}": ["encrypted.pem", "without a pass phrase"],
    }
    for options, said in wrong.items():
        with pytest.raises(ConfigError) as caught:
            run(opened(f"etcds://127.0.0.1:1?{options}"))
        for each in said:
            assert each in str(caught.value), options
        assert "PRIVATE KEY" not in str(caught.value)
    run(opened(f"etcds://127.0.0.1:1?ca={files.ca}&cert={files.client_cert}&key={files.client_key}"))


def test_without_ca_the_certificates_of_this_machine_are_trusted(files: TLS, tmp_path: Path) -> None:
    """Not gRPC's own list: an authority that the administrator has added is known, one taken away is not."""
    code = """
import asyncio, sys
from microreg import Node, Service, connect

async def main():
    async with connect(sys.argv[1]) as registry:
        await registry.register(Service("greeter", nodes=[Node("10.0.0.1:80")]))
        print(await registry.list_services())

asyncio.run(main())
"""
    with etcd(tls=files) as server:
        url = f"etcds://127.0.0.1:{server.port}"
        assert python(code, url, env=clean_env(SSL_CERT_FILE=str(files.ca))) == "('greeter',)\n"
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "12345678.0").write_bytes(files.ca.read_bytes())
        env = clean_env(SSL_CERT_FILE=str(tmp_path / "none"), SSL_CERT_DIR=str(folder))
        assert python(code, url, env=env) == "('greeter',)\n"
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
        with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
            python(code, url, env=clean_env(SSL_CERT_FILE=str(tmp_path / "other.pem")))


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_the_password_is_never_shown(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    """A server without users refuses every login, which is an error that passes through all layers."""
    heard: list[str] = []

    async def main() -> None:
        url = f"etcd://orders:{SECRET}@127.0.0.1:{server.port}"
        registry = connect(url)
        heard.extend(text(each) for each in (registry, registry.url, backend(url)) for text in (str, repr))
        async with registry, registry.watch("greeter") as watch:
            for call in (registry.register(greeter()), registry.get_service("greeter"), registry.list_services()):
                try:
                    await call
                except Exception as error:
                    heard.extend(chain(error))
            await wait_until(lambda: watch.error)
            heard.extend(chain(watch.error))

    def chain(error: BaseException | None) -> Iterator[str]:
        while error is not None:
            yield f"{error!s} {error!r} {error.args}"
            error = error.__cause__ or error.__context__

    caplog.set_level(logging.DEBUG)
    run(main())
    assert len(heard) >= 9
    heard += [each.getMessage() for each in caplog.records]
    assert not [text for text in heard if SECRET in text]
    assert any("orders" in text for text in heard)


# -- loading and opening -----------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_it_is_opened() -> None:
    code = """
import asyncio, sys
import microreg_etcd
from microreg import connect

def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "google", "aetcd"})

registry = connect("etcds://user:password@127.0.0.1,[::1]/prefix?layout=go-micro")
assert loaded() == [], loaded()
asyncio.run(registry.close())
assert loaded() == [], loaded()

async def main():
    async with connect("etcd://127.0.0.1:1"):
        assert loaded() == ["aetcd", "google", "grpc"], loaded()

asyncio.run(main())
print("done")
"""
    assert python(code) == "done\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("TypeError('Couldn\\'t build proto file into descriptor pool: duplicate file name kv.proto')", "kv.proto"),
        ("RuntimeError('The grpc package installed is at version 1.60.0')", "1.60.0"),
        ("ImportError('cannot import name runtime_version')", "runtime_version"),
        ("type('VersionError', (Exception,), {})('gencode 5.27.2 runtime 5.26.1')", "VersionError: gencode 5.27.2"),
    ],
)
def test_stubs_that_cannot_be_loaded_are_explained(error: str, said: str, tmp_path: Path) -> None:
    """Another etcd client in this process, or a library that is too old: in place of aetcd stands what would happen."""
    (tmp_path / "aetcd").mkdir()
    (tmp_path / "aetcd" / "__init__.py").write_text("")
    (tmp_path / "aetcd" / "rpc.py").write_text(f"raise {error}\n")
    code = """
import asyncio
from microreg import ConfigError, connect

async def main():
    for _ in range(2):
        registry = connect("etcd://127.0.0.1:1")
        try:
            await registry.open()
        except ConfigError as error:
            print(error)
        await registry.close()

asyncio.run(main())
"""
    lines = python(code, env=clean_env(PYTHONPATH=str(tmp_path))).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("etcd:// cannot load its protocol stubs")
        assert said in line
        for advice in ("grpcio 1.66.2 or newer", "protobuf 5.27.2 or newer", "no other etcd client"):
            assert advice in line


def test_opening_and_closing(server: ServerProcess) -> None:
    async def main() -> None:
        url = f"etcd://127.0.0.1:{server.port}"
        never = connect(url)
        await never.close()
        await never.close()
        bare = backend(url)
        await bare.close()
        registry = connect(url)
        await registry.open()
        await registry.open()
        await registry.register(greeter())
        assert await registry.get_service("greeter") == (greeter(),)
        await registry.deregister(greeter())
        await registry.close()
        await registry.close()
        for closed in (never, registry):
            with pytest.raises(RegistryClosed):
                await closed.list_services()
        with pytest.raises(RegistryClosed):
            await bare.list_services()

    run(main())


def test_opening_needs_no_server() -> None:
    async def main() -> None:
        async with connect("etcd://127.0.0.1:1,127.0.0.1:2?timeout=2s") as registry:
            for call in (registry.register(greeter()), registry.list_services()):
                with pytest.raises(RegistryUnavailable, match=r"etcd at 127\.0\.0\.1:[12]: .*refused"):
                    await call

    run(main())


TRIED = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            f"{TRIED}UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote host: Connection refused",
            "cannot connect: Connection refused; "
            "nothing listens there: is etcd running, and is this its port for clients?",
        ),
        (
            f"{TRIED}FAILED_PRECONDITION: ipv4:10.0.0.1:1: connect failed: addr: ipv4:10.0.0.1:1 error: "
            "No route to host",
            "cannot connect: No route to host; no way leads there: is the address right, and the network up?",
        ),
        (
            f"{TRIED}UNAVAILABLE: ipv4:10.0.0.1:1: connection attempt timed out before receiving SETTINGS frame",
            "cannot connect: connection attempt timed out before receiving SETTINGS frame; "
            "is the address right, and no firewall in between?",
        ),
        (
            "errors resolving etcd.test:1: [field:hostname lookup error:address lookup failed for etcd.test:1: "
            "Domain name not found]",
            "cannot connect: Domain name not found; is the name of the host spelled right, and known on this machine?",
        ),
        (
            "DNS resolution failed for etcd.test:1: C-ares status is not ARES_SUCCESS qtype=A name=etcd.test: Timeout",
            "cannot connect: Timeout; is the name of the host spelled right, and known on this machine?",
        ),
        ("recvmsg:Connection reset by peer", "recvmsg:Connection reset by peer"),
    ],
)
def test_why_a_connection_was_not_made_is_said_without_grpcs_wording(details: str, said: str) -> None:
    error = failure(rpc.AioRpcError(rpc.StatusCode.UNAVAILABLE, (), (), details), "etcd.test:1")
    assert str(error) == f"etcd at etcd.test:1: {said}"
    assert isinstance(error, RegistryTimeout) == ("timed out" in said)


def test_the_next_host_is_asked_where_one_is_away(server: ServerProcess) -> None:
    async def main() -> None:
        async with connect(f"etcd://127.0.0.1:1,127.0.0.1:{server.port}") as registry:
            await registry.register(greeter())
            assert await registry.get_service("greeter") == (greeter(),)
            await registry.deregister(greeter())

    run(main())


def test_the_hosts_towards_which_the_address_is_looked_for() -> None:
    assert list(backend("etcd://127.0.0.1,[::1],etcd.internal:1").hosts) == ["127.0.0.1", "::1", "etcd.internal"]


# -- loops and processes -----------------------------------------------------------------------------------------------


def test_two_loops_in_two_threads(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    """grpc.aio has one poller for all loops; nothing of that is heard, and both do their work."""
    seen: dict[str, int] = {}

    async def work(name: str) -> None:
        async with connect(f"etcd://127.0.0.1:{server.port}/{name}") as registry, registry.watch() as watch:
            await anext(watch)
            for number in range(20):
                nodes = [Node(f"10.0.0.1:{1 + number}", id=f"n{n}") for n in range(10)]
                await registry.register(Service("greeter", nodes=nodes))
                for _ in nodes:
                    await anext(watch)
            seen[name] = len((await registry.get_service("greeter"))[0].nodes)

    threads = [threading.Thread(target=run, args=(work(name),)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"one": 10, "two": 10}
    assert not [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


FORK = """
import asyncio, gc, os, sys
from microreg import Node, Service, connect

url, before = sys.argv[1:]

def greeter(port):
    return Service("greeter", nodes=[Node(f"10.0.0.1:{port}", id=before)])

async def told(call):
    try:
        async with asyncio.timeout(5):
            return str(await call)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def own():
    async with connect(url) as registry:
        return await registry.list_services()

def child(*inherited):
    if inherited:
        asyncio._set_running_loop(None)
        registry, watch = inherited
        for call in (registry.get_service("greeter"), registry.register(greeter(9)), registry.close(), watch.close()):
            print("inherited", asyncio.run(told(call)))
    del inherited
    gc.collect()
    print("own", asyncio.run(told(own())))
    sys.stdout.flush()
    os._exit(0)

async def main():
    async with connect(url) as registry, registry.watch("greeter") as watch:
        await anext(watch)
        await registry.register(greeter(1))
        await anext(watch)
        if before == "open":
            pid = os.fork()
            if pid == 0:
                child(registry, watch)
            assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        await registry.register(greeter(1))
        await registry.register(greeter(2))
        change = await anext(watch)
        assert change.previous == greeter(1) and change.service == greeter(2), change
        assert watch.state == "live" and watch.error is None, watch.error

if before == "imported":
    import microreg_etcd.store
else:
    asyncio.run(main())
    gc.collect()
if before != "open":
    pid = os.fork()
    if pid == 0:
        child()
    assert os.waitpid(pid, 0)[1] == 0
print("parent", asyncio.run(told(own())))
"""


def forked(server: ServerProcess, before: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FORK, f"etcd://127.0.0.1:{server.port}/{before}?timeout=2s", before],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_forked_from_an_open_registry_is_told_so(server: ServerProcess) -> None:
    """gRPC does not work in it, but neither hangs anything there nor is anything sent: the parent's streams live."""
    lines = forked(server, "open")
    inherited, [own, parent] = lines[:-2], lines[-2:]
    assert inherited[:2] == [inherited[0]] * 2 and "was opened before fork()" in inherited[0]
    assert inherited[2:] == ["inherited None"] * 2
    assert own.startswith("own Unsupported: ") and "gRPC does not work in it" in own
    assert parent == "parent ('greeter',)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("before", ["imported", "closed"])
def test_a_child_has_a_registry_of_its_own_where_none_was_open(server: ServerProcess, before: str) -> None:
    names = "('greeter',)" if before == "closed" else "()"
    assert forked(server, before) == [f"own {names}", f"parent {names}"]


def test_a_failed_connection_is_replaced_once() -> None:
    async def main() -> None:
        made: list[rpc.Channel] = []

        def connect_to() -> rpc.Channel:
            made.append(rpc.insecure_channel("127.0.0.1:1"))
            return made[-1]

        endpoint = Endpoint("127.0.0.1:1", connect_to)
        assert await endpoint.ready() == 1
        for _ in range(3):
            endpoint.failed(1)
        assert tuple(await asyncio.gather(endpoint.ready(), endpoint.ready())) == (2, 2)
        endpoint.failed(1)
        assert await endpoint.ready() == len(made) == 2
        await asyncio.gather(*(channel.close() for channel in made))

    run(main())
