"""What one client holds in the store: a lease for each node and generation, and how it is written and withdrawn.

A node's generation begins with its first ``write`` and ends with ``withdraw``. Nothing of an ended generation comes
back: its leases are revoked, and every write is conditional on the revision of the key that was last seen.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from contextlib import suppress

from microreg import toolkit
from microreg.errors import RegistryUnavailable
from microreg.toolkit import Holding, end
from microreg_etcd.client import Client
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.failures import LeaseLost
from microreg_etcd.stubs import rpc

__all__ = ["Holdings"]

log = logging.getLogger("microreg.etcd")

_ATTEMPTS = 5
_FORGET = 60.0


class _Holding(Holding):
    """One node: its record as it was last written, and the leases of this generation."""

    __slots__ = ("busy", "checked", "lease", "leases", "revision", "ttl", "value", "warned")

    def __init__(self) -> None:
        super().__init__()
        self.value: bytes | None = None
        """What stands in the store; None where that is not known."""
        self.revision = 0
        """Of the key, as last seen; 0: there is none."""
        self.checked: tuple[int, int] = (0, 0)
        """Which stream of renewals there was, and the store's revision, when the key was last seen in place."""
        self.busy = False
        """Whether others had written when it was last renewed."""
        self.ttl = 0
        """What the lease was asked for, in seconds; 0: the next write needs another lease."""
        self.lease = 0
        self.leases: dict[int, float] = {}
        """When they expire at the latest; those before the one in use may be named by a write on its way."""
        self.warned = False

    @property
    def is_empty(self) -> bool:
        return not self.leases


