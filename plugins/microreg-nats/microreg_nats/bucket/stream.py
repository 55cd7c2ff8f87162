"""The bucket: a stream of JetStream, made where it is missing, written on conditions."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import TypeVar, cast

from microreg.errors import ConfigError, PermissionDenied, RecordTooLarge, RegistryUnavailable, Unsupported
from microreg.toolkit import version_number
from microreg.url import RegistryURL
from microreg_nats.bucket.api import Refused, answer, call, number, without_jetstream
from microreg_nats.bucket.batches import Batches, Found
from microreg_nats.connection import Connection
from microreg_nats.failures import NoResponders
from microreg_nats.session import Session

__all__ = ["MARKER_TTL", "Bucket", "Opened"]

T = TypeVar("T")

MARKER_TTL = 30
"""Seconds for which a marker tells that a node was withdrawn, and then another one that something has expired.

As long as there is one, a write that is late finds it, and a watch that lags behind hears of it.
"""

_SECOND = 1_000_000_000
_VERSION = (2, 11)
_NO_STREAM = 10059
_EXISTS = 10058
_NO_MESSAGE = 10037
_HEADERS = 512
"""Bytes that the headers of a record may take, at most."""
_MARKERS = f"--subject-del-markers-ttl={MARKER_TTL}s"
_LAGS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait for a replica that has not got yet what this client has written."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The bucket as it was found in this session."""

    session: Session
    created: str
    """When the stream was made: another one tells another time."""
    limit: int
    """Bytes that a record may have."""
    replicated: bool
    longest: float
    """Seconds for which the bucket keeps anything, whatever its time to live."""


