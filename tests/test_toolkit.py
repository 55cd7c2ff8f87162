"""What backend authors build on: polling, threads, decoding a whole store, and deadlines without a timer each."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support
from microreg import codec
from microreg.errors import ConfigError, RegistryTimeout, RegistryUnavailable
from microreg.events import Change, Reason, Snapshot
from microreg.model import Service
from microreg.toolkit import (
    Deadlines,
    Holding,
    Holdings,
    Serial,
    decode_all,
    in_thread,
    local_path,
    poll,
    version_number,
)
from microreg.url import RegistryURL
from microreg.watch import Watch
from strategies import record
from timeless import run


def test_poll_reads_every_interval_with_jitter() -> None:
    async def main() -> None:
        loop, times = asyncio.get_running_loop(), list[float]()

        async def read() -> list[Service]:
            times.append(loop.time())
            return [record(port=len(times))]

        async with aclosing(poll(read, 2.0, rng=random.Random(3))) as events:
            for number in range(1, 51):
                assert await anext(events) == Snapshot([record(port=number)])
        pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        assert all(1.8 <= pause <= 2.2001 for pause in pauses)
        assert max(pauses) - min(pauses) > 0.1

    run(main())


def test_poll_under_a_watch_tells_differences_and_survives_an_outage() -> None:
    async def main() -> None:
        answers: list[list[Service] | Exception] = [[record()], [record()], OSError("down"), [record(port=81)], []]

        async def read() -> list[Service]:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        async with Watch(lambda: poll(read)) as events:
            assert await anext(events) == Snapshot([record()])
            assert await anext(events) == Change.put(record(port=81), record())
            assert await anext(events) == Change.gone(record(port=81), Reason.REMOVED)
            assert "down" in str(events.error)

    run(main())


def test_poll_ends_when_the_store_hangs() -> None:
    async def main() -> None:
        loop, readings = asyncio.get_running_loop(), 0

        async def read() -> list[Service]:
            nonlocal readings
            readings += 1
            if readings == 2:
                await asyncio.sleep(1_000)
            return [record(port=readings)]

        async with Watch(lambda: poll(read, 1.0, patience=10.0)) as events:
            assert await anext(events) == Snapshot([record(port=1)])
            assert await anext(events) == Change.put(record(port=3), record(port=1))
            assert 10 < loop.time() < 15
            assert isinstance(events.error, RegistryTimeout)
            assert "not read within 10 s" in str(events.error)

    run(main())


def test_poll_hands_on_a_timeout_of_the_store_itself() -> None:
    async def main() -> None:
        async def read() -> list[Service]:
            raise TimeoutError("of the client library")

        with pytest.raises(TimeoutError, match="of the client library"):
            await anext(poll(read))

    run(main())


def test_poll_without_an_interval_does_not_spin() -> None:
    async def main() -> None:
        async def read() -> list[Service]:
            return []

        async with aclosing(poll(read, 0.0)) as events:
            for _ in range(100):
                await anext(events)
        assert asyncio.get_running_loop().time() >= 0.99

    run(main())


def test_in_thread_runs_elsewhere_and_hands_over_results_and_errors() -> None:
    def work(number: int, *, more: int) -> tuple[int, int]:
        if number < 0:
            raise RegistryUnavailable("negative")
        return number + more, threading.get_ident()

    async def main() -> None:
        number, thread = await in_thread(work, 1, more=2)
        assert number == 3
        assert thread != threading.get_ident()
        with pytest.raises(RegistryUnavailable, match="negative"):
            await in_thread(work, -1, more=2)

    support.run(main())


def test_serial_calls_one_after_the_other_whatever_becomes_of_the_caller() -> None:
    begun, gate, done = threading.Event(), threading.Event(), list[str]()

    def slow() -> None:
        begun.set()
        gate.wait(10)
        done.append("slow")
        raise RegistryUnavailable("nobody hears of it")

    async def main() -> None:
        serial = Serial()
        late = asyncio.ensure_future(serial(slow))
        never = asyncio.ensure_future(serial(done.append, "never"))
        later = [asyncio.ensure_future(serial(done.append, text)) for text in "ab"]
        await support.wait_until(begun.is_set)
        for call in (late, never):
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
        assert done == [] and not any(call.done() for call in later)
        gate.set()
        await asyncio.gather(*later)
        assert done == ["slow", "a", "b"]

    support.run(main())


def test_serial_hands_over_results_errors_and_context() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    def work(number: int, *, more: int) -> tuple[int, str, int]:
        if number < 0:
            raise RegistryUnavailable("negative")
        return number + more, variable.get(), threading.get_ident()

    async def main() -> None:
        serial = Serial()
        variable.set("here")
        for _ in range(2):
            number, text, thread = await serial(work, 1, more=2)
            assert (number, text) == (3, "here") and thread != threading.get_ident()
            with pytest.raises(RegistryUnavailable, match="negative"):
                await serial(work, -1, more=2)

    support.run(main())


def test_serial_gives_its_turn_back_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        serial, loop = Serial(), asyncio.get_running_loop()

        def refuse(*_: object) -> None:
            raise RuntimeError("no thread can be started")

        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_in_executor", refuse)
            with pytest.raises(RuntimeError, match="no thread"):
                await serial(len, "text")
        assert await serial(len, "text") == 4

    support.run(main())


def test_local_path_is_the_path_behind_three_slashes() -> None:
    for text, path in (("dir:///var/lib/x", "/var/lib/x"), ("a+dir:///with%20blank/?timeout=1s", "/with blank")):
        assert local_path(RegistryURL.parse(text)) == Path(path)


@pytest.mark.parametrize("text", ["dir://", "dir:///", "dir://x", "dir://var/lib", "dir://u:secret@/var", "dir://u@/v"])
def test_local_path_refuses_what_is_no_local_path(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected three slashes .* dir:///var/lib/services") as caught:
        local_path(RegistryURL.parse(text))
    assert "secret" not in str(caught.value)


def test_what_does_not_decode_is_skipped_with_one_warning_per_key(caplog: pytest.LogCaptureFixture) -> None:
    good, warned = codec.encode(record()), set[str]()
    records = [("bad", b"{"), ("good", good), ("worse", b"\xff"), ("also good", good)]
    with caplog.at_level(logging.WARNING, "microreg.toolkit"):
        for _ in range(3):
            assert decode_all(records, warned) == [record(), record()]
        told = [vars(entry) for entry in caplog.records]
        assert [entry["key"] for entry in told] == ["bad", "worse"]
        assert all(entry["error"] for entry in told)
        decode_all(((f"k{number}", b"") for number in range(2_000)), warned)
    assert len(warned) == 1_000


# -- deadlines -----------------------------------------------------------------------------------

operations = st.one_of(
    st.tuples(st.just("set"), st.sampled_from("abcd"), st.integers(0, 20)),
    st.tuples(st.just("set"), st.sampled_from("abcd"), st.integers(0, 20)),
    st.tuples(st.just("drop"), st.sampled_from("abcd"), st.just(0)),
    st.tuples(st.just("sleep"), st.just(""), st.integers(0, 8)),
    st.tuples(st.just("close"), st.just(""), st.just(0)),
)


@settings(max_examples=50)
@given(st.lists(operations, max_size=30))
def test_deadlines_are_kept_like_those_of_a_plain_dict(script: list[tuple[str, str, int]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        due: list[tuple[str, float]] = []
        deadlines: Deadlines[str] = Deadlines(lambda key: due.append((key, loop.time())))
        model: dict[str, float] = {}
        for what, key, number in script:
            match what:
                case "set":
                    model[key] = loop.time() + number + 0.5
                    deadlines.set(key, model[key])
                case "drop":
                    model.pop(key, None)
                    deadlines.drop(key)
                case "sleep":
                    begin = loop.time()
                    await asyncio.sleep(number)
                    passed = {key: when for key, when in model.items() if when <= begin + number}
                    model = {key: when for key, when in model.items() if key not in passed}
                    assert len(due) == len(passed)
                    assert dict(due) == pytest.approx(passed)
                    assert [moment for _, moment in due] == sorted(moment for _, moment in due)
                    due.clear()
                case _:
                    model.clear()
                    deadlines.close()
            assert {key: deadlines.get(key) for key in "abcd"} == {key: model.get(key) for key in "abcd"}
        await asyncio.sleep(100)
        assert dict(due) == pytest.approx(model)
        assert vars(deadlines)["_heap"] == []
        deadlines.close()

    run(main())


@pytest.mark.parametrize("churn", ["drop and set", "sooner and sooner", "renewed"])
def test_churn_does_not_grow_the_heap(churn: str) -> None:
    async def main() -> None:
        loop, due = asyncio.get_running_loop(), list[str]()
        deadlines: Deadlines[str] = Deadlines(due.append)
        for number in range(10_000):
            key = f"n{number % 10}"
            match churn:
                case "drop and set":
                    deadlines.drop(key)
                    deadlines.set(key, loop.time() + 1_000)
                case "sooner and sooner":
                    deadlines.set(key, loop.time() + 20_000 - number)
                case _:
                    deadlines.set(key, loop.time() + 15)
            assert len(vars(deadlines)["_heap"]) < 100
            if number % 1_000 == 0:
                await asyncio.sleep(5)
        await asyncio.sleep(30_000)
        assert sorted(due) == [f"n{number}" for number in range(10)]

    run(main())


def test_a_callback_may_move_drop_and_close() -> None:
    async def main() -> None:
        loop, due = asyncio.get_running_loop(), list[tuple[str, float]]()

        def on_due(key: str) -> None:
            due.append((key, loop.time()))
            match key:
                case "again" if len(due) < 3:
                    deadlines.set("again", loop.time() + 1)
                    deadlines.drop("dropped")
                case _:
                    deadlines.close()

        deadlines: Deadlines[str] = Deadlines(on_due)
        deadlines.set("again", loop.time() + 1)
        deadlines.set("dropped", loop.time() + 1)
        deadlines.set("closed", loop.time() + 3.5)
        await asyncio.sleep(10)
        assert due == [("again", 1.0), ("again", 2.0), ("again", 3.0)]

    run(main())


def test_a_callback_that_raises_harms_no_other_deadline() -> None:
    async def main() -> None:
        due, told = list[str](), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

        def on_due(key: str) -> None:
            due.append(key)
            if key == "bad":
                raise ValueError("bad")

        deadlines: Deadlines[str] = Deadlines(on_due)
        for key, when in (("bad", 1), ("same time", 1), ("later", 2)):
            deadlines.set(key, when)
        await asyncio.sleep(5)
        assert due == ["bad", "same time", "later"]
        assert [str(error) for error in told] == ["bad"]

    run(main())


def test_a_deadline_in_the_past_is_due_at_once() -> None:
    async def main() -> None:
        due: list[str] = []
        deadlines: Deadlines[str] = Deadlines(due.append)
        await asyncio.sleep(10)
        deadlines.set("late", 1)
        assert due == []
        await asyncio.sleep(0.001)
        assert due == ["late"]
        deadlines.close()
        deadlines.close()

    run(main())


class Note(Holding):
    text = ""

    @property
    def is_empty(self) -> bool:
        return not self.text


def test_one_caller_at_a_time_holds_a_node_and_what_is_empty_is_forgotten() -> None:
    async def main() -> None:
        held: Holdings[str, Note] = Holdings(Note)
        seen: list[str] = []

        async def add(text: str, seconds: float) -> None:
            async with held.hold("n1") as note:
                before = note.text
                await asyncio.sleep(seconds)
                note.text = before + text
                seen.append(note.text)

        calls = [asyncio.create_task(add(text, 1)) for text in "abc"]
        await asyncio.sleep(0.5)
        calls[1].cancel()
        await asyncio.wait(calls)
        assert seen == ["a", "ac"] and len(held) == 1
        async with held.hold("n1") as note, held.hold("n2"):
            note.text = ""
        assert len(held) == 0

    run(main())


def test_what_expired_is_forgotten_while_others_come() -> None:
    async def main() -> None:
        held: Holdings[int, Note] = Holdings(Note)
        loop = asyncio.get_running_loop()
        for number in range(10_000):  # one a second, each for ten
            async with held.hold(number) as note:
                note.text, note.until = "there", loop.time() + 10
            await asyncio.sleep(1)
        assert len(held) < 200
        async with held.hold(9_999) as note:
            assert note.text == "there"

    run(main())


@pytest.mark.parametrize(
    ("text", "number"),
    [("3.5.21", (3, 5)), ("2.10.3-RC.1", (2, 10)), ("1.8.7+dfsg1", (1, 8)), ("1.22.0-rc1+ent", (1, 22)), ("", ())],
)
def test_the_number_of_a_version(text: str, number: tuple[int, ...]) -> None:
    assert version_number(text) == number
