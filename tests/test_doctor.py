"""The doctor on registries of this process: every finding that needs no server and no network."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Never

import pytest

from doctoring import absent, doctor, found, well
from microreg import Service, connect
from microreg.backends.memory import MemoryRegistry, MemoryStore
from microreg.doctor import address, calls, config, container, system
from microreg.errors import PermissionDenied, RegistryClosed, RegistryTimeout, RegistryUnavailable
from microreg.events import Event
from microreg.findings import CLOCK_DIFFERS, Finding, Severity, clock, clock_by_date
from microreg.layers.cache import CacheLayer, CacheOptions
from microreg.net import Interface
from microreg.rules import DEFAULT_TTL
from microreg.url import Duration, RegistryURL
from microreg.watch import Watch
from support import run, store_of

SECRET = "correct-horse"


def raiser(error: Exception) -> Callable[..., Awaitable[Never]]:
    """A coroutine function that raises this, in the place of a method."""

    async def refuse(*_: object, **__: object) -> Never:
        raise error

    return refuse


def switched_off(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every memory store is away, for this reason."""

    def require(self: MemoryStore) -> None:
        raise error

    monkeypatch.setattr(MemoryStore, "require", require)


# -- findings ----------------------------------------------------------------------------------------


def test_a_finding_reads_well() -> None:
    finding = CLOCK_DIFFERS("this clock is 60 s behind that of x")
    assert finding == Finding(Severity.WARNING, "clock.differs", finding.what, "let both follow a time server (NTP)")
    assert str(finding) == f"warning: {finding.what}; let both follow a time server (NTP) [clock.differs]"
    assert CLOCK_DIFFERS("x", "set it").mend == "set it"


def test_clocks_are_compared_as_far_as_they_are_known() -> None:
    assert clock("x", 1000.0, 1001.9).code == "clock.agrees"
    assert clock("x", 1000.0, 1060.0).what == "this clock is 60 s ahead of that of x"
    assert clock("x", 1060.0, 1000.0).what == "this clock is 60 s behind that of x"
    (finding,) = clock_by_date("x", "Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0)
    assert finding.code == "clock.agrees"
    assert clock_by_date("x", "yesterday", time.time()) == ()


# -- the whole doctor --------------------------------------------------------------------------------


def test_a_set_up_that_is_well() -> None:
    findings = run(doctor("memory://", write=True))
    well(findings)
    assert found(findings, "config.read").what == "the registry is memory://"
    assert "Python 3." in found(findings, "python.version").what
    assert "microreg " in found(findings, "plugins.installed").what
    assert "0 services" in found(findings, "calls.answered").what
    assert "watching" in found(findings, "calls.granted").what
    assert "ttl 15 s" in found(findings, "renewals.in-time").what
    assert "found and withdrawn" in found(findings, "write.works").what
    assert "no other sees it" in found(findings, "memory.process").what
    assert "127.0.0.1" in found(findings, "address.advertised").what


def test_nothing_is_written_unless_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def register(self: MemoryRegistry, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        raise AssertionError(f"{service.name} was written")

    monkeypatch.setattr(MemoryRegistry, "register", register)
    assert found(run(doctor("memory://")), "write.skipped").mend == "give --write to try it"


def test_what_is_written_says_what_it_is_and_is_withdrawn() -> None:
    told: list[str] = []

    async def main() -> None:
        async with connect("memory://clinic") as registry:
            catalog = store_of(registry).catalog
            catalog.subscribe(None, lambda change: told.append(f"{change.action} {change.service.name}"))
            found(await doctor("memory://clinic", write=True), "write.works")

    run(main())
    assert [each.rpartition("-")[0] for each in told] == ["create microreg-doctor", "delete microreg-doctor"]


# -- the config string -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("memori://", "memori"),
        ("memory://?tiemout=1s", "tiemout"),
        ("mdns://nosuch0", "nosuch0"),
        ("static://a", "no address"),
        (f"http://127.0.0.1:1?token={SECRET}&cert=x", "cert and key"),
    ],
)
def test_a_config_string_that_cannot_be_used(url: str, text: str) -> None:
    findings = run(doctor(url))
    invalid = found(findings, "config.invalid")
    assert text in invalid.what and invalid.severity is Severity.ERROR
    assert SECRET not in str(findings)


