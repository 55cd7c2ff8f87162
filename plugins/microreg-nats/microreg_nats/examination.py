"""What ``microreg doctor`` finds about a NATS server, a bucket, and the way there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import cast

from microreg.errors import RegistryError
from microreg.findings import SERVER_OLD, SERVER_VERSION, SETTLE_SHORT, Finding, Kind, Severity, clock
from microreg.toolkit import version_number
from microreg_nats.bucket.api import Answer, call, number
from microreg_nats.bucket.stream import Bucket
from microreg_nats.connection import Connection
from microreg_nats.session import Session

__all__ = ["of_bucket", "of_subjects"]

_SMALL_PAYLOAD = Kind(
    "nats.small-payload",
    Severity.WARNING,
    "the server takes smaller messages than a record may be (64 KiB): larger ones are RecordTooLarge",
    "raise max_payload in the server's configuration, or keep metadata and endpoints small",
)
_ONE_REPLICA = Kind(
    "nats.one-replica",
    Severity.WARNING,
    "the cluster keeps the bucket on one server only: while that is down, nothing can be registered or found",
    "nats stream edit the bucket's stream --replicas=3; buckets that are made get what the option replicas says",
)
_IN_MEMORY = Kind(
    "nats.in-memory",
    Severity.NOTE,
    "the bucket is kept in memory: when the server restarts it is empty until the next renewals",
    "fine for most; else make another bucket, with storage=file",
)
_MAX_AGE = Kind(
    "nats.max-age",
    Severity.WARNING,
    "the bucket keeps nothing longer than its max_age: announcing with a longer ttl is refused",
    "nats stream edit the bucket's stream --max-age=0",
)
_LARGEST = 65_536
_OLDEST = (2, 11)
_SECOND = 1_000_000_000
_TURNS = 3


async def of_bucket(
    connection: Connection, bucket: Bucket, now: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """The server, and the bucket as it is kept; nothing where there is no way there, which the calls have said."""
    try:
        session = await connection.session()
    except RegistryError:
        return ()
    found = list(_of_server(session))
    if version_number(str(session.client.info("version"))) < _OLDEST:
        return (*found, SERVER_OLD(f"NATS at {session.where}: nats:// needs nats-server 2.11 or newer"))
    try:
        info = await call(session, f"STREAM.INFO.{bucket.stream}", {})
    except RegistryError:  # there is none: the calls have said why
        return tuple(found)
    return (*found, *_of_stream(session, bucket.stream, info), *_of_clock(session, info, now()))


async def of_subjects(connection: Connection, settle: float) -> tuple[Finding, ...]:
    """The server, and how long the way there and back takes."""
    try:
        session = await connection.session()
        seconds = [await _turn(session) for _ in range(_TURNS)]
    except RegistryError:
        return ()
    found = list(_of_server(session))
    if 2 * min(seconds) > settle:  # what is asked takes the way of two clients
        found.append(
            SETTLE_SHORT(
                f"NATS at {session.where} is {min(seconds):.2g} s away, there and back; settle is {settle:g} s"
            )
        )
    return tuple(found)


async def _turn(session: Session) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await session.flush()
    return loop.time() - began


def _of_server(session: Session) -> Iterator[Finding]:
    yield SERVER_VERSION(f"NATS at {session.where} is nats-server {session.client.info('version')}")
    if session.client.max_payload < _LARGEST:
        yield _SMALL_PAYLOAD(f"NATS at {session.where} takes messages of up to {session.client.max_payload} bytes")


def _of_stream(session: Session, stream: str, info: Answer) -> Iterator[Finding]:
    config = cast("Answer", info["config"])
    if session.client.info("cluster") and number(config, "num_replicas") < 2:
        yield _ONE_REPLICA(f"{stream} is kept by one server of the cluster {session.client.info('cluster')}")
    if config.get("storage") == "memory":
        yield _IN_MEMORY(f"{stream} is kept in memory")
    if age := number(config, "max_age"):
        yield _MAX_AGE(f"{stream} keeps nothing longer than {age / _SECOND:g} s")


def _of_clock(session: Session, info: Answer, ours: float) -> Iterator[Finding]:
    """By the time of the answer (RFC 3339), of which Python reads six decimals."""
    try:
        theirs = datetime.fromisoformat(str(info.get("ts", "")))
    except ValueError:
        return
    yield clock(f"NATS at {session.where}", theirs.timestamp(), ours)
