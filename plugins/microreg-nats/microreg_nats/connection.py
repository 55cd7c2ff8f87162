"""The way to NATS: which server, as whom, and how it is found again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import nkeys  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
from nats.aio.client import RawCredentials

from microreg.errors import ConfigError, PermissionDenied, RegistryClosed, RegistryError
from microreg.net import join_address
from microreg.tls import client_context
from microreg.toolkit import end
from microreg.url import RegistryURL
from microreg_nats.failures import failure, mute
from microreg_nats.options import DEFAULT_PORT, NatsOptions
from microreg_nats.session import Session
from microreg_nats.wire import NatsClient

__all__ = ["Connection"]

log = logging.getLogger("microreg.nats")

_SOONEST = 0.05
_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 2.0
_STABLE = 5.0
_GOODBYE = 1.0
_NEVER = 86_400
_JWT, _SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"


class Connection:
    """A connection that is made at the first call and made again, for ever, when it is lost, in the running loop.

    Every time it is a new client of nats-py: what was on its way when the connection broke is not sent again later,
    and subscriptions end with their :class:`Session`. Raises ConfigError where a certificate, nkey or credentials
    file is no good.
    """

    def __init__(self, url: RegistryURL, options: NatsOptions) -> None:
        self._url = url
        self._options = options
        self._tls = client_context(options) if url.scheme.startswith("natss") else None
        self._plain = url.scheme.replace("natss", "nats")
        self._hosts = list(url.hosts(DEFAULT_PORT))
        self._rng = random.Random()
        self._rng.shuffle(self._hosts)
        _credentials(options)
        self.generation = 0
        """Counts the sessions that there were."""
        self.error: RegistryError | None = None
        """Why there is no session; None while there is one."""
        self.goodbye = min(_GOODBYE, options.timeout / 4)
        """Seconds that the last words before closing may take: all of it has to end within the ``timeout`` option."""
        self._session: Session | None = None
        self._attempt: asyncio.Future[Session | RegistryError] | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def session(self) -> Session:
        """The session that there is, or the next one.

        Raises what went wrong where the next attempt fails: RegistryUnavailable or PermissionDenied, within the
        ``timeout`` option.
        """
        session = self._session
        if session is not None and session.is_live:
            return session
        self._wanted.set()
        outcome = await self._next()
        if isinstance(outcome, RegistryError):
            raise outcome.with_traceback(None)
        return outcome

    async def connected(self) -> Session:
        """The session that there is, or the next one, however long it takes. Raises RegistryClosed."""
        while True:
            session = self._session
            if session is not None and session.is_live:
                return session
            await self._next()

    async def changed(self, generation: int) -> None:
        """Wait until the session of this generation is over."""
        session = self._session
        if session is not None and session.generation == generation:
            await asyncio.wait([session.lost])

    async def close(self) -> None:
        """Close the connection, and make no other. Closing twice is fine."""
        self._closed = True
        if self._task is not None:
            await end(self._task)
        session, self._session = self._session, None
        self._tell(RegistryClosed(f"{self._url} was closed"))
        if session is not None:
            await session.close(self.goodbye)

    async def _next(self) -> Session | RegistryError:
        if self._closed:
            raise RegistryClosed(f"{self._url} was closed")
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run(), name="microreg nats connection")
        if self._attempt is None:
            self._attempt = loop.create_future()
        return await asyncio.shield(self._attempt)

    def _tell(self, outcome: Session | RegistryError) -> None:
        waiting, self._attempt = self._attempt, None
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    async def _run(self) -> None:
        """Connect, and again whenever the connection is lost."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            try:
                session = await self._connect()
            except RegistryError as error:
                failures += 1
                self.error = error
                self._tell(error)
            else:
                since = loop.time()
                self._session, self.error = session, None
                self._tell(session)
                await asyncio.wait([session.lost])
                log.info("lost NATS", extra={"server": session.where, "error": str(session.reason)})
                self._session, self.error = None, session.reason
                failures = 0 if loop.time() - since > _STABLE else failures + 1
                await session.close()
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        """Wait a while, at random, and not that long where somebody asks for a session."""
        if self._attempt is None:  # or else somebody waits already
            self._wanted.clear()
        ceiling = min(_BACKOFF_CAP, _BACKOFF_BASE * 2.0 ** min(failures, 16))
        seconds = self._rng.uniform(0, ceiling)
        await asyncio.sleep(_SOONEST + min(seconds, _SOONEST))
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _connect(self) -> Session:
        """A session with the first server that takes us; the one that was tried is the last to be tried next."""
        patience = self._options.timeout / len(self._hosts) * 0.9
        worst: RegistryError | None = None
        for _ in range(len(self._hosts)):
            host = self._hosts.pop(0)
            self._hosts.append(host)
            try:
                return await self._dial(host, patience)
            except RegistryError as error:
                if not isinstance(worst, PermissionDenied):
                    worst = error
        assert worst is not None
        raise worst

    async def _dial(self, host: tuple[str, int], patience: float) -> Session:
        address = join_address(*host)
        client = NatsClient(tls=self._tls is not None)
        session = Session(client, address, self.generation + 1)
        try:
            async with asyncio.timeout(patience):
                await self._open(client, session, address, patience)
                await session.begin()
        except BaseException as error:
            silent = isinstance(error, TimeoutError) and client.is_unanswered
            reason = mute(address) if silent else failure(error, address, plain=self._plain)
            session.over(reason)
            await session.close()
            if isinstance(error, Exception):
                raise reason from error
            raise
        self.generation += 1
        return session

    async def _open(self, client: NatsClient, session: Session, address: str, patience: float) -> None:
        seed, credentials = _credentials(self._options)
        await client.connect(
            servers=[f"nats://{address}"],
            name="microreg",
            error_cb=session.on_error,
            closed_cb=session.on_closed,
            disconnected_cb=session.on_closed,
            allow_reconnect=False,
            connect_timeout=max(1, round(patience)),
            ping_interval=_NEVER,
            pending_size=0,
            tls=self._tls,
            tls_hostname=self._options.server_name or None,
            user=str(self._url.user) or None,
            password=str(self._url.password) or None,
            token=self._options.token or None,
            nkeys_seed_str=seed,
            user_credentials=credentials,
            inbox_prefix=self._options.inbox,
        )


def _credentials(options: NatsOptions) -> tuple[str | None, RawCredentials | None]:
    """The seed of an nkey and the credentials, as they are in their files now. Raises ConfigError."""
    seed, credentials = None, None
    if options.nkey_file is not None:
        seed = _read(options.nkey_file, "nkey_file").strip()
        _check_seed(seed, options.nkey_file, "nkey_file")
    if options.creds_file is not None:
        text = _read(options.creds_file, "creds_file")
        lines = text.splitlines()
        if not all(any(mark in line for line in lines[:-1]) for mark in (_JWT, _SEED)):
            raise ConfigError(
                f"option creds_file: {options.creds_file} has not both {_JWT} and {_SEED}; "
                "expected the file that nsc generate creds writes"
            )
        number = next(number for number, line in enumerate(lines) if _SEED in line)
        _check_seed(lines[number + 1].strip(), options.creds_file, "creds_file")
        credentials = RawCredentials(text)
    return seed, credentials


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"option {name}: {path}: {reason}") from None


def _check_seed(seed: str, path: Path, name: str) -> None:
    try:
        nkeys.from_seed(bytearray(seed.encode())).wipe()  # pyright: ignore[reportUnknownMemberType]
    except Exception:  # of many classes; what they say may quote the seed
        raise ConfigError(f"option {name}: {path} holds no seed of an nkey, which begins with SU") from None