class Bucket:
    """One bucket, over whatever connection there is."""

    def __init__(self, connection: Connection, url: RegistryURL, name: str, *, replicas: int, storage: str) -> None:
        self.name = name
        self.stream = f"KV_{name}"
        self._connection = connection
        self._url = url
        self._config = _config(name, replicas, storage)
        self._batches = Batches(self.stream)
        self._opened: Opened | None = None
        self._opening = asyncio.Lock()
        self._written = 0
        """The last sequence that this client has written."""

    async def opened(self) -> Opened:
        """The bucket, made where it is missing. Raises Unsupported or ConfigError where it cannot serve."""
        session = await self._connection.session()
        async with self._opening:
            if self._opened is None or self._opened.session is not session:
                self._opened = await self._open(session)
                self._written = 0
            return self._opened

    def forget(self, opened: Opened) -> None:
        """This is not what is there any more: look again before the next call."""
        if self._opened is opened:
            self._opened = None

    async def put(self, subject: str, value: bytes, seconds: int, revision: int) -> int:
        """Write a record if the last message at the subject is ``revision`` (0: none). The new revision.

        Raises WrongSequence where it is not.
        """
        return await self._publish(subject, value, seconds, revision, {})

    async def withdraw(self, subject: str, revision: int) -> int:
        """Mark that there is no record any more, on the same condition."""
        return await self._publish(subject, b"", MARKER_TTL, revision, {"KV-Operation": "DEL"})

    async def last(self, subject: str) -> tuple[int, bytes | None]:
        """The revision of a subject and the record there, None for a marker; 0 where there is no message."""
        try:
            found = await self._attempt(
                lambda opened: call(opened.session, f"STREAM.MSG.GET.{self.stream}", {"last_by_subj": subject})
            )
        except Refused as error:
            if error.reason != _NO_MESSAGE:
                raise
            return 0, None
        message = cast("dict[str, object]", found["message"])
        headers = b64decode(str(message.get("hdrs") or ""))
        marked = b"Nats-Marker-Reason:" in headers or b"KV-Operation:" in headers
        return number(message, "seq"), None if marked else b64decode(str(message.get("data") or ""))

    async def read(self, filter: str) -> Found:
        """The records of these subjects, not older than what this client has written.

        Any replica may answer, one that lags behind too: then it is asked again.
        """
        for pause in (*_LAGS, 0.0):
            found, opened = await self._attempt(lambda opened: self._read(opened, filter))
            if not opened.replicated or found.up_to >= self._written or self._batches.is_large(filter):
                return found
            if not found.up_to and await self._is_empty(opened.session, filter):
                return found
            await asyncio.sleep(pause)
        raise RegistryUnavailable(f"{self._url}: a replica of the bucket {self.name} lags behind")

    async def snapshot(self, opened: Opened, filter: str) -> Found:
        """The records of these subjects in this session, as some replica knows them."""
        return await self._batches.read(opened.session, filter)

    async def confirm(self, opened: Opened) -> None:
        """Raise RegistryUnavailable where it is not the same stream any more."""
        found = await call(opened.session, f"STREAM.INFO.{self.stream}", {})
        if found.get("created") != opened.created:
            self.forget(opened)
            raise RegistryUnavailable(f"the bucket {self.name} was deleted and made again")

    # -- how it is done ----------------------------------------------------------------------------

    async def _attempt(self, work: Callable[[Opened], Awaitable[T]]) -> T:
        """Do this with the bucket; again with another one, where it turns out to be gone."""
        opened = await self.opened()
        try:
            return await work(opened)
        except NoResponders:
            self.forget(opened)
        return await work(await self.opened())

    async def _read(self, opened: Opened, filter: str) -> tuple[Found, Opened]:
        return await self._batches.read(opened.session, filter), opened

    async def _is_empty(self, session: Session, filter: str) -> bool:
        """Whether the leader knows of no message at these subjects either."""
        try:
            await call(session, f"STREAM.MSG.GET.{self.stream}", {"seq": 1, "next_by_subj": filter})
        except Refused as error:
            if error.reason != _NO_MESSAGE:
                raise
            return True
        return False

    async def _publish(self, subject: str, value: bytes, seconds: int, revision: int, extra: dict[str, str]) -> int:
        headers = {"Nats-TTL": f"{seconds}s", "Nats-Expected-Last-Subject-Sequence": str(revision), **extra}

        async def publish(opened: Opened) -> int:
            if len(value) > opened.limit:
                raise RecordTooLarge(
                    f"the record has {len(value)} bytes, the bucket {self.name} holds up to {opened.limit}",
                    size=len(value),
                    limit=opened.limit,
                )
            if seconds > opened.longest:
                raise ConfigError(
                    f"{self._url}: a record or its marker is to be kept for {seconds} s, and the bucket {self.name} "
                    f"keeps nothing for longer than {opened.longest:g} s: `nats stream edit {self.stream} --max-age=0`"
                )
            written = answer(opened.session, await opened.session.request(subject, value, headers=headers))
            self._written = max(self._written, number(written, "seq"))
            return number(written, "seq")

        return await self._attempt(publish)

    async def _open(self, session: Session) -> Opened:
        _check_version(session)
        try:
            found = await self._found_or_made(session)
        except NoResponders:
            if session.client.info("jetstream"):
                raise  # it will come: the server has just started, or its cluster elects a leader
            raise without_jetstream(session.where, "JetStream is not enabled") from None
        config = cast("dict[str, object]", found["config"])
        self._check(config)
        limit = number(config, "max_msg_size")
        payload = session.client.max_payload
        return Opened(
            session,
            str(found.get("created")),
            (min(limit, payload) if limit > 0 else payload) - _HEADERS,
            number(config, "num_replicas") > 1,
            number(config, "max_age") / _SECOND or inf,
        )

    async def _found_or_made(self, session: Session) -> dict[str, object]:
        for subject, body, otherwise in (
            ("STREAM.INFO", {}, _NO_STREAM),
            ("STREAM.CREATE", self._config, _EXISTS),  # somebody else may be faster, with other settings
        ):
            try:
                return dict(await call(session, f"{subject}.{self.stream}", body))
            except Refused as error:
                if error.reason != otherwise:
                    raise
            except PermissionDenied as error:
                if subject != "STREAM.CREATE":
                    raise
                raise PermissionDenied(
                    f"there is no bucket {self.name} yet; let somebody who may make it call once ({error})"
                ) from None
        return dict(await call(session, f"STREAM.INFO.{self.stream}", {}))

    def _check(self, config: dict[str, object]) -> None:
        """Raise ConfigError where the bucket that is there lacks what records need."""
        needed = (
            (config.get("allow_msg_ttl"), "a time to live for each key", "--allow-msg-ttl"),
            (number(config, "subject_delete_marker_ttl"), "markers of expiry", _MARKERS),
            (config.get("allow_direct"), "direct reads", "--allow-direct"),
            (number(config, "max_msgs_per_subject") == 1, "a history of 1", "--max-msgs-per-subject=1"),
            (not _drops(config), "refusing what is too much for it: it drops other records", "--discard=new"),
            (config.get("retention", "limits") == "limits", "retention by limits", "--retention=limits"),
            (f"$KV.{self.name}.>" in _subjects(config), "its own keys", f"--subjects='$KV.{self.name}.>'"),
        )
        missing = [(what, setting) for there, what, setting in needed if not there]
        if missing:
            raise ConfigError(
                f"{self._url}: the bucket {self.name} is there, without {', '.join(what for what, _ in missing)}: "
                f"`nats stream edit {self.stream} {' '.join(setting for _, setting in missing)}`, "
                "or name another one (option bucket), which is then made as it must be"
            )


def _config(name: str, replicas: int, storage: str) -> dict[str, object]:
    """The stream of a key-value bucket, as other clients of NATS make it too."""
    return {
        "name": f"KV_{name}",
        "description": "services registered by microreg",
        "subjects": [f"$KV.{name}.>"],
        "storage": storage,
        "num_replicas": replicas,
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "subject_delete_marker_ttl": MARKER_TTL * _SECOND,
    }


def _drops(config: dict[str, object]) -> bool:
    """Whether a stream that is full makes room by forgetting what was written first."""
    limited = number(config, "max_msgs") > 0 or number(config, "max_bytes") > 0
    return limited and config.get("discard", "old") == "old"


def _subjects(config: dict[str, object]) -> list[str]:
    return cast("list[str]", config.get("subjects") or [])


def _check_version(session: Session) -> None:
    text = str(session.client.info("version"))
    if version_number(text) < _VERSION:
        raise Unsupported(
            f"NATS at {session.where} is nats-server {text}, which knows no time to live for a single key; nats:// "
            "needs 2.11 or newer. nats-pubsub:// works with any"
        )
