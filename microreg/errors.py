"""Every error that microreg raises, in one tree.

::

    RegistryError
     ├── ConfigError (ValueError)             the config string, an option or a plugin is wrong
     ├── InvalidService (ValueError)          a name, id, address, ttl or record is wrong; nothing was sent
     │    └── RecordTooLarge                  the record is larger than the store can hold
     ├── ServiceNotFound (LookupError)        no node of that name
     ├── NoNodeAvailable (LookupError)        nodes are known, none may be selected
     ├── RegistryUnavailable (ConnectionError)  the store did not answer; the outcome of a write is unknown
     │    └── RegistryTimeout (TimeoutError)  … within the ``timeout`` option
     ├── PermissionDenied (PermissionError)   the store refused the credentials
     ├── Unsupported (NotImplementedError)    this backend cannot do that
     ├── WrongLoop (RuntimeError)             used from another event loop than the one it was opened in
     └── RegistryClosed (RuntimeError)        used before ``open()`` or after ``close()``

No exception of a client library ever leaves microreg: it is the ``__cause__`` of one of these.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigError",
    "InvalidService",
    "NoNodeAvailable",
    "PermissionDenied",
    "RecordTooLarge",
    "RegistryClosed",
    "RegistryError",
    "RegistryTimeout",
    "RegistryUnavailable",
    "ServiceNotFound",
    "Unsupported",
    "WrongLoop",
]


class RegistryError(Exception):
    """Root of the tree. ``code`` names the error on the wire, ``http_status`` is what a server answers."""

    code: ClassVar[str] = "registry_error"
    http_status: ClassVar[int] = 500


class ConfigError(RegistryError, ValueError):
    """The config string, one of its options, or an installed plugin is wrong."""

    code = "config_error"
    http_status = 400


class InvalidService(RegistryError, ValueError):
    """A name, id, address, ttl or record breaks a rule. Raised before anything is sent."""

    code = "invalid_service"
    http_status = 422


class RecordTooLarge(InvalidService):
    """The encoded record does not fit the store. ``size`` and ``limit`` are bytes."""

    code = "record_too_large"
    http_status = 413

    def __init__(self, message: str, *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), {"size": self.size, "limit": self.limit})


class ServiceNotFound(RegistryError, LookupError):
    """No node of that name is known.

    ``authoritative`` is False where nobody can know for sure (mDNS, pub/sub): nobody answered in time.
    """

    code = "service_not_found"
    http_status = 404

    def __init__(self, name: str, *, authoritative: bool = True) -> None:
        super().__init__(
            f"no node of service {name!r} is registered"
            if authoritative
            else f"nobody answered for service {name!r} (it may still exist: this registry has no central list)"
        )
        self.name = name
        self.authoritative = authoritative

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.name, {"authoritative": self.authoritative})


class NoNodeAvailable(RegistryError, LookupError):
    """The service may be known, but no node of it can be selected now."""

    code = "no_node_available"
    http_status = 503


class RegistryUnavailable(RegistryError, ConnectionError):
    """The store could not be asked. A write has an unknown outcome; calling again is always right."""

    code = "registry_unavailable"
    http_status = 503


class RegistryTimeout(RegistryUnavailable, TimeoutError):
    """The store did not answer within the ``timeout`` option."""

    code = "registry_timeout"
    http_status = 504


class PermissionDenied(RegistryError, PermissionError):
    """The store refused the credentials, or they do not suffice for this call."""

    code = "permission_denied"
    http_status = 403


class Unsupported(RegistryError, NotImplementedError):
    """This backend cannot do that, by its nature."""

    code = "unsupported"
    http_status = 501


class WrongLoop(RegistryError, RuntimeError):
    """The registry was opened in another event loop than the one that runs now."""

    code = "wrong_loop"
    http_status = 500


class RegistryClosed(RegistryError, RuntimeError):
    """The registry is not open: ``open()`` was not called yet, or ``close()`` was."""

    code = "registry_closed"
    http_status = 500


def _rebuild(cls: type[RegistryError], message: str, keywords: dict[str, object]) -> RegistryError:
    return cls(message, **keywords)
