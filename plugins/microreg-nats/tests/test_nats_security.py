"""Passwords, tokens, nkeys, credentials files, TLS, and the least that a program must be allowed to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from microreg import (
    ConfigError,
    Node,
    PermissionDenied,
    RegistryTimeout,
    RegistryUnavailable,
    Service,
    Snapshot,
    connect,
)
from microreg.testing import ServerProcess
from nats_auth import Key, credentials, operator_config
from servers import TLS, nats, tls
from support import run

SERVICE = Service("orders", "1", nodes=[Node("10.0.0.7:80", id="a")])
SECRET = "correct-horse"

_API = "$JS.API."
READER = [
    _API + "STREAM.INFO.KV_microreg",
    _API + "STREAM.MSG.GET.KV_microreg",
    _API + "DIRECT.GET.KV_microreg",
    _API + "CONSUMER.CREATE.KV_microreg.>",
    _API + "CONSUMER.MSG.NEXT.KV_microreg.>",
    _API + "CONSUMER.DELETE.KV_microreg.>",
]
"""What may be published by who looks services up; docs/reference/nats.md shows the same."""
PROGRAM = [*READER, "$KV.microreg.orders.*"]
"""What may be published by who registers nodes of one service besides."""
MAKER = [*PROGRAM, _API + "STREAM.CREATE.KV_microreg"]


def user(name: str, publish: list[str], inbox: str = "_INBOX.>") -> str:
    allowed = ", ".join(f'"{subject}"' for subject in publish)
    return f'{{ user: {name}, password: "{SECRET}", permissions: {{ publish: [{allowed}], subscribe: ["{inbox}"] }} }}'


@pytest.fixture(scope="module")
def guarded() -> Iterator[ServerProcess]:
    users = [
        f'{{ user: admin, password: "{SECRET}" }}',
        user("maker", MAKER),
        user("program", PROGRAM),
        user("reader", READER),
        user("private", PROGRAM, "_INBOX_private.>"),
        user("early", [_API + "STREAM.INFO.KV_early"]),
    ]
    with nats(config=f"authorization {{ users: [{', '.join(users)}] }}") as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


async def works(url: str) -> None:
    async with connect(url) as registry:
        await registry.register(SERVICE)
        assert await registry.get_service("orders") == (SERVICE,)
        async with registry.watch("orders") as events:
            assert await anext(events) == Snapshot((SERVICE,))


async def refused(url: str, kind: type[Exception] = PermissionDenied, match: str = ".") -> None:
    """The first call says so at once; ``timeout`` is long on purpose."""
    async with connect(url) as registry, asyncio.timeout(40):
        with pytest.raises(kind, match=match) as caught:
            await registry.get_service("orders")
        assert SECRET not in str(caught.value)
        with pytest.raises(kind):
            await registry.register(SERVICE)


def test_user_and_password(guarded: ServerProcess) -> None:
    async def main() -> None:
        await works(f"nats://admin:{SECRET}@127.0.0.1:{guarded.port}")
        await refused(f"nats://admin:wrong-horse@127.0.0.1:{guarded.port}?timeout=60s", match="Authorization Violation")
        await refused(f"nats://127.0.0.1:{guarded.port}?timeout=60s")

    run(main())


def test_token() -> None:
    async def main(port: int) -> None:
        await works(f"nats://127.0.0.1:{port}?token={SECRET}")
        await refused(f"nats://127.0.0.1:{port}?token=wrong&timeout=60s")

    with nats(config=f'authorization {{ token: "{SECRET}" }}') as server:
        run(main(server.port))


def test_nkey(tmp_path: Path) -> None:
    key, other = Key.user(), Key.user()
    seed, wrong = key.write_seed(tmp_path / "user.nk"), other.write_seed(tmp_path / "other.nk")

    async def main(port: int) -> None:
        await works(f"nats://127.0.0.1:{port}?nkey_file={seed}")
        await refused(f"nats://127.0.0.1:{port}?nkey_file={wrong}&timeout=60s")

    with nats(config=f"authorization {{ users: [{{ nkey: {key.public} }}] }}") as server:
        run(main(server.port))


def test_credentials_file(tmp_path: Path) -> None:
    operator, account = Key.operator(), Key.account()
    good = credentials(account, tmp_path / "good.creds")
    wrong = credentials(Key.account(), tmp_path / "wrong.creds")

    async def main(port: int) -> None:
        await works(f"nats://127.0.0.1:{port}?creds_file={good}")
        await refused(f"nats://127.0.0.1:{port}?creds_file={wrong}&timeout=60s")

    with nats(config=operator_config(operator, account)) as server:
        run(main(server.port))


@pytest.mark.parametrize("option", ["nkey_file", "creds_file"])
@pytest.mark.parametrize("content", [None, "", "nonsense", f"SU{SECRET}", "-----BEGIN NATS USER JWT-----\n"])
def test_a_bad_key_file_is_named_when_the_registry_is_opened(option: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="ascii")

    async def main() -> None:
        with pytest.raises(ConfigError, match=f"option {option}: .*key") as caught:
            async with connect(f"nats://127.0.0.1:1?{option}={path}"):
                pass
        assert SECRET not in str(caught.value)

    run(main())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"nats://{SECRET}@h", r"^nats://\*\*\*@h: user and password belong together, .*; a token is an option"),
        ("nats://user:pw@h?token=t", r": user and password and token are two ways to say who you are"),
        ("nats://h?nkey_file=/a&creds_file=/b", "two ways"),
        ("nats://h?ca=/a", "option ca is for TLS; write natss://"),
        ("natss://h?cert=/a", "cert and key belong together"),
        ("nats://h?inbox=_INBOX.*", "option inbox"),
        ("nats://h?bucket=a.b", "option bucket"),
        ("nats://h?replicas=9", "replicas=9"),
        ("nats://h/orders", "takes no path"),
        ("nats://h?storage=tape", "option storage"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_once(url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        connect(url)
    assert SECRET not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    async def main() -> None:
        async with connect(f"nats://user:{SECRET}@127.0.0.1:1?timeout=1s") as registry:
            with pytest.raises(RegistryUnavailable) as caught:
                await registry.list_services()
        assert SECRET not in f"{registry!r} {registry.url} {caught.value!r}"
        with_token = connect(f"nats://127.0.0.1:1?token={SECRET}")
        assert SECRET not in f"{with_token!r} {with_token.options!r}"

    run(main())


def test_tls_and_what_is_wrong_with_it(certificates: TLS, tmp_path: Path) -> None:
    stranger = tls(tmp_path)

    async def main(port: int) -> None:
        await works(f"natss://127.0.0.1:{port}?ca={certificates.ca}")
        await works(f"natss://127.0.0.1:{port}?ca={certificates.ca}&server_name=localhost")
        where = f"127.0.0.1:{port}?timeout=60s"
        await refused(f"natss://{where}&ca={stranger.ca}", RegistryUnavailable, "option ca")
        await refused(f"natss://{where}&ca={certificates.ca}&server_name=other", RegistryUnavailable, "server_name")
        await refused(f"nats://{where}", RegistryUnavailable, "write natss://")

    with nats(tls=certificates) as server:
        run(main(server.port))


def test_client_certificates(certificates: TLS, tmp_path: Path) -> None:
    stranger = tls(tmp_path)

    async def main(port: int) -> None:
        where = f"natss://127.0.0.1:{port}?timeout=60s&ca={certificates.ca}"
        await works(f"{where}&cert={certificates.client_cert}&key={certificates.client_key}")
        await refused(where, RegistryUnavailable)
        await refused(f"{where}&cert={stranger.client_cert}&key={stranger.client_key}", RegistryUnavailable)

    with nats(tls=certificates, client_certs=True) as server:
        run(main(server.port))


def test_a_password_is_not_sent_in_the_clear_where_tls_was_asked_for(guarded: ServerProcess, certificates: TLS) -> None:
    url = f"natss://admin:{SECRET}@127.0.0.1:{guarded.port}?ca={certificates.ca}&timeout=60s"
    run(refused(url, RegistryUnavailable, "speaks without TLS"))


def test_a_bad_certificate_file_is_named(certificates: TLS) -> None:
    async def main() -> None:
        for options in (f"ca={certificates.key}", f"cert={certificates.ca}&key={certificates.ca}", "ca=/nowhere.pem"):
            with pytest.raises(ConfigError, match="TLS: .*pem"):
                async with connect(f"natss://127.0.0.1:1?{options}"):
                    pass

    run(main())


def test_the_least_permissions_suffice(guarded: ServerProcess) -> None:
    async def main() -> None:
        where = f"{SECRET}@127.0.0.1:{guarded.port}"
        await works(f"nats://maker:{where}")
        await works(f"nats://program:{where}")
        await works(f"nats://private:{where}?inbox=_INBOX_private")
        async with connect(f"nats://program:{where}") as program, connect(f"nats://reader:{where}") as reader:
            async with reader.watch() as events:
                assert isinstance(await anext(events), Snapshot)
                await program.deregister(SERVICE)
                assert str(getattr(await anext(events), "reason", "")) == "deregistered"
            assert await reader.list_services() == ()

    run(main())


def test_what_is_not_permitted_is_said_at_once(guarded: ServerProcess) -> None:
    other = Service("payments", nodes=[Node("10.0.0.7:80", id="a")])

    async def main() -> None:
        where = f"{SECRET}@127.0.0.1:{guarded.port}"
        await works(f"nats://maker:{where}")
        async with connect(f"nats://reader:{where}?timeout=60s") as reader, asyncio.timeout(40):
            with pytest.raises(PermissionDenied, match="publish"):
                await reader.register(SERVICE)
            with pytest.raises(PermissionDenied, match=r"\$KV.microreg.orders.a.*see Permissions"):
                await reader.deregister(SERVICE)
        async with connect(f"nats://program:{where}?timeout=60s") as program, asyncio.timeout(40):
            with pytest.raises(PermissionDenied, match="payments"):
                await program.register(other)
            await program.register(SERVICE)
        await refused(f"nats://private:{where}?timeout=60s", PermissionDenied, "subscription")
        await refused(f"nats://program:{where}?bucket=other&timeout=60s", PermissionDenied, "other")

    run(main())


def test_a_bucket_that_is_not_there_and_may_not_be_made_is_said(guarded: ServerProcess) -> None:
    url = f"nats://early:{SECRET}@127.0.0.1:{guarded.port}?bucket=early&timeout=60s"
    run(refused(url, PermissionDenied, r"no bucket early yet; .*call once .*\$JS.API.STREAM.CREATE.KV_early"))


@pytest.mark.parametrize(("scheme", "plain"), [("natss", "nats"), ("natss-pubsub", "nats-pubsub")])
def test_who_asks_for_tls_in_vain_is_told_the_scheme_without_it(
    guarded: ServerProcess, scheme: str, plain: str
) -> None:
    async def main() -> None:
        async with connect(f"{scheme}://admin:{SECRET}@127.0.0.1:{guarded.port}") as registry:
            with pytest.raises(RegistryUnavailable, match=f"write {plain}://"):
                await registry.register(SERVICE)

    run(main())


@pytest.mark.parametrize("scheme", ["nats", "nats-pubsub"])
def test_a_port_where_no_nats_server_speaks_first_is_named(guarded: ServerProcess, scheme: str) -> None:
    async def main() -> None:
        async with connect(f"{scheme}://127.0.0.1:{guarded.ports[1]}?timeout=1s") as registry:
            with pytest.raises(RegistryTimeout, match=r"no INFO came: is this a NATS client port \(4222\)"):
                await registry.register(SERVICE)

    run(main())


def test_more_replicas_than_servers_is_said_with_what_to_do(guarded: ServerProcess) -> None:
    async def main() -> None:
        url = f"nats://admin:{SECRET}@127.0.0.1:{guarded.port}?bucket=three&replicas=3"
        async with connect(url) as registry:
            with pytest.raises(ConfigError, match="option replicas: .* 1 where there is one server"):
                await registry.register(SERVICE)

    run(main())
