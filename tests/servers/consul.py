"""Real Consul agents."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from debian import Unobtainable, obtain
from microreg.testing import ServerProcess
from needs import need
from servers.certificates import TLS
from servers.programs import named

__all__ = ["consul", "consul_program"]

_NAMED = os.environ.get("MICROREG_CONSUL", "")  # read at import: no MICROREG_* variable reaches a test


def consul(
    name: str = "consul",
    *,
    dev: bool = False,
    tls: TLS | None = None,
    client_certs: bool = False,
    config: Mapping[str, object] | None = None,
) -> ServerProcess:
    """An agent that is its own server, not started yet: HTTP is at its first port, DNS at its second, TLS at its third.

    ``dev`` keeps everything in memory, so that a restart forgets it; ``client_certs`` asks clients that come by TLS
    for a certificate; ``config`` are further settings, as in an agent's configuration file. Where there is no Consul,
    starting it skips the test, or fails it (MICROREG_REQUIRE).
    """

    def command(server: ServerProcess) -> list[str | Path]:
        path = server.folder / "agent.json"
        path.write_text(json.dumps(_settings(server, tls, client_certs) | dict(config or {})), encoding="utf-8")
        kind = ["-dev"] if dev else ["-server", "-bootstrap-expect=1", f"-data-dir={server.data}"]
        return [consul_program(), "agent", *kind, f"-config-file={path}", "-log-level=warn"]

    return ServerProcess(name, command, ports=5, ready=_has_leader, deadline=40.0)


def _settings(server: ServerProcess, tls: TLS | None, client_certs: bool) -> dict[str, object]:
    http, dns, https, rpc, serf = server.ports
    ports = {"http": http, "dns": dns, "https": https if tls else -1, "server": rpc, "serf_lan": serf, "serf_wan": -1}
    settings: dict[str, object] = {
        "node_name": server.name,
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": ports | {"grpc": -1},
        "performance": {"raft_multiplier": 1},
        "ui": True,
        "disable_update_check": True,
    }
    if tls:
        settings |= {"cert_file": str(tls.cert), "key_file": str(tls.key), "ca_file": str(tls.ca)}
        settings["verify_incoming_https"] = client_certs
    return settings


def _has_leader(server: ServerProcess) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/status/leader", timeout=5) as answer:
        return len(answer.read()) > len('""')


def consul_program() -> Path:
    """What MICROREG_CONSUL names, or else the one of Debian's package, downloaded once and not installed."""
    if path := named("consul", "MICROREG_CONSUL", _NAMED):
        return path
    try:
        return Path(obtain("consul", suite="bullseye").find("consul"))
    except Unobtainable as error:
        need("consul", f"there is none: {error}; name one: MICROREG_CONSUL=/path/to/consul")
