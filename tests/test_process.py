"""Processes and loops: what is let go of in a child. Real forks are in integration/test_processes.py."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import pytest

from microreg import process
from microreg.errors import WrongLoop
from support import run


class Thing:
    """Notes what is done to it in the child."""

    def __init__(self) -> None:
        self.done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(process, "_actions", WeakKeyDictionary())
    yield


def test_a_child_lets_go_of_what_is_alive_whatever_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(thing: Thing) -> None:
        thing.done.append("failed")
        raise OSError("no")

    kept, failing, dropped = Thing(), Thing(), Thing()
    seen: list[str] = []
    process.in_child(failing, fail)
    process.in_child(dropped, lambda thing: seen.append("dropped"))
    process.in_child(kept, lambda thing: thing.done.append("first"))
    process.in_child(kept, lambda thing: thing.done.append("let go"))
    del dropped
    gc.collect()
    process._forked()
    assert (kept.done, failing.done, seen) == (["let go"], ["failed"], [])
    assert "could not let go" in caplog.text


def test_which_loop_runs_and_who_may_wait_for_what() -> None:
    async def main() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        assert process.running_loop() is loop
        process.check_loop(loop, "this")
        me, other = asyncio.current_task(), asyncio.create_task(asyncio.sleep(0))
        assert me is not None
        assert process.own_loop(other, "it") is loop
        assert (process.joinable(me), process.joinable(other), process.runs_here(me)) == (False, True, True)
        assert not process.cancelling()
        me.cancel()
        assert process.cancelling()
        me.uncancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        await other
        return loop

    loop = run(main())
    assert process.running_loop() is None
    assert process.cancelling(), "nothing goes on where no loop runs"
    with pytest.raises(WrongLoop, match=r"this was opened in another event loop.*connect\(\) once per loop"):
        process.check_loop(loop, "this")


def test_who_keeps_a_loop_warns_in_words_of_its_own() -> None:
    with asyncio.Runner() as one, asyncio.Runner() as other:
        process.keep(one.get_loop())
        with warnings.catch_warnings(record=True) as caught:
            process.never_closed("one", one.get_loop())
            assert caught == []
        with pytest.warns(RuntimeWarning, match="other was never closed"):
            process.never_closed("other", other.get_loop())
