"""What ``microreg doctor`` finds about a cluster: its members one by one, and what it does to a ttl."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from email.parser import BytesParser

from microreg.errors import PermissionDenied, RegistryError, RegistryTimeout
from microreg.findings import (
    NO_LEADER,
    SERVER_HIDDEN,
    SERVER_OLD,
    SERVER_VERSION,
    Finding,
    Kind,
    Severity,
    clock_by_date,
)
from microreg.net import split_address
from microreg.tls import client_context
from microreg.toolkit import version_number
from microreg.url import TLSOptions
from microreg_etcd.client import Client
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.failures import failure
from microreg_etcd.store import Store
from microreg_etcd.stubs import rpc

__all__ = ["examine"]

_MEMBER_AWAY = Kind(
    "etcd.member-away",
    Severity.WARNING,
    "a member that the config string names does not answer: calls that begin there are late",
    "start it, or take it out of the config string",
)
_ALARM = Kind(
    "etcd.alarm",
    Severity.ERROR,
    "the cluster has raised an alarm: with NOSPACE it takes no writes, with CORRUPT its members differ",
    "NOSPACE: compact and defragment it, then `etcdctl alarm disarm`; CORRUPT: restore the member",
)
_TTL_RAISED = Kind(
    "etcd.ttl-raised",
    Severity.NOTE,
    "the server grants leases for longer than asked: at least one and a half times its election timeout. A node that "
    "crashes is seen that much longer",
    "announce with at least that ttl, or lower --election-timeout of the servers",
)
_OLDEST = (3, 4)
_SHARE = 0.4
"""Of the time for all, what one member has for its answer."""


async def examine(
    store: Store, tls: TLSOptions | None, timeout: float, now: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """Ask every member how it is, all at once; nothing where none answers, which the calls have said already."""
    client = store.client
    answers = await asyncio.gather(*(_status(client, endpoint, timeout * _SHARE) for endpoint in client.endpoints))
    failed = [(endpoint, each) for endpoint, each in zip(client.endpoints, answers, strict=True) if _is_error(each)]
    if len(failed) == len(answers) and not isinstance(failed[0][1], PermissionDenied):
        return ()
    found: list[Finding] = []
    for endpoint, answer in zip(client.endpoints, answers, strict=True):
        if isinstance(answer, PermissionDenied):
            found.append(SERVER_HIDDEN(f"etcd at {endpoint.address} does not tell its version to this user: {answer}"))
        elif isinstance(answer, RegistryError):
            found.append(_MEMBER_AWAY(f"of {len(answers)} members that are named, one does not answer: {answer}"))
        else:
            found += _of_member(endpoint.address, answer)
            found += clock_by_date(f"etcd at {endpoint.address}", await _date(endpoint, tls, timeout * _SHARE), now())
    if store.held.raised is not None:
        asked, granted = store.held.raised
        found.append(_TTL_RAISED(f"a lease of {asked} s was asked for, and one of {granted} s granted"))
    return tuple(found)


def _is_error(answer: object) -> bool:
    return isinstance(answer, RegistryError)


def _of_member(where: str, status: rpc.StatusResponse) -> Iterator[Finding]:
    yield SERVER_VERSION(f"etcd at {where} is etcd {status.version}")
    if version_number(status.version) < _OLDEST:
        yield SERVER_OLD(f"etcd at {where} is etcd {status.version}; tested are 3.4 and newer")
    if not status.leader:
        yield NO_LEADER(f"etcd at {where} knows no leader")
    for alarm in status.errors:
        if "alarm" in alarm.lower():
            yield _ALARM(f"etcd at {where}: {alarm}")


async def _status(client: Client, endpoint: Endpoint, patience: float) -> rpc.StatusResponse | RegistryError:
    try:
        async with asyncio.timeout(patience):
            metadata = await client.metadata(endpoint)
            return await endpoint.maintenance.Status(rpc.StatusRequest(), metadata=metadata)
    except TimeoutError:
        return RegistryTimeout(f"etcd at {endpoint.address} did not answer within {patience:.3g} s")
    except rpc.AioRpcError as error:
        return failure(error, endpoint.address)


async def _date(endpoint: Endpoint, tls: TLSOptions | None, patience: float) -> str:
    """The Date of an answer by HTTP, which etcd speaks at the same port; empty where it does not."""
    host, port = split_address(endpoint.address)
    secure = client_context(tls) if tls is not None else None
    name = (tls.server_name or host) if tls is not None else None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(host, port, ssl=secure, server_hostname=name)
            try:
                writer.write(f"GET /version HTTP/1.1\r\nHost: {endpoint.address}\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, EOFError, asyncio.LimitOverrunError):  # TimeoutError and SSLError are OSErrors
        return ""
    return str(BytesParser().parsebytes(head.partition(b"\r\n")[2], headersonly=True).get("Date", ""))
