"""``microreg doctor`` against real etcd that is broken, restricted or odd."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from aetcd import rpc

from doctoring import absent, doctor, found, well
from etcd_admin import PASSWORD, Admin, Users, metric, store_of
from microreg import connect
from microreg.findings import Finding
from microreg.testing import ServerProcess
from microreg_etcd.examination import _of_member, examine
from servers import TLS, etcd, etcd_cluster, tls
from support import run, wait_until

SLOW_ELECTIONS = ("--election-timeout=2000", "--heartbeat-interval=200")


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with etcd(quota=2**20 * 8, flags=SLOW_ELECTIONS) as server:
        yield server


def test_a_server_that_is_well(server: ServerProcess) -> None:
    findings = run(doctor(f"etcd://127.0.0.1:{server.port}", write=True))
    well(findings)
    assert "is etcd 3." in found(findings, "server.version").what
    assert found(findings, "clock.agrees") and found(findings, "write.works")
    absent(findings, "etcd.ttl-raised")


def test_a_ttl_that_the_server_raises(server: ServerProcess) -> None:
    findings = run(doctor(f"etcd://127.0.0.1:{server.port}", write=True, ttl=1))
    assert found(findings, "etcd.ttl-raised").what == "a lease of 1 s was asked for, and one of 3 s granted"


def test_a_clock_that_is_wrong(server: ServerProcess) -> None:
    async def main() -> tuple[Finding, ...]:
        async with connect(f"etcd://127.0.0.1:{server.port}") as registry:
            return await examine(store_of(registry), None, 5.0, lambda: time.time() - 86_400)

    assert "behind that of etcd at" in found(run(main()), "clock.differs").what


def test_a_disk_that_is_full() -> None:
    async def main(port: int) -> None:
        async with Admin(port) as admin:
            with pytest.raises(rpc.AioRpcError, match="database space exceeded"):
                for number in range(40):
                    await admin.write([(b"/junk/%d" % number, bytes(2**20))])
        findings = await doctor(f"etcd://127.0.0.1:{port}", write=True)
        assert "NOSPACE" in found(findings, "etcd.alarm").what
        assert "database space exceeded" in found(findings, "calls.away").what

    with etcd(quota=2**20 * 4) as small:
        run(main(small.port))


def test_members_that_are_away_and_no_leader() -> None:
    async def main(members: list[ServerProcess]) -> None:
        url = "etcd://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
        members[1].kill()
        await wait_until(lambda: metric(members[0], "etcd_server_has_leader") == 0, 20, step=0.1)
        findings = await doctor(url, timeout=3.0)
        assert f":{members[1].port}" in found(findings, "etcd.member-away").what
        assert f":{members[0].port}" in found(findings, "server.no-leader").what
        assert found(findings, "calls.away")

    with etcd_cluster(2) as members:
        run(main(members))


def test_users_that_may_not_and_one_without_a_password(server: ServerProcess) -> None:
    async def main(port: int) -> None:
        async with Users(port) as users:
            await users.add("nobody")
            await users.enable()
        findings = await doctor(f"etcd://nobody:{PASSWORD}@127.0.0.1:{port}", write=True)
        told = [each.what for each in findings if each.code == "calls.denied"]
        assert len(told) == 2 and "permission denied" in told[0] and told[1].startswith("register: ")
        assert PASSWORD not in str(findings)
        assert "user name is empty" in found(await doctor(f"etcd://127.0.0.1:{port}"), "calls.denied").what

    with etcd() as guarded:
        run(main(guarded.port))


def test_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    files: TLS = tls(tmp_path_factory.mktemp("tls"))
    with etcd(tls=files) as server:
        findings = run(doctor(f"etcds://127.0.0.1:{server.port}?ca={files.ca}"))
        assert found(findings, "clock.agrees") and found(findings, "server.version")


def test_versions_that_are_too_old() -> None:
    told = tuple(_of_member("x", rpc.StatusResponse(version="3.3.27", leader=1)))
    assert found(told, "server.old").what == "etcd at x is etcd 3.3.27; tested are 3.4 and newer"
    absent(_of_member("x", rpc.StatusResponse(version="3.5.0-rc.0", leader=1)), "server.old")
