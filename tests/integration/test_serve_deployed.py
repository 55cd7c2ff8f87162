"""What the page on running `microreg serve` shows for systemd and nginx, with the real programs."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from debian import Unobtainable, obtain
from microreg import Node, Service, connect
from microreg.errors import PermissionDenied, RegistryUnavailable
from microreg.events import Action, Change, Snapshot
from microreg.testing import ServerProcess
from needs import need
from servers import TLS, microreg_server, tls
from support import ROOT, run, wait_until

pytestmark = pytest.mark.timeout(300)  # downloading nginx, once for a machine

PAGE = (ROOT / "docs/howto/serve.md").read_text(encoding="utf-8")
TOKEN = "a-token-of-a-writer"


def block(language: str) -> str:
    """The one fenced block of the page in this language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


# -- nginx ------------------------------------------------------------------------------------------


@pytest.fixture(name="certificates", scope="module")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    writers = tmp_path_factory.mktemp("tokens") / "writers"
    writers.write_text(TOKEN)
    with microreg_server("--token-file", writers, "--trust-proxy", "127.0.0.1", "--access-log") as server:
        yield server


@pytest.fixture(name="proxy", scope="module")
def _proxy(server: ServerProcess, certificates: TLS) -> Iterator[ServerProcess]:
    """nginx with the configuration of the page: only ports and files are others."""
    try:
        programs = obtain("nginx-light")
        nginx = programs.find("nginx")
    except Unobtainable as error:
        need("nginx", str(error))

    def command(process: ServerProcess) -> list[str]:
        shown = block("nginx")
        for text, here in {
            "127.0.0.1:4214": f"127.0.0.1:{server.port}",
            "listen 443": f"listen 127.0.0.1:{process.port}",
            "/etc/nginx/registry.pem": str(certificates.cert),
            "/etc/nginx/registry-key.pem": str(certificates.key),
        }.items():
            assert text in shown
            shown = shown.replace(text, here)
        kinds = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"
        folders = "".join(f"{kind}_temp_path {process.data}/{kind};\n" for kind in kinds)
        main = f"daemon off; master_process off; pid {process.folder}/pid; error_log stderr; events {{}}\n"
        file = process.folder / "nginx.conf"
        file.write_text(f"{main}http {{ access_log off;\n{folders}{shown}}}\n", encoding="utf-8")
        return [nginx, "-p", str(process.folder), "-e", "stderr", "-c", str(file)]

    with ServerProcess("nginx", command, env={"LD_LIBRARY_PATH": programs.env["LD_LIBRARY_PATH"]}) as proxy:
        yield proxy


def test_behind_nginx_calls_and_streams_pass_at_once(
    proxy: ServerProcess, server: ServerProcess, certificates: TLS
) -> None:
    async def main() -> None:
        url = f"https://localhost:{proxy.port}?ca={certificates.ca}"
        odd = Service("odd", nodes=[Node("10.0.0.1:80", id="x")])
        async with connect(f"{url}&token={TOKEN}") as registry, registry.watch() as events:
            assert await anext(events) == Snapshot()
            await registry.register(odd)
            change = await anext(events)  # nginx would keep it until it has 4 KiB
            assert isinstance(change, Change) and change.action is Action.CREATE
            assert await registry.get_service("odd") == (odd,)
            await registry.register(odd)
            await registry.deregister(odd)
            assert isinstance(await anext(events), Change)
            async with connect(url) as stranger:
                with pytest.raises(PermissionDenied, match="wants a token"):
                    await stranger.list_services()
            server.kill()
            with pytest.raises(RegistryUnavailable, match="502"):
                await registry.list_services()
            await wait_until(lambda: events.state == "resyncing")
            server.start()
            await wait_until(lambda: events.state == "live", timeout=30)

    run(main())


def test_behind_nginx_the_log_names_the_client(proxy: ServerProcess, server: ServerProcess, certificates: TLS) -> None:
    context = ssl.create_default_context(cafile=certificates.ca)
    connection = http.client.HTTPSConnection(
        "localhost", proxy.port, context=context, timeout=20, source_address=("127.0.0.2", 0)
    )
    connection.request("GET", "/healthz", headers={"X-Forwarded-For": "203.0.113.9"})
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    run(wait_until(lambda: "/healthz" in server.tail()))
    told = [json.loads(line) for line in server.tail().splitlines() if "/healthz" in line]
    assert told[-1]["client"] == "127.0.0.2"


# -- systemd ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "microreg.service"
    text = block("ini")
    assert "/opt/microreg/bin/microreg serve" in text
    unit.write_text(text.replace("/opt/microreg/bin/microreg", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "microreg.service" in line]) == (0, [])


def test_the_options_of_the_unit_are_those_of_the_command(tmp_path: Path) -> None:
    """It gets as far as it can without the files of the page: to the first one that is not there."""
    [line] = re.findall(r"^ExecStart=\S+ (.*?)(?<!\\)$", block("ini"), re.MULTILINE | re.DOTALL)
    arguments = line.replace("\\\n", " ").replace("%S", str(tmp_path)).replace("0.0.0.0:4214", "127.0.0.1:0").split()
    done = subprocess.run(
        [sys.executable, "-m", "microreg", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2 and "--token-file /etc/microreg/writers: No such file" in done.stderr


# -- a container ------------------------------------------------------------------------------------


def words(shown: str, instruction: str) -> list[str]:
    """What an instruction runs."""
    [found] = re.findall(rf"^{instruction} (\[.*\])$", shown, re.MULTILINE)
    return [str(word) for word in json.loads(found)]


def test_the_container_file_starts_a_server_and_looks_after_it(tmp_path: Path) -> None:
    shown = block("dockerfile")
    entry, health = (words(shown, instruction) for instruction in ("ENTRYPOINT", "HEALTHCHECK CMD"))
    assert (entry[:2], health[:2]) == (["microreg", "serve"], ["python", "-c"])

    def command(process: ServerProcess) -> list[str]:
        here: dict[str, str] = {"0.0.0.0:4214": f"127.0.0.1:{process.port}", "/state/state": str(tmp_path / "state")}
        return [sys.executable, "-m", "microreg", *(here.get(part, part) for part in entry[1:])]

    with ServerProcess("container", command) as server:
        code = health[2].replace("127.0.0.1:4214", f"127.0.0.1:{server.port}")
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
        server.kill()
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False).returncode
