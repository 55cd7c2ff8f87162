"""The ASGI integration, with a server that only speaks the lifespan protocol, and sockets that really listen.

Time is virtual.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.testclient import TestClient

import announcing
from microreg import Node, Registry, ServiceNotFound, connect
from microreg.checked import Checked
from microreg.integrations.asgi import Announced, ASGIApp, Message, Options, Receive, Scope, Send, announcer, lifespan
from support import ROOT, wait_until
from timeless import run

Nodes = Callable[[], Coroutine[object, object, list[Node]]]
COMPLETE = {"type": "lifespan.startup.complete"}


class Server:
    """Runs the lifespan of an application as a server does, and keeps what it is told."""

    def __init__(self, app: ASGIApp) -> None:
        self.sent: list[Message] = []
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.ensure_future(app(scope, self._events.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def start(self) -> None:
        self._events.put_nowait({"type": "lifespan.startup"})
        await wait_until(lambda: self.sent or self.task.done())

    async def stop(self) -> None:
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self.task

    def types(self) -> list[object]:
        return [message["type"] for message in self.sent]


class App:
    """An application with a lifespan of its own, which notes what it sees."""

    def __init__(self, noticed: Nodes | None = None) -> None:
        self.seen: list[object] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self._noticed = noticed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["type"])
        if scope["type"] != "lifespan":
            return
        for event in ("startup", "shutdown"):
            self.seen.append((await receive())["type"])
            await self.may_start.wait()
            if self._noticed is not None:
                self.seen.append(await self._noticed())
            await send({"type": f"lifespan.{event}.complete"})


async def without(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that knows no lifespan, and says so as the specification asks for."""
    raise NotImplementedError(scope["type"])


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers a lifespan with nothing."""


async def appeared(nodes: Nodes) -> Node:
    """The only node of ``orders``, once there is one."""
    found: list[Node] = await wait_until(lambda: nodes())
    (node,) = found
    return node


def announced(app: Announced) -> str:
    """The id of its node, empty without an announcement."""
    return "" if app.announcement is None else app.announcement.node.id


@contextmanager
def listening(host: str = "127.0.0.1") -> Generator[int]:
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.listen()
        yield sock.getsockname()[1]


@asynccontextmanager
async def store() -> AsyncGenerator[tuple[str, Nodes]]:
    """A registry of this process: its config string, and what the nodes of ``orders`` are in it."""
    url = f"memory://asgi-{os.urandom(5).hex()}"
    async with connect(url) as registry:

        async def nodes() -> list[Node]:
            try:
                return [node for service in await registry.get_service("orders") for node in service.nodes]
            except ServiceNotFound:
                return []

        yield url, nodes


def test_it_is_announced_when_the_application_has_started_and_the_server_listens() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = sock.getsockname()[1]
                inner = App()
                inner.may_start.clear()
                app = Announced(inner, "orders", registry=url, port=port, metadata={"zone": "a"}, drain_delay=0)
                server = Server(app)
                starting = asyncio.create_task(server.start())
                await wait_until(lambda: inner.seen == ["lifespan", "lifespan.startup"])
                inner.may_start.set()
                await starting
                assert server.sent == [COMPLETE] and announced(app) == "" and await nodes() == []
                sock.listen()
                node = await appeared(nodes)
                assert node.address == f"127.0.0.1:{port}" and node.metadata == {"zone": "a"}
                assert announced(app) == node.id
                await server.stop()
                assert await nodes() == []

    run(main())


def test_a_socket_that_listens_already_does_not_make_an_application_ready() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                inner = App()
                inner.may_start.clear()
                server = Server(Announced(inner, "orders", registry=url, port=port, drain_delay=0))
                starting = asyncio.create_task(server.start())
                await wait_until(lambda: inner.seen == ["lifespan", "lifespan.startup"])
                await asyncio.sleep(0.25)  # two looks at the sockets, if it looked
                assert await nodes() == []
                inner.may_start.set()
                await starting
                await appeared(nodes)
                await server.stop()

    run(main())


def test_it_has_left_when_the_application_hears_of_the_end() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                inner = App(nodes)
                server = Server(Announced(inner, "orders", registry=url, port=port, drain_delay=0))
                await server.start()
                await appeared(nodes)
                await server.stop()
                assert inner.seen == ["lifespan", "lifespan.startup", [], "lifespan.shutdown", []]
                assert server.types() == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main())


def test_a_registry_may_be_the_applications_own() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                registry = connect(url)

                @asynccontextmanager
                async def opened(app: Starlette) -> AsyncGenerator[None]:
                    async with registry:
                        yield
                        assert await nodes() == []
                        assert await registry.list_services() == ()

                starlette = Starlette(lifespan=opened)
                server = Server(Announced(starlette, "orders", registry=registry, port=port, drain_delay=0))
                await server.start()
                await appeared(nodes)
                await server.stop()
                assert server.types() == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main())


def test_a_failing_startup_is_the_servers_to_report() -> None:
    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncGenerator[None]:
        if not app.routes:
            raise OSError("no database")
        yield

    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(Starlette(lifespan=broken), "orders", registry=url, port=port)
                server = Server(app)
                await server.start()
                with pytest.raises(OSError, match="no database"):
                    await server.task
                assert server.types() == ["lifespan.startup.failed"]
                assert "no database" in str(server.sent[0]["message"])
                assert app.announcement is None and await nodes() == []

    run(main())


def test_a_failing_shutdown_is_the_servers_to_report_and_comes_after_the_draining() -> None:
    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncGenerator[None]:
        yield
        raise OSError("no database")

    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(Starlette(lifespan=broken), "orders", registry=url, port=port, drain_delay=0)
                server = Server(app)
                await server.start()
                await appeared(nodes)
                with pytest.raises(OSError, match="no database"):
                    await server.stop()
                assert server.types() == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
                assert await nodes() == []

    run(main())


@pytest.mark.parametrize("inner", [without, silent])
def test_an_application_without_a_lifespan_is_announced_and_the_server_learns_that_it_has_none(inner: ASGIApp) -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(inner, "orders", registry=url, port=port, drain_delay=0)
                server = Server(app)
                await server.start()
                assert server.sent == [] and server.task.done()
                assert isinstance(server.task.exception(), NotImplementedError if inner is without else type(None))
                await appeared(nodes)
                await app.drain()
                assert await nodes() == []

    run(main())


def test_a_cancelled_lifespan_still_drains() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                server = Server(Announced(App(), "orders", registry=url, port=port, drain_delay=0.05))
                await server.start()
                await appeared(nodes)
                server.task.cancel()
                await asyncio.wait([server.task])
                assert server.task.cancelled() and await nodes() == []

    run(main())


def test_a_cancelled_shutdown_still_drains() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(App(), "orders", registry=url, port=port, drain_delay=0.1)
                server = Server(app)
                await server.start()
                await appeared(nodes)
                stopping = asyncio.create_task(app.drain())
                await wait_until(lambda: app.announcement is not None and app.announcement.state == "draining")
                stopping.cancel()
                await asyncio.wait([stopping])
                assert stopping.cancelled() and await nodes() == []
                await server.stop()

    run(main())


def test_a_second_cancellation_ends_the_draining() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(App(), "orders", registry=url, port=port, drain_delay=600)
                server = Server(app)
                await server.start()
                await appeared(nodes)
                begun = announcing.now()
                stopping = asyncio.create_task(app.drain())
                for seconds in (10, 20):
                    await asyncio.sleep(10)
                    assert announcing.now() - begun == pytest.approx(seconds, abs=1) and not stopping.done()
                    stopping.cancel()
                await asyncio.wait([stopping], timeout=1)
                assert stopping.cancelled() and await nodes() == []
                await server.stop()

    run(main())


def test_a_registry_that_hangs_holds_the_server_up_for_the_stop_budget_only() -> None:
    async def main() -> None:
        async with announcing.opened() as (registry, behind):
            with listening() as port:
                app = Announced(App(), "orders", registry=registry, port=port)
                server = Server(app)
                await server.start()
                await wait_until(lambda: app.announcement is not None and app.announcement.state == "live")
                behind.fault = announcing.hangs
                begun = announcing.now()
                await server.stop()
                assert announcing.now() - begun == pytest.approx(5.0, abs=0.1)

    run(main())


@pytest.mark.parametrize("impatient", [False, True])
def test_the_server_gets_its_signal_when_all_is_drained(impatient: bool) -> None:
    got: list[float] = []

    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                app = Announced(App(), "orders", registry=url, port=port, drain_delay=600)
                server = Server(app)
                await server.start()
                await appeared(nodes)
                begun = announcing.now()
                signal.raise_signal(signal.SIGTERM)
                await asyncio.sleep(500)
                assert got == [] and await nodes() == []
                if impatient:
                    signal.raise_signal(signal.SIGTERM)
                await server.stop()
                assert announcing.now() - begun == pytest.approx(500 if impatient else 600, abs=1)
                assert len(got) == (2 if impatient else 1)

    before = signal.signal(signal.SIGTERM, lambda *_: got.append(announcing.now()))
    try:
        run(main())
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("service", "registry", "options", "expected"),
    [
        ("or ders", "memory://", {}, "or ders"),
        ("orders", "nothing://", {}, "nothing"),
        ("orders", "memory://", {"port": 0}, "port 0: expected a number from 1 to 65535"),
        ("orders", "memory://", {"address": "10.0.0.7:80", "port": 80}, "leave out port=80"),
        ("orders", "memory://", {"ttl": 0}, "ttl"),
        ("orders", "memory://", {"drain_delay": -1}, "drain_delay"),
        ("orders", "memory://", {"check": "ftp://here"}, "expected http://"),
        ("orders", "memory://", {"metadata": {"a b": ""}}, "a b"),
        ("orders", "memory://", {"metadata": 7}, "expected a mapping of str to str"),
        ("orders", "memory://", {"endpoints": 7}, "expected a list, tuple or other iterable"),
    ],
)
def test_what_is_wrong_stops_the_server_when_it_starts(
    service: str, registry: str, options: Options, expected: str
) -> None:
    async def main() -> None:
        inner = App()
        server = Server(Announced(inner, service, registry=registry, **options))
        await server.start()
        await server.task
        assert inner.seen == [] and server.types() == ["lifespan.startup.failed"]
        assert expected in str(server.sent[0]["message"])
        assert str(server.sent[0]["message"]).startswith(f"{service} cannot be announced: ")

    run(main())


def test_a_misspelt_option_of_a_middleware_stops_the_server() -> None:
    """A framework makes its middleware only when the server runs: an error there would pass for no lifespan at all."""

    async def main() -> None:
        server = Server(Announced(App(), "orders", prot=8000))  # type: ignore[call-arg]
        await server.start()
        await server.task
        assert server.types() == ["lifespan.startup.failed"]
        assert "unexpected option 'prot'; known are registry, port" in str(server.sent[0]["message"])

    run(main())


def test_what_goes_wrong_in_a_plugin_is_no_application_without_a_lifespan(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(url: object) -> Registry:
        raise RuntimeError("no such file")

    async def main() -> None:
        monkeypatch.setattr(announcer, "connect", broken)
        server = Server(Announced(App(), "orders"))
        await server.start()
        await server.task
        assert server.types() == ["lifespan.startup.failed"]
        assert server.sent[0]["message"] == "orders cannot be announced: RuntimeError: no such file"

    run(main())


def test_an_unknown_option_is_told_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match="unexpected option 'prot'; known are registry, port, address, id, version"):
        Announced(without, "orders", prot=8000)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected option 'prot'"):
        lifespan("orders", prot=8000)  # type: ignore[call-overload]


def test_a_port_on_which_nobody_listens_is_told_once_and_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                free = port - 1 if port > 1 else port + 1
                server = Server(Announced(App(), "orders", registry=url, port=free))
                await server.start()
                await wait_until(lambda: caplog.records)
                await asyncio.sleep(0.25)  # two more looks
                assert await nodes() == []
                await server.stop()
                (text,) = [record.getMessage() for record in caplog.records]
                assert text.startswith(f"orders is not announced so far: port={free}, but this process listens on ")
                assert f"port {port}" in text

    run(main())


@pytest.mark.parametrize("told", [None, "127.0.0.1"])
def test_a_server_that_only_this_machine_can_reach_is_not_announced_to_others(
    told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        behind = announcing.Store()
        behind.host = "10.0.0.7"
        async with Checked(behind) as registry:
            with listening() as port:
                app = Announced(App(), "orders", registry=registry, port=port, address=told, drain_delay=0)
                server = Server(app)
                await server.start()
                if told is None:
                    await wait_until(lambda: "127.0.0.1 only, where other machines cannot reach it" in caplog.text)
                    assert behind.calls == []
                else:
                    await wait_until(lambda: behind.calls)
                    assert behind.calls[0][2].nodes[0].address == f"127.0.0.1:{port}"
                await server.stop()

    run(main())


@pytest.mark.parametrize(
    ("bound", "known", "announced"),
    [("0.0.0.0", "10.0.0.7", "10.0.0.7"), ("127.0.0.1", "127.0.0.1", "127.0.0.1")],
)
def test_the_address_is_where_others_reach_the_socket(bound: str, known: str, announced: str) -> None:
    async def main() -> None:
        behind = announcing.Store()
        behind.host = known
        async with Checked(behind) as registry:
            with listening(bound) as port:
                server = Server(Announced(App(), "orders", registry=registry, port=port, drain_delay=0))
                await server.start()
                await wait_until(lambda: behind.calls)
                assert behind.calls[0][2].nodes[0].address == f"{announced}:{port}"
                await server.stop()

    run(main())


def test_a_complete_address_is_announced_as_it_is() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening():
                server = Server(Announced(App(), "orders", registry=url, address="10.1.2.3:443", drain_delay=0))
                await server.start()
                node = await appeared(nodes)
                assert node.address == "10.1.2.3:443"
                await server.stop()

    run(main())


def test_requests_go_through_untouched() -> None:
    async def main() -> None:
        seen: list[object] = []

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend([scope, receive, send])

        async def receive() -> Message:
            return {}

        async def send(message: Message) -> None:
            seen.append(message)

        for kind in ("http", "websocket"):
            scope: Scope = {"type": kind}
            await Announced(inner, "orders")(scope, receive, send)
            assert seen == [scope, receive, send]
            seen.clear()

    run(main())


def test_a_server_without_lifespans_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = Announced(silent, "orders")

        async def receive() -> Message:
            return {}

        async def send(message: Message) -> None: ...

        for _ in range(2):
            await app({"type": "http", "asgi": {"version": "3.0"}}, receive, send)
        await app.drain()
        assert app.announcement is None

    run(main())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "does not run the lifespan" in record.getMessage()


def test_a_test_client_announces_nothing() -> None:
    app = Announced(Starlette(), "orders", registry="nothing://")
    with TestClient(app) as client:
        assert client.get("/").status_code == 404
    assert app.announcement is None


@asynccontextmanager
async def database(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    yield {"database": "open"}


def with_middleware(url: str, port: int) -> ASGIApp:
    app = FastAPI(lifespan=database)
    app.add_middleware(Announced, service="orders", registry=url, port=port, drain_delay=0)
    return app


def with_lifespan(url: str, port: int) -> ASGIApp:
    return FastAPI(lifespan=lifespan("orders", database, registry=url, port=port, drain_delay=0))


def with_only_ours(url: str, port: int) -> ASGIApp:
    return Starlette(lifespan=lifespan("orders", registry=url, port=port, drain_delay=0))


@pytest.mark.parametrize("made", [with_middleware, with_lifespan, with_only_ours])
def test_the_ways_of_frameworks(made: Callable[[str, int], ASGIApp]) -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            with listening() as port:
                server = Server(made(url, port))
                await server.start()
                assert server.sent == [COMPLETE]
                await appeared(nodes)
                await server.stop()
                assert await nodes() == [] and server.types()[1:] == ["lifespan.shutdown.complete"]

    run(main())


def test_a_lifespan_has_left_before_its_inner_one_ends() -> None:
    async def main() -> None:
        async with store() as (url, nodes):
            order: list[object] = []

            @asynccontextmanager
            async def inner(app: str) -> AsyncGenerator[str]:
                order.append(app)
                yield "state"
                order.append(await nodes())

            with listening() as port:
                combined: Callable[[str], AbstractAsyncContextManager[str]] = lifespan(
                    "orders", inner, registry=url, port=port, drain_delay=0
                )
                async with combined("app") as state:
                    assert state == "state"
                    await appeared(nodes)
            assert order == ["app", []]

    run(main())


def test_a_registry_that_is_not_open_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main(registry: Registry) -> None:
        with listening() as port:
            server = Server(Announced(App(), "orders", registry=registry, port=port))
            await server.start()
            await wait_until(lambda: "orders is not announced: " in caplog.text)
            await server.stop()
            assert server.types() == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main(connect("memory://")))


def test_the_example_is_what_the_guide_shows_and_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "examples" / "asgi" / "orders.py").read_text(encoding="utf-8")
    assert f"```python\n{text}```\n" in (ROOT / "docs" / "howto" / "asgi.md").read_text(encoding="utf-8")
    space: dict[str, FastAPI] = {"__name__": "orders"}  # type: ignore[dict-item]
    exec(text, space)

    async def main() -> None:
        async with store() as (url, nodes):
            monkeypatch.setenv("MICROREG_REGISTRY", url)
            with listening() as port:
                monkeypatch.setenv("PORT", str(port))
                server = Server(space["app"])
                await server.start()
                node = await appeared(nodes)
                assert node.address == f"127.0.0.1:{port}"
                await server.stop()

    run(main())
