"""Files that outlive the program: read with care, written whole or not at all, for their owner only.

All calls block, and raise OSError.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["locked", "read_own", "set_aside", "write_whole"]

_ASIDE = 9
"""So many files that could not be used are kept."""
_TRIES, _PAUSE = 20, 0.05
"""How often a lock is asked for, and the seconds in between: a second in all."""
_OPEN: int = getattr(os, "O_NONBLOCK", 0)  # a pipe by that name would hold the thread for ever


def read_own(path: Path, limit: int) -> bytes | None:
    """What a file has in it, ``limit`` bytes and one more at most; None where there is no file.

    Raises OSError for what is no regular file, PermissionError where it belongs to neither this user nor root.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file")
        if sys.platform != "win32" and status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(f"{path} belongs to another user")
        return file.read(limit + 1)


def write_whole(path: Path, data: bytes) -> None:
    """Put a new file in place of the old one, if any. A program that is killed meanwhile leaves the old one."""
    draft = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        os.unlink(draft)  # of a process that was killed
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used to ``<name>.aside-1``, or the next free number up to 9."""
    places = [path.with_name(f"{path.name}.aside-{number}") for number in range(1, _ASIDE + 1)]
    place = next((place for place in places if not place.exists()), places[-1])
    os.replace(path, place)
    return place


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock beside a file, ``<name>.lock``, where the system has such locks (not on Windows).

    Raises BlockingIOError where another process holds it for a second.
    """
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    """Hold the lock until the file is closed."""
    if sys.platform == "win32":
        return
    from fcntl import LOCK_EX, LOCK_NB, flock

    for tries_left in reversed(range(_TRIES)):
        try:
            return flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if not tries_left:
                raise
            time.sleep(_PAUSE)
