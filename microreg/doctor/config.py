"""Findings about the config string."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from microreg import plugins
from microreg.findings import Finding, Kind, Severity
from microreg.options import Expanded, TLSOptions, describe_options
from microreg.url import Options, RegistryURL, parse_options

__all__ = ["CLEAR_TEXT", "INVALID", "LITERAL_SECRET", "READ", "SETTLE", "SLOW_TIMEOUT", "findings"]

READ = Kind("config.read", Severity.OK, "the config string as it was understood, without secrets")
INVALID = Kind(
    "config.invalid",
    Severity.ERROR,
    "the config string cannot be used: a scheme, option, file or interface that is wrong, not there or not installed",
    "correct the config string; microreg plugins lists what is installed, microreg plugins NAME the options of one",
)
CLEAR_TEXT = Kind(
    "config.clear-text",
    Severity.WARNING,
    "a password or token goes to another machine without TLS: whoever is in between can read it",
    "use the scheme with TLS",
)
SLOW_TIMEOUT = Kind(
    "config.slow-timeout",
    Severity.WARNING,
    "the option timeout is longer than the time between two renewals: one call that hangs costs more than one of them",
    "give a shorter timeout, or announce with a longer ttl",
)
SETTLE = Kind(
    "config.settle",
    Severity.WARNING,
    "the option settle is as long as timeout: a lookup of a name that is absent ends in RegistryTimeout",
    "give a longer timeout, or a shorter settle",
)
LITERAL_SECRET = Kind(
    "config.literal-secret",
    Severity.NOTE,
    "a password or token stands in the config string itself: whoever sees that (a process list, a file) has it",
    "take it from the environment: ${NAME}",
)


def findings(url: RegistryURL, ttl: float) -> Iterator[Finding]:
    """What there is to say of a config string that :func:`microreg.connect` takes."""
    yield READ(f"the registry is {url}")
    for part in url.parts or (url,):
        kind = plugins.backend(part.scheme)
        options = parse_options(kind.Options, part)
        assert isinstance(options, Options)
        if options.timeout > ttl / 3:
            yield SLOW_TIMEOUT(
                f"{part.scheme}://: timeout is {options.timeout:g} s; with a ttl of {ttl:g} s a node is renewed every "
                f"{ttl / 3:.3g} s"
            )
        settle = getattr(options, "settle", 0.0)
        if settle >= options.timeout:
            yield SETTLE(f"{part.scheme}://: settle is {settle:g} s, timeout {options.timeout:g} s")
        yield from _secrets(part, options)


def _secrets(url: RegistryURL, options: Options) -> Iterator[Finding]:
    """Whether what is secret stands there for all to see, or goes to another machine in clear text."""
    given = {info.name: getattr(options, info.name) for info in describe_options(type(options)) if info.secret}
    secret = [name for name, value in {**given, "password": url.password}.items() if value]
    literal = [name for name in secret if not isinstance(url.options.get(name, url.password), Expanded)]
    if literal:
        yield LITERAL_SECRET(f"{' and '.join(literal)} of {url} is written in the config string itself")
    if not isinstance(options, TLSOptions) or _is_secure(url.scheme):
        return
    far = [host for host, _ in url.hosts(1) if not _is_local(host)]
    if secret and far:
        yield CLEAR_TEXT(
            f"{' and '.join(secret)} of {url} goes to {', '.join(far)} in clear text",
            f"use {_secure(url.scheme)}://, see the options ca, cert and key",
        )


def _secure(scheme: str) -> str:
    head, dash, rest = scheme.partition("-")
    return f"{head}s{dash}{rest}"


def _is_secure(scheme: str) -> bool:
    """Whether a scheme is the one with TLS: that without its s is installed too."""
    head, dash, rest = scheme.partition("-")
    return head.endswith("s") and f"{head[:-1]}{dash}{rest}" in plugins.names("microreg.backends")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.rstrip(".").lower() in ("localhost", "ip6-localhost")
