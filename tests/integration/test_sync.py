"""The blocking facade: real threads, real signals, and types and signatures that are those of the async side."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import pytest

import microreg
import microreg.sync
from microreg.announce.announcement import Transition
from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.errors import (
    ConfigError,
    InvalidService,
    NoNodeAvailable,
    RegistryClosed,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
    WrongLoop,
)
from microreg.events import Action, Change, Event, Snapshot
from microreg.model import Node, Service, Status
from microreg.options import parse_options
from microreg.selector.strategies import random
from microreg.sync import workers
from microreg.url import RegistryURL
from microreg.watch import Watch
from support import ROOT, clean_env, python

announce = partial(microreg.sync.announce, drain_delay=0.0)
A = Service("greeter", nodes=[Node("10.0.0.1:80", id="a")])
B = Service("greeter", nodes=[Node("10.0.0.2:80", id="b")])


@pytest.fixture(name="registry")
def _registry() -> Iterator[microreg.sync.Registry]:
    with microreg.sync.connect("memory://") as registry:
        yield registry


@pytest.fixture(scope="module", autouse=True)
def _checkers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The type checkers start first and work while the other tests run."""
    commands = {
        "mypy": ["mypy", "--strict", "tests/typecheck"],
        "pyright": ["pyright", "--pythonpath", sys.executable, "-p", "tests/typecheck"],
    }
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=clean_env(PYRIGHT_PYTHON_IGNORE_WARNINGS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in commands.items()
        if importlib.util.find_spec(name) is not None
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("microreg")}


def in_thread(function: Callable[[], object]) -> Callable[[], None]:
    """Runs a function in a thread; the returned function joins it and raises what it raised."""
    pool = ThreadPoolExecutor(1)
    result = pool.submit(function)

    def join() -> None:
        try:
            result.result(60)
        finally:
            pool.shutdown()

    return join


