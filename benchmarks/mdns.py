# pyright: standard
"""How long it takes over mDNS, between processes on loopback, until another one knows; python-zeroconf beside it.

``python benchmarks/mdns.py [--rounds 100] [--json FILE]`` prints a table and JSON, in milliseconds: from the call of
``register``, of ``register`` with a change, and of ``deregister`` until a process that watches has the event;
and what the first ``get_service`` of a fresh process takes, from the call and from the start of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

URL = "mdns://127.0.0.1"
NAME = f"bench-{os.getpid()}"
ROUNDS, FRESH = 100, 20
Samples = dict[str, list[float]]


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


# What runs in processes of their own. Clocks agree: CLOCK_MONOTONIC is one for the whole machine.


async def listen_microreg(name: str) -> None:
    """Say each event and when it came."""
    from microreg import Change, connect

    async with connect(URL) as registry, registry.watch(name) as events:
        async for event in events:
            if isinstance(event, Change):
                say(event.action, event.node.id, time.monotonic())
            else:
                say("ready", "-", 0)


async def listen_zeroconf(name: str) -> None:
    """The same with a ServiceBrowser, which tells names only: their records are not loaded here."""
    from zeroconf import IPVersion, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    words = {
        ServiceStateChange.Added: "create",
        ServiceStateChange.Updated: "update",
        ServiceStateChange.Removed: "delete",
    }
    aio = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)

    def heard(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        say(words[state_change], name.partition(".")[0], time.monotonic())

    browser = AsyncServiceBrowser(aio.zeroconf, [f"_{name}._tcp.local."], handlers=[heard])
    say("ready", "-", 0)
    try:
        await asyncio.Event().wait()
    finally:
        await browser.async_cancel()
        await aio.async_close()


async def get_microreg(name: str) -> None:
    from microreg import connect

    async with connect(URL) as registry:
        begun = time.monotonic()
        found = await registry.get_service(name)
        say(begun, time.monotonic(), len(found[0].nodes))


async def get_zeroconf(name: str) -> None:
    from zeroconf import IPVersion, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    aio = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    begun = time.monotonic()
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def heard(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if not found.done():
            found.set_result(name)

    browser = AsyncServiceBrowser(aio.zeroconf, [f"_{name}._tcp.local."], handlers=[heard])
    info = AsyncServiceInfo(f"_{name}._tcp.local.", await asyncio.wait_for(found, 10))
    await info.async_request(aio.zeroconf, 3000)
    say(begun, time.monotonic(), 1)
    await browser.async_cancel()
    await aio.async_close()


# What measures


@asynccontextmanager
async def listener(kind: str, name: str) -> AsyncGenerator[asyncio.StreamReader]:
    """A process that watches; its lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--role", f"listen_{kind}", "--name", name, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await asyncio.wait_for(process.stdout.readline(), 20)
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def until(lines: asyncio.StreamReader, action: str, node: str) -> float:
    """When the listener had this event."""
    async with asyncio.timeout(20):
        while True:
            word, name, moment = (await lines.readline()).decode().split()
            if (word, name) == (action, node):
                return float(moment)


async def timed(samples: list[float], call: Awaitable[object], seen: Awaitable[float]) -> None:
    begun = time.monotonic()
    await call
    samples.append((await seen - begun) * 1000)


async def measure_microreg(rounds: int, fresh: int) -> Samples:
    from microreg import Node, Service, connect

    samples: Samples = {"register": [], "update": [], "goodbye": [], "first get": [], "fresh process": []}

    def service(node: str, port: int) -> Service:
        return Service(NAME, nodes=[Node(f"127.0.0.1:{port}", id=node)])

    async with connect(URL) as registry:
        async with listener("microreg", NAME) as lines:
            for number in range(rounds):
                node = f"n{number}"
                first, second = service(node, 8080), service(node, 8081)
                await timed(samples["register"], registry.register(first), until(lines, "create", node))
                await timed(samples["update"], registry.register(second), until(lines, "update", node))
                await timed(samples["goodbye"], registry.deregister(second), until(lines, "delete", node))
        await registry.register(service("stays", 8080), ttl=600)
        await fresh_processes("microreg", NAME, samples, fresh)
    return samples


async def measure_zeroconf(rounds: int, fresh: int) -> Samples:
    from zeroconf import IPVersion, ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

    samples: Samples = {"register": [], "update": [], "goodbye": [], "first get": [], "fresh process": []}
    name = f"b{os.getpid()}"
    kind = f"_{name}._tcp.local."

    def info(node: str, text: str) -> ServiceInfo:
        properties, server = {"v": text}, f"{node}.local."
        addresses = ["127.0.0.1"]
        return ServiceInfo(
            kind, f"{node}.{kind}", 8080, properties=properties, parsed_addresses=addresses, server=server
        )

    aio = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    try:
        async with listener("zeroconf", name) as lines:
            for number in range(min(rounds, 20)):  # its calls take half a second each
                node = f"n{number}"
                first, second = info(node, "1"), info(node, "2")
                await timed(
                    samples["register"],
                    aio.async_register_service(first, cooperating_responders=True),
                    until(lines, "create", node),
                )
                await timed(samples["update"], aio.async_update_service(second), until(lines, "update", node))
                leaving = aio.async_unregister_service(second)
                await timed(samples["goodbye"], leaving, until(lines, "delete", node))
        await (await aio.async_register_service(info("stays", "1"), cooperating_responders=True))
        await fresh_processes("zeroconf", name, samples, min(fresh, 5))
    finally:
        await aio.async_close()
    return samples


async def fresh_processes(kind: str, name: str, samples: Samples, times: int) -> None:
    for _ in range(times):
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--role", f"get_{kind}", "--name", name, stdout=subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        called, found, _ = map(float, output.split())
        samples["first get"].append((found - called) * 1000)
        samples["fresh process"].append((found - begun) * 1000)


def summary(samples: list[float]) -> dict[str, float]:
    quantiles = statistics.quantiles(samples, n=20)
    return {"p50": round(statistics.median(samples), 2), "p95": round(quantiles[18], 2), "n": len(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", choices=sorted(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        asyncio.run(ROLES[arguments.role](arguments.name))
        return
    results = {
        kind: {what: summary(samples) for what, samples in asyncio.run(measure(arguments.rounds, FRESH)).items()}
        for kind, measure in (("microreg", measure_microreg), ("zeroconf", measure_zeroconf))
    }
    say(f"{'ms':15}{'microreg p50':>14}{'p95':>10}{'zeroconf p50':>14}{'p95':>10}")
    for what, ours in results["microreg"].items():
        raw = results["zeroconf"][what]
        say(f"{what:15}{ours['p50']:14.2f}{ours['p95']:10.2f}{raw['p50']:14.2f}{raw['p95']:10.2f}")
    text = json.dumps({"mdns": results}, indent=2)
    say(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


ROLES = {role.__name__: role for role in (listen_microreg, listen_zeroconf, get_microreg, get_zeroconf)}

if __name__ == "__main__":
    main()
