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
    from microreg.url import RegistryURL

    if url is None:
        url = os.environ.get("MICROREG_REGISTRY") or DEFAULT_URL
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    return plugins.wrap(_built(parsed), parsed)


def _built(url: RegistryURL) -> Registry:
    """The backend or composite, checked, and the layers around it."""
    from microreg import plugins
    from microreg.checked import Checked
    from microreg.options import parse_options

    registry: Registry
    if url.parts:
        whole = plugins.composite(url.scheme)
        registry = Checked(whole([_part(part, url) for part in url.parts], url, parse_options(whole.Options, url)))
    else:
        kind = plugins.backend(url.scheme)
        registry = Checked(kind(url, parse_options(kind.Options, url)))
    for name in reversed(url.layers):
        around = plugins.layer(name)
        registry = around(registry, url, parse_options(around.Options, url, layer=name))
    return registry


def _part(url: RegistryURL, whole: RegistryURL) -> Registry:
    from microreg import plugins
    from microreg.errors import ConfigError

    for name in url.layers:
        if not plugins.layer(name).inside_composites:
            raise ConfigError(
                f"{name}+ belongs around the whole, not around a part of it: write {name}+{whole.scheme}:…, "
                f"with its options after #, as in {name}+{whole.scheme}:url|url#{name}.option=value"
            )
    return _built(url)
