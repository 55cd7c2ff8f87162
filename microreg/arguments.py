"""What callers pass beside records: shown in an error whatever it is, and checked before anything waits for it."""

from __future__ import annotations

import math
from contextlib import suppress

from microreg.errors import ConfigError

__all__ = ["check_attempts", "check_timeout", "is_number", "raised", "shown"]


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


def is_number(value: object) -> bool:
    """Whether it is an int or a float; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_attempts(attempts: int) -> int:
    """How often something may be tried. Raises ConfigError for what is no whole number from 1 on."""
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigError(f"attempts={shown(attempts)}: expected at least 1, a whole number")
    return attempts


def check_timeout(timeout: float) -> float:
    """A timeout as a float: seconds, ``inf`` for no limit, over at once below zero. Raises ConfigError for all else."""
    if is_number(timeout):
        with suppress(OverflowError):
            seconds = float(timeout)
            if not math.isnan(seconds):
                return seconds
    raise ConfigError(f"timeout {shown(timeout)}: expected a number of seconds")
