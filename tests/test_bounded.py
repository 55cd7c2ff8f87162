"""A call with a bound on its time: as with asyncio.timeout, but for the timer that most calls do not need."""

from __future__ import annotations

import asyncio

import pytest

from microreg.bounded import Overdue, bounded
from timeless import run


async def after(seconds: float, *steps: float) -> float:
    """Wait, in one step or several; say when."""
    for each in (seconds, *steps):
        await asyncio.sleep(each)
    return asyncio.get_running_loop().time()


def test_a_call_that_waits_for_nothing_needs_neither_a_timer_nor_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(asyncio, "timeout_at")

    async def call() -> int:
        assert asyncio.current_task() is None
        return 7

    def outside(found: asyncio.Future[int]) -> None:
        with pytest.raises(StopIteration) as done:
            bounded(call(), 5).send(None)
        found.set_result(done.value.value)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[int] = loop.create_future()
        loop.call_soon(outside, found)
        return await found

    assert run(main()) == 7


def test_what_a_call_raises_is_its_own() -> None:
    own = TimeoutError("of the call")

    async def main(seconds: float | None) -> None:
        async def call() -> None:
            if seconds is not None:
                await asyncio.sleep(seconds)
            raise own

        with pytest.raises(TimeoutError) as caught:
            await bounded(call(), 5)
        assert caught.value is own

    run(main(None))
    run(main(3.0))


@pytest.mark.parametrize("steps", [(3.0,), (1.0, 1.0, 1.0), (0.0, 4.0)])
def test_a_call_that_is_in_time_returns_and_leaves_no_timer(steps: tuple[float, ...]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await bounded(after(*steps), 5) == begun + sum(steps)
        await asyncio.sleep(10)  # nothing strikes later

    run(main())


@pytest.mark.parametrize("steps", [(6.0,), (1.0, 3.0, 3.0), (0.0, 6.0)])
def test_a_call_that_is_not_in_time_is_cancelled_and_overdue(steps: tuple[float, ...]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(Overdue):
            await bounded(after(*steps), 5)
        assert loop.time() == begun + 5
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run(main())


def test_a_call_may_tidy_up_when_it_is_overdue_or_answer_all_the_same() -> None:
    tidied: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            tidied.append("tidied")

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "all the same"
        return "never"

    async def main() -> None:
        with pytest.raises(Overdue):
            await bounded(slow(), 5)
        assert tidied == ["tidied"]
        assert await bounded(stubborn(), 5) == "all the same"

    run(main())


def test_the_caller_can_be_cancelled_and_the_call_hears_it() -> None:
    heard: list[str] = []

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.create_task(bounded(call(), 5))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert heard == ["cancelled"]

    run(main())


def test_a_call_runs_in_the_task_of_its_caller_all_the_time() -> None:
    async def call() -> set[object]:
        seen: set[object] = {asyncio.current_task()}
        await asyncio.sleep(1)
        return seen | {asyncio.current_task()}

    async def main() -> None:
        assert await bounded(call(), 5) == {asyncio.current_task()}

    run(main())


def test_a_call_that_is_closed_half_way_is_closed_inside_too() -> None:
    closed: list[str] = []

    async def call() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append("closed")

    async def main() -> None:
        waiting = bounded(call(), 5)
        task = asyncio.current_task()
        assert task is not None
        waiting.send(None)
        waiting.close()
        assert closed == ["closed"]

    run(main())
