"""Registering: what an agent is told, what renews it, and what brings a node back that it has lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

import microreg
from consul_store import Raw, record
from microreg import Registry, Service, Status
from microreg.errors import PermissionDenied, ServiceNotFound
from microreg.events import Change, Reason, Snapshot
from microreg.testing import Proxy, ServerProcess, running
from microreg.watch import Watch
from microreg_consul.health import checks_to_register
from microreg_consul.layouts import Layout
from servers import consul
from support import run, wait_until

ROOT = "7f2d3bd1-9d5c-4f9e-8f4e-7b6f0a3c1d55"
server = consul("plain")
guarded = consul(
    "guarded",
    config={
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"master": ROOT, "agent": ROOT},
            "token_ttl": "0s",
            "policy_ttl": "0s",
            "role_ttl": "0s",
        }
    },
)
proxy = Proxy(server.port)


@pytest.fixture(autouse=True, scope="module")
def _servers() -> Iterator[None]:
    with running(server, guarded, proxy):
        yield


@asynccontextmanager
async def opened(options: str = "") -> AsyncGenerator[tuple[Registry, Raw]]:
    """A registry, and what looks past it."""
    url = f"consul://127.0.0.1:{proxy.port}?timeout=10s{options}"
    async with microreg.connect(url) as registry, Raw(server.port) as raw:
        yield registry, raw


async def shows(registry: Registry, name: str, *expected: Service) -> None:
    """Wait until the catalog has what the agent was told."""

    async def found() -> tuple[Service, ...]:
        try:
            return await registry.get_service(name)
        except ServiceNotFound:
            return ()

    await until(found, expected)


async def until(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Ask until this is the answer."""
    answer: object = None
    try:
        async with asyncio.timeout(40):
            while True:
                answer = await ask()
                if answer == expected:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{answer}; expected {expected}") from None


async def told(events: Watch) -> tuple[str, Reason | None]:
    """The next change: what, and why."""
    async with asyncio.timeout(40):
        event = await anext(events)
    assert isinstance(event, Change)
    return event.action.value, event.reason


async def statuses(raw: Raw, name: str) -> list[tuple[str, str]]:
    """The checks of the services of this name, as they stand in the catalog: name and status."""
    entries = await raw.entries(name)
    checks = [check for entry in entries for check in entry["Checks"] if check["ServiceID"]]
    return sorted((check["Name"], check["Status"]) for check in checks)


# -- what stands in the agent ------------------------------------------------------------------------------------------


def test_a_node_is_a_service_with_one_check_that_passes_at_once() -> None:
    async def main() -> None:
        async with opened() as (registry, raw):
            await registry.register(record("plain", "a", 8080, zone="eu"), ttl=30)
            service = (await raw.services())["plain:a"]
            assert (service["Service"], service["Address"], service["Port"]) == ("plain", "10.0.0.1", 8080)
            assert service["Meta"]["zone"] == "eu"
            checks = [check for check in (await raw.checks()).values() if check["ServiceID"] == "plain:a"]
            assert [(check["Status"], check["Type"]) for check in checks] == [("passing", "ttl")]
            await shows(registry, "plain", record("plain", "a", 8080, zone="eu"))
            await registry.deregister(record("plain", "a"))
            assert "plain:a" not in await raw.services()
            assert not [check for check in (await raw.checks()).values() if check["ServiceID"] == "plain:a"]

    run(main())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.PASSING, [("microreg TTL", "passing")]),
        (Status.WARNING, [("microreg TTL", "warning")]),
        *(
            (status, [("microreg TTL", "passing"), ("microreg status", "critical")])
            for status in (Status.STARTING, Status.CRITICAL, Status.DRAINING)
        ),
    ],
)
def test_consul_knows_which_nodes_want_calls(status: Status, expected: list[tuple[str, str]]) -> None:
    """Whoever asks Consul itself, as DNS does, leaves nodes with a critical check alone; we tell all as they are."""

    async def main() -> None:
        name = f"is-{status}"
        ill, well = record(name, "a", status=status), record(name, "a")
        async with opened() as (registry, raw):
            for service in (ill, well, ill):
                for _ in range(2):
                    await registry.register(service)
                await shows(registry, name, service)
            assert sorted(await statuses(raw, name)) == sorted(expected)
            await registry.register(well)
            await shows(registry, name, well)
            await until(partial(statuses, raw, name), [("microreg TTL", "passing")])
            await registry.deregister(well)

    run(main())


