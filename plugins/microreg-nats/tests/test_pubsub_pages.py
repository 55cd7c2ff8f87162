"""The page about ``nats-pubsub://``: its programs, messages, config strings and permissions, on real servers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from following import following, found
from microreg import PermissionDenied, Registry, connect
from microreg.testing import ServerProcess
from pubsub_peers import Peer
from strategies import record
from support import ROOT, python, run, wait_until

PAGE = (ROOT / "docs" / "reference" / "nats-pubsub.md").read_text(encoding="utf-8")
PASSWORD = "s3cret"
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)+)", PAGE, re.MULTILINE))


def block(section: str, language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return found[number]


STRINGS = [line.split("   ")[0] for line in block("The config string", "text").splitlines()]


def here(text: str, server: ServerProcess) -> str:
    """The same with this server in place of those that the page names, all but the last of which are away."""
    return re.sub(r"(natss?-pubsub://(?:[^@/\s]+@)?(?:[\w.]+,)*)[\w.:]+", rf"\g<1>127.0.0.1:{server.port}", text)


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with servers.nats("pubsub-pages", jetstream=False) as server:
        yield server


@pytest.fixture(scope="module", name="guarded")
def _guarded() -> Iterator[ServerProcess]:
    """A server with the users that the page names."""
    users = block("Permissions", "text").replace("$NATS_PASSWORD", PASSWORD)
    with servers.nats("pubsub-guarded", jetstream=False, config=users) as server:
        yield server


async def verbs(registry: Registry, name: str) -> None:
    """Everything that a registry can do, once."""
    async with registry:
        await registry.register(record(name))
        assert await registry.get_service(name) == (record(name),)
        assert name in await registry.list_services()
        async with following(registry, name) as follower:
            await follower.until(lambda each: each.catalog.names() == (name,))
            await registry.deregister(record(name))
            await follower.hears(f"delete {name}/a")


@pytest.mark.parametrize("url", STRINGS)
def test_every_config_string_works(
    url: str, server: ServerProcess, guarded: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_PASSWORD", PASSWORD)
    if url.startswith("natss"):
        with servers.nats("pubsub-tls", jetstream=False, tls=servers.tls(tmp_path)) as secure:
            run(verbs(connect(here(url, secure).replace("/etc/nats", str(tmp_path))), "docs"))
    elif "," in url:
        run(verbs(connect(here(url, server).replace("10.0.0.1", "127.0.0.1:1")), "docs"))
    else:
        run(verbs(connect(here(url, guarded if "@" in url else server)), "docs"))


def test_the_program_says_what_the_page_shows(server: ServerProcess) -> None:
    shown = json.loads(block("What is said where", "json"))

    async def main() -> None:
        async with Peer(server.port) as peer:
            await peer.overhear()
            await _in_thread(here(block("What is said where", "python"), server))
            await wait_until(lambda: len(peer.heard) == 2)
            (register, said), (unregister, taken_back) = peer.heard
            assert (register, unregister) == ("registry.register.orders", "registry.unregister.orders")
            told = json.loads(said)
            assert list(told) == list(shown)
            assert told["t"]["Duration"] == shown["t"]["Duration"]
            told["h"], told["t"] = shown["h"], shown["t"]
            assert told == shown
            assert json.loads(taken_back).keys() == told.keys() - {"t", "status"}

    run(main())


async def _in_thread(program: str) -> None:
    await asyncio.to_thread(python, program)


def test_what_is_published_by_hand_has_the_effect_that_the_page_says(server: ServerProcess) -> None:
    """The arguments of the page's ``nats pub`` commands."""
    commands = re.findall(r"^nats pub (\S+) '(.*)'$", SECTIONS["Looking at it with nats"], re.MULTILINE)
    (ask, nothing), (forget, node) = commands

    async def main() -> None:
        async with (
            connect(here("nats-pubsub://127.0.0.1", server)) as registry,
            Peer(server.port) as peer,
            following(registry, "orders") as follower,
        ):
            await registry.register(record("orders", "orders-1"))
            await follower.hears("create orders/orders-1")
            await peer.overhear()
            await peer.say(ask, nothing.encode())
            await wait_until(lambda: len(peer.heard) == 2)
            assert peer.subjects() == ["registry.ping._all", "registry.register.orders"]
            await peer.say(forget, node.encode())
            await follower.hears("delete orders/orders-1")
            await registry.register(record("orders", "orders-1"))
            await follower.hears("create orders/orders-1")

    run(main())


def test_the_permissions_allow_what_is_needed_and_nothing_else(guarded: ServerProcess) -> None:
    def user(name: str) -> Registry:
        return connect(f"nats-pubsub://{name}:{PASSWORD}@127.0.0.1:{guarded.port}?timeout=3s&settle=200ms")

    async def main() -> None:
        await verbs(user("orders"), "orders")
        async with user("billing") as billing, user("dashboard") as reader, following(reader) as follower:
            await billing.register(record("billing"))
            await follower.hears("create billing/a")
            assert await reader.get_service("billing") == (record("billing"),)
            assert await reader.list_services() == ("billing",)
            for refused, name in ((billing, "orders"), (reader, "orders"), (reader, "billing")):
                with pytest.raises(PermissionDenied, match=rf"registry\.\w+\.{name}"):
                    await refused.register(record(name, "other"))
            with pytest.raises(PermissionDenied, match=r"registry\.unregister\.billing"):
                await reader.deregister(record("billing"))
            assert await found(reader, "billing") == (record("billing"),)
            await billing.deregister(record("billing"))
            await follower.hears("delete billing/a")
        async with connect(f"nats-pubsub://orders:wrong@127.0.0.1:{guarded.port}?timeout=3s") as stranger:
            with pytest.raises(PermissionDenied):
                await stranger.list_services()

    run(main())
