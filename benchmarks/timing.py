"""A theme: pairs of what is measured and its floor, timed in worker processes by pyperf, then plain figures.

Time is the processor time of the process, and the best of all values counts: other programs on the machine
then disturb least. ``--rounds 20 --values 10`` make a longer run.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from time import process_time
from typing import Protocol, cast

from figures import Aim, Figure, table, write

Timer = Callable[[int], float]
"""Does the work so many times and says how many seconds of processor time it took."""


class _Benchmark(Protocol):
    def get_values(self) -> tuple[float, ...]: ...


class _Runner(Protocol):
    argparser: ArgumentParser

    def parse_args(self, args: list[str]) -> Namespace: ...

    def bench_time_func(self, name: str, function: Timer, *, inner_loops: int) -> _Benchmark | None: ...


def _hand_on(command: list[str], options: Namespace) -> None:
    """Workers count the benchmarks to find theirs, so they must know how many there are."""
    command += ["--rounds", str(options.rounds)]


def repeated(work: Callable[[], object]) -> Timer:
    """A timer of work that needs nothing before it."""

    def timer(loops: int) -> float:
        begun = process_time()
        for _ in range(loops):
            work()
        return process_time() - begun

    return timer


def awaited(timer: Callable[[int], Coroutine[object, object, float]]) -> Timer:
    """A timer that runs in an event loop of its own."""
    return lambda loops: asyncio.run(timer(loops))


class Theme:
    """The figures of one file. Every worker process runs the same file, and does one of its pairs' halves.

    The two halves take turns, ``--rounds`` times: a machine that is slow for a while is slow for both.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: list[Figure] = []
        self._runner = cast(
            _Runner, import_module("pyperf").Runner(values=5, processes=1, loops=1, add_cmdline_args=_hand_on)
        )
        self._runner.argparser.add_argument("--rounds", type=int, default=3, help="worker processes for each half")
        self._runner.argparser.add_argument("--json", type=Path, help="write the figures to this file")
        # pyperf reads sys.argv unless it is given something else, and only once.
        self._options = self._runner.parse_args(["--quiet", *sys.argv[1:]])

    def pair(self, what: str, ours: Timer, floor: Timer, floor_is: str, *, per: int, aim: Aim | None = None) -> None:
        """Time both; each does ``per`` operations in a loop."""
        values: dict[str, list[float]] = {"microreg": [], "floor": []}
        for turn in range(self._options.rounds):
            for half, timer in (("microreg", ours), ("floor", floor)):
                with redirect_stdout(StringIO()):  # of pyperf's own report; the table says the same
                    found = self._runner.bench_time_func(f"{what} {half} {turn}", timer, inner_loops=per)
                if found is not None:
                    values[half] += found.get_values()
        if not self._options.worker:
            self.figures.append(Figure(what, "s", min(values["microreg"]), min(values["floor"]), floor_is, aim))

    def plain(self, measure: Callable[[], Figure | list[Figure]]) -> None:
        """Measure something that is not a time of many operations; in the first process only."""
        if not self._options.worker:
            found = measure()
            self.figures += found if isinstance(found, list) else [found]

    def report(self) -> None:
        """Print the table and write the JSON."""
        if self._options.worker:
            return
        print(table(self.figures))
        if self._options.json is not None:
            write(self._options.json, self.name, self.figures)
