"""The command ``microreg demo``: its options, and which view, summary and exit code they lead to."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from microreg.cli.common import JsonOption, configured, duration, is_terminal, option
from microreg.cli.demo import summary
from microreg.cli.demo.journal import Journal
from microreg.cli.demo.scenario import STEPS
from microreg.cli.demo.stage import perform
from microreg.cli.demo.verdict import complaints
from microreg.cli.demo.view import JsonView, LinesView, TableView, View
from microreg.cli.errors import FAILED, OK
from microreg.cli.loop import Stop, execute
from microreg.errors import ConfigError, Unsupported

__all__ = ["demo"]

_LOOPBACK = "mdns://127.0.0.1"
_LIMIT = 30.0
_TTL = 2.0
_ONE_PROCESS = ("memory", "static")


_Registry = Annotated[
    str, option("--registry", "URL", f"Show it on another registry than {_LOOPBACK}; $MICROREG_REGISTRY is not read.")
]
_Timeout = Annotated[str | None, option("--timeout", "DURATION", f"When to give up; not given: after {_LIMIT:g}s.")]
_Ttl = Annotated[
    str | None, option("--ttl", "DURATION", f"How long a killed service stays registered; not given: {_TTL:g}s.")
]
_Pace = Annotated[float, typer.Option("--pace", help="2 leaves twice the time to look.", min=0, max=10)]
_Skip = Annotated[list[str] | None, typer.Option("--skip", hidden=True)]


def demo(
    registry: _Registry = _LOOPBACK,
    json: JsonOption = False,
    timeout: _Timeout = None,
    ttl: _Ttl = None,
    pace: _Pace = 1.0,
    skip: _Skip = None,
) -> int:
    """Show what microreg does: services find each other, one is killed, calls go on. Takes 15 seconds.

    Three small HTTP services start in processes of their own and announce themselves over mDNS on loopback;
    a client finds and calls them in turn. One is killed, one is drained, one is started late. The exit code
    is 0 only if all of it was really seen and no call failed. No network and no configuration is needed.
    """

    async def main(_: Stop) -> int:
        if os.name != "posix":
            raise Unsupported("the demo kills and drains processes with Unix signals; this system has none")
        left_out = frozenset(skip or ())
        if unknown := left_out - set(STEPS):
            raise ConfigError(f"--skip: expected one of {', '.join(STEPS)}; got {', '.join(sorted(unknown))}")
        seconds, limit = duration("--ttl", ttl), duration("--timeout", timeout)
        opened = configured(registry)
        if opened.url.scheme in _ONE_PROCESS:
            raise ConfigError(f"the demo needs a registry that several processes can write to; {opened.url} is none")
        view: View = JsonView() if json else TableView() if is_terminal() else LinesView()
        journal = Journal(time.monotonic, [view.line])
        async with opened:
            with view:
                broken = await perform(
                    opened,
                    registry,
                    journal,
                    view,
                    ttl=seconds or _TTL,
                    pace=pace,
                    limit=limit or _LIMIT,
                    skip=left_out,
                )
        wrong = broken or complaints(journal, tells_reasons="reasons" in opened.capabilities)
        if json:
            print(summary.as_json(journal, wrong), flush=True)
        else:
            print("\n".join(summary.lines(journal, wrong)), flush=True)
        return FAILED if wrong else OK

    return execute(main)
