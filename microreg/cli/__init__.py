"""The command line. ``main()`` is what the ``microreg`` script calls; everything else is imported by it.

Needs the ``cli`` extra (typer, rich); nothing else in microreg does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXTRA = ("typer", "rich", "click")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` default to those of the process."""
    try:
        from microreg.cli.app import run
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(
            f"microreg: the command line needs {missing}, which is not installed: pip install 'microreg[cli]'",
            file=sys.stderr,
        )
        return 2
    return run(sys.argv[1:] if arguments is None else list(arguments))
