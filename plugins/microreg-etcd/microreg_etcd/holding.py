"""What one client holds in the store: a lease for each node and generation, and how it is written and withdrawn.

A node's generation begins with its first ``write`` and ends with ``withdraw``. Nothing of an ended generation comes
back: its leases are revoked, and every write is conditional on the revision of the key that was last seen.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets

from microreg.errors import RegistryUnavailable
from microreg_etcd.client import Client
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.failures import LeaseExists, LeaseLost
from microreg_etcd.stubs import rpc

__all__ = ["Holdings"]

log = logging.getLogger("microreg.etcd")

_ATTEMPTS = 5
_FORGET = 60.0


class _Holding:
    """One node: its record as it was last written, and the leases of this generation."""

    __slots__ = ("checked", "lease", "leases", "lock", "revision", "ttl", "until", "value", "warned")

    def __init__(self, until: float) -> None:
        self.lock = asyncio.Lock()
        self.value: bytes | None = None
        """What stands in the store; None where that is not known."""
        self.revision = 0
        """Of the key, as last seen; 0: there is none."""
        self.checked = 0
        """The store's revision when the key was last seen in place."""
        self.ttl = 0
        self.until = until
        self.lease = 0
        self.leases: dict[int, float] = {}
        """When they expire at the latest; those before the one in use may be named by a write on its way."""
        self.warned = False


class Holdings:
    """All nodes that one client has registered. Renewing one writes nothing."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: dict[bytes, _Holding] = {}
        self._limit = 64
        self._time = asyncio.get_running_loop().time

    async def write(self, key: bytes, value: bytes, ttl: float) -> None:
        """Put the record, or renew its lease where it is in place. ``ttl`` is rounded up to whole seconds."""
        seconds = math.ceil(ttl)
        held = self._holding(key)
        async with held.lock:
            held.until = self._time() + seconds
            in_place = held.ttl == seconds and await self._renewed(key, held)
            if not in_place or held.value != value:
                await self._put(key, value, seconds, held)

    async def withdraw(self, key: bytes) -> None:
        """Revoke every lease of this generation, and take away the record, whoever wrote it."""
        held = self._holding(key)
        async with held.lock:
            held.value = None
            calls = [self._delete(key, held), *(self._revoke(lease) for lease in held.leases)]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
            held.leases.clear()
            held.revision = held.checked = held.ttl = 0

    async def _renewed(self, key: bytes, held: _Holding) -> bool:
        """Whether the lease was renewed and the record is in place."""
        answer = await self._client.renew(held.lease)
        if answer.TTL <= 0:
            self._drop_lease(held)
            return False
        held.leases[held.lease] = held.until
        if answer.header.revision == held.checked:
            return True  # nothing at all has changed in this store
        found = await self._client.call(_range, rpc.RangeRequest(key=key, keys_only=True))
        revision = found.kvs[0].mod_revision if found.kvs else 0
        if revision == held.revision:
            held.checked = found.header.revision
            return True
        if revision and found.kvs[0].lease not in held.leases and not held.warned:
            held.warned = True
            log.warning(
                "%s is registered by somebody else too; the last writer wins. Give each node an id of its own",
                key.decode(errors="replace"),
            )
        held.revision = revision
        return False

    async def _put(self, key: bytes, value: bytes, ttl: int, held: _Holding) -> None:
        held.value = None
        for _ in range(_ATTEMPTS):
            if held.ttl != ttl:
                await self._grant(ttl, held)
            try:
                answer = await self._client.call(_txn, _put_if(key, value, held))
            except LeaseLost:
                self._drop_lease(held)
                continue
            if answer.succeeded:
                held.value, held.revision = value, answer.header.revision
                held.checked = held.revision
                return
            found = answer.responses[0].response_range.kvs
            held.revision = found[0].mod_revision if found else 0
        raise RegistryUnavailable(f"{key.decode(errors='replace')} was changed by others each time it was written")

    async def _grant(self, ttl: int, held: _Holding) -> None:
        """Another lease. Its id is chosen here: a call that is made again on another member grants no second one."""
        lease = secrets.randbelow(2**63 - 1) + 1
        try:
            request = rpc.LeaseGrantRequest(ID=lease, TTL=ttl)
            await self._client.call(lambda endpoint: endpoint.lease.LeaseGrant, request)
        except LeaseExists:
            pass
        now = self._time()
        held.leases = {known: until for known, until in held.leases.items() if until > now}
        held.leases[lease] = now + ttl
        held.lease, held.ttl = lease, ttl

    def _drop_lease(self, held: _Holding) -> None:
        held.leases.pop(held.lease, None)
        held.revision = held.ttl = 0

    async def _revoke(self, lease: int) -> None:
        try:
            await self._client.call(lambda endpoint: endpoint.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        except LeaseLost:
            pass

    async def _delete(self, key: bytes, held: _Holding) -> None:
        """Take away what others wrote; what is on a lease of ours goes with it."""
        for _ in range(_ATTEMPTS):
            found = (await self._client.call(_range, rpc.RangeRequest(key=key, keys_only=True))).kvs
            if not found or found[0].lease in held.leases:
                return
            if (await self._client.call(_txn, _delete_if(key, found[0].mod_revision))).succeeded:
                return
        raise RegistryUnavailable(f"{key.decode(errors='replace')} was written again each time it was deleted")

    def _holding(self, key: bytes) -> _Holding:
        held = self._held.get(key)
        if held is None:
            if len(self._held) >= self._limit:
                self._prune()
            held = self._held[key] = _Holding(self._time())
        return held

    def _prune(self) -> None:
        """Forget the nodes that ended long ago."""
        now = self._time()
        kept = {key: held for key, held in self._held.items() if held.until + _FORGET > now or held.lock.locked()}
        self._held = kept
        self._limit = max(64, 2 * len(kept))


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
