"""``microreg serve``: any registry behind HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from microreg.cli.common import configured, duration, option
from microreg.cli.errors import write_error
from microreg.cli.loop import Stop, execute
from microreg.errors import ConfigError, InvalidService
from microreg.net import split_address

__all__ = ["serve"]

_DEFAULT_REGISTRY = "memory://"
_DEFAULT_LISTEN = "127.0.0.1:4214"
_SHORTEST_TOKEN = 8
_SRSR_TIMEOUT = 30.0

_Registry = Annotated[
    str | None,
    option("--registry", "URL", f"The registry to serve; not given: {_DEFAULT_REGISTRY}, which lives in the server."),
]
_Listen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes any that is free.")
]
_TokenFile = Annotated[
    Path | None,
    option("--token-file", "FILE", "Tokens that may do everything, one a line; without it no token is needed."),
]
_ReadTokenFile = Annotated[
    Path | None, option("--read-token-file", "FILE", "Tokens that may look services up and watch, one a line.")
]
_Cert = Annotated[Path | None, option("--tls-cert", "FILE", "Certificate chain in PEM: serve https.")]
_Key = Annotated[Path | None, option("--tls-key", "FILE", "Private key of --tls-cert, in PEM.")]
_Hosts = Annotated[
    list[str] | None,
    option("--allow-host", "NAME", "A name that clients without a token may call this server by; may be repeated."),
]
_Proxies = Annotated[
    str | None,
    option("--trust-proxy", "ADDRESS,…", "Proxies whose X-Forwarded-For and -Proto are believed; not given: none."),
]
_MaxBody = Annotated[int, typer.Option("--max-body", min=1, help="Bytes that the body of a request may have.")]
_MaxNodes = Annotated[int, typer.Option("--max-nodes", min=1, help="Nodes that clients may register.")]
_MaxServices = Annotated[int, typer.Option("--max-services", min=1, help="Names that these nodes may have.")]
_MaxStreams = Annotated[int, typer.Option("--max-streams", min=1, help="Watches that may be open at once.")]
_MaxConnections = Annotated[int, typer.Option("--max-connections", min=1, help="Connections that may be open at once.")]
_Rate = Annotated[
    float, typer.Option("--rate", min=0.0, help="Requests a second that one address may make on average; 0: no limit.")
]
_State = Annotated[
    Path | None,
    option("--state", "FILE", "Keep what is registered in this file, over restarts; for memory:// registries."),
]
_SrsrTimeout = Annotated[
    str | None, option("--srsr-timeout", "TIME", "How long an entry of srsr's API lives without a heartbeat; 30s.")
]
_AccessLog = Annotated[bool, typer.Option("--access-log", help="Write a line of JSON to stderr for each request.")]


def serve(
    registry: _Registry = None,
    listen: _Listen = _DEFAULT_LISTEN,
    token_file: _TokenFile = None,
    read_token_file: _ReadTokenFile = None,
    tls_cert: _Cert = None,
    tls_key: _Key = None,
    allow_host: _Hosts = None,
    trust_proxy: _Proxies = None,
    max_body: _MaxBody = 1024 * 1024,
    max_nodes: _MaxNodes = 200_000,
    max_services: _MaxServices = 50_000,
    max_streams: _MaxStreams = 20_000,
    max_connections: _MaxConnections = 30_000,
    rate: _Rate = 0.0,
    access_log: _AccessLog = False,
    state: _State = None,
    srsr_timeout: _SrsrTimeout = None,
) -> int:
    """Serve a registry over HTTP, for programs that have no client, and for http:// registries of those that have.

    Without options it is a registry of its own, in memory, for this machine only. Listening elsewhere wants tokens
    and TLS; without them it says so, and serves. SIGTERM and SIGINT (Ctrl-C) end the watches of its clients, answer
    the requests that are open, for five seconds at most, and end it with exit code 0.
    """

    async def main(stop: Stop) -> int:
        from microreg.server.serve import listen as bind
        from microreg.server.serve import serve as run
        from microreg.server.settings import Settings
        from microreg.server.state import State

        settings = Settings(
            tokens=_tokens("--token-file", token_file),
            read_tokens=_tokens("--read-token-file", read_token_file),
            hosts=tuple(allow_host or ()),
            max_body=max_body,
            max_nodes=max_nodes,
            max_services=max_services,
            max_streams=max_streams,
            max_per_client=max_streams,
            rate=rate,
            access_log=access_log,
            srsr_ttl=duration("--srsr-timeout", srsr_timeout) or _SRSR_TIMEOUT,
        )
        opened = configured(registry or _DEFAULT_REGISTRY)
        if state is not None:
            opened = State(opened, state)
        host, port = _address(listen)
        listener = bind(host, port, tls_cert, tls_key)
        _warn(host, bool(settings.tokens), tls_cert is not None)
        if access_log:
            _log_accesses()
        stop.graceful = True
        async with opened:

            def ready() -> None:
                print(f"microreg serves {opened.url} at {listener.url}", flush=True)

            await run(
                opened,
                listener,
                settings,
                stop.asked.wait,
                max_connections=max_connections,
                ready=ready,
                proxies=trust_proxy or "",
            )
        return 0

    return execute(main, writes=False, loop_factory=_loop_factory())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: it answers twice as many requests."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _tokens(option: str, path: Path | None) -> tuple[str, ...]:
    """The tokens in a file. Raises ConfigError that names the option, and shows none of them."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{option} {path}: {why}") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise ConfigError(f"{option} {path}: it is empty; expected a token on each line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{option} {path}: token {number} is no good; expected {_SHORTEST_TOKEN} or more ASCII characters "
                "without blanks, for example from `openssl rand -hex 32`"
            )
    return tokens


def _address(text: str) -> tuple[str, int]:
    """Host and port of --listen. An empty host, as in ``:4214``, means all addresses of IPv4; port 0 any free one."""
    whole = f"0.0.0.0{text}" if text.startswith(":") else text
    any_port = whole.endswith(":0")
    try:
        host, port = split_address(f"{whole[:-1]}1" if any_port else whole)
    except InvalidService as error:
        raise ConfigError(f"--listen: {error}") from None
    return host, 0 if any_port else port


def _warn(host: str, tokens: bool, tls: bool) -> None:
    """Say what listening to more than this machine means. It is no error: a network may be closed."""
    if _is_loopback(host):
        return
    if not tokens:
        write_error(
            f"microreg: warning: anybody who reaches {host} can register, withdraw and look up services: "
            "there are no tokens; see --token-file"
        )
    if not tls:
        write_error(
            f"microreg: warning: everything to and from {host} can be read and changed on the way"
            f"{', tokens included' if tokens else ''}: this is no TLS; see --tls-cert and --tls-key"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _log_accesses() -> None:
    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({"time": round(record.created, 3), **getattr(record, "request", {})})

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logger = logging.getLogger("microreg.server.access")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
