"""Which program a server is: what an environment variable names, or what a test machine can get by itself."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from needs import need

__all__ = ["named", "of_wheel"]


def named(server: str, variable: str, path: str) -> Path | None:
    """The program that this environment variable names, None where it is not set. Skips or fails for what is none."""
    if not path:
        return None
    if not os.access(path, os.X_OK):
        need(server, f"{variable}={path} is no program that can be run")
    return Path(path)


def of_wheel(server: str, variable: str, distribution: str, pattern: str) -> Path:
    """The program in a distribution that is installed for development; where it is not, skips or fails the test."""
    try:
        found = [Path(str(each.locate())) for each in files(distribution) or () if each.match(pattern)]
    except PackageNotFoundError:
        found = []
    if not found:
        need(server, f"there is none: pip install -r requirements-dev.txt, or name one: {variable}=/path/to/{server}")
    return found[0]
