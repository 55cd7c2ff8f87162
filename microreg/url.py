"""The config string: which registry, through which layers, with which options.

::

    cache+etcds://user:${ETCD_PASSWORD}@10.0.0.1:2379,[::1]:2380/microreg?timeout=2s&cache.max_stale=1h
    cache+mirror:etcd://10.0.0.1|consul://10.0.0.2#cache.max_stale=1h

The options there are, are the fields of a frozen :class:`Options` dataclass per backend or layer; see
:func:`parse_options`. Nothing here shows a secret: not ``str()``, not ``repr()``, not an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_to_bytes

from microreg.errors import ConfigError
from microreg.model import FrozenDict
from microreg.net import address_problem, split_address
from microreg.options import (
    Duration,
    Expanded,
    OptionInfo,
    Options,
    Size,
    TLSOptions,
    describe_options,
    is_secret,
    option,
    parse_duration,
    parse_options,
    parse_size,
)

__all__ = [
    "COMPOSITES",
    "Duration",
    "OptionInfo",
    "Options",
    "RegistryURL",
    "Size",
    "TLSOptions",
    "describe_options",
    "option",
    "parse_duration",
    "parse_options",
    "parse_size",
]

COMPOSITES = ("mirror", "fallback")
"""Schemes that are followed by several URLs: ``mirror:url|url``."""

_EXAMPLES = "for example mdns://, memory://name or mdns://eth0?timeout=2s"
_WORD = re.compile(r"[a-z][a-z0-9-]*")
_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_ONLY_VARIABLES = re.compile(r"(?:\$\{[A-Za-z_][A-Za-z0-9_]*\})+")


@dataclass(frozen=True, slots=True, repr=False)
class RegistryURL:
    """A parsed config string: immutable, hashable, compared by value.

    ``location`` is the raw text between ``//`` (or the userinfo's ``@``) and the first ``/`` or ``?``;
    ``path`` has no slash at its ends; ``user`` and ``password`` are empty when not given. A composite has
    ``parts``, and its options are those of the outer layers. Make variants with ``dataclasses.replace``.
    ``str()`` gives the canonical config string without secrets: a literal password is ``***``, so is a user without
    one, which may be a token, and what came from the environment is ``${ENV}`` again.
    """

    layers: tuple[str, ...] = ()
    scheme: str = ""
    user: str = ""
    password: str = ""
    location: str = ""
    path: str = ""
    options: Mapping[str, str] = FrozenDict()
    parts: tuple[RegistryURL, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.options, FrozenDict):
            object.__setattr__(self, "options", FrozenDict(self.options))

    @classmethod
    def parse(cls, text: str, env: Mapping[str, str] | None = None) -> RegistryURL:
        """Read a config string; ``${NAME}`` is looked up in ``env`` (default: the process's environment).

        Only userinfo and option values are expanded; ``$${`` stands for a literal ``${``.
        Raises ConfigError that says what was expected.
        """
        _check_text(text)
        return _parse(text, os.environ if env is None else env)

    def hosts(self, default_port: int, default_host: str = "127.0.0.1") -> tuple[tuple[str, int], ...]:
        """The hosts of ``location`` with their ports; IPv6 without brackets, its zone after ``%``.

        An empty location means ``default_host``. Raises ConfigError on duplicates and malformed hosts.
        """
        found: dict[tuple[str, int], tuple[str, int]] = {}
        for number, item in enumerate((self.location or _bracketed(default_host)).split(","), 1):
            piece = item.replace("%25", "%")
            with_port = piece.rpartition("]")[2].startswith(":") if "[" in piece else ":" in piece
            address = piece if with_port else f"{piece}:{default_port}"
            problem = address_problem(address) if piece else "it is empty, expected host or host:port"
            if problem:
                raise ConfigError(f"host {number} of the {self.scheme}:// URL: {problem}")
            host, port = split_address(address)
            found.setdefault((host.lower(), port), (host, port))
            if len(found) < number:
                raise ConfigError(f"host {number} of the {self.scheme}:// URL repeats {host}, port {port}")
        return tuple(found.values())

    def with_timeout(self, seconds: float) -> RegistryURL:
        """The same with another option ``timeout``, in all its parts."""
        if self.parts:
            return replace(self, parts=tuple(part.with_timeout(seconds) for part in self.parts))
        return replace(self, options={**self.options, "timeout": f"{seconds:f}"})

    def __str__(self) -> str:
        head = "".join(f"{layer}+" for layer in self.layers) + self.scheme + ":"
        pairs = sorted(self.options.items())
        options = "&".join(f"{key}={_show(value, secret=is_secret(key))}" for key, value in pairs)
        if self.parts:
            return head + "|".join(map(str, self.parts)) + (f"#{options}" if options else "")
        user = _show(self.user, secret=not self.password, safe="${}")
        if self.password:
            user += ":" + _show(self.password, secret=True, safe="${}")
        path = "/" + quote(self.path, safe="/:,=+~!*();'${}") if self.path else ""
        return f"{head}//{user}{'@' if user else ''}{self.location}{path}{'?' if options else ''}{options}"

    def __repr__(self) -> str:
        return f"RegistryURL({str(self)!r})"


# Reading the text


def _check_text(text: object) -> None:
    """Refuse what can be part of no URL, before looking at its parts."""
    if not isinstance(text, str):
        raise ConfigError(f"expected a registry URL as str, got {type(text).__name__}; {_EXAMPLES}")
    if not text:
        raise ConfigError(f"the registry URL is empty, expected scheme://…, {_EXAMPLES}")
    for position, character in enumerate(text, 1):
        if character == " " or not character.isprintable():
            raise ConfigError(
                f"character {position} of the registry URL is {ascii(character)}: spaces, control characters "
                "and lone surrogates are not allowed (percent-encode a space as %20)"
            )
    if _BAD_ESCAPE.search(text):
        raise ConfigError(
            "a % in the registry URL is not followed by two hexadecimal digits; write % itself as %25, "
            "also before an IPv6 zone: [fe80::1%25eth0]"
        )


def _parse(text: str, env: Mapping[str, str]) -> RegistryURL:
    head, colon, rest = text.partition(":")
    *layers, scheme = head.lower().split("+")
    if not colon or not all(map(_WORD.fullmatch, [*layers, scheme])):
        raise ConfigError(f"expected a registry URL, scheme://…, {_EXAMPLES}")
    if len(set(layers)) != len(layers):
        raise ConfigError(f"a layer is named twice in {'+'.join(layers)}+{scheme}:")
    if scheme in COMPOSITES:
        return _parse_composite(tuple(layers), scheme, rest, env)
    if not rest.startswith("//"):
        raise ConfigError(f"expected // after the scheme, {_EXAMPLES}")
    return _parse_simple(tuple(layers), scheme, rest[2:], env)


def _parse_composite(layers: tuple[str, ...], scheme: str, rest: str, env: Mapping[str, str]) -> RegistryURL:
    body, _, outer = rest.partition("#")
    texts = body.split("|")
    if len(texts) < 2 or not all(texts):
        raise ConfigError(
            f"{scheme}: expects two or more URLs separated by |, as in {scheme}:etcd://10.0.0.1|consul://10.0.0.2"
        )
    parts: list[RegistryURL] = []
    for number, text in enumerate(texts, 1):
        try:
            part = _parse(text, env)
        except ConfigError as error:
            raise ConfigError(f"URL {number} of {scheme}: {error}") from None
        if part.parts:
            raise ConfigError(f"URL {number} of {scheme}: is itself {part.scheme}:, and those do not nest")
        parts.append(part)
    return RegistryURL(layers, scheme, options=_parse_pairs(outer, env), parts=tuple(parts))


def _parse_simple(layers: tuple[str, ...], scheme: str, rest: str, env: Mapping[str, str]) -> RegistryURL:
    for character, meaning in (("#", "%23"), ("|", "%7C")):
        if character in rest:
            raise ConfigError(f"a {character} inside a registry URL is written {meaning}")
    before, _, query = rest.partition("?")
    authority, _, raw_path = before.partition("/")
    userinfo, _, location = authority.rpartition("@")
    if rest.count("@") > ("@" in authority):
        raise ConfigError(
            "in a registry URL @ stands only between password and host: write others as %40, "
            "and / ? : & in user or password as %2F %3F %3A %26"
        )
    if "&" in location or "&" in raw_path:
        raise ConfigError("options start with ? in a registry URL; & only separates them (else write %26)")
    user, _, password = userinfo.partition(":")
    _decode(location, "the host part")
    return RegistryURL(
        layers,
        scheme,
        _expand(_decode(user, "the user"), "the user", env),
        _expand(_decode(password, "the password"), "the password", env),
        location,
        _decode(raw_path, "the path").strip("/"),
        _parse_pairs(query, env),
    )


def _parse_pairs(text: str, env: Mapping[str, str]) -> FrozenDict:
    options: dict[str, str] = {}
    for number, item in enumerate(text.split("&") if text else (), 1):
        key, equals, value = item.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"option {number} of the registry URL is not key=value (write & itself as %26)")
        if key in options:
            raise ConfigError(f"option {key} is given twice: keep one of the two")
        if "|" in value or "#" in value:
            raise ConfigError(f"option {number} of the registry URL: write # as %23 and | as %7C")
        options[key] = _expand(_decode(value, f"option {key}"), f"option {key}", env)
    return FrozenDict(options)


def _decode(raw: str, what: str) -> str:
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{what} of the registry URL: its percent escapes are not UTF-8") from None
    if _CONTROL.search(text):
        raise ConfigError(f"{what} of the registry URL contains an escaped control character")
    return text


def _expand(text: str, what: str, env: Mapping[str, str]) -> str:
    """Put in the values of variables; the result remembers how it was written."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if not match[1]:
            raise ConfigError(f"{what}: expected ${{NAME}}; write $${{ for a literal ${{")
        if match[1] not in env:
            raise ConfigError(f"{what} needs the environment variable {match[1]}, which is not set")
        if _CONTROL.search(env[match[1]]):
            raise ConfigError(f"{what}: the environment variable {match[1]} contains a control character or line end")
        return env[match[1]]

    if "${" not in text:
        return text
    expanded = Expanded(_VARIABLE.sub(value, text))
    expanded.template = text
    return expanded


# Showing text


def _show(value: str, *, secret: bool = False, safe: str = "/,:=${}[]+;!~'()*") -> str:
    """A user, password or option value as the canonical string has it."""
    template = value.template if isinstance(value, Expanded) else value.replace("${", "$${")
    if secret and value and not (isinstance(value, Expanded) and _ONLY_VARIABLES.fullmatch(template)):
        return "***"
    return quote(template, safe=safe)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
