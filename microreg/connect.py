"""``connect(url)``: from a config string to a registry. Light to import: the work is imported when called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microreg.registry import Registry
    from microreg.url import RegistryURL

__all__ = ["DEFAULT_URL", "connect"]

DEFAULT_URL = "mdns://"
"""Used when neither an argument nor ``$MICROREG_REGISTRY`` says otherwise."""


def connect(url: str | RegistryURL | None = None) -> Registry:
    """The registry that a config string describes, to be used with ``async with``.

    Without an argument: ``$MICROREG_REGISTRY``, else ``mdns://``. Nothing is opened yet and no server is
    asked. Raises ConfigError for a string, option, scheme or layer that is wrong or not installed.
    """
    from microreg import plugins
    from microreg.checked import Checked
    from microreg.options import parse_options
    from microreg.url import RegistryURL

    if url is None:
        url = os.environ.get("MICROREG_REGISTRY") or DEFAULT_URL
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    kind = plugins.backend(parsed.scheme)
    registry: Registry = Checked(kind(parsed, parse_options(kind.Options, parsed)))
    for name in reversed(parsed.layers):
        around = plugins.layer(name)
        registry = around(registry, parsed, parse_options(around.Options, parsed, layer=name))
    return plugins.wrap(registry, parsed)