def test_a_node_that_wants_no_calls_is_not_reaped_for_that() -> None:
    layout, draining = Layout(), record("s", "a", status=Status.DRAINING)
    deadline, told = checks_to_register(draining, layout.registration(draining), 15.0)
    assert deadline["DeregisterCriticalServiceAfter"] == "60s"  # Consul takes no less
    assert "DeregisterCriticalServiceAfter" not in told
    (longer,) = checks_to_register(record("s", "a"), layout.registration(record("s", "a")), 90.5)
    assert (longer["TTL"], longer["DeregisterCriticalServiceAfter"]) == ("90500ms", "91s")


def test_a_renewal_writes_nothing() -> None:
    async def main() -> None:
        async with opened() as (registry, raw):
            service, warned = record("calm", "a"), record("calm", "b", status=Status.WARNING)
            both = Service("calm", nodes=[*service.nodes, *warned.nodes])
            await registry.register(both)
            await shows(registry, "calm", both)
            before = await raw.entries("calm")  # with the indexes at which all of it was written
            for _ in range(20):
                await registry.register(both)
            assert await raw.entries("calm") == before
            await registry.deregister(both)

    run(main())


# -- what brings it back -----------------------------------------------------------------------------------------------


def test_what_the_agent_has_lost_comes_back_with_the_next_renewal() -> None:
    async def main() -> None:
        async with opened() as (registry, raw):
            service = record("lost", "a")
            await registry.register(service)
            await shows(registry, "lost", service)
            await raw.deregister("lost:a")
            await shows(registry, "lost")
            await registry.register(service)
            await shows(registry, "lost", service)
            (check,) = (id for id, check in (await raw.checks()).items() if check["ServiceID"] == "lost:a")
            await raw.put(f"/agent/check/deregister/{check}")
            assert not [id for id in await raw.checks() if id == check]
            await registry.register(service)
            assert (await raw.checks())[check]["Status"] == "passing"
            await raw.put(f"/agent/check/fail/{check}")
            await shows(registry, "lost")
            await registry.register(service)
            await shows(registry, "lost", service)
            await registry.deregister(service)

    run(main())


def test_what_an_earlier_process_left_to_expire_is_there_again_at_once() -> None:
    """A check that is registered again keeps its state, which is critical."""

    async def main() -> None:
        service = record("again", "a")
        async with opened() as (registry, raw), registry.watch("again") as events:
            await anext(events)
            async with opened() as (earlier, _):
                await earlier.register(service)
            assert await told(events) == ("create", None)
            (check,) = (id for id, check in (await raw.checks()).items() if check["ServiceID"] == "again:a")
            await raw.put(f"/agent/check/fail/{check}")
            assert await told(events) == ("delete", Reason.EXPIRED)
            await shows(registry, "again")
            await registry.register(service)
            assert await told(events) == ("create", None)
            await shows(registry, "again", service)
            await registry.deregister(service)

    run(main())


def test_in_layout_go_micro_a_node_of_another_service_is_not_withdrawn() -> None:
    async def main() -> None:
        async with opened("&layout=go-micro") as (registry, raw):
            await registry.register(record("shop-eu", "shop-eu-1"))
            await registry.deregister(record("shop", "shop-eu-1"))
            assert (await raw.services())["shop-eu-1"]["Service"] == "shop-eu"
            await registry.deregister(record("shop-eu", "shop-eu-1"))
            assert "shop-eu-1" not in await raw.services()

    run(main())


def test_in_layout_go_micro_a_node_that_wants_no_calls_stays_with_a_critical_check() -> None:
    """go-micro leaves out every node that has one; microreg tells what it says."""

    async def main() -> None:
        async with opened("&layout=go-micro") as (registry, raw):
            for status in Status:
                service = record("calls", "calls-1", status=status)
                await registry.register(service)
                await shows(registry, "calls", service)
                (entry,) = await raw.entries("calls")
                worst = [each["Status"] for each in entry["Checks"] if each["ServiceID"] == "calls-1"]
                assert ("critical" in worst) == (not status.selectable)
            await registry.deregister(record("calls", "calls-1"))

    run(main())


@pytest.mark.parametrize("id", ["stray-1", "Stray"])
@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_a_node_that_stands_under_its_bare_id_is_withdrawn_in_either_layout(layout: str, id: str) -> None:
    async def main() -> None:
        async with opened(f"&layout={layout}") as (registry, raw):
            await raw.register(id, "stray")
            await raw.register("other", "another")
            await registry.deregister(record("stray", id))
            await registry.deregister(record("stray", "other"))
            services = await raw.services()
            assert id not in services and "other" in services
            await raw.deregister("other")

    run(main())


