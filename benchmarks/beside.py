"""Two halves beside each other: calls that take turns, and processes that are told what to do and say numbers."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from subprocess import PIPE

HERE = Path(__file__).parent

Call = Callable[[], Awaitable[object]]


async def turns(rounds: int, *works: Call, calls: int = 1, pause: float = 0.0) -> list[float]:
    """Milliseconds that a call of each takes, the median. They take turns, ``calls`` at a time, in any order.

    Who comes after whom matters, and whom the garbage collector strikes: it runs between the rounds. Before each call
    there is a ``pause`` of so many seconds.
    """
    rng = random.Random(0)
    samples: list[list[float]] = [[] for _ in works]
    order = list(enumerate(works))
    gc.disable()
    try:
        for _ in range(rounds // calls):
            rng.shuffle(order)
            for index, work in order:
                for _ in range(calls):
                    await asyncio.sleep(pause)
                    begun = time.perf_counter()
                    await work()
                    samples[index].append((time.perf_counter() - begun) * 1000)
            gc.collect()
    finally:
        gc.enable()
    return [median(each) for each in samples]


class Lines:
    """A process beside this one, as what it says and is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    async def number(self) -> float:
        """The next number that the process says."""
        async with asyncio.timeout(60):
            return float(await self._stdout.readline())

    def begin(self) -> None:
        """Tell it that it is time."""
        self._stdin.write(b"\n")


@asynccontextmanager
async def process(program: str, role: str, port: int) -> AsyncGenerator[Lines]:
    """A process of a program of this folder in this role, which is ready; killed at the end."""
    command = sys.executable, HERE / program, role, str(port)
    running = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    try:
        lines = Lines(running)
        await lines.number()
        yield lines
    finally:
        running.kill()
        await running.communicate()


def say(number: float) -> None:
    """To the benchmark, from one of its processes."""
    print(number, flush=True)


async def told() -> None:
    """Return when the benchmark says that it is time."""
    await asyncio.to_thread(sys.stdin.readline)


async def say_shares(seconds: float) -> None:
    """Whenever told to, what share of a core this process takes for some seconds, in percent. Never ends."""
    say(0)
    while True:
        await told()
        begun, used = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        say((time.process_time() - used) / (time.monotonic() - begun) * 100)
