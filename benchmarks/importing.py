"""What importing costs: processor time of fresh interpreters, less that of one that imports nothing."""

from __future__ import annotations

import resource
import subprocess
import sys

from figures import Aim, Figure
from timing import Theme

TIMES = 8
EVERYTHING = "import microreg; [getattr(microreg, name) for name in microreg.__all__]"
MDNS = f"{EVERYTHING}; import microreg.backends.mdns"


def cost(programs: list[str]) -> list[float]:
    """Milliseconds of each program beyond those of the first; the best of all runs, which take turns."""
    best = [float("inf")] * len(programs)
    for _ in range(TIMES):
        for index, program in enumerate(programs):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best[index] = min(best[index], taken * 1000)
    return [each - best[0] for each in best]


def measure() -> list[Figure]:
    programs = ["pass", "import asyncio", "import zeroconf.asyncio", "import microreg", EVERYTHING, MDNS]
    _, asyncio, zeroconf, light, everything, mdns = cost(programs)
    aim = Aim(1.6, "≤ 1.6 times", ratio=True)
    return [
        Figure("import microreg", "ms", light, asyncio, "import asyncio", aim),
        Figure("every public name of it", "ms", everything, asyncio, "import asyncio"),
        Figure("and the mDNS backend", "ms", mdns, zeroconf, "import zeroconf.asyncio"),
    ]


def main() -> None:
    theme = Theme("importing")
    theme.plain(measure)
    theme.report()


if __name__ == "__main__":
    main()
