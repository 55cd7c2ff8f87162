"""integrations.httpx and its twin for httpx2, async and for threads: real requests to real servers."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import ssl
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx
import httpx2
import pytest
import trustme

import microreg
from microreg import ConfigError, NoNodeAvailable, Selector, connect, sync
from microreg.integrations import httpx as for_httpx
from microreg.integrations import httpx2 as for_httpx2
from microreg.selector import RetryBudget
from microreg.selector.explain import Standing
from microreg.selector.strategies import Key
from support import ROOT, run, wait_until
from web import Web

T = TypeVar("T")
_PLAIN: dict[str, Any] = {"follow_redirects": True, "trust_env": False, "verify": False}
"""Verifying means to load all certificate authorities of the world, for each client."""
_BARE: dict[str, Any] = {"verify": False}
KINDS = {
    "httpx": (httpx, for_httpx, False),
    "httpx-threads": (httpx, for_httpx, True),
    "httpx2": (httpx2, for_httpx2, False),
    "httpx2-threads": (httpx2, for_httpx2, True),
}


@dataclass
class Caller:
    """A client of one of the libraries, whose ``.microreg`` hosts are these servers'; calls block."""

    library: Any
    client: Any
    selector: Any
    execute: Callable[[Callable[[], Any]], Any]

    def request(self, method: str, url: str, **options: Any) -> Any:
        return self.execute(lambda: self.client.request(method, url, **options))

    def get(self, url: str, **options: Any) -> Any:
        return self.request("GET", url, **options)

    def standing(self, name: str = "orders") -> dict[str, Standing]:
        """How each node stands, by address."""

        async def explain() -> dict[str, Standing]:
            return {each.node.address: each for each in self.selector.explain(name).nodes}

        if isinstance(self.selector, sync.Selector):
            return {each.node.address: each for each in self.selector.explain(name).nodes}
        found: dict[str, Standing] = self.execute(explain)
        return found

    def hears(self, expected: Callable[[dict[str, int]], bool]) -> bool:
        """Whether this is soon true of the failures by address: reports of threads go through the selector's loop."""
        deadline = time.monotonic() + 5
        while not (heard := expected({address: each.failures for address, each in self.standing().items()})):
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
        return heard


@pytest.fixture(params=list(KINDS), name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def calling(
    kind: str, *servers: Web | str, transport: dict[str, Any] | None = _BARE, **options: Any
) -> Generator[Caller]:
    """A caller for whom the service ``orders`` is these servers; the rest is the transport's and the Selector's."""
    library, ours, threads = KINDS[kind]
    nodes = ",".join(each if isinstance(each, str) else each.address for each in servers)
    url = f"static://orders={nodes}" if nodes else "memory://"
    inner: dict[str, Any] = {key: options.pop(key) for key in ("attempts", "suffix") if key in options}
    selecting: dict[str, Any] = {"strategy": "round_robin", "outliers": None} | options
    with ExitStack() as stack:
        if threads:
            selector = stack.enter_context(sync.Selector(stack.enter_context(sync.connect(url)), **selecting))
            if transport is not None:
                inner["transport"] = library.HTTPTransport(**transport)
            services = ours.RegistryTransport(selector, **inner)
            client = library.Client(mounts={"all://*.microreg": services}, **_PLAIN)
            yield Caller(library, stack.enter_context(client), selector, lambda function: function())
        else:
            runner = stack.enter_context(asyncio.Runner())
            exits = AsyncExitStack()

            async def enter() -> tuple[Any, Any]:
                selector = await exits.enter_async_context(
                    Selector(await exits.enter_async_context(connect(url)), **selecting)
                )
                if transport is not None:
                    inner["transport"] = library.AsyncHTTPTransport(**transport)
                services = ours.AsyncRegistryTransport(selector, **inner)
                client = library.AsyncClient(mounts={"all://*.microreg": services}, **_PLAIN)
                return await exits.enter_async_context(client), selector

            client, selector = runner.run(enter())

            def execute(function: Callable[[], Awaitable[T]]) -> T:
                async def call() -> T:
                    return await function()

                return runner.run(call())

            try:
                yield Caller(library, client, selector, execute)
            finally:
                runner.run(exits.aclose())


def _sum_is(tried: int, failures: dict[str, int]) -> bool:
    return sum(failures.values()) == tried


@contextmanager
def web(count: int = 1, **options: Any) -> Generator[list[Web]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Web(**options)) for _ in range(count)]


