"""``microreg verify URL``: whether a live registry keeps the contract, sentence by sentence."""

from __future__ import annotations

from typing import Annotated

import typer

from microreg.cli.common import JsonOption, duration, option
from microreg.cli.errors import FAILED, write_error
from microreg.cli.loop import Stop, execute

__all__ = ["verify"]

_TTL = 1.0
_PATIENCE = 5.0
_AT_ONCE = 8

_Url = Annotated[str, typer.Argument(metavar="URL", help="The registry, as scheme://…; ${NAME} in it is expanded.")]
_Ttl = Annotated[
    str | None,
    option("--ttl", "DURATION", f"The shortest time to live that the store honours; not given: {_TTL:g}s."),
]
_Patience = Annotated[
    str | None,
    option("--patience", "DURATION", f"Within which everybody has seen a change; not given: {_PATIENCE:g}s."),
]
_Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=256, help="How many checks run at once.")]
_Checks = Annotated[list[str] | None, option("--check", "ID", "Only this check, such as watch.law; may be repeated.")]


def verify(
    url: _Url,
    json: JsonOption = False,
    ttl: _Ttl = None,
    patience: _Patience = None,
    concurrency: _Concurrency = _AT_ONCE,
    check: _Checks = None,
) -> int:
    """Run the conformance kit against a live registry and report which sentences of the contract it keeps.

    It WRITES to that registry: services whose names begin with "kit-", which are withdrawn at the end. Services
    of others are left alone. Exit code 1 where a sentence was broken, or none could be checked. What the
    registry does not offer is skipped, and the report says what was missing; whatever has to break the store
    is always skipped here. In a pipe there is one line for each check as it ends, separated by tabs: outcome, check,
    seconds, sentence or why; what went wrong in full goes to stderr. Where a lookup or a watch hangs at all, the
    checks that need it are skipped.
    """

    async def main(_: Stop) -> int:
        from microreg.cli.conformance import check_registry  # imports the whole kit

        seconds, within = duration("--ttl", ttl) or _TTL, duration("--patience", patience) or _PATIENCE
        return await check_registry(url, check or (), seconds, within, concurrency, as_json=json)

    try:
        return execute(main, as_json=json)
    except SystemExit as error:
        write_error(f"microreg: the backend raised SystemExit({error.code!r}) in a task, which ends a whole program")
        return FAILED
