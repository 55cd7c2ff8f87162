"""SIGHUP: tokens and certificates are read again, and those who may stay notice nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from microreg import Node, Service, connect
from microreg.errors import PermissionDenied
from microreg.events import Action, Change, Snapshot
from microreg.testing import Proxy, ServerProcess
from servers import microreg_server, tls
from support import clean_env, run, wait_until

pytestmark = pytest.mark.timeout(180)


def node(id: str) -> Service:
    return Service("a", nodes=[Node("10.0.0.1:80", id=id)])


async def reloaded(server: ServerProcess, said: str) -> None:
    """Send SIGHUP, and wait for what the server says to it."""
    before = server.log.read_text().count("\n")
    os.kill(server.pid, signal.SIGHUP)
    await wait_until(lambda: server.log.read_text().count("\n") > before)
    assert said in server.tail().splitlines()[-1]


def test_a_token_that_is_removed_ends_its_streams_and_no_others(tmp_path: Path) -> None:
    writers, readers = tmp_path / "writers", tmp_path / "readers"
    writers.write_text("old-writer\n")
    readers.write_text("stays-reader\ngoes-reader\n")

    async def main(server: ServerProcess, proxy: Proxy) -> None:
        url = f"http://127.0.0.1:{server.port}?token="
        async with (
            connect(f"http://127.0.0.1:{proxy.port}?token=stays-reader") as stays,
            connect(f"{url}goes-reader") as goes,
            stays.watch("a") as staying,
            goes.watch("a") as going,
        ):
            assert isinstance(await anext(staying), Snapshot) and isinstance(await anext(going), Snapshot)
            for _ in range(3):
                assert await goes.list_services() == ()
            writers.write_text("new-writer\n")
            readers.write_text("stays-reader\n")
            await reloaded(server, "were read again; 1 watches ended")
            with pytest.raises(PermissionDenied, match="does not know the token"):
                await goes.list_services()  # on the connection that it had
            await wait_until(lambda: isinstance(going.error, PermissionDenied))
            async with connect(f"{url}old-writer") as old:
                with pytest.raises(PermissionDenied, match="does not know the token"):
                    await old.register(node("x"))
            async with connect(f"{url}new-writer") as new:
                await new.register(node("x"))
            change = await anext(staying)
            assert isinstance(change, Change) and change.action is Action.CREATE
            assert staying.state == "live" and proxy.connections == 1  # the stream it began with
            writers.write_text("short\n")
            await reloaded(server, "stay as they were: --token-file")
            readers.write_text("stays-reader\ngoes-reader\n")
            writers.write_text("new-writer\n")
            await reloaded(server, "were read again; 0 watches ended")
            await wait_until(lambda: going.state == "live", timeout=40)

    with microreg_server("--token-file", writers, "--read-token-file", readers) as server, Proxy(server.port) as proxy:
        run(main(server, proxy))
        assert "-writer" not in server.log.read_text() and "-reader" not in server.log.read_text()


def test_a_new_certificate_is_shown_to_new_connections_and_the_old_ones_go_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    certificates, others = tls(first), tls(second)
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.ca.read_bytes() + others.ca.read_bytes())

    def shown(port: int) -> bytes:
        context = ssl.create_default_context(cafile=both)
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            return connection.getpeercert(binary_form=True) or b""

    async def main(server: ServerProcess) -> None:
        async with connect(f"https://127.0.0.1:{server.port}?ca={both}") as registry, registry.watch("a") as events:
            assert isinstance(await anext(events), Snapshot)
            before = shown(server.port)
            shutil.copy(others.key, certificates.key)
            await reloaded(server, "stay as they were: TLS")  # a certificate without its key
            assert shown(server.port) == before
            shutil.copy(others.cert, certificates.cert)
            await reloaded(server, "were read again")
            after = shown(server.port)
            assert after == ssl.PEM_cert_to_DER_cert(others.cert.read_text().partition("-----END")[0] + END)
            assert after != before and events.state == "live"
            await registry.register(node("x"))
            assert isinstance(await anext(events), Change)

    with microreg_server(tls=certificates) as server:
        run(main(server))


END = "-----END CERTIFICATE-----\n"


def test_without_any_of_them_the_signal_ends_it_as_ever() -> None:
    """Whoever closes a terminal wants the server in it to end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "microreg", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_env(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("microreg serves")
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
