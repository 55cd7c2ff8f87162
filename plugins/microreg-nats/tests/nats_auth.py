"""Keys, tokens and credentials of NATS's decentralised security, as nsc would make them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import nkeys  # type: ignore[import-untyped]

__all__ = ["Key", "credentials", "operator_config"]


class Key:
    """A pair of keys of an operator, an account or a user."""

    def __init__(self, prefix: int) -> None:
        seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self.seed = seed.decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        raw = bytes([prefix]) + bytes(self._pair._keys.verify_key)
        crc: int = nkeys.crc16(bytearray(raw))
        self.public = base64.b32encode(raw + crc.to_bytes(2, "little")).decode().rstrip("=")

    @classmethod
    def user(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_USER)

    @classmethod
    def account(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_ACCOUNT)

    @classmethod
    def operator(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_OPERATOR)

    def write_seed(self, path: Path) -> Path:
        path.write_text(self.seed + "\n", encoding="ascii")
        return path

    def token(self, subject: str, kind: str, claims: dict[str, object]) -> str:
        """A JWT about a subject, signed by this key."""
        body: dict[str, object] = {
            "iss": self.public,
            "iat": 1,
            "sub": subject,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
        return f"{signed}.{_encoded(self._pair.sign(signed.encode()))}"


def operator_config(operator: Key, account: Key) -> str:
    """What a server is told of an operator and its account, which may use JetStream, and that of the system."""
    everything: dict[str, object] = {
        name: -1 for name in ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    }
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    system = Key.account()
    issued = {
        account.public: operator.token(account.public, "account", {"limits": everything | storage}),
        system.public: operator.token(system.public, "account", {"limits": everything}),
    }
    itself = operator.token(operator.public, "operator", {"system_account": system.public})
    preload = ", ".join(f"{public}: {token}" for public, token in issued.items())
    return f"operator: {itself}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload {{ {preload} }}\n"


def credentials(account: Key, path: Path) -> Path:
    """A file for a new user of the account."""
    user = Key.user()
    claims: dict[str, object] = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
    issued = account.token(user.public, "user", claims)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{issued}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n",
        encoding="ascii",
    )
    return path


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