@pytest.mark.parametrize(
    ("url", "secure"),
    [
        (f"http://10.0.0.9?token={SECRET}", "https://"),
        (f"etcd://user:{SECRET}@etcd.internal", "etcds://"),
        (f"cache+consul://10.0.0.9?token={SECRET}", "consuls://"),
        (f"nats-pubsub://user:{SECRET}@127.0.0.1,10.0.0.9", "natss-pubsub://"),
    ],
)
def test_secrets_in_clear_text(url: str, secure: str) -> None:
    findings = tuple(config.findings(RegistryURL.parse(url), 15))
    assert secure in found(findings, "config.clear-text").mend
    assert SECRET not in str(findings)


@pytest.mark.parametrize(
    "url",
    [
        f"https://10.0.0.9?token={SECRET}",
        f"http://127.0.0.1?token={SECRET}",
        f"etcds://user:{SECRET}@etcd.internal",
        f"etcd://user:{SECRET}@localhost,[::1]:2379",
        "etcd://etcd.internal",
        "mdns://",
    ],
)
def test_no_secret_is_in_danger(url: str) -> None:
    absent(config.findings(RegistryURL.parse(url), 15), "config.clear-text")


def test_secrets_that_everybody_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    for url in (f"etcds://user:{SECRET}@127.0.0.1", f"https://127.0.0.1?token={SECRET}"):
        findings = tuple(config.findings(RegistryURL.parse(url), 15))
        assert found(findings, "config.literal-secret").mend == "take it from the environment: ${NAME}"
        assert SECRET not in str(findings)
    for url in ("etcds://user:${PASSWORD}@127.0.0.1", "https://127.0.0.1?token=${PASSWORD}", "nats://127.0.0.1"):
        absent(config.findings(RegistryURL.parse(url), 15), "config.literal-secret")


def test_a_settle_that_no_lookup_survives() -> None:
    findings = tuple(config.findings(RegistryURL.parse("mdns://?settle=5s&timeout=5s"), 15))
    assert found(findings, "config.settle").what == "mdns://: settle is 5 s, timeout 5 s"
    absent(config.findings(RegistryURL.parse("nats-pubsub://?settle=4s"), 15), "config.settle")


def test_a_name_that_is_loopback_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str) -> tuple[str, ...]:
        return ("127.0.1.1",) if host == "worker-7" else (host,)

    monkeypatch.setenv("MICROREG_ADVERTISE", "worker-7:8080")
    monkeypatch.setattr(address, "resolve", resolve)
    assert "which is 127.0.1.1 here" in found(run(doctor("static://")), "address.loopback").what


def test_an_address_of_a_containers_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = Interface("eth0", 2, ("172.18.0.2",))
    monkeypatch.setattr(address, "interfaces", lambda: (compose,))
    monkeypatch.setattr(address, "has_own_network", lambda name: name == "eth0")
    for told, found_there in (("172.18.0.2", True), ("172.17.0.9", True), ("172.18.0.3", False)):
        monkeypatch.setenv("MICROREG_ADVERTISE", told)
        findings = run(doctor("static://"))
        if found_there:
            assert told in found(findings, "address.container").what
        else:
            absent(findings, "address.container")


