"""Real servers of ``microreg serve``."""

from __future__ import annotations

import sys
from pathlib import Path

from microreg.testing import ServerProcess
from servers.certificates import TLS

__all__ = ["microreg_server"]


def microreg_server(
    *arguments: str | Path,
    name: str = "microreg",
    registry: str = "memory://",
    tls: TLS | None = None,
    state: bool = False,
) -> ServerProcess:
    """A server that is not started yet; ``arguments`` are more of the command's.

    With ``state`` it keeps what is registered over a restart; else what it has in memory dies with it.
    """

    def command(server: ServerProcess) -> list[str | Path]:
        where = ["--registry", registry, "--listen", f"127.0.0.1:{server.port}"]
        files: list[str | Path] = ["--tls-cert", tls.cert, "--tls-key", tls.key] if tls else []
        kept: list[str | Path] = ["--state", server.data / "state"] if state else []
        return [sys.executable, "-m", "microreg", "serve", *where, *files, *kept, *arguments]

    return ServerProcess(name, command, deadline=40.0)
