"""Buckets that others have made, changed or emptied."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from microreg import Node, Service, connect
from microreg.catalog import Catalog
from microreg.codec import encode
from microreg.errors import ConfigError, RegistryUnavailable
from microreg.testing import ServerProcess
from microreg_nats.bucket import feed
from microreg_nats.bucket.due import Due
from nats_store import raw_client
from servers import nats
from support import run

NODE = Node("10.0.0.7:80", id="a")
SERVICE = Service("orders", "1", nodes=[NODE])
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with nats() as server:
        yield server


async def make(server: ServerProcess, bucket: str, **settings: object) -> None:
    """A bucket as microreg makes it, but for these settings."""
    config: dict[str, object] = {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": "memory",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 30 * SECOND,
    }
    async with raw_client(server.port) as client:
        request = json.dumps(config | settings).encode()
        answer = await client.client.request(f"$JS.API.STREAM.CREATE.KV_{bucket}", request)
        assert "error" not in json.loads(answer.data)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"discard": "old", "max_msgs": 2}, "--discard=new"),
        ({"discard": "old", "max_bytes": 4096}, "--discard=new"),
        ({"retention": "workqueue"}, "--retention=limits"),
        ({"subjects": ["elsewhere.>"]}, "--subjects="),
        ({"max_msgs_per_subject": 10}, "--max-msgs-per-subject=1"),
        ({"allow_direct": False}, "--allow-direct"),
    ],
    ids=["drops-by-number", "drops-by-size", "workqueue", "other-subjects", "history", "not-direct"],
)
def test_a_bucket_that_would_lose_records_is_refused(
    server: ServerProcess, request: pytest.FixtureRequest, settings: dict[str, object], said: str
) -> None:
    async def main() -> None:
        bucket = str(request.node.callspec.id)
        await make(server, bucket, **settings)
        async with connect(f"nats://127.0.0.1:{server.port}?bucket={bucket}") as registry:
            with pytest.raises(ConfigError, match=said):
                await registry.register(SERVICE)

    run(main())


def test_a_record_that_the_bucket_would_drop_too_early_is_refused(server: ServerProcess) -> None:
    async def main() -> None:
        await make(server, "short", max_age=60 * SECOND)
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=short") as registry:
            await registry.register(SERVICE, ttl=60)
            with pytest.raises(ConfigError, match="--max-age=0"):
                await registry.register(SERVICE, ttl=61)
            assert await registry.get_service("orders") == (SERVICE,)

    run(main())


def test_a_bucket_with_an_old_way_to_make_room_but_no_limit_will_do(server: ServerProcess) -> None:
    async def main() -> None:
        await make(server, "unlimited", discard="old")
        async with connect(f"nats://127.0.0.1:{server.port}?bucket=unlimited") as registry:
            await registry.register(SERVICE)
            assert await registry.list_services() == ("orders",)

    run(main())


def test_what_was_purged_leaves_a_watch_too(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge leaves no marker: the watch finds out when the time to live is over."""
    monkeypatch.setattr("microreg_nats.bucket.due._GRACE", 0.2)

    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}?bucket=purged"
        async with connect(url) as writer, connect(url) as reader, reader.watch("orders") as events:
            catalog = Catalog()
            catalog.apply(await anext(events))
            await writer.register(SERVICE, ttl=3)
            catalog.apply(await anext(events))
            assert catalog.services("orders") == (SERVICE,)
            async with raw_client(server.port, "purged") as client:
                await client.js.purge_stream(client.stream)
            catalog.apply(await anext(events))
            assert catalog.services("orders") == ()
            await writer.register(SERVICE)
            catalog.apply(await anext(events))
            assert catalog.services("orders") == (SERVICE,)

    run(main())


def test_who_is_due_when() -> None:
    now = [100.0]
    due = Due(lambda: now[0])
    due.lives("renewed", {"Nats-TTL": "10s"})
    due.lives("told", {"Nats-TTL": "10"})
    for headers in ({}, {"Nats-TTL": "never"}, {"Nats-TTL": "1h"}, {"Nats-TTL": "-1s"}):
        due.lives(f"for ever {headers}", headers)
    now[0] = 114.0
    due.check()
    due.ends("told")
    due.lives("renewed", {"Nats-TTL": "10s"})
    now[0] = 128.0
    due.check()
    now[0] = 131.0
    with pytest.raises(RegistryUnavailable, match="renewed"):
        due.check()


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("$JS.ACK.KV_microreg.name.1.70.7.1700000000000000000.0", 7),
        ("$JS.ACK.hub.Xy12.KV_microreg.name.1.70.7.1700000000000000000.0", 7),
        ("$JS.ACK._.Xy12.KV_microreg.name.1.70.7.1700000000000000000.0.random", 7),
        ("", 0),
        ("_INBOX.somebody", 0),
        ("$JS.ACK.KV_microreg.name.1.70.x.1700000000000000000.0", 0),
    ],
)
def test_which_message_of_its_consumer_it_is(reply: str, number: int) -> None:
    """By the older form of the subject and by the newer one; what others send to us is none, and no surprise."""
    assert feed._delivered(reply) == number


@pytest.mark.parametrize("value", [b"", encode(Service("orders", "2", nodes=[Node("10.0.0.8:80", id="theirs")]))])
@pytest.mark.parametrize("status", ["503", "404", "408", "409"])
def test_a_stored_message_that_looks_like_a_status_is_none(server: ServerProcess, status: str, value: bytes) -> None:
    """Neither does it end an answer, nor a watch."""

    async def main() -> None:
        bucket = f"status-{status}-{len(value)}"
        url = f"nats://127.0.0.1:{server.port}?bucket={bucket}"
        theirs = {"theirs"} if value else set[str]()
        async with connect(url) as writer, connect(url) as reader, reader.watch("orders") as events:
            catalog = Catalog()
            catalog.apply(await anext(events))
            async with raw_client(server.port, bucket) as client:
                headers = {"Status": status, "Nats-Pending-Messages": "x", "Nats-UpTo-Sequence": "x"}
                await client.js.publish(client.keys.subject("orders", "theirs"), value, headers=headers)
            await writer.register(SERVICE)
            while ids(catalog.services("orders")) != theirs | {"a"}:
                catalog.apply(await anext(events))
            assert events.state == "live"
            assert ids(await reader.get_service("orders")) == theirs | {"a"}

    run(main())


def test_two_that_write_the_same_node_as_fast_as_they_can_both_get_through(server: ServerProcess) -> None:
    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}?bucket=contended"
        async with connect(url) as one, connect(url) as other:
            await asyncio.gather(
                *(
                    registry.register(Service("orders", "1", nodes=[Node(f"10.0.0.{number}:80", id="a")]))
                    for number in range(40)
                    for registry in (one, other)
                )
            )
            assert ids(await one.get_service("orders")) == {"a"}

    run(main())


def ids(services: tuple[Service, ...]) -> set[str]:
    return {node.id for service in services for node in service.nodes}
