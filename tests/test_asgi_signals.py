"""Signals that are held back from a server, and the event of Hypercorn's supervisor."""

from __future__ import annotations

import asyncio
import signal
import sys
import types
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import pytest

from microreg.integrations.asgi import signals
from microreg.integrations.asgi.signals import Signals
from microreg.integrations.asgi.trigger import held_trigger
from support import run, wait_until

TERM, INT = signal.SIGTERM, signal.SIGINT


class Told:
    """What a server was told, and what the holder of the signals."""

    def __init__(self) -> None:
        self.server: list[int] = []
        self.holder: list[str] = []

    def handle(self, number: int, frame: object) -> None:
        self.server.append(number)

    def hold(self) -> Signals:
        return Signals(lambda: self.holder.append("begin"), lambda: self.holder.append("hurry"))


@contextmanager
def handled(told: Told) -> Generator[None]:
    """A server that uses ``signal.signal``, as uvicorn does."""
    before = {number: signal.signal(number, told.handle) for number in (TERM, INT)}
    try:
        yield
        assert [signal.getsignal(number) for number in before] == [told.handle] * 2, "not put back"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(name="told")
def _told() -> Told:
    return Told()


def test_what_came_goes_to_the_server_at_the_end(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold():
                signal.raise_signal(TERM)
                await wait_until(lambda: told.holder)
                assert (told.holder, told.server) == (["begin"], [])
            assert told.server == [TERM]

    run(main())


def test_nothing_came_and_nothing_is_raised(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold() as held:
                held.release()
                signal.raise_signal(INT)
            assert (told.holder, told.server) == ([], [INT])

    run(main())


def test_a_supervisor_may_repeat_what_a_service_manager_has_sent(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold():
                for number in (INT, TERM, TERM):
                    signal.raise_signal(number)
                await wait_until(lambda: told.holder)
                await asyncio.sleep(0)
                assert (told.holder, told.server) == (["begin"], [])
            assert told.server == [INT, TERM]

    run(main())


def test_a_second_ctrl_c_is_meant(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold():
                signal.raise_signal(INT)
                signal.raise_signal(INT)
                await wait_until(lambda: told.server)
                assert (told.holder, told.server) == (["begin", "hurry"], [INT, INT])
            assert told.server == [INT, INT]

    run(main())


def test_a_later_signal_is_meant(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold():
                signal.raise_signal(TERM)
                await wait_until(lambda: told.holder)
                monkeypatch.setattr(signals, "TOGETHER", -1.0)
                signal.raise_signal(TERM)
                await wait_until(lambda: told.server)
                assert (told.holder, told.server) == (["begin", "hurry"], [TERM, TERM])

    run(main())


def test_handlers_of_the_loop_wait_too_and_others_do_not(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (TERM, signal.SIGUSR1):
            loop.add_signal_handler(number, told.handle, number, None)
        descriptor = _wakeup_descriptor()
        try:
            with told.hold():
                assert _wakeup_descriptor() != descriptor
                signal.raise_signal(TERM)
                signal.raise_signal(signal.SIGUSR1)
                await wait_until(lambda: told.holder and told.server)
                assert told.server == [signal.SIGUSR1]
            await wait_until(lambda: len(told.server) > 1)
            assert told.server == [signal.SIGUSR1, TERM]
            assert _wakeup_descriptor() == descriptor
            signal.raise_signal(TERM)
            await wait_until(lambda: len(told.server) > 2)
        finally:
            for number in (TERM, signal.SIGUSR1):
                loop.remove_signal_handler(number)

    run(main())


def _wakeup_descriptor() -> int:
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


def test_a_loop_whose_descriptor_somebody_took_meanwhile_keeps_its_handlers(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(TERM, told.handle, TERM, None)
        try:
            outer, inner = told.hold(), told.hold()
            with outer:
                inner.__enter__()
            signal.raise_signal(TERM)
            await wait_until(lambda: told.holder)
            assert told.server == []
            inner.release()
            await wait_until(lambda: told.server)
            assert (told.holder, told.server) == (["begin"], [TERM])
        finally:
            loop.remove_signal_handler(TERM)

    run(main())


def test_two_holders_begin_one_after_the_other(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            with told.hold():
                with told.hold():
                    signal.raise_signal(TERM)
                    await wait_until(lambda: told.holder)
                    assert told.holder == ["begin"]
                await wait_until(lambda: len(told.holder) == 2)
                assert told.server == []
            assert told.server == [TERM]

    run(main())


def test_signals_that_are_ignored_stay_so(told: Told) -> None:
    async def main() -> None:
        with handled(told):
            signal.signal(INT, signal.SIG_IGN)
            with told.hold():
                assert signal.getsignal(INT) is signal.SIG_IGN
                signal.raise_signal(INT)
            signal.signal(INT, told.handle)
            assert (told.holder, told.server) == ([], [])

    run(main())


def test_outside_of_the_main_thread_nothing_is_held(told: Told) -> None:
    def other() -> None:
        async def held() -> object:
            with told.hold():
                return signal.getsignal(TERM)

        assert asyncio.run(held()) == told.handle

    async def main() -> None:
        with handled(told):
            await asyncio.to_thread(other)
        await asyncio.get_running_loop().shutdown_default_executor()

    run(main())


def test_a_signal_after_the_loop_is_closed_goes_to_the_server(told: Told) -> None:
    async def main() -> Signals:
        return told.hold().__enter__()

    with handled(told):
        held = asyncio.run(main())
        signal.raise_signal(TERM)
        assert told.server == [TERM]
        held.release()


# -- Hypercorn -----------------------------------------------------------------------------------


class ShutdownError(Exception):
    pass


async def raise_shutdown(trigger: Callable[[], Awaitable[object]]) -> None:
    """As in Hypercorn."""
    await trigger()
    raise ShutdownError


@pytest.fixture(name="hypercorn")
def _hypercorn(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("hypercorn.asyncio.run")
    module.raise_shutdown = raise_shutdown  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@contextmanager
def default_sigterm() -> Generator[None]:
    before = signal.signal(TERM, signal.SIG_DFL)
    try:
        yield
        assert signal.getsignal(TERM) is signal.SIG_DFL, "not put back"
    finally:
        signal.signal(TERM, before)


def test_a_worker_of_hypercorn_drains_before_it_is_told(hypercorn: types.ModuleType) -> None:
    async def main() -> None:
        event, draining, drained = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def drain() -> None:
            draining.set()
            await drained.wait()

        with held_trigger(drain):
            worker = asyncio.create_task(hypercorn.raise_shutdown(event.wait))
            await asyncio.sleep(0)
            assert not draining.is_set()
            event.set()
            await asyncio.wait_for(draining.wait(), 5)
            assert not worker.done()
            drained.set()
            with pytest.raises(ShutdownError):
                await worker
        assert hypercorn.raise_shutdown is raise_shutdown

    run(main())


def test_sigterm_begins_the_end_of_a_worker_of_hypercorn(hypercorn: types.ModuleType) -> None:
    async def main() -> None:
        drained: list[bool] = []

        async def drain() -> None:
            drained.append(True)

        with default_sigterm(), held_trigger(drain):
            worker = asyncio.create_task(hypercorn.raise_shutdown(asyncio.Event().wait))
            signal.raise_signal(TERM)
            signal.raise_signal(TERM)
            with pytest.raises(ShutdownError):
                await asyncio.wait_for(worker, 5)
            assert drained == [True]

    run(main())


def test_a_worker_of_another_loop_is_left_alone(hypercorn: types.ModuleType) -> None:
    async def drain() -> None:
        raise AssertionError("not this one's")

    async def other() -> None:
        with pytest.raises(ShutdownError):
            await hypercorn.raise_shutdown(_at_once)

    async def main() -> None:
        with held_trigger(drain):
            await asyncio.to_thread(asyncio.run, other())
        await asyncio.get_running_loop().shutdown_default_executor()
        assert hypercorn.raise_shutdown is raise_shutdown

    run(main())


async def _at_once() -> None: ...


def test_a_trigger_that_fails_fails_as_before(hypercorn: types.ModuleType) -> None:
    async def broken() -> None:
        raise OSError("no event")

    async def main() -> None:
        with held_trigger(_at_once):
            with pytest.raises(OSError, match="no event"):
                await hypercorn.raise_shutdown(broken)

    run(main())


@pytest.mark.parametrize("loaded", [True, False])
def test_without_hypercorn_or_with_another_version_nothing_is_changed(
    loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("hypercorn.asyncio.run")
    if loaded:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    else:
        monkeypatch.delitem(sys.modules, module.__name__, raising=False)

    async def main() -> None:
        before = signal.getsignal(TERM)
        with held_trigger(_at_once):
            assert not hasattr(module, "raise_shutdown")
            assert signal.getsignal(TERM) is before

    run(main())
