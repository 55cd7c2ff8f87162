"""``connect(url)``: from a config string to a registry. Light to import: the work is imported when called."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microreg.options import Options
    from microreg.registry import Registry
    from microreg.url import RegistryURL

__all__ = ["DEFAULT_URL", "config_string", "connect"]

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
        with config_string() as found:
            return connect(found)
    parsed = url if isinstance(url, RegistryURL) else RegistryURL.parse(url)
    return plugins.wrap(_built(parsed), parsed)


@contextmanager
def config_string(given: str | None = None) -> Generator[str, None, None]:
    """The config string to use: ``given`` unless None, else ``$MICROREG_REGISTRY``, else ``mdns://``.

    A ConfigError that is raised within names the environment variable, where the string came from there.
    """
    from microreg.errors import ConfigError

    variable = os.environ.get("MICROREG_REGISTRY") if given is None else None
    try:
        yield variable or DEFAULT_URL if given is None else given
    except ConfigError as error:
        if not variable:
            raise
        raise ConfigError(f"$MICROREG_REGISTRY: {error}") from error.__cause__


def _built(url: RegistryURL) -> Registry:
    """The backend or composite, checked, and the layers around it."""
    from microreg import plugins
    from microreg.checked import Checked
    from microreg.options import parse_options

    registry: Registry
    layers = {name: plugins.layer(name) for name in reversed(url.layers)}
    known: dict[str, type[Options]] = {name: layer.Options for name, layer in layers.items()}
    if url.parts:
        whole = plugins.composite(url.scheme)
        known[""] = whole.Options
        options = parse_options(whole.Options, url, others=known)
        registry = Checked(whole([_part(part, url) for part in url.parts], url, options))
    else:
        kind = plugins.backend(url.scheme)
        known[""] = kind.Options
        registry = Checked(kind(url, parse_options(kind.Options, url, others=known)))
    for name, layer in layers.items():
        registry = layer(registry, url, parse_options(layer.Options, url, layer=name, others=known))
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
