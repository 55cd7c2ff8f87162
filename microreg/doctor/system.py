"""Findings about this interpreter and what is installed in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from microreg import __version__, plugins
from microreg.errors import ConfigError
from microreg.findings import Finding, Kind, Severity
from microreg.plugins import KINDS, Plugin

__all__ = ["BROKEN", "FORK", "INSTALLED", "PYTHON", "findings"]

PYTHON = Kind("python.version", Severity.OK, "the interpreter, and the version of microreg in it")
FORK = Kind(
    "python.fork",
    Severity.NOTE,
    "multiprocessing forks on this platform with this Python: a registry that was opened before is of no use in the "
    "child",
    'open registries in the child, or take multiprocessing.set_start_method("forkserver")',
)
INSTALLED = Kind("plugins.installed", Severity.OK, "which distributions bring backends, layers, strategies and filters")
BROKEN = Kind(
    "plugins.broken",
    Severity.ERROR,
    "something that is installed cannot be imported, or two bring the same name",
    "see microreg plugins; reinstall it, or uninstall one of the two",
)

_FORKS_UNTIL = (3, 14)


def findings(version: tuple[int, ...] = sys.version_info[:3], platform: str = sys.platform) -> Iterator[Finding]:
    """What there is to say of this interpreter; ``version`` and ``platform`` are for tests."""
    text = ".".join(map(str, version))
    yield PYTHON(f"Python {text} on {platform}, microreg {__version__}")
    if platform not in ("win32", "darwin") and version < _FORKS_UNTIL:
        yield FORK(f"Python {text} starts processes by fork() here")
    everything = [plugin for group in KINDS for plugin in plugins.inventory(group)]
    shown = sorted({f"{each.distribution} {each.version}" for each in everything})
    yield INSTALLED(f"installed: {', '.join(shown)}")
    yield from _broken(everything)


def _broken(everything: Iterable[Plugin]) -> Iterator[Finding]:
    told = set[str]()
    for each in everything:
        try:
            if each.group == "microreg":
                plugins.implemented(each)
            else:
                plugins.load(each.group, each.name)
        except ConfigError as error:
            if str(error) not in told:
                told.add(str(error))
                yield BROKEN(f"{KINDS[each.group]} {each.name}: {error}")
