"""``microreg doctor`` against real NATS servers and buckets that are restricted, small, old or alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from nats.js.api import StorageType, StreamConfig

from doctoring import absent, doctor, found, well
from microreg import connect
from microreg.findings import Finding
from microreg.testing import Proxy, ServerProcess
from microreg_nats.bucket import NatsRegistry
from microreg_nats.examination import of_bucket
from nats_store import pretending, raw_client
from servers import nats, nats_cluster
from support import run

SECRET = "correct-horse"


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with nats() as server:
        yield server


def test_a_server_that_is_well(server: ServerProcess) -> None:
    findings = run(doctor(f"nats://127.0.0.1:{server.port}", write=True))
    well(findings)
    assert "is nats-server 2." in found(findings, "server.version").what
    assert found(findings, "clock.agrees") and found(findings, "write.works")


def test_buckets_that_are_odd(server: ServerProcess) -> None:
    async def main() -> None:
        url = f"nats://127.0.0.1:{server.port}"
        findings = await doctor(f"{url}?bucket=fleeting&storage=memory")
        assert found(findings, "nats.in-memory").what == "KV_fleeting is kept in memory"
        async with raw_client(server.port) as raw:
            info = await raw.js.stream_info("KV_fleeting")
            await raw.js.update_stream(info.config, max_age=20, duplicate_window=20)
            await raw.js.add_stream(
                StreamConfig(name="KV_foreign", subjects=["$KV.foreign.>"], storage=StorageType.FILE)
            )
        findings = await doctor(f"{url}?bucket=fleeting", write=True)
        assert found(findings, "nats.max-age").what == "KV_fleeting keeps nothing longer than 20 s"
        assert "--max-age=0" in found(findings, "calls.failed").what
        assert "nats stream edit KV_foreign" in found(await doctor(f"{url}?bucket=foreign"), "calls.failed").what

    run(main())


def test_a_clock_that_is_wrong(server: ServerProcess) -> None:
    async def main() -> tuple[Finding, ...]:
        async with connect(f"nats://127.0.0.1:{server.port}") as registry:
            await registry.list_services()
            backend = registry.unwrap(NatsRegistry)
            assert backend is not None and backend._opened is not None
            store = backend._opened
            return await of_bucket(store.connection, store.bucket, lambda: time.time() + 60)

    assert re.match(r"this clock is [56]\d s ahead of that of NATS at", found(run(main()), "clock.differs").what)


def test_a_server_that_is_too_old_and_one_without_jetstream() -> None:
    async def main(port: int) -> None:
        async with pretending("2.10.29") as old:
            findings = await doctor(f"nats://127.0.0.1:{old}", timeout=2.0)
            assert "needs nats-server 2.11" in found(findings, "server.old").what
            assert "2.10.29" in found(findings, "calls.failed").what
        findings = await doctor(f"nats://127.0.0.1:{port}")
        assert "JetStream is not enabled" in found(findings, "calls.failed").what
        absent(findings, "server.old")
        findings = await doctor(f"nats-pubsub://127.0.0.1:{port}", write=True)
        assert found(findings, "write.works")
        assert "takes messages of up to 8192 bytes" in found(findings, "nats.small-payload").what

    with nats(jetstream=False, config="max_payload: 8192") as server:
        run(main(server.port))


def test_a_server_that_is_far_away(server: ServerProcess) -> None:
    with Proxy(server.port) as proxy:
        proxy.delay = 0.1
        findings = run(doctor(f"nats-pubsub://127.0.0.1:{proxy.port}?settle=100ms"))
    assert "there and back; settle is 0.1 s" in found(findings, "settle.short").what


def test_users_that_may_not() -> None:
    nothing = f'{{ user: nobody, password: "{SECRET}", permissions: {{ publish: ["x"], subscribe: ["_INBOX.>"] }} }}'
    with nats(config=f"authorization {{ users: [{nothing}] }}") as server:
        findings = run(doctor(f"nats://nobody:{SECRET}@127.0.0.1:{server.port}"))
        assert "permissions violation for publish" in found(findings, "calls.denied").what
        assert found(findings, "server.version") and SECRET not in str(findings)
        findings = run(doctor(f"nats://nobody:wrong@127.0.0.1:{server.port}"))
        assert "Authorization Violation" in found(findings, "calls.denied").what


def test_a_bucket_on_one_server_of_a_cluster() -> None:
    with nats_cluster(2) as members:
        url = f"nats://127.0.0.1:{members[0].port}"
        findings = run(doctor(url))
        assert "by one server of the cluster tests" in found(findings, "nats.one-replica").what
        absent(run(doctor(f"{url}?bucket=twice&replicas=2")), "nats.one-replica")
