"""``microreg serve``: any registry behind HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from microreg.cli.common import configured, duration, option
from microreg.cli.errors import write_error
from microreg.cli.loop import Stop, execute
from microreg.cli.signals import handling
from microreg.errors import ConfigError, InvalidService
from microreg.net import split_address
from microreg.registry import Registry

if TYPE_CHECKING:
    from microreg.server import Application, Settings
    from microreg.server.credentials import Credentials
    from microreg.server.serve import Listener

__all__ = ["serve"]

_DEFAULT_REGISTRY = "memory://"
_DEFAULT_LISTEN = "127.0.0.1:4214"
_SRSR_TIMEOUT = 30.0
_CONNECTIONS = 30_000
_OTHER_FILES = 64
"""Open files that are no connections of clients."""

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
_MaxPerClient = Annotated[
    int | None,
    option(
        "--max-per-client",
        "NUMBER",
        "Watches that one address (IPv6: one /64) may have open at once; else as --max-streams.",
    ),
]
_MaxConnections = Annotated[
    int | None,
    option("--max-connections", "NUMBER", "Connections that may be open at once; else 30000, or what files allow."),
]
_Rate = Annotated[
    float,
    typer.Option(
        "--rate", min=0.0, help="Requests a second that one address (IPv6: one /64) may make on average; 0: no limit."
    ),
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
    max_per_client: _MaxPerClient = None,
    max_connections: _MaxConnections = None,
    rate: _Rate = 0.0,
    access_log: _AccessLog = False,
    state: _State = None,
    srsr_timeout: _SrsrTimeout = None,
) -> int:
    """Serve a registry over HTTP, for programs that have no client, and for http:// registries of those that have.

    Without options it is a registry of its own, in memory, for this machine only. Listening elsewhere wants tokens
    and TLS; without them it says so, and serves. SIGHUP has it read the files of both again. SIGTERM and SIGINT
    (Ctrl-C) end the watches of its clients, answer the requests that are open, for five seconds at most, and end it
    with exit code 0.
    """

    async def main(stop: Stop) -> int:
        _check_extra()
        from microreg.server import Settings  # which loads the web framework
        from microreg.server.credentials import Credentials

        files = Credentials(token_file=token_file, read_token_file=read_token_file, tls_cert=tls_cert, tls_key=tls_key)
        tokens, read_tokens = files.tokens()
        settings = Settings(
            tokens=tokens,
            read_tokens=read_tokens,
            hosts=tuple(allow_host or ()),
            max_body=max_body,
            max_nodes=max_nodes,
            max_services=max_services,
            max_streams=max_streams,
            max_per_client=max_streams if max_per_client is None else max_per_client,
            rate=rate,
            access_log=access_log,
            srsr_ttl=duration("--srsr-timeout", srsr_timeout) or _SRSR_TIMEOUT,
        )
        opened = _registry(registry or _DEFAULT_REGISTRY, state)
        return await _serve(stop, opened, settings, files, _address(listen), max_connections, trust_proxy or "")

    return execute(main, writes=False, loop_factory=_loop_factory())


def _check_extra() -> None:
    missing = [name for name in ("httptools", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}: pip install 'microreg[server]'")


def _registry(url: str, state: Path | None) -> Registry:
    from microreg.server.state import State

    opened = configured(url)
    return opened if state is None else State(opened, state)


async def _serve(
    stop: Stop,
    registry: Registry,
    settings: Settings,
    files: Credentials,
    address: tuple[str, int],
    max_connections: int | None,
    proxies: str,
) -> int:
    from microreg.server import application
    from microreg.server.serve import listen, serve

    listener = listen(*address, files.context())
    _warn(address[0], bool(settings.tokens), listener.tls is not None)
    if settings.access_log:
        _log_accesses()
    stop.graceful = True

    def ready() -> None:
        print(f"microreg serves {registry.url} at {listener.url}", flush=True)

    room = _room(max_connections)
    async with registry, application(registry, settings) as app:
        reloads = handling(("SIGHUP",), lambda _: _reload(app, listener, files)) if files else nullcontext()
        with reloads:
            await serve(app, listener, stop.asked.wait, max_connections=room, ready=ready, proxies=proxies)
    return 0


def _room(asked: int | None) -> int:
    """How many connections there can be. Each is an open file: beyond that limit nobody would be answered at all."""
    wanted = _CONNECTIONS if asked is None else asked
    if wanted < 1:
        raise ConfigError(f"--max-connections: expected at least 1, got {wanted}")
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= wanted + _OTHER_FILES:
        return wanted
    with suppress(ValueError, OSError):
        more = wanted + _OTHER_FILES if most == resource.RLIM_INFINITY else min(most, wanted + _OTHER_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, most))
        limit = more
    room = max(1, limit - _OTHER_FILES)
    if asked is not None and room < wanted:
        write_error(
            f"microreg: warning: at most {room} connections at once, not {wanted}, since a process may open {limit} "
            "files here; see ulimit -n, or LimitNOFILE of systemd"
        )
    return min(room, wanted)


def _reload(app: Application, listener: Listener, files: Credentials) -> None:
    """What SIGHUP is for. Said on stderr each time, since somebody has asked for it."""
    from microreg.server.serve import renew

    try:
        ended = renew(app, listener, files)
    except ConfigError as error:
        write_error(f"microreg: tokens and certificate stay as they were: {error}")
    else:
        write_error(f"microreg: tokens and certificate were read again; {ended} watches ended with their tokens")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: it answers twice as many requests."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


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
