"""``microreg doctor`` against a real Consul that is far away, restricted, odd or old."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from consul_store import ACLS, token
from doctoring import absent, doctor, found
from microreg import connect
from microreg.findings import Finding, Severity
from microreg.testing import ServerProcess
from microreg_consul import ConsulRegistry
from microreg_consul.examination import _of_agent, examine
from needs import need
from networks import network, unavailable
from servers import consul
from support import run


@pytest.fixture(scope="module", name="guarded")
def _guarded() -> Iterator[ServerProcess]:
    """An agent that asks for tokens."""
    with consul("doctor", dev=True, config=ACLS) as server:
        yield server


def test_a_token_that_may_look_and_is_not_told_everything(guarded: ServerProcess) -> None:
    async def main() -> None:
        agent = 'agent_prefix "" { policy = "read" }'
        services = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
        secret, _ = await token(guarded, f"{services} {agent}")
        findings = await doctor(f"consul://127.0.0.1:{guarded.port}?token={secret}", write=True)
        assert "is Consul 1." in found(findings, "server.version").what
        assert "ACLs are on" in found(findings, "consul.hides").what
        assert found(findings, "calls.denied").what.startswith("register: ")
        assert found(findings, "clock.agrees") and secret not in str(findings)
        secret, _ = await token(guarded, services)
        findings = await doctor(f"consul://127.0.0.1:{guarded.port}?token={secret}")
        assert "agent_prefix" in found(findings, "server.hidden").mend
        absent(findings, "calls.denied")
        nobody = await doctor(f"consul://127.0.0.1:{guarded.port}")
        assert "token" in found(nobody, "calls.denied").what

    run(main())


def test_a_clock_that_is_wrong(guarded: ServerProcess) -> None:
    async def main() -> tuple[Finding, ...]:
        async with connect(f"consul://127.0.0.1:{guarded.port}") as registry:
            backend = registry.unwrap(ConsulRegistry)
            assert backend is not None and backend._opened is not None
            client = backend._opened.client
            return await examine(client, "127.0.0.1", has_token=False, now=lambda: time.time() + 600)

    assert "ahead of that of Consul at" in found(run(main()), "clock.differs").what


@asynccontextmanager
async def relay(server: ServerProcess) -> AsyncGenerator[str]:
    """The agent, at an address of a host that this machine is not."""
    if why := unavailable():
        need("networks", why)
    with network() as net:
        here, there = net.host(), net.host()
        lan = net.segment()
        here.plug(lan, "10.0.0.1/24")
        there.plug(lan, "10.0.0.2/24")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader_there, writer_there = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(_carry(reader, writer_there), _carry(reader_there, writer))

        async with await asyncio.start_server(serve, sock=there.tcp("10.0.0.2", 8500)):
            program = here.process(sys.executable, "-m", "microreg", "doctor", "consul://10.0.0.2", "--json")
            async with program as running:
                await running.status()
                yield "\n".join(running.lines)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def test_an_agent_on_another_machine(guarded: ServerProcess) -> None:
    async def main() -> None:
        async with relay(guarded) as out:
            findings = [
                Finding(**{**each, "severity": Severity(each["severity"])}) for each in json.loads(out)["findings"]
            ]
            assert "Consul at 10.0.0.2:8500 is not on this machine" in found(findings, "consul.far-agent").what
            assert "10.0.0.1" in found(findings, "address.advertised").what

    run(main())


def test_versions_that_are_too_old() -> None:
    told = tuple(_of_agent("x", {"Config": {"Version": "1.4.2", "Datacenter": "dc1"}}, has_token=True))
    assert found(told, "server.old").what == "x is Consul 1.4.2; tested are 1.8 and newer"
    assert found(told, "consul.hides")
    told = tuple(_of_agent("x", {"Config": {"Version": "1.20.1+ent"}, "DebugConfig": {"ACLsEnabled": True}}, True))
    absent(told, "server.old")
    absent(told, "consul.hides")
