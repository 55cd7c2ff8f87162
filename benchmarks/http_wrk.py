"""wrk as a client: what it asks, and what it found. ``wrk`` is a program of its own: https://github.com/wg/wrk."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

__all__ = ["CONNECTIONS", "Found", "here", "wrk"]

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("http_wrk.lua")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class Found(NamedTuple):
    """One run: requests a second, and milliseconds in which 99 % of them were answered."""

    rate: float
    p99: float


def here() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


async def wrk(port: int, what: str, seconds: int, nodes: int, names: int, bodies: Sequence[bytes] = ()) -> Found:
    """One run of what ``http_wrk.lua`` calls ``what``, or of POSTs to this path. Raises RuntimeError if any fails."""
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(SCRIPT)]
    words = [f"http://127.0.0.1:{port}", "--", what, str(nodes), str(names)]
    with NamedTemporaryFile() as file:
        if bodies:
            file.write(b"\n".join(bodies) + b"\n")
            file.flush()
            words.append(file.name)
        running = await asyncio.create_subprocess_exec("wrk", *options, *words, stdout=asyncio.subprocess.PIPE)
        said = (await running.communicate())[0].decode()
    if running.returncode or re.search(r"Non-2xx|Socket errors", said):
        raise RuntimeError(f"{what}: {said}")
    return Found(float(_word(said, r"Requests/sec:\s+(\S+)")), _milliseconds(said))


def _word(said: str, pattern: str) -> str:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"wrk did not say what was expected: {said}")
    return found[1]


def _milliseconds(said: str) -> float:
    word = _word(said, r"\n +99%\s+(\S+)")
    unit = word.lstrip("0123456789.")
    return float(word.removesuffix(unit)) * _UNITS[unit]
