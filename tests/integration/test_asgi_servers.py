"""Applications under real servers, which are told to stop while others call them: no call fails."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from microreg import Change, Node, Snapshot, Status, Watch, connect
from microreg.testing.ports import reserve_port
from support import clean_env, run, wait_until

MDNS = "mdns://127.0.0.1"

PLAIN = """
import asyncio, os
from microreg.integrations.asgi import Announced

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

app = Announced(app, os.environ["NAME"], drain_delay=float(os.environ["DRAIN"]))
"""

STARLETTE = """
import asyncio, contextlib, os
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from microreg.integrations.asgi import Announced

async def respond(request):
    if request.url.path == "/slow":
        await asyncio.sleep(3)
    return PlainTextResponse(str(os.getpid()), headers={"connection": "close"})

@contextlib.asynccontextmanager
async def lifespan(app):
    Path(f"started.{os.getpid()}").touch()
    yield
    Path(f"stopped.{os.getpid()}").touch()

app = Starlette(routes=[Route("/", respond), Route("/slow", respond)], lifespan=lifespan)
app.add_middleware(Announced, service=os.environ["NAME"], drain_delay=float(os.environ["DRAIN"]))
"""

UVICORN = "-m uvicorn app:app --port {port}"
HYPERCORN = "-m hypercorn app:app --bind 127.0.0.1:{port}"
GRANIAN = "-m granian app:app --interface asgi --port {port}"
GUNICORN = "-m gunicorn app:app --worker-class asgi --no-control-socket --bind 127.0.0.1:{port}"
SERVER, EVERYBODY = os.kill, os.killpg
"""Who gets the signal: the first process, or its workers too, as from a service manager or a terminal."""


class Caller:
    """Calls the nodes that the registry tells, one connection for each call, and notes what fails.

    A node that has just left is called once more: its server must not have begun to stop.
    """

    def __init__(self, attempts: int = 1) -> None:
        self.attempts = attempts
        self.nodes: dict[str, Node] = {}
        self.seen: set[str] = set()
        self.left: set[str] = set()
        self.fewest = 0
        self.answers = 0
        self.failures: list[str] = []
        seed = random.randrange(1 << 32)
        sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
        self._rng = random.Random(seed)

    async def follow(self, events: Watch) -> None:
        async for event in events:
            assert isinstance(event, Change)
            node = event.node
            if event.action == "delete":
                self.nodes.pop(node.id, None)
                self.left.add(node.id)
                await self.call(node, "/")
            elif node.status is Status.PASSING:
                self.nodes[node.id] = node
                self.seen.add(node.id)
            else:
                self.nodes.pop(node.id, None)
            self.fewest = min(self.fewest, len(self.nodes))

    async def call_on(self) -> None:
        while True:
            if self.nodes:
                await self.call(self.any(), "/")
            await asyncio.sleep(0.005)

    def any(self) -> Node:
        return self._rng.choice(list(self.nodes.values()))

    async def call(self, node: Node, path: str) -> None:
        for left in reversed(range(self.attempts)):
            try:
                await get(node, path)
            except Exception as error:
                if not left:
                    self.failures.append(f"{path} of {node.id}, which has left: {node.id in self.left}: {error!r}")
            else:
                self.answers += 1
                break

    async def some(self) -> None:
        """Wait for some more answers."""
        enough = self.answers + 20
        await wait_until(lambda: self.answers >= enough, 60)


async def get(node: Node, path: str) -> str:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(node.host, node.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {node.host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body, answer
    return body.decode()


@asynccontextmanager
async def calling(name: str, attempts: int = 1) -> AsyncGenerator[Caller]:
    caller = Caller(attempts)
    async with connect(MDNS) as registry, registry.watch(name) as events:
        assert await anext(events) == Snapshot()
        tasks = [asyncio.create_task(caller.follow(events))]
        tasks += [asyncio.create_task(caller.call_on()) for _ in range(3)]
        try:
            yield caller
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@asynccontextmanager
async def serving(folder: Path, command: str, app: str, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A server of an application; at the end it is killed, with its workers, and what it said is printed."""
    (folder / "app.py").write_text(app, encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command.split(),
            cwd=folder,
            env=clean_env(MICROREG_REGISTRY=MDNS, PYTHONUNBUFFERED="1", **env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            lines = log_of(folder).splitlines(keepends=True)
            sys.stdout.writelines(line for line in lines if "200 OK" not in line)


def log_of(folder: Path) -> str:
    return (folder / "log").read_text(encoding="utf-8", errors="replace")


def lifespans(folder: Path) -> tuple[int, int]:
    """How many lifespans of the application have started and stopped."""
    return len(list(folder.glob("started.*"))), len(list(folder.glob("stopped.*")))


def unique() -> str:
    return f"asgi-{os.urandom(5).hex()}"


@pytest.mark.parametrize(
    ("command", "workers", "app", "told"),
    [
        pytest.param(UVICORN, 1, STARLETTE, SERVER, id="uvicorn"),
        pytest.param(f"{UVICORN} --workers 2", 2, PLAIN, SERVER, id="uvicorn, workers"),
        pytest.param(f"{UVICORN} --workers 2", 2, PLAIN, EVERYBODY, id="uvicorn, all"),
        pytest.param(f"{UVICORN} --reload", 1, PLAIN, EVERYBODY, id="uvicorn, reload"),
        pytest.param(HYPERCORN, 1, PLAIN, SERVER, id="hypercorn"),
        pytest.param(f"{HYPERCORN} --workers 2", 2, STARLETTE, SERVER, id="hypercorn, workers"),
        pytest.param(GRANIAN, 1, STARLETTE, SERVER, id="granian"),
        pytest.param(f"{GRANIAN} --workers 2", 2, PLAIN, EVERYBODY, id="granian, workers"),
        pytest.param(f"{GUNICORN} --workers 2", 2, STARLETTE, SERVER, id="gunicorn, workers"),
    ],
)
def test_no_call_fails_when_a_server_stops(
    command: str, workers: int, app: str, told: Callable[[int, int], None], tmp_path: Path
) -> None:
    async def main() -> None:
        name = unique()
        async with calling(name) as caller:
            command_line = command.format(port=reserve_port(caller))
            async with serving(tmp_path, command_line, app, NAME=name, DRAIN="2") as process:
                await wait_until(lambda: len(caller.nodes) == workers, 60)
                await caller.some()
                slow = asyncio.create_task(caller.call(caller.any(), "/slow"))
                await caller.some()
                told(process.pid, signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 60)
                await slow
            assert caller.failures == []
            await wait_until(lambda: caller.left == caller.seen and len(caller.seen) == workers)
            if app is STARLETTE:
                assert lifespans(tmp_path) == (workers, workers)

    run(main())


def test_workers_that_are_replaced_one_by_one_leave_no_gap(tmp_path: Path) -> None:
    """The others have the same address, so calls go on, and uvicorn resets connections that it has just accepted."""

    async def main() -> None:
        name = unique()
        async with calling(name, attempts=2) as caller:
            command = f"{UVICORN} --workers 2 --timeout-worker-healthcheck 60".format(port=reserve_port(caller))
            async with serving(tmp_path, command, STARLETTE, NAME=name, DRAIN="0.5") as process:
                await wait_until(lambda: len(caller.nodes) == 2, 60)
                await caller.some()
                caller.fewest = 2
                process.send_signal(signal.SIGHUP)
                await wait_until(lambda: len(caller.seen) == 4 and len(caller.left) == 2, 60)
                await caller.some()
                assert caller.failures == [] and caller.fewest >= 1
                assert caller.nodes.keys() == caller.seen - caller.left

    run(main())


def test_a_reloaded_application_is_another_node(tmp_path: Path) -> None:
    async def main() -> None:
        name = unique()
        async with calling(name) as caller:
            command = f"{UVICORN} --reload".format(port=reserve_port(caller))
            async with serving(tmp_path, command, PLAIN, NAME=name, DRAIN="0.5"):
                await wait_until(lambda: caller.nodes, 60)
                (old,) = caller.nodes.values()
                await wait_until(lambda: _touched(tmp_path / "app.py") and caller.left, 60, step=0.5)
                await wait_until(lambda: caller.nodes, 60)
                (new,) = caller.nodes.values()
                assert new.id != old.id and new.address == old.address
                await caller.some()
                assert caller.failures == []

    run(main())


def _touched(path: Path) -> bool:
    path.touch()
    return True


def test_a_second_ctrl_c_ends_the_draining(tmp_path: Path) -> None:
    async def main() -> None:
        name = unique()
        async with calling(name) as caller:
            command = UVICORN.format(port=reserve_port(caller))
            async with serving(tmp_path, command, STARLETTE, NAME=name, DRAIN="600") as process:
                await wait_until(lambda: caller.nodes, 60)
                process.send_signal(signal.SIGINT)
                await wait_until(lambda: caller.left, 60)
                assert process.returncode is None
                process.send_signal(signal.SIGINT)
                await asyncio.wait_for(process.wait(), 60)

    run(main())


def test_a_port_of_another_program_is_never_announced(tmp_path: Path) -> None:
    async def main() -> None:
        name = unique()
        async with calling(name) as caller, _somebody(caller) as port:
            command = UVICORN.format(port=port)
            async with serving(tmp_path, command, STARLETTE, NAME=name, DRAIN="0") as process:
                assert await asyncio.wait_for(process.wait(), 60) != 0
            await wait_until(lambda: "address already in use" in log_of(tmp_path))
            assert lifespans(tmp_path) == (1, 1)
            assert caller.seen == set()

    run(main())


@asynccontextmanager
async def _somebody(owner: object) -> AsyncGenerator[int]:
    """Accepts connections on a port, and says nothing."""
    port = reserve_port(owner)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()