@pytest.mark.parametrize(
    ("file", "text", "inside"),
    [
        (".dockerenv", "", True),
        ("run/.containerenv", "", True),
        ("proc/1/cgroup", "12:pids:/docker/0123456789ab\n0::/system.slice/containerd.service\n", True),
        ("proc/1/cgroup", "0::/machine.slice/libpod-0123456789ab.scope\n", True),
        ("proc/1/cgroup", "0::/init.scope\n", False),
        ("proc/1/cgroup", "0::/\n", False),
        ("etc/hostname", "docker", False),
    ],
)
def test_how_a_container_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, text: str, inside: bool
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert container.is_container(tmp_path) is inside
    drivers = {"eth0": "veth", "eth1": "macvlan", "eth2": "virtio_net", "eth3": ""}
    own = [name for name in drivers if container.has_own_network(name, tmp_path, drivers.__getitem__)]
    assert own == (["eth0"] if inside else [])


def test_containers_of_kubernetes_reach_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert container.has_own_network("eth0", tmp_path, lambda _: "veth")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert not container.has_own_network("eth0", tmp_path, lambda _: "veth")


def test_the_driver_of_an_interface_that_has_none() -> None:
    assert [container.driver(name) for name in ("lo", "nosuch0", "")] == ["", "", ""]


def test_a_timeout_that_costs_renewals() -> None:
    findings = run(doctor("memory://", ttl=3))
    assert "timeout is 5 s; with a ttl of 3 s" in found(findings, "config.slow-timeout").what
    absent(run(doctor("memory://", ttl=3, timeout=0.9)), "config.slow-timeout")


# -- the five verbs ----------------------------------------------------------------------------------


def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    switched_off(monkeypatch, RegistryUnavailable("nobody there"))
    findings = run(doctor("memory://", write=True))
    told = [each for each in findings if each.code == "calls.away"]
    assert [each.what for each in told] == ["nobody there", "register: nobody there"]


def test_a_store_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryRegistry, "list_services", raiser(PermissionDenied("not you")))
    assert found(run(doctor("memory://")), "calls.denied").what == "list_services refused: not you"
    monkeypatch.setattr(MemoryRegistry, "get_service", raiser(PermissionDenied("nor here")))
    assert found(run(doctor("memory://")), "calls.denied").what == "list_services, get_service refused: not you"


def test_a_write_of_which_nobody_knows_the_outcome_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    withdrawn: list[str] = []

    async def deregister(self: MemoryRegistry, service: Service) -> None:
        withdrawn.append(service.name)

    monkeypatch.setattr(MemoryRegistry, "register", raiser(RegistryTimeout("too late")))
    monkeypatch.setattr(MemoryRegistry, "deregister", deregister)
    assert found(run(doctor("memory://", write=True)), "calls.away").what == "register: too late"
    assert [name[:16] for name in withdrawn] == ["microreg-doctor-"]


def test_a_store_that_fails_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryRegistry, "get_service", raiser(ZeroDivisionError("a bug")))
    assert "ZeroDivisionError: a bug" in found(run(doctor("memory://")), "calls.failed").what


def test_a_watch_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(self: MemoryRegistry, name: str | None = None) -> Watch:
        async def changes() -> AsyncGenerator[Event, None]:
            await asyncio.get_running_loop().create_future()
            yield self.store.catalog.snapshot(name)

        return Watch(changes)

    monkeypatch.setattr(MemoryRegistry, "watch", watch)
    assert "a watch told nothing within 0.1 s" in found(run(doctor("memory://", timeout=0.1)), "calls.away").what


def test_a_store_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryRegistry.get_service

    async def slowly(self: MemoryRegistry, name: str) -> tuple[Service, ...]:
        await asyncio.sleep(0.08)
        return await real(self, name)

    monkeypatch.setattr(MemoryRegistry, "get_service", slowly)
    assert "renewals come every 0.333 s" in found(run(doctor("memory://", ttl=1)), "renewals.slow").what


async def _nothing(*_: object, **__: object) -> None:
    pass


@pytest.mark.parametrize(("verb", "text"), [("register", "not found"), ("deregister", "still found")])
def test_a_store_that_says_yes_and_does_nothing(monkeypatch: pytest.MonkeyPatch, verb: str, text: str) -> None:
    monkeypatch.setattr(MemoryRegistry, verb, _nothing)
    monkeypatch.setattr(calls, "_SEEN", 0.05)
    monkeypatch.setattr(calls, "_STEP", 0.01)
    assert text in found(run(doctor("memory://", write=True)), "write.failed").what


