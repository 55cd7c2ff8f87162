"""Leases: one for each node and generation, renewed without a write; nothing of an ended generation comes back."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

import microreg
from etcd_admin import Admin, metric, store_of
from etcd_store import EtcdFaults
from microreg import Node, Registry, Service, Status
from microreg.codec import encode
from microreg.errors import RegistryError, RegistryUnavailable
from microreg.events import Change, Snapshot
from microreg.testing import Proxy, ServerProcess, running
from microreg.toolkit import in_thread
from microreg.url import RegistryURL
from microreg_etcd import renewals
from microreg_etcd.client import Client
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.holding import Holdings
from microreg_etcd.stubs import rpc
from servers import etcd
from support import run, wait_until

Q = TypeVar("Q")
A = TypeVar("A")

server = etcd()
proxy = Proxy(server.port)
faults = EtcdFaults(server, proxy)


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with running(server, proxy):
        yield


@asynccontextmanager
async def opened(prefix: str, options: str = "") -> AsyncGenerator[tuple[Registry, Admin]]:
    """A registry in a folder of its own, and what looks into it."""
    url = f"etcd://127.0.0.1:{proxy.port}/{prefix}{options}"
    async with microreg.connect(url) as registry, Admin(server.port) as admin:
        yield registry, admin


def greeter(id: str = "n1", port: int = 80, version: str = "", **metadata: str) -> Service:
    return Service("greeter", version, nodes=[Node(f"10.0.0.1:{port}", id=id, metadata=metadata)])


async def gone(admin: Admin, prefix: str) -> bool:
    return not await admin.under(prefix)


def streams(server: ServerProcess) -> float:
    """How many streams of renewals were ever opened."""
    return metric(server, "grpc_server_started_total", grpc_method="LeaseKeepAlive")


# -- renewing ----------------------------------------------------------------------------------------------------------


def test_each_node_has_a_lease_of_its_own_and_all_are_renewed_on_one_stream_without_a_write() -> None:
    async def main() -> None:
        async with opened("own") as (registry, admin):
            before = streams(server), proxy.accepted, await admin.leases()
            fleet = Service("greeter", nodes=[Node(f"10.0.0.{n}:80", id=f"n{n}") for n in range(1, 6)])
            await registry.register(fleet)
            written = {item.key: (item.mod_revision, item.lease) for item in await admin.under("/own/")}
            revision = await admin.revision()
            for _ in range(20):
                await registry.register(fleet)
            assert len({lease for _, lease in written.values()}) == 5
            assert await admin.leases() - before[2] == {lease for _, lease in written.values()}
            assert {item.key: (item.mod_revision, item.lease) for item in await admin.under("/own/")} == written
            assert await admin.revision() == revision
            assert (streams(server) - before[0], proxy.accepted - before[1]) == (1, 1)

    run(main())


def test_a_thousand_nodes_are_renewed_on_one_stream_and_nothing_stays_of_them() -> None:
    async def main() -> None:
        async with opened("many", "?timeout=20s") as (registry, admin):
            before = streams(server), await admin.leases()
            fleet = [Service(f"s{n % 10}", nodes=[Node(f"10.0.0.1:{1000 + n}", id=f"n{n}")]) for n in range(1000)]
            await asyncio.gather(*(registry.register(each, ttl=60) for each in fleet))
            revision = await admin.revision()
            for _ in range(2):
                await asyncio.gather(*(registry.register(each, ttl=60) for each in fleet))
            assert await admin.revision() == revision
            assert len(await admin.leases() - before[1]) == 1000
            assert streams(server) - before[0] == 1
            await asyncio.gather(*(registry.deregister(each) for each in fleet))
            assert await admin.leases() <= before[1]
            assert await admin.under("/many/") == []
            assert len(store_of(registry).held) == 0

    run(main())


def test_many_renewals_in_a_second_are_sent_together_and_one_after_the_other_does_not_wait() -> None:
    async def main() -> None:
        async with opened("pace") as (registry, _):
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for _ in range(200):
                await registry.register(greeter())
            assert loop.time() - begun < 200 * renewals._GATHER

    run(main())


def test_a_changed_ttl_is_another_lease_and_the_one_before_is_revoked() -> None:
    async def main() -> None:
        async with opened("ttl") as (registry, admin):
            before = await admin.leases()
            leases: list[int] = []
            for ttl in (10, 20.5, 10):
                await registry.register(greeter(), ttl=ttl)
                leases += await admin.leases() - before
                assert [item.lease for item in await admin.under("/ttl/")] == leases[-1:]
            assert len(set(leases)) == 3
            assert await admin.granted(leases[-1]) == 10
            await registry.register(greeter(), ttl=20.5)
            assert [await admin.granted(lease) for lease in await admin.leases() - before] == [21]

    run(main())


def test_a_shorter_ttl_than_the_server_grants_is_what_the_server_grants() -> None:
    async def main() -> None:
        async with opened("short") as (registry, admin):
            loop = asyncio.get_running_loop()
            await registry.register(greeter(), ttl=1)
            [item] = await admin.under("/short/")
            granted = await admin.granted(item.lease)
            renewed = loop.time()
            await registry.register(greeter(), ttl=1)
            assert [each.lease for each in await admin.under("/short/")] == [item.lease]

            _: bool = await wait_until(lambda: gone(admin, "/short/"), timeout=granted + 5)
            assert loop.time() - renewed > granted - 0.1 >= 0.9

    run(main())


def test_a_node_that_changes_all_the_time_stays_on_its_lease() -> None:
    """etcd does not renew the lease of a key that is put."""

    async def main() -> None:
        async with opened("changing") as (registry, admin):
            loop = asyncio.get_running_loop()
            await registry.register(greeter(n="first"), ttl=4)
            [item] = await admin.under("/changing/")
            end = loop.time() + await admin.granted(item.lease) * 1.5 + 1
            async with registry.watch("greeter") as events:
                await anext(events)
                seen: list[str] = []
                while loop.time() < end:
                    await registry.register(greeter(n=f"{loop.time():.3f}"), ttl=4)
                    event = await anext(events)
                    assert isinstance(event, Change)
                    seen.append(event.action.value)
                    await asyncio.sleep(0.1)
            assert set(seen) == {"update"}
            assert [each.lease for each in await admin.under("/changing/")] == [item.lease]

    run(main())


def test_a_change_of_the_service_is_published() -> None:
    async def main() -> None:
        async with opened("change") as (registry, admin), registry.watch("greeter") as events:
            assert isinstance(await anext(events), Snapshot)
            node = Node("10.0.0.1:80", id="n1")
            late = node.replace(status=Status.WARNING)
            for service in (
                Service("greeter", nodes=[node]),
                Service("greeter", "2.0", nodes=[node]),
                Service("greeter", "2.0", {"team": "red"}, nodes=[node]),
                Service("greeter", "2.0", {"team": "red"}, [microreg.Endpoint("hello")], [node]),
                Service("greeter", "2.0", {"team": "red"}, [microreg.Endpoint("hello")], [late]),
            ):
                await registry.register(service)
                event = await anext(events)
                assert isinstance(event, Change)
                assert event.service == service
                assert await registry.get_service("greeter") == (service,)
            assert len(await admin.under("/change/")) == 1

    run(main())


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_deregistering_revokes_the_lease_and_everything_is_forgotten() -> None:
    async def main() -> None:
        async with opened("revoke") as (registry, admin):
            before = await admin.leases()
            await registry.register(greeter("a"), ttl=3600)
            await registry.register(greeter("b"), ttl=3600)
            assert len(await admin.leases() - before) == 2
            await registry.deregister(greeter("a"))
            assert await admin.leases() - before == {item.lease for item in await admin.under("/revoke/")}
            await registry.deregister(greeter("b"))
            await registry.deregister(greeter("b"))
            await registry.deregister(greeter("never"))
            assert await admin.leases() <= before
            assert len(store_of(registry).held) == 0

    run(main())


def test_what_failed_and_what_expired_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened("forgotten") as (registry, _):
            held = store_of(registry).held
            for number in range(100):
                await registry.register(greeter(f"n{number}"), ttl=1)
            assert len(held) == 100
            monkeypatch.setattr("microreg.holdings._FORGET", -3600)  # as if an hour had passed
            for number in range(100):
                await registry.register(greeter(f"m{number}"), ttl=1)
            assert len(held) < 200
        proxy.refuse = True
        try:
            async with opened("forgotten") as (registry, _):
                for number in range(3):
                    with pytest.raises(RegistryUnavailable):
                        await registry.register(greeter(f"n{number}"))
                assert len(store_of(registry).held) == 0
        finally:
            proxy.refuse = False

    run(main())


class Late(Client):
    """A client some of whose requests get stuck: the caller gives up, and the server gets them when it likes."""

    def __init__(self) -> None:
        super().__init__(RegistryURL.parse(f"etcd://127.0.0.1:{server.port}"), None, 5.0)
        self.pass_on = -1
        """How many more requests get through before one is stuck; negative: all do."""
        self.stuck: list[Callable[[], Coroutine[object, object, object]]] = []

    async def call(self, method: Callable[[Endpoint], rpc.UnaryCall[Q, A]], request: Q) -> A:
        self.pass_on -= 1
        if self.pass_on != -1:
            return await super().call(method, request)
        sup = super().call
        self.stuck.append(lambda: sup(method, request))
        raise asyncio.CancelledError

    async def arrive(self, rng: random.Random, share: float) -> None:
        """Some of what is stuck gets through, in any order."""
        rng.shuffle(self.stuck)
        for _ in range(round(share * len(self.stuck))):
            with suppress(RegistryError):
                await self.stuck.pop()()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_is_applied_late_undoes_what_came_after_it(seed: int) -> None:
    """Writes and withdrawals whose requests get stuck anywhere; the last of them is heard, and stays true."""

    async def once(rng: random.Random, key: bytes, admin: Admin) -> None:
        client = Late()
        try:
            held = Holdings(client)
            story: list[str] = []
            value: bytes | None = None
            for step in range(rng.randint(2, 6), -1, -1):
                client.pass_on = rng.choice([-1, 0, 0, 1, 2]) if step else -1
                behind = rng.random()
                if behind < 0.3:
                    await (admin.delete(key) if behind < 0.15 else admin.put(key, b"other"))
                    story.append("deleted" if behind < 0.15 else "overwritten")
                value = rng.choice([None, b"one", b"two"])
                story.append(f"{value!r} after {client.pass_on}")
                with suppress(asyncio.CancelledError):
                    await (held.withdraw(key) if value is None else held.write(key, value, rng.choice([60] * 5 + [90])))
                client.pass_on = -1
                await client.arrive(rng, rng.choice([0, 0, 0, 0.5, 1]))
            await client.arrive(rng, 1)
            found = [item.value for item in await admin.get(key)]
            assert found == ([] if value is None else [value]), story
            if value is not None:
                await held.write(key, value, 60)
                assert [item.value for item in await admin.get(key)] == [value], story
            await held.withdraw(key)
            assert await admin.get(key) == [], story
            assert len(held) == 0
        finally:
            await client.close()

    async def main() -> None:
        rng = random.Random(seed)
        async with Admin(server.port) as admin:
            for number in range(70):
                await once(rng, f"/late/{seed}/{number}".encode(), admin)

    run(main())


def test_a_late_write_over_the_network_brings_nobody_back_and_a_late_deregister_takes_nobody_away() -> None:
    async def stays(condition: Callable[[], Coroutine[object, object, bool]], seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            assert await condition()
            await asyncio.sleep(0.02)

    async def cut_short(call: Coroutine[object, object, None]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call

    async def main() -> None:
        async with opened("net") as (registry, admin):

            async def there() -> bool:
                return bool(await admin.under("/net/"))

            async def away() -> bool:
                return not await there()

            for before in (False, True):
                if before:
                    await registry.register(greeter())
                async with faults.slow(0.6):
                    await cut_short(registry.register(greeter(port=82)))
                await registry.deregister(greeter())
                await stays(away, 1.0)

            await registry.register(greeter())
            async with faults.slow(0.6):
                await cut_short(registry.deregister(greeter()))
            await registry.register(greeter())
            await stays(there, 1.0)

            async with faults.black_hole():
                await cut_short(registry.deregister(greeter()))
                await cut_short(registry.register(greeter(port=83)))
            await registry.deregister(greeter())
            await stays(away, 0.5)

    run(main())


# -- behind our back ---------------------------------------------------------------------------------------------------


def test_what_others_did_to_the_record_is_put_right_by_the_next_register(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened("back") as (registry, admin):
            mine = encode(greeter())
            await registry.register(greeter())
            [item] = await admin.under("/back/")

            await admin.delete(item.key)
            await registry.register(greeter())
            assert [(each.value, each.lease) for each in await admin.under("/back/")] == [(mine, item.lease)]

            await admin.put(item.key, encode(greeter(port=99)))
            await registry.register(greeter())
            assert [(each.value, each.lease) for each in await admin.under("/back/")] == [(mine, item.lease)]
            assert [record.levelname for record in caplog.records] == ["WARNING"]

            await admin.revoke(item.lease)
            assert await admin.under("/back/") == []
            await registry.register(greeter())
            [again] = await admin.under("/back/")
            assert (again.value, again.lease != item.lease) == (mine, True)

            await admin.revoke(again.lease)
            await registry.register(greeter(port=81))
            assert [each.value for each in await admin.under("/back/")] == [encode(greeter(port=81))]

            await admin.revoke((await admin.under("/back/"))[0].lease)
            await registry.deregister(greeter())
            assert await admin.under("/back/") == []

    with caplog.at_level(logging.WARNING, "microreg"):
        run(main())


def test_in_a_busy_store_too_a_record_that_was_taken_away_is_put_back() -> None:
    async def main() -> None:
        async with opened("busy") as (registry, admin):
            await registry.register(greeter())
            [item] = await admin.under("/busy/")
            for number in range(3):
                await admin.put(b"/elsewhere", b"%d" % number)
                await registry.register(greeter())
            assert [each.mod_revision for each in await admin.under("/busy/")] == [item.mod_revision]
            await admin.delete(item.key)
            await registry.register(greeter())
            assert [each.value for each in await admin.under("/busy/")] == [item.value]
            await admin.put(b"/elsewhere", b"")
            await admin.revoke(item.lease)
            await registry.register(greeter())
            [again] = await admin.under("/busy/")
            assert (again.value, again.lease != item.lease) == (item.value, True)

    run(main())


def test_a_store_that_was_restored_from_a_backup_gets_the_record_again(tmp_path: Path) -> None:
    """The lease is in the backup too, and another write makes the revision what it was: only the value tells."""
    backup = tmp_path / "backup"

    async def main(other: ServerProcess) -> None:
        async with microreg.connect(f"etcd://127.0.0.1:{other.port}/backup") as registry:
            await registry.register(greeter(), ttl=60)
            await in_thread(other.stop)
            await in_thread(shutil.copytree, other.data, backup)
            await in_thread(other.start)
            await registered(registry, greeter(port=81))
            async with Admin(other.port) as admin:
                [item] = await admin.under("/backup/")
            await in_thread(other.stop)
            await in_thread(shutil.rmtree, other.data)
            await in_thread(shutil.copytree, backup, other.data, dirs_exist_ok=True)
            await in_thread(other.start)
            async with Admin(other.port) as admin:
                assert [each.value for each in await admin.under("/backup/")] == [encode(greeter())]
                while await admin.revision() < item.mod_revision:
                    await admin.put(b"/elsewhere", b"")
                await registered(registry, greeter(port=81))
                [again] = await admin.under("/backup/")
                assert (again.value, again.lease) == (item.value, item.lease)

    async def registered(registry: Registry, service: Service) -> None:
        """Twice, since the second is a renewal: the first call after a restart may find the old connection."""
        for _ in range(2):
            await registry.register(service, ttl=60)

    with etcd("etcd-backup") as other:
        run(main(other))


def test_deregistering_takes_away_what_others_wrote_over_it() -> None:
    async def main() -> None:
        async with opened("over") as (registry, admin):
            before = await admin.leases()
            await registry.register(greeter())
            [item] = await admin.under("/over/")
            await admin.put(item.key, encode(greeter(port=99)))
            await registry.deregister(greeter())
            assert await admin.under("/over/") == []
            assert await admin.leases() <= before

    run(main())


def test_two_clients_that_fight_for_one_node_leave_one_record_and_warn_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fight(registry: Registry, port: int) -> None:
        for _ in range(30):
            await registry.register(greeter(port=port))

    async def main() -> None:
        async with opened("fight") as (one, admin), opened("fight") as (two, _):
            await asyncio.gather(fight(one, 81), fight(two, 82))
            for registry, port in ((one, 81), (two, 82)) * 2:
                await registry.register(greeter(port=port))
                assert [each.value for each in await admin.under("/fight/")] == [encode(greeter(port=port))]
            assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
            assert all("by somebody else" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, "microreg"):
        run(main())


def test_a_call_that_is_cancelled_anywhere_leaves_nothing_that_the_next_one_does_not_put_right() -> None:
    seed = random.randrange(10**6)

    async def main() -> None:
        sys.stderr.write(f"seed {seed}\n")
        rng = random.Random(seed)
        async with opened("cancel") as (registry, admin):
            before = await admin.leases()
            for number in range(60):
                service = greeter(port=80 + number % 3)
                with suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(0, 0.003)):
                        await (registry.deregister(service) if rng.random() < 0.4 else registry.register(service))
                if number % 5 == 4:
                    await registry.register(service)
                    assert [each.value for each in await admin.under("/cancel/")] == [encode(service)]
            await registry.deregister(greeter())
            assert await admin.under("/cancel/") == []
            assert len(store_of(registry).held) == 0
            # A grant whose answer nobody heard ends by itself, and nothing stands on it.
            for lease in await admin.leases() - before:
                assert await admin.granted(lease) == 15

    run(main())


def test_closing_while_renewals_are_on_their_way_ends_them() -> None:
    async def main() -> None:
        async with opened("closing") as (registry, _):
            await registry.register(greeter())
            async with faults.slow(0.3):
                calls = [asyncio.create_task(registry.register(greeter(f"n{n}"))) for n in range(3)]
                calls.append(asyncio.create_task(registry.register(greeter())))
                await asyncio.wait(calls, timeout=0.1)
                await registry.close()
                results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, RegistryError) for result in results), results

    run(main())


def test_a_watch_of_the_changes_hears_of_no_renewal() -> None:
    async def main() -> None:
        async with opened("silent") as (registry, _), aclosing(registry.watch("greeter").source()) as changes:
            await registry.register(greeter())
            assert isinstance(await anext(changes), Snapshot)
            for _ in range(10):
                await registry.register(greeter())
            await registry.register(greeter(port=81))
            event = await anext(changes)
            assert isinstance(event, Change)
            assert event.node.port == 81

    run(main())
