"""What callers pass beside records: shown in an error whatever it is, and checked before anything waits for it."""

from __future__ import annotations

import math
from contextlib import suppress

from microreg.errors import ConfigError

__all__ = ["check_timeout", "raised", "shown"]


def shown(value: object) -> str:
    """Anything at all as a message quotes it: bounded, and without trusting its ``repr``."""
    try:
        text = repr(value[:80] if isinstance(value, str | bytes) else value)
    except Exception:
        text = "something without a repr"
    text = text if len(text) <= 400 else f"{text[:80]}…"
    return text if isinstance(value, str | int | float) else f"{text} ({type(value).__name__})"


def raised(error: Exception) -> str:
    """What a function that was passed has raised, as a message quotes it: without trusting its ``str``."""
    try:
        text = str(error)
    except Exception:
        text = "something without a text"
    return f"raised {type(error).__name__}: {text if len(text) <= 400 else f'{text[:400]}…'}"


def check_timeout(timeout: float) -> float:
    """A timeout as a float: seconds, ``inf`` for no limit, over at once below zero. Raises ConfigError for all else."""
    if isinstance(timeout, int | float) and not isinstance(timeout, bool):
        with suppress(OverflowError):
            seconds = float(timeout)
            if not math.isnan(seconds):
                return seconds
    raise ConfigError(f"timeout {shown(timeout)}: expected a number of seconds")