@pytest.fixture(name="nobody")
def _nobody() -> Iterator[str]:
    """An address at which nobody answers, and which no other server gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


# -- what is asked, and where ------------------------------------------------------------------------------------------


def test_every_node_gets_its_share_and_the_request_as_it_was_made(kind: str) -> None:
    with web(3) as servers, calling(kind, *servers, transport=None) as caller:
        for number in range(9):
            response = caller.request("POST", f"http://orders.microreg/items?n={number}", json={"n": number})
            assert response.status_code == 200 and response.text in {str(each.port) for each in servers}
            assert str(response.request.url) == f"http://orders.microreg/items?n={number}"
        assert [len(each.asked) for each in servers] == [3, 3, 3]
        one = servers[0].asked[0]
        assert one.method == "POST" and one.path.startswith("/items?n=") and one.headers["host"] == "orders.microreg"
        assert one.headers["content-type"] == "application/json" and b'"n"' in one.body


def test_other_hosts_are_what_they_are(kind: str) -> None:
    with web(2) as (ours, other), calling(kind, ours) as caller:
        assert caller.get(f"http://{other.address}/").text == str(other.port)
        assert ours.asked == []


def test_other_hosts_pass_through_the_transport_too(kind: str) -> None:
    with web(2) as (ours, other), calling(kind, ours) as caller:
        [services] = [each for pattern, each in caller.client._mounts.items() if "microreg" in pattern.pattern]
        request = caller.library.Request("GET", f"http://{other.address}/")
        method = "handle_request" if isinstance(caller.selector, sync.Selector) else "handle_async_request"
        response = caller.execute(lambda: getattr(services, method)(request))
        assert response.status_code == 200 and len(other.asked) == 1
        caller.execute(response.close if method == "handle_request" else response.aclose)


def test_connections_are_kept(kind: str) -> None:
    with web() as [server], calling(kind, server) as caller:
        for _ in range(5):
            assert caller.get("http://orders.microreg/").status_code == 200
        assert len(server.asked) == 5 and server.connections == 1


def test_a_redirect_comes_back_through_the_registry(kind: str) -> None:
    with web(2, mode="redirect") as servers, calling(kind, *servers) as caller:
        assert caller.get("http://orders.microreg/old").status_code == 200
        paths = [[asked.path for asked in each.asked] for each in servers]
        assert sorted(paths) == [["/new"], ["/old"]], "round robin: the second request went to the other node"


def test_tls_is_checked_against_the_node(kind: str) -> None:
    authority = trustme.CA()
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "orders.test").configure_cert(here)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with web(tls=here) as [server], calling(kind, server, transport={"verify": trusting}) as caller:
        assert caller.get("https://orders.microreg/").text == str(server.port)
    with web(tls=here) as [server], calling(kind, server, transport={"verify": trusting}) as caller:
        with pytest.raises(caller.library.ConnectError, match="mismatch"):
            caller.get("https://orders.microreg/", extensions={"sni_hostname": "stock.test"})
        assert caller.get("https://orders.microreg/", extensions={"sni_hostname": "orders.test"}).status_code == 200


def test_a_name_in_upper_case_and_a_key(kind: str) -> None:
    with web(4) as servers, calling(kind, *servers, strategy="rendezvous") as caller:
        keys: list[Key] = ["a", b"b", 3, "d", "e", "f"]
        for key in keys * 3:
            options = {"microreg.key": key, "microreg.name": "orders"}
            assert caller.get("http://anything.microreg/", extensions=options).status_code == 200
        assert all(len(each.asked) % 3 == 0 for each in servers) and sum(len(each.asked) for each in servers) == 18


# -- what goes wrong, and is tried again -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_at_the_address_means_another_node(kind: str, nobody: str, method: str) -> None:
    with web() as [server], calling(kind, nobody, server) as caller:
        for number in range(4):
            assert caller.request(method, "http://orders.microreg/", content=b"x" * number).status_code == 200
        assert len(server.asked) == 4
        assert caller.hears(lambda failures: failures[nobody] >= 1 and failures[server.address] == 0)


def test_a_stream_can_be_sent_where_nothing_was_sent_before(kind: str, nobody: str) -> None:
    def parts() -> Iterator[bytes]:
        yield from (b"one ", b"two")

    async def async_parts() -> AsyncIterator[bytes]:
        for part in parts():
            yield part

    content = parts if kind.endswith("threads") else async_parts
    with web() as [server], calling(kind, nobody, server) as caller:
        for _ in range(2):
            assert caller.request("POST", "http://orders.microreg/", content=content()).status_code == 200
        assert [asked.body for asked in server.asked] == [b"one two", b"one two"]
        assert caller.hears(lambda failures: failures[nobody] >= 1)


def test_a_broken_connection_means_another_node_for_what_may_be_repeated(kind: str) -> None:
    with Web("break") as broken, Web() as server, calling(kind, broken, server) as caller:
        for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
            for _ in range(2):
                assert caller.request(method, "http://orders.microreg/").status_code == 200
        assert len(server.asked) == 10 and len(broken.asked) >= 1


def test_a_broken_connection_is_told_for_what_may_not_be_repeated(kind: str) -> None:
    with Web("break") as broken, Web() as server, calling(kind, broken, server) as caller:
        outcomes: list[str] = []
        for _ in range(4):
            try:
                outcomes.append(caller.request("POST", "http://orders.microreg/").text)
            except caller.library.RemoteProtocolError:
                outcomes.append("broken")
        assert outcomes.count("broken") == 2 == len(broken.asked) and len(server.asked) == 2
        assert caller.hears(lambda failures: failures == {broken.address: 2, server.address: 0})


def test_a_slow_node_has_used_up_the_time_of_the_call(kind: str) -> None:
    with Web("hang") as slow, Web() as server, calling(kind, slow, server) as caller:
        with pytest.raises(caller.library.ReadTimeout):
            for _ in range(2):
                caller.get("http://orders.microreg/", timeout=0.2)
        assert len(slow.asked) == 1 and caller.hears(lambda failures: failures == {slow.address: 1, server.address: 0})


def test_attempts_and_the_budget_bound_the_retries(kind: str, nobody: str) -> None:
    with web(4) as servers:
        addresses = [server.address for server in servers]
    budget = RetryBudget(share=0.0, least=0.0)
    for attempts, retry_budget, tried in ((1, None, 1), (3, None, 3), (9, None, 4), (9, budget, 1)):
        more: dict[str, Any] = {} if retry_budget is None else {"retry_budget": retry_budget}
        with calling(kind, *addresses, attempts=attempts, **more) as caller:
            with pytest.raises(caller.library.ConnectError):
                caller.get("http://orders.microreg/")
            assert caller.hears(partial(_sum_is, tried))


def test_no_node_is_an_error_of_both(kind: str) -> None:
    with calling(kind) as caller:
        for error in (NoNodeAvailable, caller.library.ConnectError):
            with pytest.raises(error, match=r"no node of 'orders' within 0.1 s") as caught:
                caller.get("http://orders.microreg/", timeout=caller.library.Timeout(5, connect=0.1))
            found: Any = caught.value
            assert str(found.request.url) == "http://orders.microreg/"


def test_what_a_url_cannot_ask_for(kind: str) -> None:
    with web() as [server], calling(kind, server) as caller:
        with pytest.raises(ConfigError, match="port 8080 in a URL for orders.microreg: leave it out"):
            caller.get("http://orders.microreg:8080/")
        with pytest.raises(ConfigError, match="microreg.name of type int"):
            caller.get("http://orders.microreg/", extensions={"microreg.name": 7})
        with pytest.raises(ConfigError, match="microreg.key of type list"):
            caller.get("http://orders.microreg/", extensions={"microreg.key": []})
        with pytest.raises(microreg.InvalidService, match="name"):
            caller.get("http://orders.microreg/", extensions={"microreg.name": ""})
        assert server.asked == []


# -- what is reported --------------------------------------------------------------------------------------------------


def test_a_call_is_outstanding_until_its_response_is_closed(kind: str) -> None:
    with web(mode="trickle") as [server], calling(kind, server) as caller:
        send = caller.client.send
        request = caller.client.build_request("GET", "http://orders.microreg/")
        response = caller.execute(lambda: send(request, stream=True))
        assert caller.standing()[server.address].outstanding == 1
        threading.Timer(0.3, server.release.set).start()
        threads = isinstance(caller.selector, sync.Selector)
        body = caller.execute(response.read if threads else response.aread)
        assert body == b"first last"
        caller.execute(response.close if threads else response.aclose)
        standing = caller.standing()[server.address]
        assert standing.outstanding == 0 and standing.failures == 0
        assert standing.latency is None or standing.latency < 0.25, "latency ends where the answer begins"


def test_a_response_that_nobody_reads_ends_the_call(kind: str) -> None:
    with web(mode="trickle") as [server], calling(kind, server) as caller:
        request = caller.client.build_request("GET", "http://orders.microreg/")
        response = caller.execute(lambda: caller.client.send(request, stream=True))
        caller.execute(response.close if isinstance(caller.selector, sync.Selector) else response.aclose)
        assert caller.standing()[server.address].outstanding == 0
        request = caller.client.build_request("GET", "http://orders.microreg/")
        response = caller.execute(lambda: caller.client.send(request, stream=True))
        response.stream = caller.library.ByteStream(b"")  # drops the real one, as one who forgets to close
        del response
        gc.collect()
        assert caller.standing()[server.address].outstanding == 0


def test_a_body_that_breaks_off_is_the_nodes_failure(kind: str) -> None:
    with web(mode="tear") as [server], calling(kind, server) as caller:
        with pytest.raises(caller.library.RemoteProtocolError):
            caller.get("http://orders.microreg/")
        assert caller.hears(lambda failures: failures == {server.address: 1})
        assert caller.standing()[server.address].outstanding == 0 and len(server.asked) == 1


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_a_cancelled_call_is_nobodys_fault(name: str) -> None:
    library, ours, _ = KINDS[name]

    async def main(server: Web) -> None:
        async with connect(f"static://orders={server.address}") as registry, Selector(registry) as selector:
            services = ours.AsyncRegistryTransport(selector)
            async with library.AsyncClient(mounts={"all://*.microreg": services}, trust_env=False) as client:
                task = asyncio.create_task(client.get("http://orders.microreg/"))
                await wait_until(lambda: server.asked)
                assert selector.explain("orders").nodes[0].outstanding == 1
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                [standing] = selector.explain("orders").nodes
                assert standing.outstanding == 0 and standing.failures == 0 and standing.latency is None

    with Web("hang") as server:
        run(main(server))


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_arguments(name: str) -> None:
    _, ours, _ = KINDS[name]

    async def main() -> None:
        async with connect("memory://") as registry, Selector(registry) as selector:
            for attempts in (0, True, "3"):
                with pytest.raises(ConfigError, match="attempts="):
                    ours.AsyncRegistryTransport(selector, attempts=attempts)
            for suffix in ("microreg", ".", "", ".Micro", 3):
                with pytest.raises(ConfigError, match="suffix="):
                    ours.AsyncRegistryTransport(selector, suffix=suffix)
            with pytest.raises(ConfigError, match=r"expected a microreg.Selector"):
                ours.AsyncRegistryTransport(registry)
            with pytest.raises(ConfigError, match=r"expected a microreg.sync.Selector"):
                ours.RegistryTransport(selector)

    run(main())


def test_the_guide_shows_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "howto" / "httpx.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(f"async def main():\n{textwrap.indent(shown, '    ')}    return response\n", scope)
    with web() as [server]:
        monkeypatch.setenv("MICROREG_REGISTRY", f"static://orders={server.address}")
        response = run(scope["main"]())
        assert response.text == str(server.port) and server.asked[0].path == "/items"
