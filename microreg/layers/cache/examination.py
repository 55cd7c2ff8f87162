"""What ``microreg doctor`` finds about a cache: options that defeat each other, and a file that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from microreg.findings import Finding, Kind, Severity
from microreg.layers.cache.options import CacheOptions

__all__ = ["findings"]

_CONFLICT = Kind(
    "cache.conflict",
    Severity.WARNING,
    "two options of the cache defeat each other",
    "cache.grace and cache.wait are to be much shorter than cache.max_stale",
)
_DISK = Kind(
    "cache.disk",
    Severity.WARNING,
    "the file of cache.disk cannot be written or read: nothing is kept over restarts",
    "make its folder, and let this user write there",
)


def findings(options: CacheOptions) -> Iterator[Finding]:
    """What there is to say of a cache with these options, on this machine."""
    for name in ("grace", "wait") if options.disk is not None else ("grace",):
        seconds = getattr(options, name)
        if seconds >= options.max_stale:
            yield _CONFLICT(
                f"cache.{name} is {seconds:g} s and cache.max_stale {options.max_stale:g} s: what is kept that long is "
                "given up before"
            )
    if options.disk is not None and (problem := _problem(options.disk.absolute())):
        yield _DISK(f"cache.disk={options.disk}: {problem}")


def _problem(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write in {folder}"
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        return "it is no file that this user may read and write"
    return ""
