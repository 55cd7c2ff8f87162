"""Health probes: a function, or an ``http://`` or ``tcp://`` URL that is asked over plain asyncio streams."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable

from microreg import process
from microreg.address import quoted
from microreg.arguments import shown
from microreg.errors import ConfigError, InvalidService
from microreg.net import split_address

__all__ = ["Check", "Probe", "probe"]

log = logging.getLogger("microreg.announce.probe")

Check = str | Callable[[], bool | None | Awaitable[bool | None]]
"""A probe URL, or a function (plain or async): an exception or what is false is a failure, True or None is health.

Any exception: SystemExit too, which ends only the check. A KeyboardInterrupt ends the program.
"""

Probe = Callable[[], Awaitable[bool]]
"""Whether the thing is healthy now. Does not raise; may hang, so bound it in time."""

_HEALTHY = re.compile(rb"HTTP/[0-9.]+ +[23][0-9][0-9](?![0-9])")
_EXPECTED = "expected http://host:port/path, tcp://host:port, or a function"


def probe(check: Check) -> Probe:
    """A check of any form as an async function. Raises ConfigError for a URL that cannot be probed."""
    if callable(check):
        return _from_function(check)
    if not isinstance(check, str):
        raise ConfigError(f"check of type {type(check).__name__}: {_EXPECTED}")
    scheme, separator, rest = check.partition("://")
    address, slash, path = rest.partition("/")
    if scheme not in ("http", "tcp") or not separator:
        raise ConfigError(f"check {quoted(check)}: {_EXPECTED}")
    if scheme == "http" and address.rpartition("]")[2].count(":") == 0:
        address += ":80"
    try:
        host, port = split_address(address)
    except InvalidService as error:
        raise ConfigError(f"check {quoted(check)}: {error}; {_EXPECTED}") from None
    if scheme == "tcp":
        return _telling(check, lambda: _tcp(host, port))
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigError(f"check {quoted(check)}: the path must be percent-encoded ASCII")
    return _telling(check, lambda: _http(host, port, slash + path or "/"))


def _telling(url: str, ask: Callable[[], Awaitable[str]]) -> Probe:
    """A probe out of one that answers what is wrong, which is told once until all is well again."""
    told, shorter = False, url.partition("?")[0]  # a query may hold a secret

    async def run() -> bool:
        nonlocal told
        problem = await ask()
        if problem:
            level, told = (logging.DEBUG if told else logging.WARNING), True
            log.log(level, "the check %s fails: %s", shorter, problem)
        else:
            told = False
        return not problem

    return run


def _from_function(check: Callable[[], bool | None | Awaitable[bool | None]]) -> Probe:
    told = False

    async def run() -> bool:
        nonlocal told
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await result
            told = False
            return result is None or bool(result)
        except asyncio.CancelledError:
            if process.cancelling():  # we, and not only something that the check has waited for
                raise
        except (KeyboardInterrupt, GeneratorExit):  # somebody wants an end of the program, or of this coroutine
            raise
        except BaseException as error:
            level, told = (logging.DEBUG if told else logging.WARNING), True
            log.log(level, "the check raised %s: %s", type(error).__name__, error)
        return False

    return run


async def _tcp(host: str, port: int) -> str:
    try:
        _reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return str(error)
    await _close(writer)
    return ""


async def _http(host: str, port: int, target: str) -> str:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return str(error)
    try:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: microreg\r\nConnection: close\r\n\r\n"
        writer.write(head.encode("ascii", "replace"))
        line = await reader.readline()
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        await _close(writer)
    if _HEALTHY.match(line):
        return ""
    return f"it answered {shown(line[:80].decode('ascii', 'replace').strip())}, not a status from 200 to 399"


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return
