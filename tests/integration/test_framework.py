"""examples/framework, a service framework that embeds microreg: the same fleet on every registry, by one string."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pytest

import microreg
from microreg.testing import ServerProcess
from servers import etcd
from support import ROOT, clean_env, run

EXAMPLE = ROOT / "examples" / "framework"


@pytest.fixture(scope="module", name="server")
def _server() -> Generator[ServerProcess]:
    with etcd("framework") as server:
        yield server


@pytest.fixture(name="framework")
def _framework(monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("framework")
    del sys.modules["framework"]


@pytest.fixture(params=["memory", "mdns", "etcd"])
def registry(request: pytest.FixtureRequest) -> str:
    """A config string of this kind, where no other test's services are."""
    apart = f"t{os.urandom(4).hex()}"
    if request.param == "mdns":
        return f"namespace+mdns://127.0.0.1?namespace.prefix={apart}"
    if request.param == "etcd":
        return f"etcd://127.0.0.1:{request.getfixturevalue('server').port}/{apart}"
    return f"memory://{apart}"


@contextmanager
def program(role: str, registry: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, str(EXAMPLE / "shop.py"), role, registry]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_env()
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def ended(running: subprocess.Popen[str]) -> str:
    """What it printed, of a program that ends by itself and well."""
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 0 and errors == "", f"exit code {running.returncode}\n{output}\n{errors}"
    return output.strip()


def test_it_is_short() -> None:
    lines = [line for line in (EXAMPLE / "framework.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 125


def test_everything_in_one_process(registry: str) -> None:
    with program("all", registry) as running:
        assert ended(running) == "spoon: ordered, 5 left"


def test_as_the_readme_says() -> None:
    command = [sys.executable, str(EXAMPLE / "shop.py")]
    done = subprocess.run([*command, "all"], capture_output=True, text=True, env=clean_env(), timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "spoon: ordered, 5 left\n", "")
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), timeout=30)
    assert done.returncode == 1 and done.stderr == "no role '': expected all, client, orders or stock\n"


@pytest.mark.parametrize("registry", ["mdns", "etcd"], indirect=True)
def test_a_fleet_of_processes(registry: str) -> None:
    """A client finds the others, one of two is told to stop, and then a second client finds the one that stays."""
    with program("orders", registry) as one, program("orders", registry) as two, program("stock", registry) as stock:
        with program("client", registry) as client:
            assert ended(client) == "spoon: ordered, 5 left"
        one.send_signal(signal.SIGTERM)
        assert ended(one) == ""
        with program("client", registry) as client:
            assert ended(client) == "spoon: ordered, 5 left"
        for each in (two, stock):
            each.send_signal(signal.SIGINT)
            assert ended(each) == ""


def test_hooks_run_around_what_they_are_named_after(framework: Any, registry: str) -> None:
    seen: list[tuple[str, bool]] = []

    async def main() -> None:
        async with microreg.connect(registry) as others:
            server = framework.Server("greeter", registry=registry, ttl=5, interval=1)
            started = asyncio.Event()

            async def note(hook: str) -> None:
                try:
                    nodes = [node for each in await others.get_service("greeter") for node in each.nodes]
                except microreg.ServiceNotFound:
                    nodes = []
                seen.append((hook, any(node.status.selectable for node in nodes)))
                if hook == "after_start":
                    started.set()

            for hook in ("before_start", "after_start", "before_stop", "after_stop"):
                getattr(server, hook).append(partial(note, hook))
            async with asyncio.TaskGroup() as group:
                group.create_task(server.run())
                async with asyncio.timeout(20):
                    await started.wait()
                server.stopping.set()

    run(main())
    assert seen == [("before_start", False), ("after_start", True), ("before_stop", True), ("after_stop", False)]


def test_what_goes_wrong_in_an_endpoint_is_told_to_the_caller(framework: Any, registry: str) -> None:
    async def main() -> None:
        async def hello(name: str) -> str:
            if not name:
                raise ValueError("nobody to greet")
            return f"hello {name}"

        server = framework.Server("greeter", registry=registry)
        server.endpoint(hello)
        async with microreg.connect(registry), asyncio.TaskGroup() as group:
            group.create_task(server.run())
            async with framework.Client(registry) as client:
                assert await client.call("greeter", "hello", name="Ada") == "hello Ada"
                with pytest.raises(framework.CallError, match="ValueError: nobody to greet"):
                    await client.call("greeter", "hello", name="")
                with pytest.raises(framework.CallError, match="TypeError"):
                    await client.call("greeter", "hello", nobody="")
                with pytest.raises(framework.CallError, match="KeyError: 'bye'"):
                    await client.call("greeter", "bye")
            server.stopping.set()

    run(main())
