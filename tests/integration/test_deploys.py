"""The measure is a user's: during deploys, crashes and outages of the registry, calls keep working.

Real uvicorn processes, a real etcd, httpx as a client has it; at 200 requests a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from microreg import Registry, RegistryUnavailable, Selector, ServiceNotFound, connect
from microreg.integrations.httpx import AsyncRegistryTransport
from microreg.testing import ServerProcess
from servers import etcd
from support import ROOT, clean_env, run, wait_until

MDNS = "mdns://127.0.0.1"
RATE = 200


@pytest.fixture(name="server")
def _server() -> Generator[ServerProcess]:
    with etcd("deploys") as server:
        yield server


class Deployed:
    """Processes of one service, each a uvicorn on a port of its own."""

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.service = f"orders-{os.urandom(4).hex()}"
        self.running: list[Process] = []

    async def start(self) -> Process:
        """One more; it takes calls once the registry knows it."""
        command = [sys.executable, "-m", "uvicorn", "deployed:app", "--port", "0", "--log-level", "warning"]
        env = clean_env(
            MICROREG_REGISTRY=self.registry,
            MICROREG_ADVERTISE="127.0.0.1",
            SERVICE=self.service,
            PYTHONPATH=str(ROOT / "tests"),
        )
        process = await asyncio.create_subprocess_exec(*command, env=env, stdin=asyncio.subprocess.DEVNULL)
        self.running.append(process)
        return process

    async def stop(self, process: Process) -> None:
        """Tell it to stop, and wait until it has, well."""
        process.send_signal(signal.SIGTERM)
        self.running.remove(process)
        assert await process.wait() == -signal.SIGTERM, "uvicorn hands the signal on when it is done"

    async def kill(self, process: Process) -> None:
        """What no program survives."""
        self.running.remove(process)
        process.kill()
        await process.wait()


@asynccontextmanager
async def deployed(registry: str, count: int) -> AsyncGenerator[Deployed]:
    one = Deployed(registry)
    try:
        for _ in range(count):
            await one.start()
        yield one
    finally:
        for process in one.running:
            process.kill()
        for process in one.running:
            await process.wait()


class Load:
    """Requests at a steady rate, whatever becomes of them."""

    def __init__(self, client: httpx.AsyncClient, url: str, method: str) -> None:
        self.failures: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        """How many requests each process has answered."""
        self._client = client
        self._url = url
        self._method = method

    async def run(self) -> None:
        """Go on until cancelled; then what is under way ends."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    group.create_task(self._ask())
                    due += 1 / RATE
                    await asyncio.sleep(max(0.0, due - loop.time()))
            except asyncio.CancelledError:
                pass

    async def _ask(self) -> None:
        try:
            response = await self._client.request(self._method, self._url)
            self.answers[response.text] += 1
            assert response.status_code == 200
        except Exception as error:
            self.failures[f"{type(error).__name__}: {error}"] += 1


@asynccontextmanager
async def loaded(fleet: Deployed, method: str) -> AsyncGenerator[Load]:
    """Requests to the service while the body runs; at the end none of them has failed."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(connect(fleet.registry))
        selector = await stack.enter_async_context(Selector(registry))
        # uvicorn closes what was idle for 5 seconds, which a request must not meet: clients give up sooner.
        inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(keepalive_expiry=2.0))
        services = AsyncRegistryTransport(selector, transport=inner)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=services, timeout=60))
        await selector.select(fleet.service, timeout=60)
        await wait_until(lambda: len(selector.explain(fleet.service).selected) == len(fleet.running), timeout=60)
        load = Load(client, f"http://{fleet.service}.microreg/", method)
        task = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            task.cancel()
            await task
        assert load.failures == {} and load.answers.total() > 0


def _answered(load: Load, process: Process) -> bool:
    return load.answers[str(process.pid)] > 0


async def _known(registry: Registry, fleet: Deployed) -> None:
    """Wait until the registry holds every node."""

    async def holds() -> bool:
        try:
            [service] = await registry.get_service(fleet.service)
        except (RegistryUnavailable, ServiceNotFound):
            return False
        return len(service.nodes) == len(fleet.running)

    known: bool = await wait_until(holds, timeout=40, step=0.1)
    assert known


def test_a_rolling_restart_fails_no_request() -> None:
    """Three processes, each replaced in turn, for 20 seconds at least, under requests that must not be made twice."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with deployed(MDNS, 3) as fleet, loaded(fleet, "POST") as load:
            end, replaced = loop.time() + 20, 0
            while loop.time() < end or replaced < 3:  # each is replaced
                young = await fleet.start()
                await wait_until(partial(_answered, load, young), timeout=60)
                await fleet.stop(fleet.running[0])
                replaced += 1
            assert len(load.answers) >= 6

    run(main(), timeout=170)


def test_a_killed_node_fails_no_request_that_may_be_repeated(server: ServerProcess) -> None:
    async def main() -> None:
        async with deployed(f"etcd://127.0.0.1:{server.port}", 3) as fleet, loaded(fleet, "GET") as load:
            for _ in range(2):
                await wait_until(lambda: all(_answered(load, each) for each in fleet.running), timeout=60)
                await fleet.kill(fleet.running[0])
                load.answers.clear()
                await wait_until(lambda: load.answers.total() >= 2 * RATE, timeout=60)
                young = await fleet.start()
                await wait_until(partial(_answered, load, young), timeout=60)

    run(main(), timeout=170)


def test_an_etcd_that_dies_and_comes_back_empty_fails_no_request(server: ServerProcess) -> None:
    """Away for 20 seconds, longer than any record lives; then it has to be told of everything again."""

    async def main() -> None:
        url = f"etcd://127.0.0.1:{server.port}"
        async with deployed(url, 3) as fleet, loaded(fleet, "GET") as load:
            await wait_until(lambda: all(_answered(load, each) for each in fleet.running), timeout=60)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(20)
            await asyncio.to_thread(partial(server.restart, wipe=True))
            async with connect(url) as others:
                await _known(others, fleet)
            load.answers.clear()
            await wait_until(lambda: all(_answered(load, each) for each in fleet.running), timeout=60)

    run(main(), timeout=170)


CLIENT = """
import asyncio, sys
import httpx, microreg
from microreg.integrations.httpx import AsyncRegistryTransport

async def main(registry, service):
    async with microreg.connect(registry) as found, microreg.Selector(found) as selector:
        async with httpx.AsyncClient(transport=AsyncRegistryTransport(selector)) as client:
            print((await client.get(f"http://{service}.microreg/")).text)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_client_starts_while_the_registry_is_down(server: ServerProcess, tmp_path: Path) -> None:
    """What it knew when it ended, it has kept on disk."""

    async def call(url: str, service: str) -> str:
        command = [sys.executable, "-c", CLIENT, url, service]
        process = await asyncio.create_subprocess_exec(*command, env=clean_env(), stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode().strip()

    async def main() -> None:
        url = f"etcd://127.0.0.1:{server.port}"
        async with deployed(url, 1) as fleet:
            [process] = fleet.running
            async with connect(url) as others:
                await _known(others, fleet)
            kept = f"cache+{url}?cache.disk={tmp_path / 'known'}"
            assert await call(kept, fleet.service) == str(process.pid)
            await asyncio.to_thread(server.kill)
            assert await call(kept, fleet.service) == str(process.pid)

    run(main())
