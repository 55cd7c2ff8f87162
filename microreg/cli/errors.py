"""What goes to stderr, and which exit code an error is."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from typing import Protocol, runtime_checkable

from microreg.cli.text import safe, safe_json
from microreg.errors import (
    ConfigError,
    InvalidService,
    NoNodeAvailable,
    PermissionDenied,
    RegistryError,
    ServiceNotFound,
    Unsupported,
)
from microreg.options import is_secret

__all__ = [
    "BUG",
    "FAILED",
    "NOT_FOUND",
    "NO_OUTPUT",
    "OK",
    "PERMISSION",
    "UNAVAILABLE",
    "USAGE",
    "WarningLines",
    "describe",
    "exit_code",
    "failed",
    "prepare_streams",
    "redacted",
    "report",
    "write_error",
]

OK = 0
NOT_FOUND = 1
FAILED = 1
USAGE = 2
UNAVAILABLE = 3
PERMISSION = 4
NO_OUTPUT = 74
"""EX_IOERR of BSD's sysexits.h."""
BUG = 70
"""EX_SOFTWARE of BSD's sysexits.h."""

_DISK = {errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF}
_USERINFO = re.compile(r"(://)[^/\s@]*@")
_OPTION = re.compile(r"([?&#])([\w.-]+)=([^&\s'\"|]*)")
_REFERENCE = re.compile(r"(?:\$\{[A-Za-z_][A-Za-z0-9_]*\})*|\*\*\*")
_ADVICE = {
    UNAVAILABLE: "is it running and reachable? see --registry and $MICROREG_REGISTRY, or give it more --timeout",
    PERMISSION: "check user, password or token in --registry or $MICROREG_REGISTRY",
}
_COMMON = ("--registry", "--json", "--timeout")
"""Options of (nearly) every command, which are often written before it."""
_CODES: tuple[tuple[type[RegistryError], int], ...] = (
    (ServiceNotFound, NOT_FOUND),
    (NoNodeAvailable, NOT_FOUND),
    (ConfigError, USAGE),
    (InvalidService, USAGE),
    (Unsupported, USAGE),
    (PermissionDenied, PERMISSION),
    (RegistryError, UNAVAILABLE),
)


@runtime_checkable
class _UsageError(Protocol):
    """typer's and click's own errors, whichever of the two is installed in which version."""

    exit_code: int

    def format_message(self) -> str: ...


def describe(error: BaseException) -> tuple[int, str, str]:
    """Exit code, code for programs, and message of an error."""
    if isinstance(error, RegistryError):
        return exit_code(error), error.code, redacted(str(error))
    if isinstance(error, _UsageError):
        return USAGE, "usage", redacted(error.format_message())
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted", "interrupted"
    if isinstance(error, OSError) and error.errno in _DISK:
        return NO_OUTPUT, "output", f"the output cannot be written: {error.strerror}"
    return BUG, "bug", redacted(f"{type(error).__name__}: {error}")


def exit_code(error: RegistryError) -> int:
    """The exit code of a registry error."""
    return next(number for kind, number in _CODES if isinstance(error, kind))


def failed(error: BaseException, *, as_json: bool) -> int:
    """Report an error that ended a command and return its exit code."""
    number, code, _ = describe(error)
    if code == "interrupted":
        return number
    if number == BUG and os.environ.get("MICROREG_TRACEBACK"):
        raise error
    report(error, as_json=as_json)
    return number


def report(error: BaseException, *, as_json: bool) -> None:
    """Print an error to stderr: one or two lines, or with ``as_json`` one object with ``code``."""
    number, code, message = describe(error)
    advice = safe(redacted(" ".join(getattr(error, "__notes__", ())))) or _ADVICE.get(number, "")
    context = getattr(error, "ctx", None)
    if isinstance(error, _UsageError):
        advice = f"see {getattr(context, 'command_path', None) or 'microreg'} --help"
        option = getattr(error, "option_name", None)
        if option in _COMMON and getattr(context, "parent", None) is None:
            advice = f"it stands after the command: microreg list {option} …; {advice}"
        elif option == "--registry":
            advice = f"the registry is an argument here: {getattr(context, 'command_path', 'microreg')} URL; {advice}"
    if number == BUG:
        advice = "this is a bug in microreg or a plugin; MICROREG_TRACEBACK=1 shows where"
    if as_json:
        text = safe_json(json.dumps({"code": code, "message": message, "exit": number}, ensure_ascii=False))
    else:
        first = "microreg: a bug: " if number == BUG else "microreg: "
        text = " ".join(map(safe, (first + message).split("\n"))) + (f"\n  {advice}" if advice else "")
    write_error(text)


def write_error(text: str) -> None:
    """Print to stderr; a stderr that nobody reads is no reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def redacted(text: str) -> str:
    """Text without what may be a password: the userinfo of URLs and secret options, ``${NAME}`` aside."""

    def hide(match: re.Match[str]) -> str:
        mark, key, value = match.groups()
        shown = value if not is_secret(key) or _REFERENCE.fullmatch(value) else "***"
        return f"{mark}{key}={shown}"

    return _OPTION.sub(hide, _USERINFO.sub(r"\1…@", text))


def prepare_streams() -> None:
    """A character that the terminal's encoding lacks is printed as an escape, a closed stream is the null device."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class WarningLines(logging.Handler):
    """Shows warnings of microreg as one line on stderr, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record with the fields that microreg's loggers add."""
        if record.name == "microreg.announce":
            return  # register and demo tell this themselves
        fields = {key: getattr(record, key, "") for key in ("plugin", "service", "key", "error")}
        message = record.getMessage()
        details = ", ".join(f"{key}: {value}" for key, value in fields.items() if value and str(value) not in message)
        text = safe(redacted(f"microreg: warning: {message}{f' ({details})' if details else ''}"))
        if text not in self._shown and len(self._shown) < 100:
            self._shown.add(text)
            write_error(text)