def eventually(condition: Callable[[], object], timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, inspect.getsource(condition)
        pause.wait(0.002)


def strike() -> None:
    """Ctrl-C: the main thread gets a SIGINT, whoever calls this."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# -- the verbs ----------------------------------------------------------------------------------


def test_the_verbs(registry: microreg.sync.Registry) -> None:
    registry.register(A)
    registry.register(B, ttl=5)
    (found,) = registry.get_service("greeter")
    assert [node.id for node in found.nodes] == ["a", "b"]
    assert registry.list_services() == ("greeter",)
    registry.deregister(A)
    registry.deregister(B)
    with pytest.raises(ServiceNotFound):
        registry.get_service("greeter")
    with pytest.raises(InvalidService):
        registry.register(Service("no good", nodes=[Node("10.0.0.1:80")]))
    assert str(registry.url) == "memory://"
    assert "push" in registry.capabilities
    assert registry.options.timeout > 0
    assert "memory://" in repr(registry)


def test_a_registry_that_is_only_read() -> None:
    with microreg.sync.connect("static://orders=10.0.0.1:80,10.0.0.2:80") as registry:
        assert len(registry.get_service("orders")[0].nodes) == 2
        with pytest.raises(Unsupported):
            registry.register(A)
        with pytest.raises(Unsupported), announce(registry, "orders", port=80):
            pass
        with registry.watch() as events:
            assert isinstance(next(events), Snapshot)


def test_without_a_url_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_REGISTRY", "static://a=10.0.0.1:80")
    with microreg.sync.connect() as registry:
        assert registry.list_services() == ("a",)
    with pytest.raises(ConfigError):
        microreg.sync.connect("nowhere://")


def test_over_mdns_on_loopback() -> None:
    pytest.importorskip("microreg.backends.mdns", reason="the backend is not there yet")
    with (
        microreg.sync.connect("mdns://127.0.0.1") as here,
        microreg.sync.connect("mdns://127.0.0.1") as there,
        announce(here, "sync-greeter", address="127.0.0.1:8080") as announcement,
        microreg.sync.Selector(there) as selector,
    ):
        announcement.wait_live(30)
        assert selector.select("sync-greeter").address == "127.0.0.1:8080"


def test_the_timeout_option_bounds_a_call() -> None:
    class Slow(MemoryRegistry):
        async def get_service(self, name: str) -> tuple[Service, ...]:
            await asyncio.Event().wait()
            raise AssertionError

    with opened(Slow, "memory://?timeout=20ms") as registry, pytest.raises(RegistryTimeout):
        registry.get_service("greeter")


def opened(kind: type[MemoryRegistry], url: str = "memory://") -> microreg.sync.Registry:
    """A blocking registry over a backend class of a test."""
    parsed = RegistryURL.parse(url)
    return microreg.sync.Registry(Checked(kind(parsed, parse_options(kind.Options, parsed))))


# -- watching -----------------------------------------------------------------------------------


def test_a_watch(registry: microreg.sync.Registry) -> None:
    with registry.watch("greeter") as events:
        assert events.name == "greeter"
        assert next(events) == Snapshot()
        assert (events.state, events.error) == ("live", None)
        registry.register(A)
        registry.deregister(B)
        registry.deregister(A)
        registry.register(B)
        seen: list[Event] = []
        for event in events:
            seen.append(event)
            if event == Change(Action.CREATE, B, B.nodes[0]):
                break
        assert isinstance(seen[0], Change)
    assert list(events) == []
    events.close()


def test_a_watch_is_to_be_entered_and_iterated_by_one(registry: microreg.sync.Registry) -> None:
    events = registry.watch()
    with pytest.raises(RegistryClosed, match="`with registry.watch"):
        next(events)
    events.close()
    with pytest.raises(InvalidService):
        registry.watch("")


def test_close_from_another_thread_ends_the_iteration(registry: microreg.sync.Registry) -> None:
    with registry.watch() as events:
        assert isinstance(next(events), Snapshot)
        join = in_thread(partial(list, events))
        eventually(lambda: waits(registry, "take"))
        events.close()
        join()


def waits(registry: microreg.sync.Registry, what: str) -> bool:
    """Whether a call of this name is under way on the loop."""

    async def look() -> bool:
        return any(task.get_name() == f"microreg call {what}" for task in asyncio.all_tasks())

    return registry.portal.call(look)


def test_closing_the_registry_ends_watches_and_calls_of_other_threads() -> None:
    with microreg.sync.connect("memory://") as registry, registry.watch() as events:
        assert isinstance(next(events), Snapshot)
        joins = [in_thread(partial(next, events)), in_thread(partial(registry.portal.call, asyncio.Event().wait))]
        eventually(lambda: waits(registry, "take") and waits(registry, "wait"))
        registry.close()
        for join in joins:
            with pytest.raises(RegistryClosed):
                join()
    assert names() == set()


# -- announcing ---------------------------------------------------------------------------------


def test_an_announcement(registry: microreg.sync.Registry) -> None:
    with microreg.sync.announce(registry, "greeter", port=8080, version="1.0", drain_delay=0.0) as announcement:
        announcement.wait_live(30)
        assert (announcement.state, announcement.error, announcement.ttl) == ("live", None, 15.0)
        assert [each.state for each in announcement.history] == ["live"]
        assert announcement.registry is registry
        assert registry.get_service("greeter")[0].nodes == (announcement.node,)
        announcement.update(status=Status.WARNING, metadata={"zone": "a"})
        assert registry.get_service("greeter")[0].nodes[0].metadata == {"zone": "a"}
        assert announcement.service.nodes[0].status is Status.WARNING
        announcement.drain()
        with pytest.raises(ServiceNotFound):
            registry.get_service("greeter")
        announcement.drain()
    assert announcement.state == "gone"


def test_changes_of_an_announcement_are_waited_for(registry: microreg.sync.Registry) -> None:
    heard: list[Transition] = []

    def follow() -> None:
        while news := announcement.changed(heard[-1] if heard else None):
            heard.extend(news)

    with announce(registry, "greeter", port=80, drain_delay=0.0) as announcement:
        join = in_thread(follow)
        eventually(lambda: heard)
        assert announcement.changed(heard[-1], timeout=0.01) == ()
        announcement.update(status=Status.WARNING)
    join()
    assert tuple(heard) == announcement.history
    assert [(each.state, each.status) for each in heard] == [
        ("live", "passing"),
        ("live", "warning"),
        ("draining", "draining"),
        ("gone", "draining"),
    ]


def test_what_cannot_be_announced_says_so(registry: microreg.sync.Registry) -> None:
    with pytest.raises(InvalidService, match="port"):
        announce(registry, "greeter")
    with pytest.raises(ConfigError, match=r"microreg\.sync\.connect\(\) made, got Checked"):
        announce(cast(microreg.sync.Registry, registry.inner), "greeter", port=80)
    with pytest.raises(ConfigError, match=r"microreg\.sync\.connect\(\) made, got str"):
        microreg.sync.Selector(cast(microreg.sync.Registry, "memory://"))
    with announce(registry, A), pytest.raises(InvalidService, match="twice"), announce(registry, A):
        pass
    assert registry.list_services() == ()


def test_a_plain_check_runs_off_the_loop_and_stalls_nobody(registry: microreg.sync.Registry) -> None:
    threads: list[str] = []
    asked, released = threading.Event(), threading.Event()

    def check() -> bool:
        threads.append(threading.current_thread().name)
        asked.set()
        return released.wait(60)

    def enter() -> None:
        with announce(registry, "slow", port=80, check=check) as slow:
            slow.wait_live(30)

    join = in_thread(enter)
    assert asked.wait(30)
    with announce(registry, "greeter", port=80) as announcement:
        announcement.wait_live(30)  # the loop is free
    released.set()
    join()
    assert threads[0].startswith("microreg memory:// worker")


@pytest.mark.parametrize(
    "health", [False, ValueError("ill"), SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
def test_a_check_that_fails_makes_the_node_critical(registry: microreg.sync.Registry, health: object) -> None:
    def check() -> bool:
        if isinstance(health, BaseException):
            raise health
        return bool(health)

    with announce(registry, "greeter", port=80, check=check) as announcement:
        announcement.wait_live(30)
        assert registry.get_service("greeter")[0].nodes[0].status is Status.CRITICAL


def test_checks_of_every_other_form(registry: microreg.sync.Registry) -> None:
    ran: list[str] = []

    async def check() -> bool:
        ran.append(threading.current_thread().name)
        return True

    # `lambda: check()` is a plain function whose result is to be awaited.
    for form in (check, lambda: check()):
        with announce(registry, "greeter", port=80, check=form) as announcement:
            announcement.wait_live(30)
            assert announcement.node.status is Status.PASSING
    assert ran == ["microreg memory://"] * 2
    with announce(registry, "greeter", port=80, check="tcp://127.0.0.1:1") as announcement:
        announcement.wait_live(30)
        assert announcement.node.status is Status.CRITICAL
    with pytest.raises(ConfigError):
        announce(registry, "greeter", port=80, check="udp://127.0.0.1:1")


def test_a_check_that_hangs_takes_one_thread_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.sync.portal._WORKERS", 0.02)
    calls, forever = [0], threading.Event()

    def check() -> None:
        calls[0] += 1
        forever.wait(60)

    async def ask_twice() -> None:
        asked = workers.off_loop(check)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await asked()

    try:
        with microreg.sync.connect("memory://") as registry:
            registry.portal.call(ask_twice)
        assert calls == [1]
        assert names() == {"microreg memory:// worker"}
    finally:
        forever.set()


# -- selecting ----------------------------------------------------------------------------------


@pytest.fixture(name="selector")
def _selector(registry: microreg.sync.Registry) -> Iterator[microreg.sync.Selector]:
    registry.register(A)
    registry.register(B)
    with microreg.sync.Selector(registry, "round_robin") as selector:
        eventually(lambda: {selector.select("greeter").id for _ in range(2)} == {"a", "b"})
        yield selector


def test_selecting(registry: microreg.sync.Registry, selector: microreg.sync.Selector) -> None:
    assert {selector.pick("greeter").id for _ in range(2)} == {"a", "b"}
    with pytest.raises(NoNodeAvailable):
        selector.pick("nobody")
    with pytest.raises(NoNodeAvailable, match=r"within 0\.01 s"):
        selector.select("nobody", timeout=0.01)
    for odd in (cast(str, ["a", "list"]), cast(str, None)):
        for ask in (selector.pick, selector.select):
            with pytest.raises(InvalidService, match="service name is .*; expected a str"):
                ask(odd)
    with pytest.raises(ConfigError, match="timeout nan"):
        selector.select("nobody", timeout=float("nan"))
    assert selector.registry is registry
    with pytest.raises(RegistryClosed, match="`with microreg"):
        microreg.sync.Selector(registry).select("greeter")
    selector.close()
    with pytest.raises(RegistryClosed):
        selector.pick("greeter")
    selector.close()


def test_a_hot_pick_needs_no_other_thread(registry: microreg.sync.Registry, selector: microreg.sync.Selector) -> None:
    blocked, released = threading.Event(), threading.Event()

    def block() -> bool:
        blocked.set()
        return released.wait(60)

    join = in_thread(partial(registry.portal.run, block))
    assert blocked.wait(30)
    try:
        assert selector.pick("greeter").id in "ab"
        assert selector.select("greeter").id in "ab"
        assert selector.call("greeter", lambda node: node.id) in "ab"
    finally:
        released.set()
        join()


def test_a_call_runs_in_the_callers_thread_and_may_call_the_registry(
    registry: microreg.sync.Registry, selector: microreg.sync.Selector
) -> None:
    def function(node: Node) -> tuple[threading.Thread, int]:
        return threading.current_thread(), len(registry.get_service("greeter")[0].nodes)

    assert selector.call("greeter", function) == (threading.current_thread(), 2)


def test_a_call_is_retried_on_the_other_node(selector: microreg.sync.Selector) -> None:
    tried: list[str] = []

    def function(node: Node) -> str:
        tried.append(node.id)
        if len(tried) == 1:
            raise ConnectionRefusedError("down")
        return node.id

    assert selector.call("greeter", function) == tried[1]
    assert sorted(tried) == ["a", "b"]


def test_a_call_that_fails_everywhere_raises_the_last_error(selector: microreg.sync.Selector) -> None:
    tried: list[str] = []

    def refuse(node: Node) -> None:
        tried.append(node.id)
        raise ConnectionRefusedError(node.id)

    with pytest.raises(ConnectionRefusedError) as caught:
        selector.call("greeter", refuse)
    assert (sorted(tried), str(caught.value)) == (["a", "b"], tried[-1])
    tried.clear()
    with pytest.raises(ConnectionRefusedError):
        selector.call("greeter", refuse, attempts=1)
    with pytest.raises(ConnectionRefusedError):
        selector.call("greeter", refuse, retry_on=ValueError)
    assert len(tried) == 2
    with pytest.raises(ConfigError, match="attempts"):
        selector.call("greeter", refuse, attempts=0)
    with pytest.raises(ConfigError, match="function None"):
        selector.call("greeter", cast(Callable[[Node], None], None))
    with pytest.raises(NoNodeAvailable):
        selector.call("nobody", refuse, timeout=0.01)


# -- the thread ---------------------------------------------------------------------------------


def test_the_thread_lives_from_open_to_close() -> None:
    registry = microreg.sync.connect("memory://")
    assert names() == set()
    with pytest.raises(RegistryClosed, match=r"`with microreg\.sync\.connect"):
        registry.list_services()
    registry.close()
    registry.open()
    registry.open()
    assert names() == {"microreg memory://"}
    registry.close()
    registry.close()
    assert names() == set()
    for call in (registry.list_services, registry.open, partial(registry.watch, "greeter")):
        with pytest.raises(RegistryClosed, match="closed"):
            call()


def test_no_thread_is_left_when_the_body_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        with microreg.sync.connect("memory://") as registry, announce(registry, "greeter", port=80):
            raise ZeroDivisionError
    assert names() == set()


def test_no_thread_is_left_when_open_fails_and_open_may_be_tried_again() -> None:
    class Shy(MemoryRegistry):
        opens = 0

        async def open(self) -> None:
            self.opens += 1
            if self.opens == 1:
                raise OSError("not yet")
            await super().open()

    registry = opened(Shy)
    with pytest.raises(RegistryUnavailable, match="not yet"):
        registry.open()
    assert names() == set()
    with registry:
        assert registry.list_services() == ()
    assert names() == set()


def test_parts_may_be_left_after_the_registry() -> None:
    with microreg.sync.connect("memory://") as registry:
        announcement = announce(registry, "greeter", port=80).__enter__()
        selector = microreg.sync.Selector(registry).__enter__()
        events = registry.watch().__enter__()
    assert announcement.state == "gone"  # closing has withdrawn it
    for part in (announcement, selector, events):
        part.__exit__(None, None, None)
    announcement.drain()
    events.close()
    with pytest.raises(RegistryClosed):
        announcement.wait_live()


def test_a_call_from_the_portals_own_thread_is_refused(registry: microreg.sync.Registry) -> None:
    for call in (registry.list_services, registry.close):
        with pytest.raises(WrongLoop, match=r"plain function \(def, not async def\)"):
            registry.portal.run(cast(Callable[[], object], call))
    errors: list[Exception] = []

    async def check() -> None:
        try:
            registry.list_services()
        except WrongLoop as error:
            errors.append(error)

    with announce(registry, "greeter", port=80, check=check):
        assert len(errors) == 1


def test_many_threads_use_one_registry(registry: microreg.sync.Registry) -> None:
    def work(number: int) -> int:
        mine = Service(f"s{number}", nodes=[Node("10.0.0.1:80", id=str(number))])
        for _ in range(25):
            registry.register(mine)
            assert registry.get_service(mine.name)[0].nodes == mine.nodes
        return number

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == list(range(16))
    assert len(registry.list_services()) == 16


def test_two_portals_at_once() -> None:
    with microreg.sync.connect("memory://shared") as one, microreg.sync.connect("memory://shared") as two:
        assert len([thread for thread in threading.enumerate() if thread.name == "microreg memory://shared"]) == 2
        one.register(A)
        assert two.list_services() == ()  # a memory store belongs to its loop
        joins = [in_thread(partial(each.register, B)) for each in (one, two)]
        for join in joins:
            join()
        assert two.portal.run(one.list_services) == ("greeter",)


def test_threads_and_descriptors_are_given_back() -> None:
    def use() -> None:
        with opened(MemoryRegistry) as registry, microreg.sync.Selector(registry, random) as selector:
            with announce(registry, "greeter", address="10.0.0.1:80", check=lambda: True):
                assert selector.select("greeter").port == 80

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    use()
    threads, files = threading.active_count(), descriptors()
    for _ in range(50):
        use()
    assert threading.active_count() <= threads and descriptors() <= files


def test_a_call_keeps_the_callers_context(registry: microreg.sync.Registry) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")

    async def read() -> str:
        return variable.get()

    assert registry.portal.call(read) == "the caller's"


def test_errors_of_every_kind_come_out(registry: microreg.sync.Registry) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("x"), asyncio.CancelledError()):
        with pytest.raises((ValueError, RegistryClosed)):
            registry.portal.call(fail, error)
    with pytest.raises(TypeError):
        registry.get_service()  # type: ignore[call-arg]
    assert registry.list_services() == ()


def test_a_loop_that_dies_leaves_nobody_waiting() -> None:
    async def leave() -> None:
        raise SystemExit(1)

    with microreg.sync.connect("memory://") as registry:
        join = in_thread(partial(registry.portal.call, asyncio.Event().wait))
        eventually(lambda: waits(registry, "wait"))
        with pytest.raises(SystemExit):
            registry.portal.call(leave)
        with pytest.raises(RegistryClosed):
            join()
        with pytest.raises(RegistryClosed):
            registry.list_services()


# -- Ctrl-C -------------------------------------------------------------------------------------


def test_ctrl_c_cancels_the_call_and_waits_for_its_end(registry: microreg.sync.Registry) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            strike()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    with pytest.raises(KeyboardInterrupt):
        registry.portal.call(wait)
    assert ended == ["ended"]
    assert registry.list_services() == ()


def test_a_second_ctrl_c_waits_no_more(registry: microreg.sync.Registry) -> None:
    over = threading.Event()

    async def wait() -> None:
        for _ in range(2):
            strike()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
        over.set()

    with pytest.raises(KeyboardInterrupt):
        registry.portal.call(wait)
    assert over.wait(30)  # the second has cancelled it too


def test_ctrl_c_while_entering_leaves_nothing_announced(registry: microreg.sync.Registry) -> None:
    async def check() -> None:
        strike()

    with pytest.raises(KeyboardInterrupt), announce(registry, "greeter", port=80, check=check):
        raise AssertionError("the body ran")
    assert registry.list_services() == ()


def test_ctrl_c_that_comes_too_late_to_stop_the_entering_undoes_it(registry: microreg.sync.Registry) -> None:
    done: list[str] = []

    async def enter() -> None:
        strike()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            done.append("entered")

    async def leave() -> None:
        done.append("left")

    with pytest.raises(KeyboardInterrupt):
        registry.portal.enter(enter, leave)
    assert done == ["entered", "left"]


def test_ctrl_c_in_a_watch_loses_no_event(registry: microreg.sync.Registry) -> None:
    class Struck(Watch):
        async def __anext__(self) -> Event:
            strike()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
            return await super().__anext__()

    source = registry.portal.run(registry.inner.watch)
    with microreg.sync.Watch(registry, Struck(source.source)) as events:
        with pytest.raises(KeyboardInterrupt):
            next(events)
        assert next(events) == Snapshot()


def test_ctrl_c_ends_the_drain_that_it_strikes_twice() -> None:
    """Once while the body runs, once while that leads to draining, which would take an hour."""
    with microreg.sync.connect("memory://") as registry:
        announcement = microreg.sync.announce(registry, "slow", port=80, drain_delay=3600.0)

        def again() -> None:
            eventually(lambda: announcement.state == "draining" and not registry.list_services())
            strike()

        join = in_thread(again)
        with pytest.raises(KeyboardInterrupt), announcement:
            announcement.wait_live(30)
            raise KeyboardInterrupt
        join()
        assert announcement.state == "gone"


ALARMS = """
import signal, time, microreg.sync
calls, inside = [0, 0], []

def alarm(*_):
    if not inside:
        inside.append(True)
        registry.get_service("greeter")
        calls[1] += 1
        inside.clear()

with microreg.sync.connect("memory://") as registry:
    with microreg.sync.announce(registry, "greeter", port=80, drain_delay=0) as announcement:
        announcement.wait_live(30)
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        end = time.monotonic() + 100
        while calls[1] < 500 and time.monotonic() < end:
            registry.get_service("greeter")
            calls[0] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(calls[0] > 0, calls[1], announcement.state)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_may_call_wherever_it_strikes() -> None:
    assert python(ALARMS, timeout=150.0).split() == ["True", "500", "live"]


PROGRAM = """
import threading, microreg.sync
registry = microreg.sync.connect("memory://")
try:
    with registry, microreg.sync.announce(registry, "greeter", port=80, drain_delay=0), registry.watch() as events:
        for event in events:
            print("event", flush=True)
except KeyboardInterrupt:
    print("interrupted", threading.active_count(), flush=True)
    raise
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(),
    )


def test_ctrl_c_ends_a_program_that_waits() -> None:
    with start(PROGRAM) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "event\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "interrupted 1"
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "Warning" not in errors
    assert process.returncode == -signal.SIGINT


# -- the end of the process ----------------------------------------------------------------------

FORGETFUL = """
import threading, microreg.sync, microreg.sync.portal
from microreg.backends.memory import MemoryRegistry

microreg.sync.portal._WORKERS = 0.01  # seconds that the end waits for the check that hangs

class Loud(MemoryRegistry):
    async def deregister(self, service):
        print("deregister", service.name, flush=True)

    async def close(self):
        print("close", flush=True)

inner = microreg.connect("memory://")
inner.inner = Loud(inner.url, inner.options)
registry = microreg.sync.Registry(inner)
registry.open()
announcement = microreg.sync.announce(registry, "greeter", port=80, drain_delay=0).__enter__()
announcement.wait_live(30)
asked = threading.Event()

def hang():
    asked.set()
    threading.Event().wait()

hung = microreg.sync.announce(registry, "hung", port=80, check=hang, drain_delay=0)
threading.Thread(target=hung.__enter__, daemon=True).start()
asked.wait(30)
"""


def test_exit_without_close_says_so_once_and_closes() -> None:
    with start(FORGETFUL) as process:
        output, errors = process.communicate(timeout=60)
    assert "deregister greeter" in output
    assert output.splitlines()[-1] == "close"
    assert errors.count("RuntimeWarning") == errors.count("never closed") == 1
    assert "memory:// was never closed: use `with microreg.sync.connect(...)" in errors
    assert process.returncode == 0


def test_a_registry_that_is_dropped_open_says_so_once_and_ends() -> None:
    registry = microreg.sync.connect("memory://")
    registry.open()
    assert names() == {"microreg memory://"}
    with pytest.warns(RuntimeWarning, match="never closed") as caught:
        del registry
        gc.collect()
        eventually(lambda: not names())
    assert len(caught) == 1


FORK = """
import os, sys, warnings, microreg.sync
from microreg.errors import RegistryClosed
warnings.simplefilter("ignore", DeprecationWarning)

def refused(function, *args):
    try:
        function(*args)
    except RegistryClosed as error:
        return "fork" in str(error)

with microreg.sync.connect("memory://") as registry:
    with microreg.sync.announce(registry, "greeter", port=80, drain_delay=0) as announcement:
        with microreg.sync.Selector(registry) as selector, registry.watch() as events:
            selector.select("greeter")
            next(events)
            child = os.fork()
            if not child:
                calls = [(registry.list_services,), (selector.pick, "greeter"), (selector.select, "greeter"),
                         (next, events), (announcement.update,), (registry.open,), (registry.watch,)]
                print(*[refused(*call) for call in calls], flush=True)
    if child:
        _, status = os.waitpid(child, 0)
        print("status", status, registry.list_services())
if not child:
    with microreg.sync.connect("memory://") as mine:
        print("own", mine.list_services(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_and_leaves_its_parent_alone() -> None:
    lines = python(FORK).splitlines()
    assert lines[:2] == ["True True True True True True True", "own ()"]
    assert lines[2:] == ["status 0 ()"]


# -- types and signatures -----------------------------------------------------------------------

PAIRS = [
    (microreg.Registry, microreg.sync.Registry, {"Options", "advertised_host", "errors", "holds", "suspect", "unwrap"}),
    (microreg.Watch, microreg.sync.Watch, {"doubt", "fail", "join", "source"}),
    (microreg.Announcement, microreg.sync.Announcement, set[str]()),
    (microreg.Selector, microreg.sync.Selector, {"picks"}),
]
METHODS = [
    (there, here, name)
    for there, here, unmirrored in PAIRS
    for name, value in inspect.getmembers(there)
    if not name.startswith("_") and name not in unmirrored
    if inspect.isroutine(value) or isinstance(value, property)
]


@pytest.mark.parametrize(("there", "here", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_method_is_there_with_the_same_signature(there: type, here: type, name: str) -> None:
    expected, found = getattr(there, name), getattr(here, name)
    assert found.__doc__
    if isinstance(expected, property):
        assert isinstance(found, property)
        expected, found = cast(Callable[..., object], expected.fget), cast(Callable[..., object], found.fget)
    assert not inspect.iscoroutinefunction(found)
    signature = inspect.signature(expected)
    if (here, name) == (microreg.sync.Selector, "call"):
        plain = signature.parameters["function"].replace(annotation="Callable[[Node], T]")
        signature = signature.replace(parameters=[*({**signature.parameters, "function": plain}).values()])
    if (here, name) == (microreg.sync.Selector, "acquire"):
        signature = signature.replace(return_annotation="Generator[Node]")
    assert inspect.signature(found) == signature


@pytest.mark.parametrize("name", ["announce", "connect"])
def test_the_functions_have_the_same_signature(name: str) -> None:
    there, here = getattr(microreg, name), getattr(microreg.sync, name)
    assert inspect.signature(here) == inspect.signature(there)
    assert here.__doc__


def test_the_selector_is_made_with_the_same_arguments() -> None:
    assert inspect.signature(microreg.sync.Selector) == inspect.signature(microreg.Selector)


def test_attributes_that_the_async_side_sets_are_there(registry: microreg.sync.Registry) -> None:
    def public(thing: object) -> set[str]:
        return {name for name in vars(thing) if not name.startswith("_")}

    with announce(registry, "greeter", port=80) as announcement, microreg.sync.Selector(registry) as selector:
        with registry.watch() as events:
            pairs = [
                (registry.inner.unwrap(MemoryRegistry), registry, set[str]()),
                (announcement.inner, announcement, set[str]()),
                (selector.inner, selector, set[str]()),
                (events.inner, events, {"backoff", "on_state", "rng", "source", "tally"}),
            ]
            for there, here, unmirrored in pairs:
                assert [name for name in public(there) - unmirrored if not hasattr(here, name)] == []


def test_importing_it_is_light() -> None:
    loaded = set(python("import sys, microreg.sync; print(*sys.modules)").split())
    assert {"pluggy", "rich", "typer", "zeroconf"} & loaded == set()
    assert "microreg.sync" not in python("import sys, microreg; print(*sys.modules)").split()


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_see_the_same_types(checker: str, _checkers: dict[str, subprocess.Popen[str]]) -> None:
    if checker not in _checkers:
        pytest.skip(f"{checker} is not installed")
    process = _checkers[checker]
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0, output