def test_a_record_that_cannot_be_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryRegistry, "deregister", raiser(PermissionDenied("not you")))
    findings = run(doctor("memory://", write=True))
    assert "goes with its ttl: not you" in found(findings, "calls.denied").what
    absent(findings, "write.works")


def test_a_registry_that_takes_nothing() -> None:
    findings = run(doctor("static://a=127.0.0.1:80", write=True))
    assert "nothing can be registered" in found(findings, "write.unsupported").what
    assert found(findings, "write.unsupported").severity is Severity.NOTE


# -- examine -----------------------------------------------------------------------------------------


def test_an_examination_that_hangs_or_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever(self: MemoryRegistry) -> tuple[Finding, ...]:
        await asyncio.get_running_loop().create_future()
        return ()

    monkeypatch.setattr(MemoryRegistry, "examine", for_ever)
    assert "within 0.05 s" in found(run(doctor("memory://", timeout=0.05)), "examine.failed").what
    monkeypatch.setattr(MemoryRegistry, "examine", raiser(ZeroDivisionError("a bug")))
    assert "ZeroDivisionError" in found(run(doctor("cache+memory://")), "examine.failed").what


def test_examine_is_guarded_like_the_other_calls() -> None:
    async def main() -> None:
        registry = connect("cache+namespace+memory://?namespace.prefix=a")
        assert found(await registry.examine(), "memory.process"), "before it is open"
        async with registry:
            assert found(await registry.examine(), "memory.process")
        with pytest.raises(RegistryClosed):
            await registry.examine()

    run(main())


# -- layers and the interpreter ----------------------------------------------------------------------


def test_options_of_the_cache_that_defeat_each_other() -> None:
    findings = run(doctor("cache+memory://?cache.max_stale=5s"))
    assert "cache.grace is 15 s and cache.max_stale 5 s" in found(findings, "cache.conflict").what
    absent(run(doctor("cache+memory://")), "cache.conflict")


def test_a_file_of_the_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheLayer, "open", lambda self: self.inner.open())
        findings = run(doctor(f"cache+memory://?cache.disk={path}"))
    assert f"there is no folder {path.parent}" in found(findings, "cache.disk").what
    absent(run(doctor(f"cache+memory://?cache.disk={tmp_path / 'cache'}")), "cache.disk")


def test_the_wait_of_a_cache_counts_only_with_a_file(tmp_path: Path) -> None:
    from microreg.layers.cache.examination import findings

    options = CacheOptions(wait=Duration(10.0), max_stale=Duration(5.0), grace=Duration(0.0))
    assert tuple(findings(options)) == ()
    options = CacheOptions(wait=Duration(10.0), max_stale=Duration(5.0), grace=Duration(0.0), disk=tmp_path / "x")
    assert "cache.wait" in found(findings(options), "cache.conflict").what


@pytest.mark.parametrize(("version", "platform", "forks"), [((3, 13, 1), "linux", True), ((3, 14, 0), "linux", False)])
def test_a_python_that_forks(version: tuple[int, ...], platform: str, forks: bool) -> None:
    findings = tuple(system.findings(version, platform))
    if forks:
        assert "fork()" in found(findings, "python.fork").what
    else:
        absent(findings, "python.fork")
    absent(system.findings((3, 11, 7), "darwin"), "python.fork")
    assert (sys.version_info < (3, 14)) == any(each.code == "python.fork" for each in system.findings(platform="linux"))


def test_a_timeout_is_an_away(monkeypatch: pytest.MonkeyPatch) -> None:
    switched_off(monkeypatch, RegistryTimeout("too late"))
    assert found(run(doctor("memory://")), "calls.away").what == "too late"
