"""Tokens and certificates: read from files, and read again while the server runs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from microreg.errors import ConfigError
from microreg.server import Settings
from microreg.server.credentials import Credentials
from microreg.server.serve import Listener, listen, renew
from servers import TLS, tls
from serving import Serving, serving
from support import run, wait_until


@pytest.fixture(name="certificates", scope="module")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return tls(tmp_path_factory.mktemp("tls"))


def test_tokens_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("\n  first-token  \r\nsecond-token\n\n")
    assert Credentials(token_file=path).tokens() == (("first-token", "second-token"), ())
    assert Credentials(read_token_file=path).tokens() == ((), ("first-token", "second-token"))
    assert Credentials().tokens() == ((), ()) and not Credentials()
    for text, why in (("", "is empty"), ("short", "token 1 is no good"), ("good-token\nbad token x", "token 2")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"--token-file .*{why}") as caught:
            Credentials(token_file=path).tokens()
        assert "bad token" not in str(caught.value) and "short" not in str(caught.value)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="--read-token-file .*not UTF-8"):
        Credentials(read_token_file=path).tokens()
    with pytest.raises(ConfigError, match="No such file"):
        Credentials(token_file=tmp_path / "nowhere").tokens()


def test_certificates_that_are_none(tmp_path: Path, certificates: TLS) -> None:
    assert Credentials().context() is None
    assert isinstance(Credentials(tls_cert=certificates.cert, tls_key=certificates.key).context(), ssl.SSLContext)
    for cert, key in ((tmp_path / "cert.pem", certificates.key), (certificates.cert, certificates.client_key)):
        with pytest.raises(ConfigError, match="expected a certificate and its private key"):
            Credentials(tls_cert=cert, tls_key=key).context()
    for files in ({"tls_cert": certificates.cert}, {"tls_key": certificates.key}):
        with pytest.raises(ConfigError, match="belong together"):
            Credentials(**files)


def _listener() -> Listener:
    listener = listen("127.0.0.1", 0)
    listener.close()
    return listener


async def _status(server: Serving, token: str) -> int:
    answer = await server.http.get("/v1/services", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


def test_tokens_that_are_read_again_count_at_once_and_end_the_streams_of_the_others(tmp_path: Path) -> None:
    writers, readers = tmp_path / "writers", tmp_path / "readers"
    writers.write_text("old-writer")
    readers.write_text("kept-reader\nold-reader")
    files = Credentials(token_file=writers, read_token_file=readers)

    async def main() -> None:
        tokens, read_tokens = files.tokens()
        async with serving(Settings(tokens=tokens, read_tokens=read_tokens)) as server:
            watches = {token: server.watch(authorization=f"Bearer {token}") for token in (*tokens, *read_tokens)}
            async with watches["old-writer"], watches["kept-reader"], watches["old-reader"]:
                writers.write_text("new-writer\nkept-reader")  # which may do more from now on
                readers.write_text("old-writer")
                assert renew(server.app, _listener(), files) == 1
                assert [await _status(server, token) for token in ("new-writer", "old-writer", "old-reader")] == [
                    200, 200, 401,
                ]  # fmt: skip
                await wait_until(lambda: watches["old-reader"].ended)
                answer = await server.http.put(
                    "/v1/services/a/nodes/x",
                    json={"name": "a", "nodes": [{"id": "x", "address": "10.0.0.1:80"}]},
                    headers={"Authorization": "Bearer kept-reader"},
                )
                assert answer.status_code == 204
                await watches["kept-reader"].until(2)
                await watches["old-writer"].until(2)
                assert len(watches["old-reader"].told) == 1 and not watches["kept-reader"].ended

    run(main())


def test_files_that_are_no_good_change_nothing(tmp_path: Path, certificates: TLS) -> None:
    writers, cert, key = tmp_path / "writers", tmp_path / "cert", tmp_path / "key"
    writers.write_text("old-writer")
    cert.write_bytes(certificates.cert.read_bytes())
    key.write_bytes(certificates.key.read_bytes())
    files = Credentials(token_file=writers, tls_cert=cert, tls_key=key)

    async def main() -> None:
        async with serving(Settings(tokens=files.tokens()[0])) as server:
            writers.write_text("new-writer")
            key.write_bytes(certificates.client_key.read_bytes())
            with pytest.raises(ConfigError, match="TLS"):
                renew(server.app, _listener(), files)
            assert [await _status(server, token) for token in ("old-writer", "new-writer")] == [200, 401]
            key.write_bytes(certificates.key.read_bytes())
            writers.write_text("")
            with pytest.raises(ConfigError, match="is empty"):
                renew(server.app, _listener(), files)
            assert await _status(server, "old-writer") == 200
            await asyncio.to_thread(writers.write_text, "new-writer")
            assert renew(server.app, _listener(), files) == 0
            assert [await _status(server, token) for token in ("old-writer", "new-writer")] == [401, 200]

    run(main())
