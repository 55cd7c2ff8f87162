"""Checked: what is the same on every backend, with a backend that only notes what reaches it."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import pytest

from microreg.checked import Checked
from microreg.errors import (
    ConfigError,
    InvalidService,
    PermissionDenied,
    RecordTooLarge,
    RegistryClosed,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    WrongLoop,
)
from microreg.events import Event, Snapshot
from microreg.model import Node, Service
from microreg.options import Duration, Options
from microreg.registry import Layer, Registry
from microreg.rules import DEFAULT_TTL
from microreg.url import RegistryURL
from microreg.watch import Watch
from strategies import record
from timeless import run

URL = "spy://user:hunter2@10.0.0.1/prefix?token=s%2Fcret"
OPTIONS = Options(timeout=Duration(5.0))
TWO = Service("greeter", "1", nodes=[Node("10.0.0.1:80", id="a"), Node("10.0.0.2:80", id="b")])


class LibraryError(Exception):
    """Of a client library."""


class LibraryTimeout(LibraryError, TimeoutError):
    """Mapped by its base class, although it is also a builtin."""


class MissingKey(KeyError):
    """Mapped to ServiceNotFound."""


class Spy(Registry):
    """Notes every call; ``answer`` decides what a call does."""

    errors = {LibraryError: PermissionDenied, LookupError: ServiceNotFound}

    def __init__(self, text: str = URL, options: Options = OPTIONS) -> None:
        super().__init__(RegistryURL.parse(text), options)
        self.calls: list[tuple[str, object]] = []
        self.answer: Callable[[str, object], Awaitable[object]] = self.nothing
        self.services: tuple[Service, ...] = ()
        self.names: tuple[str, ...] = ()
        self.open_watches = 0

    async def nothing(self, verb: str, argument: object) -> None:
        pass

    def raising(self, error: BaseException) -> Spy:
        async def answer(verb: str, argument: object) -> None:
            raise error

        self.answer = answer
        return self

    async def _call(self, verb: str, argument: object = None) -> None:
        self.calls.append((verb, argument))
        await self.answer(verb, argument)

    async def open(self) -> None:
        await self._call("open")

    async def close(self) -> None:
        await self._call("close")

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        await self._call("register", (service, ttl))

    async def deregister(self, service: Service) -> None:
        await self._call("deregister", service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        await self._call("get_service", name)
        return self.services

    async def list_services(self) -> tuple[str, ...]:
        await self._call("list_services")
        return self.names

    def watch(self, name: str | None = None) -> Watch:
        self.calls.append(("watch", name))
        return Watch(self._changes)

    async def _changes(self) -> AsyncGenerator[Event, None]:
        self.open_watches += 1
        try:
            await self._call("stream")
            yield Snapshot(self.services)
            await asyncio.get_running_loop().create_future()
        finally:
            self.open_watches -= 1

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.calls]


async def watched(registry: Registry) -> Event:
    async with registry.watch("greeter") as events:
        return await anext(events)


VERBS: dict[str, Callable[[Registry], Awaitable[object]]] = {
    "register": lambda registry: registry.register(record()),
    "deregister": lambda registry: registry.deregister(record()),
    "get_service": lambda registry: registry.get_service("greeter"),
    "list_services": lambda registry: registry.list_services(),
    "watch": watched,
}
each_verb = pytest.mark.parametrize("verb", VERBS)
each_call = pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "watch"])


@each_verb
def test_nothing_works_before_open_and_after_close(verb: str) -> None:
    async def main() -> None:
        spy = Spy()
        registry = Checked(spy)
        with pytest.raises(RegistryClosed, match=r"not open yet: use `async with connect"):
            await VERBS[verb](registry)
        assert spy.calls == []
        async with registry:
            pass
        with pytest.raises(RegistryClosed, match=r"was closed; connect\(\) again"):
            await VERBS[verb](registry)
        assert spy.verbs() == ["open", "close"]

    run(main())


@each_verb
def test_nothing_works_in_another_loop(verb: str) -> None:
    spy = Spy()
    registry = Checked(spy)

    async def main() -> None:
        for call in (VERBS[verb], lambda each: each.open(), lambda each: each.close()):
            with pytest.raises(WrongLoop, match="opened in another event loop"):
                await call(registry)

    with asyncio.Runner() as home:
        home.run(registry.open())
        run(main())
        assert spy.verbs() == ["open"]
        with pytest.raises(WrongLoop):
            registry.watch()
        home.run(registry.close())


def test_a_watch_that_is_entered_in_another_loop_or_after_close_says_so() -> None:
    spy = Spy()
    registry = Checked(spy)

    async def watched() -> Watch:
        return registry.watch()

    async def elsewhere() -> None:
        async with watch:
            with pytest.raises(WrongLoop):
                await anext(watch)

    with asyncio.Runner() as home:
        home.run(registry.open())
        watch = home.run(watched())
        run(elsewhere())
        home.run(registry.close())
    assert "stream" not in spy.verbs()

    async def late() -> None:
        async with Checked(spy) as other:
            unused = other.watch("greeter")
        with pytest.raises(RegistryClosed, match="was closed"):
            await unused.__aenter__()

    run(late())


def test_opening_and_closing_twice_is_fine() -> None:
    async def main() -> None:
        spy = Spy()
        async with Checked(spy) as registry:
            await registry.open()
        await registry.close()
        assert spy.verbs() == ["open", "close"]
        with pytest.raises(RegistryClosed, match=r"connect\(\) again"):
            await registry.open()
        never = Checked(Spy())
        await never.close()
        with pytest.raises(RegistryClosed):
            await never.open()

    run(main())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("no socket"), RegistryUnavailable),
        (LibraryError("who"), PermissionDenied),
        (ConfigError("cert"), ConfigError),
    ],
    ids=["builtin", "library", "ours"],
)
def test_a_failed_open_may_be_repeated_and_closed(error: Exception, kind: type[RegistryError]) -> None:
    async def main() -> None:
        spy = Spy().raising(error)
        registry = Checked(spy)
        with pytest.raises(kind) as caught:
            await registry.open()
        assert caught.value is error or caught.value.__cause__ is error
        assert caught.value.__cause__ is not caught.value
        assert caught.value is error or str(caught.value).startswith("open: ")
        with pytest.raises(RegistryClosed, match="not open yet"):
            await registry.list_services()
        spy.answer = spy.nothing
        await registry.open()
        await registry.list_services()
        await registry.close()
        assert spy.verbs() == ["open", "close", "open", "list_services", "close"]

    run(main())


def test_a_cancelled_open_may_be_repeated() -> None:
    async def main() -> None:
        spy = Spy()
        spy.answer = lambda verb, _: asyncio.sleep(60 if verb == "open" else 0)
        registry = Checked(spy)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(registry.open(), 1)
        spy.answer = spy.nothing
        async with registry:
            assert await registry.list_services() == ()

    run(main())


LARGE = {f"k{number}": "v" * 1024 for number in range(64)}
BAD: list[tuple[Callable[[Registry], Awaitable[object]], type[InvalidService]]] = [
    (lambda registry: registry.register(Service("")), InvalidService),
    (lambda registry: registry.register(Service("greeter")), InvalidService),
    (lambda registry: registry.register(Service("greeter", nodes=[TWO.nodes[0], Node("0.0.0.0:80")])), InvalidService),
    (lambda registry: registry.register(Service("greeter", nodes=[TWO.nodes[0]] * 2)), InvalidService),
    (lambda registry: registry.register(Service("greeter", metadata=LARGE, nodes=TWO.nodes)), RecordTooLarge),
    (lambda registry: registry.register(record(k="\ud800")), InvalidService),
    (lambda registry: registry.register(record(k="v" * 1_000_000)), InvalidService),
    (lambda registry: registry.register(record(), ttl=0), InvalidService),
    (lambda registry: registry.register(record(), ttl=float("nan")), InvalidService),
    (lambda registry: registry.register(record(), ttl=86_401), InvalidService),
    (lambda registry: registry.register("greeter"), InvalidService),  # type: ignore[arg-type]
    (lambda registry: registry.deregister(Service("greeter")), InvalidService),
    (lambda registry: registry.deregister(None), InvalidService),  # type: ignore[arg-type]
    (lambda registry: registry.get_service(""), InvalidService),
    (lambda registry: registry.get_service(None), InvalidService),  # type: ignore[arg-type]
    (lambda registry: registry.get_service("a\nb"), InvalidService),
]


@pytest.mark.parametrize(("call", "kind"), BAD, ids=range(len(BAD)))
def test_bad_input_never_reaches_the_backend(
    call: Callable[[Registry], Awaitable[object]], kind: type[InvalidService]
) -> None:
    async def main() -> None:
        spy = Spy()
        async with Checked(spy) as registry:
            with pytest.raises(kind):
                await call(registry)
            for name in ("", "\ud800", b"x", 5):
                with pytest.raises(InvalidService):
                    registry.watch(name)  # type: ignore[arg-type]
        assert spy.verbs() == ["open", "close"]

    run(main())


@pytest.mark.parametrize("verb", ["register", "deregister"])
def test_each_node_is_one_call_and_they_go_out_together(verb: str) -> None:
    async def main() -> None:
        spy = Spy()
        both = asyncio.Barrier(3)
        spy.answer = lambda called, _: both.wait() if called == verb else spy.nothing(called, None)
        async with Checked(spy) as registry:
            call = asyncio.ensure_future(
                registry.register(TWO, ttl=30) if verb == "register" else registry.deregister(TWO)
            )
            await both.wait()
            await call
        sent = [argument for called, argument in spy.calls if called == verb]
        assert sent == ([(each, 30.0) for each in TWO.records()] if verb == "register" else list(TWO.records()))

    run(main())


@pytest.mark.parametrize("verb", ["register", "deregister"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LibraryError("no"), PermissionDenied),
        (ConnectionResetError("reset"), RegistryUnavailable),
        (RegistryTimeout("ours"), RegistryTimeout),
        (asyncio.CancelledError(), RegistryUnavailable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_partial_failure_is_the_mapped_error_after_all_have_ended(
    verb: str, error: BaseException, kind: type[RegistryError]
) -> None:
    async def main() -> None:
        spy = Spy()
        ended: list[str] = []

        async def answer(_: str, argument: object) -> None:
            service = argument[0] if isinstance(argument, tuple) else argument
            if isinstance(service, Service):
                if service.nodes[0].id == "a":
                    raise error
                await asyncio.sleep(1)
                ended.append(service.nodes[0].id)

        spy.answer = answer
        async with Checked(spy) as registry:
            with pytest.raises(kind) as caught:
                await (registry.register(TWO) if verb == "register" else registry.deregister(TWO))
            assert ended == ["b"]
            assert caught.value is error or type(caught.value.__cause__) is type(error)
            assert caught.value.__cause__ is not caught.value

    run(main())


@each_call
@pytest.mark.parametrize("count", [1, 2])
def test_a_store_that_does_not_answer_is_a_timeout(verb: str, count: int) -> None:
    async def main() -> None:
        spy = Spy()
        ended: list[str] = []

        async def answer(called: str, _: object) -> None:
            try:
                await asyncio.sleep(0 if called in ("open", "close") else 3600)
            except asyncio.CancelledError:
                ended.append(called)
                raise

        spy.answer = answer
        async with Checked(spy) as registry:
            begin = asyncio.get_running_loop().time()
            with pytest.raises(
                RegistryTimeout, match=rf"{verb}: spy://.* did not answer within 5 s \(option timeout\)"
            ):
                match verb:
                    case "register":
                        await registry.register(TWO if count == 2 else record())
                    case "deregister":
                        await registry.deregister(TWO if count == 2 else record())
                    case _:
                        await VERBS[verb](registry)
            assert asyncio.get_running_loop().time() - begin == pytest.approx(5.0)
            assert set(ended) == {verb}

    run(main())


def test_closing_has_the_timeout_too_and_is_then_closed() -> None:
    async def main() -> None:
        spy = Spy()
        spy.answer = lambda verb, _: asyncio.sleep(3600 if verb == "close" else 0)
        registry = Checked(spy)
        await registry.open()
        with pytest.raises(RegistryTimeout, match="close: spy://"):
            await registry.close()
        await registry.close()
        assert spy.verbs() == ["open", "close"]

    run(main())


@each_call
@pytest.mark.parametrize("steps", range(4))
def test_every_call_can_be_cancelled(verb: str, steps: int) -> None:
    async def main() -> None:
        spy = Spy()
        spy.answer = lambda called, _: asyncio.sleep(0 if called in ("open", "close") else 1)
        async with Checked(spy) as registry:
            call = VERBS[verb](registry) if verb != "register" else registry.register(TWO)
            task = asyncio.ensure_future(call)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            spy.answer = spy.nothing
            assert await registry.list_services() == ()

    run(main())


MAPPED: list[tuple[BaseException, type[RegistryError]]] = [
    (LibraryError("refused"), PermissionDenied),
    (LibraryTimeout("refused late"), PermissionDenied),
    (TimeoutError("of the socket"), RegistryTimeout),
    (PermissionError("file"), PermissionDenied),
    (ConnectionRefusedError("refused"), RegistryUnavailable),
    (OSError(113, "no route to host"), RegistryUnavailable),
    (EOFError("half a message"), RegistryUnavailable),
    (asyncio.IncompleteReadError(b"", 5), RegistryUnavailable),
    (asyncio.CancelledError("by the library"), RegistryUnavailable),
    (ValueError("a bug"), RegistryError),
    (ZeroDivisionError(), RegistryError),
]


@each_verb
@pytest.mark.parametrize(
    ("error", "kind"), MAPPED, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else ""
)
def test_no_error_of_a_library_leaves(verb: str, error: BaseException, kind: type[RegistryError]) -> None:
    async def main() -> None:
        spy = Spy()
        async with Checked(spy) as registry:
            spy.raising(error)
            if verb == "watch":
                async with registry.watch("greeter") as events:
                    await asyncio.sleep(0.01)
                    found: RegistryError | None = events.error
            else:
                with pytest.raises(RegistryError) as caught:
                    await VERBS[verb](registry)
                found = caught.value
            spy.answer = spy.nothing
            assert type(found) is kind
            assert found is not None
            assert found.__cause__ is error or verb == "watch"
            text = str(found)
            assert text.startswith(f"{verb}: ") or verb == "watch"
            assert "option timeout" not in text

    run(main())


def test_errors_of_our_tree_pass_as_they_are() -> None:
    async def main() -> None:
        error = RegistryTimeout("from inside")
        spy = Spy()
        async with Checked(spy) as registry:
            spy.raising(error)
            for verb in ("register", "get_service"):
                with pytest.raises(RegistryTimeout) as caught:
                    await VERBS[verb](registry)
                assert caught.value is error
                assert error.__cause__ is None
            spy.answer = spy.nothing

    run(main())


@pytest.mark.parametrize("url", [URL, "spy://hunter2@10.0.0.1?token=s%2Fcret"], ids=["password", "user alone"])
def test_no_message_shows_a_secret(url: str) -> None:
    async def main() -> None:
        for told in (LibraryError, OSError, ValueError):
            spy = Spy(url)
            async with Checked(spy) as registry:
                spy.raising(told("cannot reach http://user:hunter2@10.0.0.1?token=s/cret or s%2Fcret"))
                for verb in ("register", "list_services"):
                    with pytest.raises(RegistryError) as caught:
                        await VERBS[verb](registry)
                    text = f"{caught.value} {registry!r} {registry.url} {spy!r}"
                    assert "***" in text
                    for secret in ("hunter2", "s/cret", "s%2Fcret"):
                        assert secret not in text
                spy.answer = spy.nothing

    run(main())


def test_get_service_is_exact_and_empty_is_not_found() -> None:
    async def main() -> None:
        spy = Spy()
        async with Checked(spy) as registry:
            spy.services = (record(), record("Greeter"), Service("greeter", "2"))
            assert await registry.get_service("greeter") == (record(),)
            assert await registry.get_service("Greeter") == (record("Greeter"),)
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("other")
            assert (caught.value.name, caught.value.authoritative) == ("other", False)
            spy.raising(MissingKey("/microreg/greeter"))
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("greeter")
            assert (caught.value.name, caught.value.authoritative) == ("greeter", False)
            assert isinstance(caught.value.__cause__, MissingKey)
            spy.raising(ServiceNotFound("greeter", authoritative=True))
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("greeter")
            assert caught.value.authoritative
            spy.answer = spy.nothing

    run(main())


def test_absence_is_authoritative_where_the_store_can_know() -> None:
    class Knowing(Spy):
        capabilities = frozenset({"authoritative"})

    async def main() -> None:
        async with Checked(Knowing()) as registry:
            with pytest.raises(ServiceNotFound) as caught:
                await registry.get_service("greeter")
            assert caught.value.authoritative

    run(main())


def test_names_are_sorted_and_told_once() -> None:
    async def main() -> None:
        spy = Spy()
        spy.names = ("b", "a", "b", "C")
        async with Checked(spy) as registry:
            assert await registry.list_services() == ("C", "a", "b")

    run(main())


def test_closing_ends_watches_with_registry_closed() -> None:
    async def main() -> None:
        spy = Spy()
        spy.services = (record(),)
        registry = Checked(spy)
        await registry.open()
        async with registry.watch("greeter") as one, registry.watch() as other:
            assert await anext(one) == await anext(other) == Snapshot(spy.services)
            waiting = asyncio.ensure_future(anext(one))
            await asyncio.sleep(0)
            await registry.close()
            assert spy.open_watches == 0
            for pending in (waiting, anext(other)):
                with pytest.raises(RegistryClosed, match=r"spy://.* was closed"):
                    await pending

    run(main())


def test_a_watch_hears_only_its_name_whatever_the_backend_sends() -> None:
    async def main() -> None:
        spy = Spy()
        spy.services = (record(), record("Greeter"))
        async with Checked(spy) as registry:
            assert await watched(registry) == Snapshot([record()])
            async with registry.watch() as events:
                assert await anext(events) == Snapshot(spy.services)

    run(main())


def test_a_node_is_claimed_once() -> None:
    registry = Checked(Spy())
    registry.claim(record())
    with pytest.raises(InvalidService, match="node 'a' of service 'greeter' is announced twice in this process"):
        registry.claim(record(port=81))
    registry.claim(record("other"))
    registry.release(record(port=81))
    registry.release(record(port=81))
    registry.claim(record())


class Outer(Layer):
    """A layer that changes nothing."""


def test_a_layer_hands_everything_on() -> None:
    async def main() -> None:
        spy = Spy()
        layer = Outer(spy, spy.url, OPTIONS)
        spy.services, spy.names = (record(),), ("greeter",)
        async with layer:
            await layer.register(TWO, ttl=7)
            await layer.deregister(TWO)
            assert await layer.get_service("greeter") == spy.services
            assert await layer.list_services() == ("greeter",)
            assert await watched(layer) == Snapshot(spy.services)
        assert spy.calls == [
            ("open", None),
            ("register", (TWO, 7)),
            ("deregister", TWO),
            ("get_service", "greeter"),
            ("list_services", None),
            ("watch", "greeter"),
            ("stream", None),
            ("close", None),
        ]
        assert layer.advertised_host() is None
        assert layer.capabilities == spy.capabilities

    run(main())


def test_unwrap_reaches_every_layer() -> None:
    spy = Spy()
    checked = Checked(spy)
    layer = Outer(checked, spy.url, OPTIONS)
    assert layer.unwrap(Outer) is layer
    assert layer.unwrap(Layer) is layer
    assert layer.unwrap(Checked) is checked
    assert layer.unwrap(Spy) is spy
    assert checked.unwrap(Outer) is None
    assert spy.unwrap(Spy) is spy
    assert spy.unwrap(Checked) is None


@pytest.mark.parametrize("steps", range(6))
def test_a_cancelled_close_is_complete_and_closing_again_is_fine(steps: int) -> None:
    class Slow(Spy):
        closed = False

        async def close(self) -> None:
            await asyncio.sleep(0.01)
            self.closed = True

    async def main() -> None:
        backend = Slow()
        registry = Checked(backend)
        await registry.open()
        async with registry.watch() as events:
            await asyncio.wait([asyncio.ensure_future(anext(events))], timeout=0)
            closing = asyncio.create_task(registry.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            await registry.close()
            assert backend.closed
        await registry.close()

    run(main())


def test_an_open_watch_is_told_that_it_is_iterated_in_another_loop() -> None:
    registry = Checked(Spy())

    async def watched() -> Watch:
        await registry.open()
        watch = await registry.watch().__aenter__()
        assert isinstance(await anext(watch), Snapshot)
        return watch

    async def elsewhere() -> None:
        with pytest.raises(WrongLoop, match="this watch was opened in another event loop"):
            await anext(watch)
        await watch.close()

    with asyncio.Runner() as home:
        watch = home.run(watched())
        run(elsewhere())
        home.run(registry.close())


# -- the end of a process, and a fork ------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["after its loop", "in its loop"])
def test_one_that_is_dropped_open_says_so_once(running: bool) -> None:
    async def main() -> None:
        registry = Checked(Spy())
        await registry.open()
        if running:
            del registry
            gc.collect()

    with pytest.warns(RuntimeWarning, match=r"never closed: use `async with microreg.connect\(") as caught:
        run(main())
        gc.collect()
    assert len(caught) == 1
    assert "hunter2" not in str(caught[0].message)


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_was_closed_or_never_open_says_nothing(fails: bool) -> None:
    async def main() -> None:
        spy = Spy()
        registry = Checked(spy.raising(OSError("no socket")) if fails else spy)
        with suppress(RegistryUnavailable):
            await registry.open()
        await registry.close()

    with warnings.catch_warnings(record=True) as caught:
        Checked(Spy())
        with suppress(RegistryUnavailable):
            run(main())
        gc.collect()
    assert caught == []


def test_one_that_is_closed_while_it_opens_says_nothing() -> None:
    async def main() -> None:
        async def slow(verb: str, argument: object) -> None:
            await asyncio.sleep(1 if verb == "open" else 0)

        spy = Spy()
        spy.answer = slow
        registry = Checked(spy)
        opening = asyncio.create_task(registry.open())
        await asyncio.sleep(0.5)
        await registry.close()
        await opening
        assert spy.verbs() == ["open", "close"]

    with warnings.catch_warnings(record=True) as caught:
        run(main())
        gc.collect()
    assert caught == []


def test_where_no_loop_runs_closing_does_nothing_and_hides_nothing() -> None:
    async def main() -> Checked:
        registry = Checked(spy)
        await registry.open()
        return registry

    spy = Spy()
    registry = run(main())
    with pytest.raises(StopIteration):
        registry.close().send(None)
    assert spy.verbs() == ["open"]
    with pytest.warns(RuntimeWarning, match="never closed"):
        del registry
        gc.collect()


@each_verb
def test_in_a_forked_child_every_verb_is_refused_and_close_does_nothing(verb: str) -> None:
    """As the child sees it: real forks are in integration/test_processes.py."""
    spy = Spy()
    registry = Checked(spy)

    async def parent() -> Watch:
        await registry.open()
        return await registry.watch().__aenter__()

    async def child() -> None:
        for call in (VERBS[verb], lambda each: each.open()):
            with pytest.raises(RegistryClosed, match=r"before fork\(\).*connect\(\) again in the child"):
                await call(registry)
        with pytest.raises(RegistryClosed, match=r"before fork\(\)"):
            await anext(watch)
        await watch.close()
        await registry.close()

    with asyncio.Runner() as home:
        watch = home.run(parent())
        before = spy.verbs()
        registry._after_fork()
        run(child())
        assert spy.verbs() == before


def test_one_that_was_not_opened_before_the_fork_is_the_childs() -> None:
    async def main() -> None:
        async with registry:
            assert await registry.list_services() == ()

    registry = Checked(Spy())
    registry._after_fork()
    run(main())