def test_two_hundred_nodes_at_once_take_sixteen_connections() -> None:
    nodes = [record("fleet", f"n{number:03}", 8000 + number) for number in range(200)]

    async def main() -> None:
        async with opened() as (registry, _):
            before = proxy.connections
            await asyncio.gather(*(registry.register(each, ttl=60) for each in nodes))
            assert proxy.connections - before <= 16
            await shows(registry, "fleet", nodes[0].with_nodes(*(each.nodes[0] for each in nodes)))
            await asyncio.gather(*(registry.deregister(each) for each in nodes))

    run(main())


# -- who may -----------------------------------------------------------------------------------------------------------


async def _token(rules: str) -> tuple[str, str]:
    """A token with a policy of these rules: its secret, and its accessor."""
    async with Raw(guarded.port, ROOT) as raw:
        name = f"p{abs(hash(rules))}"
        await until(partial(_made, raw, {"Name": name, "Rules": rules}), True)
        token = await raw.put("/acl/token", {"Policies": [{"Name": name}]})
        return token["SecretID"], token["AccessorID"]


async def _made(raw: Raw, policy: dict[str, object]) -> bool:
    try:
        await raw.put("/acl/policy", policy)
    except RuntimeError as error:
        return "already exists" in str(error)  # else: ACLs have not started yet
    return True


def _url(server: ServerProcess, token: str = "") -> str:
    return f"consul://127.0.0.1:{server.port}?timeout=10s" + (f"&token={token}" if token else "")


def _refused(events: Watch) -> bool:
    return isinstance(events.error, PermissionDenied) and events.state == "resyncing"


EVERYTHING = 'service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }'
OTHERS = 'service_prefix "other" { policy = "write" } node_prefix "" { policy = "read" }'


def test_a_token_that_may_not_is_refused_and_an_empty_answer_is_not_believed() -> None:
    async def main() -> None:
        allowed, narrow = (await _token(EVERYTHING))[0], (await _token(OTHERS))[0]
        async with microreg.connect(_url(guarded, allowed)) as registry:
            await registry.register(record("secret", "a"))
            await shows(registry, "secret", record("secret", "a"))
            assert "secret" in await registry.list_services()
        for token in ("", narrow, "no-such-token"):
            async with microreg.connect(_url(guarded, token)) as registry:
                for call in (
                    registry.get_service("secret"),
                    registry.list_services(),
                    registry.register(record("secret", "b")),
                    registry.deregister(record("secret", "a")),
                ):
                    with pytest.raises(PermissionDenied) as caught:
                        await call
                    assert "option token" in str(caught.value)
                    assert not token or token not in str(caught.value)
                async with registry.watch("secret") as one, registry.watch() as everything:
                    for events in (one, everything):
                        await wait_until(partial(_refused, events))
        async with microreg.connect(_url(guarded, narrow)) as registry:
            await registry.register(record("other", "a"))
            await shows(registry, "other", record("other", "a"))
            with pytest.raises(ServiceNotFound):
                await registry.get_service("other-one")
            assert await registry.list_services() == ("other",)

    run(main())


def test_a_watch_whose_token_is_revoked_tells_nobody_gone() -> None:
    async def main() -> None:
        allowed = (await _token(EVERYTHING))[0]
        secret, accessor = await _token(EVERYTHING + ' key_prefix "" { policy = "read" }')
        async with (
            microreg.connect(_url(guarded, allowed)) as writer,
            microreg.connect(_url(guarded, secret)) as reader,
            reader.watch("revoked") as one,
            reader.watch() as everything,
            Raw(guarded.port, ROOT) as raw,
        ):
            await writer.register(record("revoked", "a"), ttl=60)
            for events in (one, everything):
                assert isinstance(await anext(events), Snapshot)
            await raw.delete(f"/acl/token/{accessor}")
            await writer.register(record("revoked", "b"), ttl=60)
            for events in (one, everything):
                await wait_until(partial(_refused, events), timeout=40)
            heard = [await anext(events) for events in (one, everything) for _ in range(len(events._backlog))]
            assert not [each for each in heard if isinstance(each, Change) and each.reason]

    run(main())


def test_the_environment_of_consul_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "no-such-token")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def main() -> None:
        secret, _ = await _token(EVERYTHING)
        async with microreg.connect(_url(guarded, secret)) as registry:
            await registry.register(record("env", "a"))
            await shows(registry, "env", record("env", "a"))

    run(main())
