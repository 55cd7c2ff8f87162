"""The helpers themselves: a helper that cannot fail would make every test that stands on it worthless."""

from __future__ import annotations

import asyncio

import pytest

from microreg.testing.virtual import VirtualLoop
from support import clean_env, python, run, wait_until


def test_run_returns_the_result() -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        return 42

    assert run(main()) == 42


def test_run_has_a_deadline() -> None:
    with pytest.raises(AssertionError, match=r"not done after 0\.01 s"):
        run(asyncio.Event().wait(), timeout=0.01)


def test_run_lets_a_timeout_of_the_code_under_test_through() -> None:
    async def main() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        run(main())


def test_run_finds_a_leaked_task() -> None:
    tasks: list[asyncio.Task[object]] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

    with pytest.raises(AssertionError, match="leaked tasks: .*forgotten"):
        run(main(), loop_factory=VirtualLoop)


def test_wait_until_returns_the_value_of_plain_and_async_conditions() -> None:
    async def main() -> tuple[str, int]:
        box: list[str] = []
        asyncio.get_running_loop().call_later(0.01, box.append, "x")

        async def count() -> int:
            return len(box)

        return await wait_until(lambda: "".join(box)), await wait_until(count)

    assert run(main()) == ("x", 1)


def test_wait_until_says_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: .*1 > 2"):
        run(wait_until(lambda: 1 > 2, timeout=0.01))
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the cows"):
        run(wait_until(lambda: False, timeout=0.01, what="the cows"))


def test_python_runs_without_the_shells_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_REGISTRY", "nonsense://")
    code = "import os, sys; print(os.environ.get('MICROREG_REGISTRY'), os.environ['EXTRA'], sys.argv[1])"
    assert python(code, "argument", env=clean_env(EXTRA="here")).split() == ["None", "here", "argument"]
    with pytest.raises(AssertionError, match="exit code 3"):
        python("raise SystemExit(3)")
