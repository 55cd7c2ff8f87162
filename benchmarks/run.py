"""Run the benchmarks and say which aims are met: ``python benchmarks/run.py [THEME …] [--rounds N] [--values N]``.

Each theme is a file beside this one and prints a table: what microreg takes, and what the smallest thing takes
that does the same work without it, its floor, in the same run. Trust the ratios more than the times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent
RESULTS = HERE / "results"
THEMES = (
    *("catalog", "codec", "watch", "lookup", "selector", "importing"),
    *("mdns", "etcd", "consul", "nats_bucket", "nats_pubsub", "http"),
)
ROUNDS = {"mdns": 4, "etcd": 100, "consul": 100, "nats_bucket": 100, "nats_pubsub": 100, "http": 1}
"""Themes that take no values of worker processes, and how many rounds of theirs are one of the others'."""

FILES = {"consul": "consul_agent", "http": "http_server"}
"""Themes that have the name of a library: a file of that name would be imported in its place."""


def say(*words: object) -> None:
    print(*words, flush=True)


def run(theme: str, rounds: int, values: int) -> bool:
    """One theme, in a process of its own; whether it came to its end."""
    path = RESULTS / f"{theme}.json"
    if theme in ROUNDS:
        options = ["--rounds", str(ROUNDS[theme] * rounds)]
    else:
        options = ["--rounds", str(rounds), "--values", str(values)]
    say(f"\n{theme}")
    begun = time.monotonic()
    program = HERE / f"{FILES.get(theme, theme)}.py"
    done = subprocess.run([sys.executable, program, *options, "--json", path], check=False)
    say(f"({time.monotonic() - begun:.0f} s, {path})")
    return done.returncode == 0


def missed(theme: str) -> list[str]:
    """The figures that miss their aim."""
    path = RESULTS / f"{theme}.json"
    document = cast(dict[str, list[dict[str, object]]], json.loads(path.read_text(encoding="utf-8")))
    figures = document.get("figures", [])
    return [f"{theme}: {figure['what']}: {figure['aim']}" for figure in figures if figure["met"] is False]


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("themes", nargs="*", metavar="THEME", help=f"some of {', '.join(THEMES)}; all by default")
    parser.add_argument("--rounds", type=int, default=2, help="worker processes for each measurement (default: 2)")
    parser.add_argument("--values", type=int, default=3, help="values that each of them takes (default: 3)")
    options = parser.parse_args()
    themes = options.themes or THEMES
    if unknown := set(themes) - set(THEMES):
        parser.error(f"no theme {', '.join(sorted(unknown))}; there are {', '.join(THEMES)}")
    RESULTS.mkdir(exist_ok=True)
    failed = [theme for theme in themes if not run(theme, options.rounds, options.values)]
    short = [line for theme in themes if theme not in failed for line in missed(theme)]
    say("\nAims that are not met on this machine, in this run:" if short else "\nAll aims are met.")
    for line in short:
        say(f"  {line}")
    if failed:
        say(f"\nThese came to no end: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
