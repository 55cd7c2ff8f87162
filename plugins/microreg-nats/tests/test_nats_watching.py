"""Keys, large buckets, what others write into them, and servers and buckets that cannot serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import StreamConfig

from microreg import (
    Action,
    Change,
    ConfigError,
    Node,
    Reason,
    RecordTooLarge,
    RegistryUnavailable,
    Service,
    Snapshot,
    Unsupported,
    connect,
)
from microreg.codec import encode
from microreg.testing import ServerProcess
from microreg_nats.bucket.keys import Keys, escape, unescape
from nats_store import pretending, raw_client
from servers import nats
from support import run

NODE = Node("10.0.0.7:80", id="a")
SERVICE = Service("orders", "1", nodes=[NODE])
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with nats() as server:
        yield server


@given(NAMES, NAMES)
def test_a_key_tells_its_name_and_distinct_names_never_collide(name: str, other: str) -> None:
    assert unescape(escape(name)) == name
    assert (escape(name) == escape(other)) == (name == other)
    assert "." not in escape(name)


@pytest.mark.parametrize("key", ["orders", "orders.a.b", "orders.", ".a", "orders=2d.a", "orders=2D.a", "=FF.a", "ü.a"])
def test_a_key_of_another_form_is_foreign(key: str) -> None:
    keys = Keys("microreg")
    assert keys.name(keys.prefix + key) is None


def test_names_that_look_alike_are_apart(server: ServerProcess) -> None:
    async def main() -> None:
        names = ["foo", "foo.bar", "foo-bar", "foo_bar", "FOO", "foo.b", "f"]
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=names") as registry:
            for name in names:
                await registry.register(Service(name, nodes=[Node("10.0.0.7:80", id="a.b")]))
            assert await registry.list_services() == tuple(sorted(names))
            for name in names:
                (found,) = await registry.get_service(name)
                assert [node.id for node in found.nodes] == ["a.b"]

    run(main())


def test_more_nodes_than_one_batch_may_have(server: ServerProcess) -> None:
    """The server looks up 1,024 subjects at once; renewals go on while it is read in pieces."""

    async def main() -> None:
        nodes = [Node(f"10.0.0.7:{1000 + number}", id=f"n{number}") for number in range(2500)]
        fleet = Service("many", "1", nodes=nodes)
        url = f"nats://127.0.0.1:{server.port}?bucket=large&timeout=20s"
        async with connect(url) as writer, connect(url) as reader:
            await writer.register(fleet, ttl=60)
            renewing = asyncio.create_task(writer.register(fleet, ttl=60))
            for _ in range(3):
                (found,) = await reader.get_service("many")
                assert len(found.nodes) == 2500
            await renewing
            async with reader.watch("many") as events:
                first = await anext(events)
                assert isinstance(first, Snapshot) and len(first.records) == 2500
                await writer.deregister(Service("many", nodes=[nodes[7]]))
                change = await anext(events)
                assert isinstance(change, Change) and change.reason is Reason.DEREGISTERED
            await writer.deregister(fleet)
            assert await reader.list_services() == ()

    run(main())


def test_what_others_write_is_read_or_skipped(server: ServerProcess) -> None:
    """A node under a key that is not its own counts, and the last of two keys that hold it does."""

    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}?bucket=foreign"
        async with connect(url) as registry, registry.watch() as events:
            assert await anext(events) == Snapshot(())
            async with raw_client(server.port, "foreign") as raw:
                odd = raw.keys.subject("orders", "b")
                await raw.put(odd, encode(SERVICE))
                assert await anext(events) == Change.put(SERVICE)
                await raw.put(raw.keys.subject("orders", "c"), b"{}")
                await raw.put(raw.keys.prefix + "no.key.of.ours", encode(SERVICE))
                moved = Service("orders", "2", nodes=[NODE])
                await raw.put(raw.keys.subject("orders", "a"), encode(moved))
                assert await registry.get_service("orders") == (SERVICE,)
                await raw.delete(odd)
                change = await anext(events)
                assert isinstance(change, Change)
                assert (change.action, change.service) == (Action.UPDATE, moved)
                assert await registry.get_service("orders") == (moved,)

    run(main())


def test_an_expiry_is_told_as_one(server: ServerProcess) -> None:
    async def main() -> None:
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=expiry") as registry:
            async with registry.watch("orders") as events:
                await anext(events)
                await registry.register(SERVICE, ttl=3)
                assert getattr(await anext(events), "action", None) is Action.CREATE
                assert getattr(await anext(events), "reason", None) is Reason.EXPIRED
                await registry.register(SERVICE, ttl=30)  # the marker is no obstacle
                assert getattr(await anext(events), "action", None) is Action.CREATE

    run(main())


def test_without_jetstream_it_says_so_and_what_to_take_instead() -> None:
    async def main(port: int) -> None:
        async with connect(f"nats://127.0.0.1:{port}?timeout=60s") as registry, asyncio.timeout(40):
            with pytest.raises(Unsupported, match="JetStream is not enabled.*nats-pubsub://"):
                await registry.register(SERVICE)
            async with registry.watch() as events:
                with pytest.raises(Unsupported, match="nats-pubsub://"):
                    await anext(events)

    with nats(jetstream=False) as server:
        run(main(server.port))


def test_a_server_that_is_too_old_is_named() -> None:
    async def main() -> None:
        async with pretending("2.10.29") as port, connect(f"nats://127.0.0.1:{port}") as registry:
            with pytest.raises(Unsupported, match=r"2\.10\.29.*time to live.*2\.11.*nats-pubsub://"):
                await registry.get_service("orders")

    run(main())


def test_what_is_no_nats_server_is_said_to_be_none() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await reader.read()
            writer.close()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            async with connect(f"nats://127.0.0.1:{port}") as registry:
                with pytest.raises(RegistryUnavailable, match="no NATS server"):
                    await registry.get_service("orders")

    run(main())


def test_a_bucket_that_cannot_expire_is_refused(server: ServerProcess) -> None:
    async def main() -> None:
        async with raw_client(server.port) as raw:
            await raw.js.add_stream(StreamConfig(name="KV_plain", subjects=["$KV.plain.>"], max_msgs_per_subject=1))
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=plain") as registry:
            with pytest.raises(ConfigError, match="KV_plain --allow-msg-ttl --subject-del-.* --allow-direct"):
                await registry.register(SERVICE)

    run(main())


def test_a_record_that_the_bucket_does_not_hold_is_refused_before_it_is_sent(server: ServerProcess) -> None:
    async def main() -> None:
        large = SERVICE.with_nodes(NODE.replace(metadata={"text": "x" * 1000}))
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=tight") as registry:
            await registry.list_services()
            async with raw_client(server.port, "tight") as raw:
                config = (await raw.js.stream_info(raw.stream)).config
                await raw.js.update_stream(config.evolve(max_msg_size=1024))
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=tight") as registry:
            with pytest.raises(RecordTooLarge) as caught:
                await registry.register(large)
            assert (caught.value.size, caught.value.limit) == (len(encode(large)), 512)
            await registry.register(SERVICE)

    run(main())
