"""TLS, client certificates, users, tokens that expire, and the least that a user must be allowed to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aetcd import rpc

from etcd_admin import PASSWORD, Users, grant, metric
from following import following
from microreg import Node, PermissionDenied, Registry, RegistryTimeout, RegistryUnavailable, Service, announce, connect
from microreg.testing import Proxy, ServerProcess, running
from servers import TLS, etcd, tls
from support import run, wait_until

QUICK = ["--bcrypt-cost=4"]
TOKEN_TTL = 4
"""Seconds for which an unused token is good: longer than a busy machine may pause between two calls."""

IDLE = TOKEN_TTL + 2.5
"""Seconds after which an unused token is gone: etcd looks once a second."""

READ, READWRITE = rpc.Permission.READ, rpc.Permission.READWRITE
PREFIX = b"/microreg/"
END = b"/microreg0"
"""The first key after all that begin with the prefix: "0" follows "/"."""


def greeter(id: str = "a", port: int = 80) -> Service:
    return Service("greeter", nodes=[Node(f"10.0.0.1:{port}", id=id)])


async def with_users(server: ServerProcess) -> None:
    async with Users(server.port) as users:
        await users.add("least", (READWRITE, PREFIX, END))
        await users.add("reader", (READ, PREFIX, END))
        await users.add("other", (READWRITE, b"/other/", b"/other0"))
        await users.add("nobody")
        await users.enable()


@pytest.fixture(scope="module", name="guarded")
def _guarded() -> Iterator[ServerProcess]:
    """A server that knows users."""
    with etcd("guarded", flags=QUICK) as server:
        run(with_users(server))
        yield server


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", name="encrypted")
def _encrypted(files: TLS) -> Iterator[ServerProcess]:
    with etcd("encrypted", tls=files) as server:
        yield server


@pytest.fixture(scope="module", name="mutual")
def _mutual(files: TLS) -> Iterator[ServerProcess]:
    with etcd("mutual", tls=files, client_certs=True) as server:
        yield server


async def refused(url: str, error: type[Exception]) -> str:
    """What every verb says, long before its time is over; a watch says it too, and tries again."""
    async with connect(f"{url}{'&' if '?' in url else '?'}timeout=20s") as registry, registry.watch() as watch:
        texts: list[str] = []
        for call in (
            registry.register(greeter()),
            registry.get_service("greeter"),
            registry.list_services(),
            registry.deregister(greeter()),
        ):
            with pytest.raises(error) as caught:
                await call
            assert not isinstance(caught.value, RegistryTimeout)
            texts.append(str(caught.value))
        await wait_until(lambda: watch.error, 40)
        assert isinstance(watch.error, error) and watch.state == "resyncing"
        assert PASSWORD not in "".join([*texts, str(watch.error)])
        return "\n".join([*texts, str(watch.error)])


async def works(url: str, node: str = "a") -> None:
    """Every verb, and a watch that hears of it."""
    async with connect(url) as registry, following(registry) as everything:
        await registry.register(greeter(node))
        await everything.hears(f"create greeter/{node}")
        for port in (80, 81):
            await registry.register(greeter(node, port))
        await everything.hears(f"update greeter/{node}")
        assert greeter(node, 81).nodes[0] in (await registry.get_service("greeter"))[0].nodes
        assert "greeter" in await registry.list_services()
        await registry.deregister(greeter(node))
        await everything.hears(f"delete greeter/{node}")
        assert everything.watch.error is None


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_authority(encrypted: ServerProcess, files: TLS, host: str) -> None:
    run(works(f"etcds://{host}:{encrypted.port}?ca={files.ca}"))


def test_a_name_that_the_certificate_has(encrypted: ServerProcess, files: TLS) -> None:
    run(works(f"etcds://127.0.0.1:{encrypted.port}?ca={files.ca}&server_name=localhost"))


def test_a_name_that_the_certificate_has_not(encrypted: ServerProcess, files: TLS) -> None:
    said = run(
        refused(f"etcds://127.0.0.1:{encrypted.port}?ca={files.ca}&server_name=etcd.test", RegistryUnavailable), 40
    )
    assert said.count("option server_name") == 5, said


def test_an_authority_that_did_not_sign_it(encrypted: ServerProcess, tmp_path: Path) -> None:
    said = run(refused(f"etcds://127.0.0.1:{encrypted.port}?ca={tls(tmp_path).ca}", RegistryUnavailable))
    assert said.count("CERTIFICATE_VERIFY_FAILED") == 5, said
    assert said.count("option ca") == 5, said


def test_without_tls_where_it_is_needed(encrypted: ServerProcess) -> None:
    said = run(refused(f"etcd://127.0.0.1:{encrypted.port}", RegistryUnavailable))
    assert said.count("perhaps it speaks TLS: etcds://") == 5, said


def test_tls_where_there_is_none(guarded: ServerProcess, files: TLS) -> None:
    said = run(refused(f"etcds://127.0.0.1:{guarded.port}?ca={files.ca}", RegistryUnavailable))
    assert said.count("perhaps it speaks without TLS: etcd://") == 5, said


def test_a_client_certificate(mutual: ServerProcess, files: TLS) -> None:
    run(works(f"etcds://127.0.0.1:{mutual.port}?ca={files.ca}&cert={files.client_cert}&key={files.client_key}"))


def test_no_client_certificate_where_one_is_needed(mutual: ServerProcess, files: TLS) -> None:
    said = run(refused(f"etcds://127.0.0.1:{mutual.port}?ca={files.ca}", RegistryUnavailable))
    assert said.count("options cert and key") == 5, said


def test_a_client_certificate_of_another_authority(mutual: ServerProcess, files: TLS, tmp_path: Path) -> None:
    other = tls(tmp_path)
    url = f"etcds://127.0.0.1:{mutual.port}?ca={files.ca}&cert={other.client_cert}&key={other.client_key}"
    said = run(refused(url, RegistryUnavailable))
    assert said.count("options cert and key") == 5, said


def test_the_name_in_a_client_certificate_is_a_user(tmp_path: Path) -> None:
    """etcd takes the common name for the user where no token says otherwise: no password is needed anywhere."""
    files = tls(tmp_path, client="least")
    with etcd("common-name", flags=QUICK) as server:
        run(with_users(server))
        server.stop()
        secure = etcd("common-name", tls=files, client_certs=True, flags=[*QUICK, f"--data-dir={server.data}"])
        with secure:
            pair = f"ca={files.ca}&cert={files.client_cert}&key={files.client_key}"
            run(works(f"etcds://127.0.0.1:{secure.port}?{pair}"))
            said = run(refused(f"etcds://127.0.0.1:{secure.port}/elsewhere?{pair}", PermissionDenied))
            assert "permission denied" in said


# -- users -------------------------------------------------------------------------------------------------------------


def test_the_least_that_a_user_needs(guarded: ServerProcess) -> None:
    """One role with ``readwrite`` from ``/<prefix>/`` up to ``/<prefix>0``, and nothing else::

        etcdctl role add microreg
        etcdctl role grant-permission --prefix=true microreg readwrite /microreg/
        etcdctl user grant-role orders microreg

    Leases have no permissions of their own: whoever is logged in may grant and renew them, and revoke those whose
    keys it may write.
    """
    run(works(f"etcd://least:{PASSWORD}@127.0.0.1:{guarded.port}"))
    said = run(refused(f"etcd://least:{PASSWORD}@127.0.0.1:{guarded.port}/other", PermissionDenied))
    assert said.count("permission denied") == 5, said


def test_who_may_only_read_looks_up_and_watches(guarded: ServerProcess) -> None:
    async def main() -> None:
        url = f"127.0.0.1:{guarded.port}"
        async with (
            connect(f"etcd://least:{PASSWORD}@{url}") as writer,
            connect(f"etcd://reader:{PASSWORD}@{url}") as reader,
            following(reader) as everything,
        ):
            await writer.register(greeter())
            await everything.hears("create greeter/a")
            assert await reader.get_service("greeter") == (greeter(),)
            assert await reader.list_services() == ("greeter",)
            for write in (reader.register, reader.deregister):
                for service in (greeter(port=81), greeter("a")):
                    with pytest.raises(PermissionDenied, match="permission denied"):
                        await write(service)
            assert await writer.get_service("greeter") == (greeter(),)
            assert everything.watch.error is None
            await writer.deregister(greeter())

    run(main())


def test_who_may_nothing_is_told_and_heals_when_it_may(guarded: ServerProcess) -> None:
    async def main() -> None:
        async with connect(f"etcd://nobody:{PASSWORD}@127.0.0.1:{guarded.port}") as registry:
            announcing = announce(registry, "greeter", address="10.0.0.1:80", id="patient", ttl=5)
            async with registry.watch("greeter") as watch, announcing as announcement, Users(guarded.port) as users:
                await wait_until(lambda: isinstance(watch.error, PermissionDenied), 40)
                assert watch.state == "resyncing"
                assert announcement.state == "registering"
                request = grant("nobody", READWRITE, PREFIX, END)
                await users.auth.RoleGrantPermission(request, metadata=await users.as_root())
                await announcement.wait_live(40)
                await wait_until(lambda: str(watch.state) == "live", 40)

    run(main())


@pytest.mark.parametrize("login", ["least:wrong", "unknown:wrong"])
def test_a_login_that_is_refused(guarded: ServerProcess, login: str) -> None:
    said = run(refused(f"etcd://{login}@127.0.0.1:{guarded.port}", PermissionDenied))
    assert said.count("authentication failed, invalid user ID or password") == 5, said


def test_a_user_where_one_is_wanted(guarded: ServerProcess) -> None:
    said = run(refused(f"etcd://127.0.0.1:{guarded.port}", PermissionDenied))
    assert said.count("this server wants a user: etcd://user:${ETCD_PASSWORD}@host") == 5, said


def test_a_user_where_nobody_asks_for_one(encrypted: ServerProcess, files: TLS) -> None:
    url = f"etcds://least:{PASSWORD}@127.0.0.1:{encrypted.port}?ca={files.ca}"
    said = run(refused(url, PermissionDenied))
    assert said.count("authentication is not enabled; leave user and password out of the config string") == 5, said


def test_many_calls_at_once_log_in_once_and_are_refused_at_once(guarded: ServerProcess) -> None:
    async def main() -> None:
        many = Service("many", nodes=[Node(f"10.0.0.1:{port}", id=f"n{port}") for port in range(1, 31)])
        before = logins(guarded)
        async with connect(f"etcd://least:{PASSWORD}@127.0.0.1:{guarded.port}") as registry:
            await registry.register(many)
            assert logins(guarded) == before + 1
            await registry.deregister(many)
        before = logins(guarded, "InvalidArgument")
        async with connect(f"etcd://least:wrong@127.0.0.1:{guarded.port}") as registry:
            for attempt in (1, 2):
                with pytest.raises(PermissionDenied):
                    await registry.register(many)
                assert logins(guarded, "InvalidArgument") == before + attempt

    run(main())


# -- tokens ------------------------------------------------------------------------------------------------------------


def logins(server: ServerProcess, code: str = "OK") -> float:
    return metric(server, "grpc_server_handled_total", grpc_method="Authenticate", grpc_code=code)


expiring = etcd("expiring", flags=[*QUICK, f"--auth-token-ttl={TOKEN_TTL}"])
proxy = Proxy(expiring.port)


@pytest.fixture(scope="module", name="_expiring")
def _server_with_expiring_tokens() -> Iterator[None]:
    with running(expiring, proxy):
        run(with_users(expiring))
        yield


@asynccontextmanager
async def user(port: int) -> AsyncGenerator[Registry]:
    async with connect(f"etcd://least:{PASSWORD}@127.0.0.1:{port}") as registry:
        yield registry


@pytest.mark.usefixtures("_expiring")
def test_calls_renewals_and_watches_go_on_after_the_token_has_expired() -> None:
    async def main() -> None:
        async with user(expiring.port) as writer, user(proxy.port) as reader, following(reader) as everything:
            nodes = Service("greeter", nodes=[Node(f"10.0.0.1:{port}", id=f"n{port}") for port in range(1, 4)])
            await writer.register(nodes)
            await everything.hears(*(f"create greeter/{node.id}" for node in nodes.nodes))
            await writer.register(nodes)  # the stream of renewals is open now
            before = logins(expiring)
            await asyncio.sleep(IDLE)
            await writer.register(nodes)
            await writer.register(greeter("n1", 9))
            await everything.hears("update greeter/n1")
            assert logins(expiring) == before + 1
            await everything.agrees("greeter")  # a call of the reader, whose token is as old
            assert logins(expiring) == before + 2
            assert everything.watch.error is None
            await writer.deregister(nodes)
            await everything.until(lambda at: not at.catalog.names())

    run(main())


@pytest.mark.usefixtures("_expiring")
def test_a_watch_is_resumed_with_another_token_and_misses_nothing() -> None:
    """To a watch, etcd says the same of an old token as of a user without the permission."""

    async def main() -> None:
        async with user(expiring.port) as writer, user(proxy.port) as reader, following(reader) as everything:
            await writer.register(greeter("before"))
            await everything.hears("create greeter/before")
            await asyncio.sleep(IDLE)
            proxy.refuse = True
            proxy.cut()
            await writer.deregister(greeter("before"))
            await writer.register(greeter("meanwhile"))
            proxy.refuse = False
            await everything.hears("create greeter/meanwhile", "delete greeter/before")
            await everything.agrees("greeter")
            await everything.until(lambda at: at.watch.state == "live")
            await writer.deregister(greeter("meanwhile"))
            await everything.hears("delete greeter/meanwhile")

    run(main())


@pytest.mark.usefixtures("_expiring")
def test_a_restart_of_the_server_is_survived_with_users_too() -> None:
    async def main() -> None:
        async with user(expiring.port) as registry, following(registry) as everything:
            await registry.register(greeter("a"))
            await asyncio.to_thread(expiring.restart)
            async with asyncio.timeout(40):
                while not await registered(registry, greeter("b")):
                    pass
            await everything.until(lambda at: "create greeter/b" in at.changes)
            await everything.agrees("greeter")
            await registry.register(greeter("a"))
            assert {node.id for node in (await registry.get_service("greeter"))[0].nodes} == {"a", "b"}
            assert everything.watch.state == "live"
            await registry.deregister(Service("greeter", nodes=[*greeter("a").nodes, *greeter("b").nodes]))

    run(main())


async def registered(registry: Registry, service: Service) -> bool:
    """Whether it could be registered; nothing but the store's absence is an excuse."""
    try:
        await registry.register(service)
    except RegistryUnavailable:
        return False
    return True
