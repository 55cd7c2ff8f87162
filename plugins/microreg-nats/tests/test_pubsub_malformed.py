"""What anybody may publish on the subjects: harmless to who listens and to who answers, one warning each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest

from following import following, found
from microreg import Registry, connect
from microreg.errors import RecordTooLarge
from microreg.testing import ServerProcess
from pubsub_peers import Peer
from servers import nats
from strategies import record
from support import run, wait_until
from test_pubsub_messages import MALFORMED

server = nats("pubsub", jetstream=False, config="max_payload: 2MB")

HARMLESS = {
    "an unregister without times": b'{"name":"greeter","add":"10.9.9.9:9"}',
    "an unregister of nobody": b'{"name":"greeter","add":"10.9.9.9:9","kv":{"microreg.id":"nobody"}}',
}


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[ServerProcess]:
    with server:
        yield server


@pytest.fixture(name="warnings")
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The subjects that were warned about so far."""
    with caplog.at_level(logging.WARNING, "microreg"):
        yield lambda: [each.__dict__["subject"] for each in caplog.records]


def ours() -> Registry:
    return connect(f"nats-pubsub://127.0.0.1:{server.port}?settle=200ms")


def test_garbage_is_one_warning_and_harms_no_neighbour(warnings: Callable[[], list[str]]) -> None:
    async def main() -> None:
        async with ours() as registry, Peer(server.port) as peer, following(registry, "greeter") as follower:
            good, later = record("greeter", "good"), record("greeter", "later", 81)
            await registry.register(good)
            await follower.hears("create greeter/good")
            for _ in range(3):
                for data in MALFORMED.values():
                    for verb in ("register", "unregister", "ping", "later"):
                        await peer.say(f"registry.{verb}.greeter", data)
                for data in HARMLESS.values():
                    await peer.say("registry.unregister.greeter", data)
            await registry.register(later)
            await follower.hears("create greeter/later")
            (service,) = await registry.get_service("greeter")
            assert {node.id for node in service.nodes} == {"good", "later"}
            assert follower.watch.error is None
            assert follower.watch.state == "live"

    run(main())
    assert sorted(warnings()) == ["'registry.register.greeter'", "'registry.unregister.greeter'"]


def test_who_watches_all_names_survives_what_is_said_anywhere(warnings: Callable[[], list[str]]) -> None:
    async def main() -> None:
        async with ours() as registry, Peer(server.port) as peer, following(registry) as follower:
            subjects = ["registry", "registry.register", "registry.x.y", "registry.register.a*b", "registry.register.%"]
            for number, data in enumerate(MALFORMED.values()):
                for subject in (*subjects, f"registry.register.odd{number}"):
                    await peer.say(subject, data)
            await peer.say("registry.register.elsewhere", b'{"name":"greeter","add":"a:1","t":{"Duration":20000}}')
            await peer.say("registry.register.odd name".replace(" ", "\u00a0"), b"null")
            await registry.register(record("greeter", "good"))
            await follower.hears("create greeter/good")
            assert await registry.list_services() == ("greeter",)

    run(main())
    assert len(warnings()) == len(set(warnings()))
    assert len(MALFORMED) < len(warnings()) <= len(MALFORMED) + 5


def test_a_name_that_no_subject_can_hold_is_asked_for_all_the_same() -> None:
    async def main() -> None:
        async with ours() as registry, Peer(server.port) as peer:
            names = ["a b", "a*b", "*", ">", "a.>", "a..b", ".", "größe", "a%20b", "x" * 255]
            await asyncio.gather(*(_is_absent(registry, name) for name in names))
            await peer.say("registry.register.größe", '{"name":"größe","add":"a:1","t":{"Duration":20000}}'.encode())
            async with registry.watch("größe") as events:
                await anext(events)
                await peer.say("registry.register.größe", '{"name":"größe","add":"a:1","t":{"Duration":9}}'.encode())
                await anext(events)

    run(main())


async def _is_absent(registry: Registry, name: str) -> None:
    assert await found(registry, name) == ()


def test_what_the_server_does_not_take_is_refused_before_it_is_sent() -> None:
    small = nats("pubsub-small", jetstream=False, config="max_payload: 2KB")

    async def main() -> None:
        async with connect(f"nats-pubsub://127.0.0.1:{small.port}") as registry, Peer(small.port) as peer:
            await peer.overhear()
            with pytest.raises(RecordTooLarge, match="max_payload") as refused:
                await registry.register(record(a="x" * 1000, b="x" * 1000))
            assert refused.value.size > refused.value.limit == 2048
            await registry.register(record())
            await wait_until(lambda: peer.heard)
            assert peer.subjects() == ["registry.register.greeter"]

    with small:
        run(main())
