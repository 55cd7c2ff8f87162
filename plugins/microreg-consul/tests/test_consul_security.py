"""TLS, client certificates, datacenters, and the least that a token must be allowed to do: what the reference says."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

import microreg
from consul_store import ACLS, MANAGEMENT, Raw, started, token
from microreg import (
    ConfigError,
    Node,
    PermissionDenied,
    Registry,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    Service,
    ServiceNotFound,
    Status,
    announce,
)
from microreg.testing import ServerProcess
from servers import TLS, consul, tls
from support import ROOT, run, wait_until

WRONG = "0b6f7d7e-0000-4000-8000-000000000000"
PAGE = ROOT / "docs" / "reference" / "consul.md"
ANNOUNCER, READER = re.findall(r"```hcl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
"""The policies of the reference page: one that announces ``orders``, and one that only looks up."""


def orders(id: str = "a", port: int = 80, name: str = "orders") -> Service:
    return Service(name, "1.0", nodes=[Node(f"10.0.0.1:{port}", id=id)])


@pytest.fixture(scope="module", name="guarded")
def _guarded() -> Iterator[ServerProcess]:
    """An agent that asks for tokens."""
    with consul("guarded", dev=True, config=ACLS) as server:
        yield server


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", name="secure")
def _secure(files: TLS) -> Iterator[ServerProcess]:
    """An agent that speaks TLS at its third port, and plainly at its first."""
    with consul("secure", dev=True, tls=files) as server:
        yield server


@pytest.fixture(scope="module", name="mutual")
def _mutual(files: TLS) -> Iterator[ServerProcess]:
    """The same, and it asks clients for a certificate."""
    with consul("mutual", dev=True, tls=files, client_certs=True) as server:
        yield server


async def left_behind(server: ServerProcess) -> None:
    """A node of ``billing``, which only its owner may deregister: where there is none, anybody may."""
    async with Raw(server.port, MANAGEMENT) as raw:
        ready: bool = await wait_until(partial(started, raw), 40, step=0.1)
        assert ready
        await raw.register("billing:a", "billing")


@asynccontextmanager
async def opened(server: ServerProcess, secret: str) -> AsyncGenerator[Registry]:
    async with microreg.connect(f"consul://127.0.0.1:{server.port}?timeout=10s&token={secret}") as registry:
        yield registry


async def found(registry: Registry, name: str) -> tuple[Service, ...]:
    try:
        return await registry.get_service(name)
    except ServiceNotFound:
        return ()


async def holds(registry: Registry, *expected: Service, name: str = "orders") -> None:
    """Wait until this stands in the catalog."""

    async def so() -> bool:
        return await found(registry, name) == expected

    held: bool = await wait_until(so, 40, step=0.02)
    assert held


async def works(url: str, id: str) -> None:
    """Every verb, and a watch that hears of it."""
    async with microreg.connect(url) as registry, registry.watch("orders") as events:
        await anext(events)
        for port in (80, 81):
            await registry.register(orders(id, port))
            await holds(registry, orders(id, port))
            await anext(events)
        assert "orders" in await registry.list_services()
        await registry.deregister(orders(id))
        await holds(registry)
        await anext(events)
        assert events.error is None


async def refused(url: str, error: type[RegistryError], secret: str = "") -> str:
    """What every verb says, long before its time is over; a watch says it too, and tries again."""
    async with microreg.connect(f"{url}{'&' if '?' in url else '?'}timeout=20s") as registry, registry.watch() as watch:
        texts: list[str] = []
        for call in (
            registry.register(orders()),
            registry.get_service("orders"),
            registry.list_services(),
            registry.deregister(orders(name="billing")),
        ):
            with pytest.raises(error) as caught:
                await call
            assert not isinstance(caught.value, RegistryTimeout)
            texts.append(str(caught.value))
        await wait_until(lambda: watch.error, 40)
        assert isinstance(watch.error, error) and watch.state == "resyncing"
        said = "\n".join([*texts, str(watch.error), str(registry), repr(registry)])
        assert not secret or secret not in said
        return said


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_authority(secure: ServerProcess, files: TLS, host: str) -> None:
    run(works(f"consuls://{host}:{secure.ports[2]}?ca={files.ca}", "private"))


def test_a_name_that_the_certificate_has(secure: ServerProcess, files: TLS) -> None:
    run(works(f"consuls://127.0.0.1:{secure.ports[2]}?ca={files.ca}&server_name=localhost", "named"))


def test_a_name_that_the_certificate_has_not(secure: ServerProcess, files: TLS) -> None:
    url = f"consuls://127.0.0.1:{secure.ports[2]}?ca={files.ca}&server_name=consul.test"
    said = run(refused(url, RegistryUnavailable))
    assert said.count("option server_name") == 5, said


def test_an_authority_that_did_not_sign_it(secure: ServerProcess, tmp_path: Path) -> None:
    said = run(refused(f"consuls://127.0.0.1:{secure.ports[2]}?ca={tls(tmp_path).ca}", RegistryUnavailable))
    assert said.count("CERTIFICATE_VERIFY_FAILED") == 5, said
    assert said.count("option ca") == 5, said


def test_without_tls_where_it_is_needed(secure: ServerProcess) -> None:
    said = run(refused(f"consul://127.0.0.1:{secure.ports[2]}", RegistryUnavailable))
    assert said.count("it speaks TLS: consuls://") == 5, said


def test_tls_where_there_is_none(secure: ServerProcess, files: TLS) -> None:
    said = run(refused(f"consuls://127.0.0.1:{secure.port}?ca={files.ca}", RegistryUnavailable))
    assert said.count("perhaps it speaks without TLS: consul://") == 5, said


def test_a_client_certificate(mutual: ServerProcess, files: TLS) -> None:
    pair = f"cert={files.client_cert}&key={files.client_key}"
    run(works(f"consuls://127.0.0.1:{mutual.ports[2]}?ca={files.ca}&{pair}", "mutual"))


def test_no_client_certificate_where_one_is_needed(mutual: ServerProcess, files: TLS) -> None:
    said = run(refused(f"consuls://127.0.0.1:{mutual.ports[2]}?ca={files.ca}", RegistryUnavailable))
    assert said.count("options cert and key") == 5, said


def test_a_client_certificate_of_another_authority(mutual: ServerProcess, files: TLS, tmp_path: Path) -> None:
    other = tls(tmp_path)
    url = f"consuls://127.0.0.1:{mutual.ports[2]}?ca={files.ca}&cert={other.client_cert}&key={other.client_key}"
    said = run(refused(url, RegistryUnavailable))
    assert said.count("options cert and key") == 5, said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("ca={here}/none.pem", "none.pem"),
        ("ca={here}/empty.pem", "empty.pem: .*expected certificates in PEM"),
        ("cert={here}/empty.pem&key={here}/empty.pem", "expected a certificate and its private key in PEM"),
        ("cert={here}/empty.pem", "options cert and key belong together"),
    ],
)
def test_files_that_are_no_good(tmp_path: Path, options: str, says: str) -> None:
    async def main() -> None:
        async with microreg.connect(f"consuls://127.0.0.1:1?{options.format(here=tmp_path)}"):
            raise AssertionError("it opened")

    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match=says):
        run(main())


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_the_least_that_a_token_needs(guarded: ServerProcess, layout: str) -> None:
    async def main() -> None:
        secret, _ = await token(guarded, ANNOUNCER)
        url = f"consul://127.0.0.1:{guarded.port}?token={secret}&layout={layout}"
        await works(url, "least")
        async with microreg.connect(url) as registry:
            async with announce(registry, orders("announced"), ttl=2) as announcement:
                await announcement.wait_live(40)
                for status in (Status.DRAINING, Status.WARNING):
                    await announcement.update(status=status)
                await holds(registry, orders().with_nodes(announcement.service.nodes[0]))
            await holds(registry)
            with pytest.raises(PermissionDenied, match="option token"):
                await registry.register(orders(name="billing"))

    run(main())


def test_who_may_only_read_looks_up_and_watches(guarded: ServerProcess) -> None:
    async def main() -> None:
        writes, reads = (await token(guarded, ANNOUNCER))[0], (await token(guarded, READER))[0]
        async with opened(guarded, writes) as writer, opened(guarded, reads) as reader:
            async with reader.watch("orders") as one, reader.watch() as everything:
                for events in (one, everything):
                    await anext(events)
                await writer.register(orders("read"))
                await holds(reader, orders("read"))
                assert "orders" in await reader.list_services()
                for events in (one, everything):
                    await anext(events)
                    assert events.error is None
                for write in (reader.register, reader.deregister):
                    with pytest.raises(PermissionDenied, match="option token"):
                        await write(orders("read"))
                await holds(writer, orders("read"))
                await writer.deregister(orders("read"))

    run(main())


@pytest.mark.parametrize("secret", ["", WRONG])
def test_a_token_that_nobody_knows_is_refused_and_not_shown(
    guarded: ServerProcess, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run(left_behind(guarded))
    said = run(refused(f"consul://127.0.0.1:{guarded.port}?token={secret}", PermissionDenied, secret))
    assert said.count("option token") >= 5, said
    assert secret or said.count("no token was given: option token, as in ?token=${CONSUL_HTTP_TOKEN}") == 5, said
    assert not secret or secret not in caplog.text


def test_who_may_nothing_is_told_and_heals_when_it_may(guarded: ServerProcess) -> None:
    async def main() -> None:
        secret, policy = await token(guarded, 'key_prefix "" { policy = "read" }')
        async with opened(guarded, secret) as registry, Raw(guarded.port, MANAGEMENT) as raw:
            async with registry.watch("orders") as watch, announce(registry, orders("patient"), ttl=5) as announcement:
                await wait_until(lambda: isinstance(watch.error, PermissionDenied), 40)
                assert (watch.state, announcement.state) == ("resyncing", "registering")
                await raw.put(f"/acl/policy/{policy}", {"Name": "patient", "Rules": ANNOUNCER})
                await announcement.wait_live(20)
                await wait_until(lambda: watch.state == "live", 20)

    run(main())


def test_a_token_where_nobody_asks_for_one(secure: ServerProcess) -> None:
    run(works(f"consul://127.0.0.1:{secure.port}?token={WRONG}", "needless"))


def test_tokens_come_from_the_environment_only_where_that_is_said(
    guarded: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        secret, _ = await token(guarded, ANNOUNCER)
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", secret)
        await works(f"consul://127.0.0.1:{guarded.port}?token=${{CONSUL_HTTP_TOKEN}}", "environment")
        await left_behind(guarded)
        await refused(f"consul://127.0.0.1:{guarded.port}", PermissionDenied, secret)

    run(main())


# -- datacenters -------------------------------------------------------------------------------------------------------


def test_the_datacenter_of_the_agent_and_one_that_nobody_knows(secure: ServerProcess) -> None:
    async def main() -> None:
        await works(f"consul://127.0.0.1:{secure.port}?dc=dc1", "here")
        async with microreg.connect(f"consul://127.0.0.1:{secure.port}?dc=nowhere&timeout=10s") as registry:
            for call in (registry.get_service("orders"), registry.list_services()):
                with pytest.raises(RegistryUnavailable, match="option dc"):
                    await call

    run(main())