class Holdings:
    """All nodes that one client has registered. Renewing one writes nothing."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nodes: toolkit.Holdings[bytes, _Holding] = toolkit.Holdings(_Holding)
        self._time = asyncio.get_running_loop().time
        self.raised: tuple[int, int] | None = None
        """Seconds that were asked for, and those that the server has granted, where these were more."""

    def __len__(self) -> int:
        """How many nodes are remembered: those that are held, and a few that have expired."""
        return len(self._nodes)

    async def write(self, key: bytes, value: bytes, ttl: float) -> None:
        """Put the record, or renew its lease where it is in place. ``ttl`` is rounded up to whole seconds."""
        seconds = math.ceil(ttl)
        async with self._nodes.hold(key) as held:
            held.until = self._time() + seconds
            fresh = held.ttl != seconds
            if fresh or held.value != value:
                await self._put(key, value, seconds, held)
            if not fresh and not await self._renewed(key, held):
                await self._put(key, value, seconds, held)

    async def withdraw(self, key: bytes) -> None:
        """Revoke every lease of this generation, and take away the record, whoever wrote it."""
        async with self._nodes.hold(key) as held:
            # A revocation that is applied late must not find a newer generation on that lease.
            held.value, held.ttl = None, 0
            ours = frozenset(held.leases)
            await self._together(self._delete(key, ours), *(self._revoke(lease, held) for lease in ours))
            held.revision, held.checked = 0, (0, 0)

    async def _renewed(self, key: bytes, held: _Holding) -> bool:
        """Whether the lease was renewed and the record is in place."""
        look: asyncio.Task[rpc.RangeResponse] | None = None
        if held.busy:  # as the last time: then there is no need to wait for the answer that says so
            look = asyncio.create_task(self._look(key), name="microreg etcd look")
        stream = self._client.streams
        try:
            answer = await self._client.renew(held.lease)
            return await self._in_place(key, held, answer, look, stream)
        finally:
            if look is not None:
                await end(look)

    async def _in_place(
        self,
        key: bytes,
        held: _Holding,
        answer: rpc.LeaseKeepAliveResponse,
        look: asyncio.Task[rpc.RangeResponse] | None,
        stream: int,
    ) -> bool:
        if answer.TTL <= 0:
            self._drop_lease(held)
            return False
        held.leases[held.lease] = self._time() + answer.TTL
        # A store that was restored counts anew: the same revision means the same only while the stream is the same.
        held.busy = held.checked != (self._client.streams, answer.header.revision)
        if not held.busy:
            return True  # nothing at all has changed in this store
        found = await (look or self._look(key))
        revision = found.kvs[0].mod_revision if found.kvs else 0
        if revision == held.revision:
            held.checked = stream, found.header.revision
            return True
        if revision and not held.warned:
            held.warned = True
            log.warning(
                "%s is registered by somebody else too; the last writer wins. Give each node an id of its own",
                key.decode(errors="replace"),
            )
        held.revision = revision
        return False

    async def _look(self, key: bytes) -> rpc.RangeResponse:
        return await self._client.call(_range, rpc.RangeRequest(key=key, keys_only=True))

    async def _put(self, key: bytes, value: bytes, ttl: int, held: _Holding) -> None:
        held.value = None
        for _ in range(_ATTEMPTS):
            if held.ttl != ttl:
                await self._grant(ttl, held)
            stream = self._client.streams
            try:
                answer = await self._client.call(_txn, _put_if(key, value, held))
            except LeaseLost:
                self._drop_lease(held)
                continue
            if answer.succeeded:
                held.value, held.revision = value, answer.header.revision
                held.checked = stream, held.revision
                # The conditions of every earlier write are false from now on: nothing names these any more.
                await self._together(*(self._revoke(lease, held) for lease in held.leases if lease != held.lease))
                return
            found = answer.responses[0].response_range.kvs
            held.revision = found[0].mod_revision if found else 0
        raise RegistryUnavailable(f"{key.decode(errors='replace')} was changed by others each time it was written")

    async def _grant(self, ttl: int, held: _Holding) -> None:
        """Another lease.

        The server chooses the id: a call that is made again grants another one, and what no answer names, no write
        names. Were the id chosen here, a grant that is late could revive a lease after its revocation.
        """
        request = rpc.LeaseGrantRequest(ID=0, TTL=ttl)
        answer = await self._client.call(lambda endpoint: endpoint.lease.LeaseGrant, request)
        now = self._time()
        held.leases = {known: until for known, until in held.leases.items() if until + _FORGET > now}
        held.leases[answer.ID] = now + answer.TTL
        if answer.TTL > ttl:
            self.raised = ttl, answer.TTL
        held.lease, held.ttl = answer.ID, ttl

    def _drop_lease(self, held: _Holding) -> None:
        held.leases.pop(held.lease, None)
        held.revision = held.ttl = 0

    async def _revoke(self, lease: int, held: _Holding) -> None:
        with suppress(LeaseLost):
            await self._client.call(lambda endpoint: endpoint.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        held.leases.pop(lease, None)

    async def _delete(self, key: bytes, ours: frozenset[int]) -> None:
        """Take away what others wrote; what is on a lease of ours goes with it."""
        for _ in range(_ATTEMPTS):
            found = (await self._look(key)).kvs
            if not found or found[0].lease in ours:
                return
            if (await self._client.call(_txn, _delete_if(key, found[0].mod_revision))).succeeded:
                return
        raise RegistryUnavailable(f"{key.decode(errors='replace')} was written again each time it was deleted")

    async def _together(self, *calls: Coroutine[object, object, None]) -> None:
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if result is not None:
                raise result


def _range(endpoint: Endpoint) -> rpc.UnaryCall[rpc.RangeRequest, rpc.RangeResponse]:
    return endpoint.kv.Range


def _txn(endpoint: Endpoint) -> rpc.UnaryCall[rpc.TxnRequest, rpc.TxnResponse]:
    return endpoint.kv.Txn


def _put_if(key: bytes, value: bytes, held: _Holding) -> rpc.TxnRequest:
    """Put the record if the key is as it was last seen, or else say how it is."""
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=held.lease))
    look = rpc.RequestOp(request_range=rpc.RangeRequest(key=key, keys_only=True))
    return rpc.TxnRequest(compare=[_unchanged(key, held.revision)], success=[put], failure=[look])


def _delete_if(key: bytes, revision: int) -> rpc.TxnRequest:
    delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    return rpc.TxnRequest(compare=[_unchanged(key, revision)], success=[delete], failure=[])


def _unchanged(key: bytes, revision: int) -> rpc.Compare:
    return rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision)
