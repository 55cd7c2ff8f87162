"""srsr's own client, unmodified, and `microreg serve` in the place of srsr; also over restarts, with `--state`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from srsrpy import ServiceRegistryClient  # type: ignore[import-untyped]

from microreg import connect
from microreg.testing import ServerProcess
from servers import microreg_server
from support import clean_env, run

ADDRESS = "http://10.0.0.7:8080"
BEAT = 1


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """srsrpy's requests stay on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[ServerProcess]:
    with microreg_server("--srsr-timeout", "5s") as server:
        yield server


def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


def ask(server: ServerProcess, path: str, **members: str) -> dict[str, object]:
    """The answer to a request, as a client in another language would send it."""
    request = Request(url(server) + path, json.dumps(members).encode() if members else None)
    with build_opener(ProxyHandler({})).open(request, timeout=20) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def lookup(server: ServerProcess, name: str) -> object:
    """The address found, or nothing."""
    return ask(server, "/lookup", name=name)["address"]


def until(condition: Callable[[], bool], timeout: float = 40.0) -> None:
    """Wait until the function says True."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.05)


@contextmanager
def registered(server: ServerProcess, name: str, address: str = ADDRESS, port: str = "") -> Generator[str]:
    """srsrpy's client, from registering to leaving: its id."""
    client = ServiceRegistryClient(
        name,
        registry_address=url(server),
        service_address=address,
        service_port=port,
        heartbeat_interval=BEAT,
    )
    with client:
        yield str(client.client_id)


def test_the_client_registers_beats_and_leaves(server: ServerProcess) -> None:
    with registered(server, "greeter") as id:
        assert lookup(server, "greeter") == ADDRESS
        began = time.monotonic()
        while time.monotonic() < began + 6:  # longer than it would live without its heartbeats
            assert lookup(server, "greeter") == ADDRESS
            time.sleep(0.2)

        async def native() -> None:
            async with connect(url(server)) as registry:
                [service] = await registry.get_service("greeter")
                assert [(node.id, node.address) for node in service.nodes] == [(id, "10.0.0.7:8080")]

        run(native())
        with registered(server, "greeter", "", "8081"):
            until(lambda: lookup(server, "greeter") == "http://127.0.0.1:8081")
        assert {lookup(server, "greeter") for _ in range(20)} == {ADDRESS}
    assert lookup(server, "greeter") == ""


def test_a_client_that_dies_is_forgotten(server: ServerProcess) -> None:
    code = (
        "import os, sys; from srsrpy import ServiceRegistryClient\n"
        f"client = ServiceRegistryClient('mortal', registry_address=sys.argv[1], service_address={ADDRESS!r})\n"
        "assert client.register(); os._exit(9)"
    )
    env = clean_env(NO_PROXY="127.0.0.1")
    done = subprocess.run([sys.executable, "-c", code, url(server)], env=env, timeout=30, check=False)
    assert done.returncode == 9
    until(lambda: lookup(server, "mortal") == "")


def test_what_the_client_reads_of_its_environment(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRSR_REGISTRY_URL", url(server))
    monkeypatch.setenv("SRSR_SERVICE_NAME", "settled")
    monkeypatch.setenv("SRSR_SERVICE_ADDRESS", ADDRESS)
    monkeypatch.setenv("SRSR_HEARTBEAT_INTERVAL", "1")
    with ServiceRegistryClient.from_env():
        assert lookup(server, "settled") == ADDRESS


def test_a_client_is_refused_as_srsr_refuses_it(server: ServerProcess) -> None:
    with pytest.raises(RuntimeError, match="Failed to register"), registered(server, "greeter", "10.0.0.1:80"):
        pass
    with pytest.raises(HTTPError) as error:
        ask(server, "/register", name="")
    assert error.value.code == 400
    error.value.close()


def test_clients_survive_restarts_and_crashes_of_the_server() -> None:
    arguments = "--state", "state", "--srsr-timeout", "20s"
    with microreg_server(*arguments) as server, registered(server, "greeter") as id:
        assert ask(server, "/heartbeat", id=id) == {"success": True}
        server.stop()
        server.start()
        assert lookup(server, "greeter") == ADDRESS
        assert ask(server, "/heartbeat", id=id) == {"success": True}
        until(lambda: b"renewed" in (server.folder / "state").read_bytes())
        server.restart()  # kill -9
        assert lookup(server, "greeter") == ADDRESS
        assert ask(server, "/heartbeat", id=id) == {"success": True}
        until(lambda: "greeter" in str(ask(server, "/v1/services")))
        assert (server.folder / "state").stat().st_mode & 0o777 == 0o600


def test_without_state_a_client_is_told_that_it_is_forgotten() -> None:
    with microreg_server() as server, registered(server, "greeter") as id:
        server.restart()
        assert ask(server, "/heartbeat", id=id) == {"success": False}
        assert lookup(server, "greeter") == ""
