"""What several test modules use: ``from support import run`` (``pythonpath`` in pyproject.toml finds it)."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TypeVar, cast

from microreg.backends.memory import MemoryRegistry, MemoryStore
from microreg.registry import Registry

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


def run(
    main: Coroutine[object, object, T],
    timeout: float | None = 120.0,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Runs ``main`` in a fresh event loop, in at most ``timeout`` seconds, and returns what it returns.

    Fails when tasks that ``main`` started are still there five seconds after it has returned: whoever starts a
    task joins it. The deadline is in the loop's time, so it means little in a virtual-time loop.
    """
    with asyncio.Runner(debug=False, loop_factory=loop_factory) as runner:
        return runner.run(_guarded(main, timeout))


async def _guarded(main: Coroutine[object, object, T], timeout: float | None) -> T:
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            result = await main
    except TimeoutError:
        if deadline.expired():
            raise AssertionError(f"the test was not done after {timeout:g} s") from None
        raise
    await wait_until(lambda: not _others(), timeout=5.0, what=lambda: f"leaked tasks: {_others()}")
    return result


def _others() -> list[asyncio.Task[object]]:
    current = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not current]


async def wait_until(
    condition: Callable[[], T] | Callable[[], Coroutine[object, object, T]],
    timeout: float = 20.0,
    *,
    what: str | Callable[[], str] = "",
    step: float = 0.005,
) -> T:
    """Waits until ``condition()`` (plain or async) is true, and returns its value.

    Asks every ``step`` seconds; after ``timeout`` seconds it fails with ``what``, or else with the source
    line of the condition.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        answer = condition()
        value = cast(T, await answer if isinstance(answer, Awaitable) else answer)
        if value:
            return value
        if loop.time() >= deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:g} s: {text or _source(condition)}")
        pause = asyncio.Event()
        loop.call_later(step, pause.set)
        await pause.wait()


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


def store_of(registry: Registry) -> MemoryStore:
    """The store of an open ``memory://``, below whatever layers, with its fault switches."""
    memory = registry.unwrap(MemoryRegistry)
    assert memory is not None, f"{registry} is not in memory"
    return memory.store


def clean_env(**extra: str) -> dict[str, str]:
    """The environment without what would change microreg or Python from outside, plus ``extra``."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("MICROREG_", "PYTHON"))}
    return keep | extra


def python(
    code: str,
    *args: str,
    executable: str | Path = sys.executable,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 60.0,
) -> str:
    """Runs ``code`` in a process of its own and returns its output; fails with everything it printed."""
    done = subprocess.run(
        [str(executable), "-W", "error", "-c", code, *args],
        capture_output=True,
        text=True,
        env=dict(env or clean_env()),
        cwd=cwd,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
