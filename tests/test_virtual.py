"""The virtual-time event loop: time jumps, nothing hangs, nothing spins, nothing waits for the real world."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microreg.testing import virtual
from microreg.testing.virtual import VirtualLoop, VirtualTime, VirtualTimeError, run
from support import run as guarded


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_an_hour_passes_at_once_and_returns_what_main_returns() -> None:
    async def main() -> float:
        begin = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - begin

    begin = time.monotonic()
    assert run(main()) == 3600
    assert time.monotonic() - begin < 5


def test_time_stands_still_while_anything_can_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asyncio.get_running_loop().call_later(5, lambda: None)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert loop.time() == 0.0

    run(main())


def test_timers_fire_in_their_order_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        def note(name: str) -> None:
            seen.append((name, loop.time()))

        for name, delay in (("c", 86_000.0), ("a", 0.1), ("b", 0.2)):
            loop.call_later(delay, note, name)
        loop.call_later(0.15, note, "never").cancel()
        await asyncio.sleep(86_100)
        return seen

    assert run(main()) == [("a", 0.1), ("b", 0.2), ("c", 86_000.0)]


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=30))
def test_every_timer_fires_once_and_never_early(delays: list[float]) -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, float]] = []

        def note(delay: float) -> None:
            seen.append((delay, loop.time()))

        for delay in delays:
            loop.call_later(delay, note, delay)
        await asyncio.sleep(max(delays) + 1)
        return seen

    seen = run(main(), max_seconds=2e6)
    assert [delay for delay, _ in seen] == sorted(delays)
    assert all(abs(when - delay) < 1e-6 for delay, when in seen)


def test_timeouts_are_virtual_too() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await forever()
        return asyncio.get_running_loop().time()

    assert run(main()) == 30


def test_it_is_deterministic() -> None:
    async def main() -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []

        async def worker(number: int) -> None:
            for turn in range(20):
                await asyncio.sleep((number * 7 + turn * 3) % 5)
                seen.append((number, asyncio.get_running_loop().time()))

        await asyncio.gather(*(worker(number) for number in range(10)))
        return seen

    assert run(main()) == run(main())


def test_in_several_steps_time_and_tasks_go_on_where_they_were() -> None:
    seen: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(10)
            seen.append(asyncio.get_running_loop().time())

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(tick())
        await asyncio.sleep(15)
        return task

    with VirtualTime() as virtual_time:
        task = virtual_time.run(begin())
        assert (virtual_time.time(), seen) == (15, [10])
        virtual_time.run(asyncio.sleep(20))
        assert (virtual_time.time(), seen) == (35, [10, 20, 30])
    assert task.cancelled()


# -- what would hang -------------------------------------------------------------------------------


def test_a_deadlock_is_an_error_that_says_who_waits_and_where() -> None:
    async def stuck() -> None:
        await forever()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stuck(), name="the stuck one")
            group.create_task(stuck(), name="another")

    expected = r"deadlock: 3 tasks wait for something that never comes: .*another at test_virtual.py:\d+ in forever"
    with pytest.raises(VirtualTimeError, match=expected) as caught:
        run(main())
    assert "the stuck one at" in str(caught.value)


def test_a_deadlock_still_runs_every_finally_and_leaves_no_task() -> None:
    closed: list[str] = []

    async def main() -> None:
        task = asyncio.create_task(forever(), name="child")
        try:
            await forever()
        finally:
            task.cancel()
            await asyncio.sleep(1)
            closed.append("main")

    with pytest.raises(VirtualTimeError, match="2 tasks wait"):
        run(main())
    assert closed == ["main"]


def test_a_task_that_refuses_to_be_cancelled_is_a_deadlock_again_and_no_hang() -> None:
    async def main() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()

    with pytest.raises(VirtualTimeError, match="1 task waits for something that never comes: Task-"):
        run(main())


def test_the_place_is_found_through_async_generators_and_awaitables() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        await forever()

    async def main() -> None:
        async for _ in source():
            pass

    with pytest.raises(VirtualTimeError, match="1 task waits for something that never comes: .* in ") as caught:
        run(main())
    assert re.search(r"test_virtual.py:\d+ in (forever|.*source|.*main)", str(caught.value))


def test_many_stuck_tasks_are_counted_and_ten_are_named() -> None:
    async def main() -> None:
        await asyncio.gather(*(forever() for _ in range(40)))

    with pytest.raises(VirtualTimeError, match="41 tasks wait .*… and 31 more"):
        run(main())


def test_max_seconds_ends_what_only_ever_ticks() -> None:
    ticks: list[float] = []

    async def main() -> None:
        while True:
            await asyncio.sleep(10)
            ticks.append(asyncio.get_running_loop().time())

    with pytest.raises(VirtualTimeError, match="max_seconds=100 of virtual time are over: 1 task waits"):
        run(main(), max_seconds=100)
    assert ticks[-1] == 100


def test_a_hot_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "_MAX_TURNS", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(VirtualTimeError, match="hot loop: 1000 turns within a virtual millisecond"):
        run(main())


def test_many_turns_are_no_hot_loop_while_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "_MAX_TURNS", 100)

    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1.0)


# -- the real world ---------------------------------------------------------------------------------


async def connects() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def accepts_by_hand() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        await asyncio.get_running_loop().sock_accept(server)


async def listens() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def starts_a_process() -> None:
    await asyncio.create_subprocess_exec("/none/such")


async def starts_a_shell() -> None:
    await asyncio.create_subprocess_shell("/none/such")


@pytest.mark.parametrize("use", [connects, accepts_by_hand, listens, starts_a_process, starts_a_shell])
def test_sockets_and_processes_are_refused(use: Callable[[], Coroutine[object, object, None]]) -> None:
    with pytest.raises(VirtualTimeError, match="no real I/O in virtual time"):
        run(use())


@pytest.mark.parametrize("use", [lambda: asyncio.to_thread(time.sleep, 0), lambda: resolve()])
def test_threads_and_name_resolution_are_refused(use: Callable[[], Coroutine[object, object, object]]) -> None:
    with pytest.raises(VirtualTimeError, match=r"does not wait for threads, and \w+ was to run in one"):
        run(use())


async def resolve() -> object:
    return await asyncio.get_running_loop().getaddrinfo("localhost", 80)


def test_another_thread_may_wake_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[str] = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(woken.set_result, "thread"))
        thread.start()
        thread.join()
        return await woken

    assert run(main()) == "thread"


def test_the_loop_works_under_other_runners_and_closes_its_own() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> float:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(7)
        return loops[0].time()

    assert guarded(main(), timeout=None, loop_factory=VirtualLoop) == 7
    assert run(main()) == 7
    assert all(loop.is_closed() for loop in loops)


def test_errors_of_main_come_through() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(main())
