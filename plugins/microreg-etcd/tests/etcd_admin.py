"""What the tests of this folder do to an etcd, and look at, past microreg."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable

from aetcd import rpc

from etcd_store import Raw
from microreg import Registry
from microreg.testing import ServerProcess
from microreg_etcd import EtcdRegistry
from microreg_etcd.store import Store

__all__ = ["PASSWORD", "Admin", "Users", "grant", "metric", "store_of"]

PASSWORD = "correct-horse"
"""Of every user."""

_OPS = 100


class Admin(Raw):
    """The stubs alone, and what an administrator does with them."""

    async def __aenter__(self) -> Admin:
        await super().__aenter__()
        self.maintenance = rpc.MaintenanceStub(self.channel)
        return self

    async def revision(self) -> int:
        """The store's."""
        return (await self.kv.Range(rpc.RangeRequest(key=b"\0", keys_only=True))).header.revision

    async def under(self, prefix: str) -> list[rpc.KeyValue]:
        """Everything whose key begins like this."""
        start = prefix.encode()
        return await self.get(start, start[:-1] + bytes([start[-1] + 1]))

    async def leases(self) -> set[int]:
        """All that there are."""
        return {each.ID for each in (await self.lease.LeaseLeases(rpc.LeaseLeasesRequest())).leases}

    async def granted(self, lease: int) -> int:
        """For how many seconds this lease is renewed."""
        return (await self.lease.LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease))).grantedTTL

    async def grant(self, ttl: int) -> int:
        """A lease of its own."""
        return (await self.lease.LeaseGrant(rpc.LeaseGrantRequest(ID=0, TTL=ttl))).ID

    async def revoke(self, lease: int) -> None:
        await self.lease.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease))

    async def write(self, pairs: Iterable[tuple[bytes, bytes]], *, lease: int = 0) -> None:
        """Put these, up to a hundred in one revision."""
        puts = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease)) for key, value in pairs]
        for at in range(0, len(puts), _OPS):
            await self.kv.Txn(rpc.TxnRequest(compare=[], success=puts[at : at + _OPS], failure=[]))

    async def compact(self) -> int:
        """Forget the history; the revision up to which."""
        revision = await self.revision()
        await self.kv.Compact(rpc.CompactionRequest(revision=revision, physical=True))
        return revision

    async def defragment(self) -> None:
        """Give back the room that compaction has freed."""
        await self.maintenance.Defragment(rpc.DefragmentRequest())

    async def disarm(self) -> int:
        """End the alarms that there are; how many."""
        alarms = (await self.maintenance.Alarm(rpc.AlarmRequest(action=rpc.AlarmRequest.GET))).alarms
        for alarm in alarms:
            await self.maintenance.Alarm(
                rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)
            )
        return len(alarms)


class Users(Raw):
    """An administrator, who is asked for no token while nobody has enabled authentication."""

    async def __aenter__(self) -> Users:
        await super().__aenter__()
        self.auth = rpc.AuthStub(self.channel)
        return self

    async def add(self, user: str, *allowed: tuple[int, bytes, bytes], password: str = PASSWORD) -> None:
        """A user with a role of the same name, which may do this with keys from and up to."""
        await self.auth.UserAdd(rpc.AuthUserAddRequest(name=user, password=password))
        await self.auth.RoleAdd(rpc.AuthRoleAddRequest(name=user))
        await self.auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user, role=user))
        for permission in allowed:
            await self.auth.RoleGrantPermission(grant(user, *permission))

    async def enable(self) -> None:
        """From now on, everybody needs a token."""
        await self.add("root")
        await self.auth.AuthEnable(rpc.AuthEnableRequest())

    async def as_root(self) -> rpc.Metadata:
        """What proves that it is root who calls."""
        answer = await self.auth.Authenticate(rpc.AuthenticateRequest(name="root", password=PASSWORD))
        return (("token", answer.token),)


def grant(role: str, kind: int, start: bytes, end: bytes) -> rpc.AuthRoleGrantPermissionRequest:
    permission = rpc.Permission(permType=kind, key=start, range_end=end)
    return rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)


def metric(server: ServerProcess, name: str, **labels: str) -> float:
    """The sum of this metric of the server, over all that has these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}/metrics", timeout=5) as answer:
        text = str(answer.read(), "utf-8")
    total = 0.0
    for found, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{wanted}"' in found for key, wanted in labels.items()):
            total += float(value)
    return total


def store_of(registry: Registry) -> Store:
    """What an ``etcd://`` registry works with."""
    backend = registry.unwrap(EtcdRegistry)
    assert backend is not None
    store = backend._opened
    assert store is not None
    return store
