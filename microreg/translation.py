"""From a client library's exception to one of the error tree, without the secrets of the config string."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

from microreg.errors import PermissionDenied, RegistryError, RegistryTimeout, RegistryUnavailable
from microreg.options import is_secret
from microreg.url import RegistryURL

__all__ = ["ErrorMap", "translate", "unexpected"]

ErrorMap = Mapping[type[Exception], type[RegistryError]]
"""What a backend says of its client library: which exception means which error."""

_BUILTIN: Mapping[type, type[RegistryError]] = {
    **dict.fromkeys((OSError, EOFError, asyncio.CancelledError), RegistryUnavailable),
    TimeoutError: RegistryTimeout,
    PermissionError: PermissionDenied,
}


def translate(error: BaseException, known: ErrorMap, url: RegistryURL, verb: str) -> RegistryError:
    """The error of the tree that ``error`` means, with ``error`` as its cause.

    The most specific class that ``known`` or the builtin mapping names decides; anything else is a plain
    RegistryError. CancelledError is the library's own (it may cancel its calls), never the caller's.
    """
    if isinstance(error, RegistryError):
        return error
    maps = (known, _BUILTIN)
    kind = next((errors[cls] for errors in maps for cls in type(error).__mro__ if cls in errors), RegistryError)
    found = kind(f"{verb}: {url}: {type(error).__name__}: {_masked(str(error), url)}")
    found.__cause__ = error
    return found


def unexpected(error: BaseException, where: object = "") -> RegistryError:
    """A plain RegistryError for what nobody has foreseen, with ``error`` as its cause; one of the tree stays itself."""
    if isinstance(error, RegistryError):
        return error
    found = RegistryError(f"{where}{': ' if where else ''}{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _masked(text: str, url: RegistryURL) -> str:
    for secret in (url.password or url.user, *(value for key, value in url.options.items() if is_secret(key))):
        if secret:
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text
