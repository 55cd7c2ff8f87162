"""Options of the config string: a frozen dataclass per backend or layer; its fields are what there is.

Everything is offered by :mod:`microreg.url`; import it from there.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, NewType, TypeVar

from microreg.errors import ConfigError

if TYPE_CHECKING:
    from microreg.url import RegistryURL

__all__ = [
    "Duration",
    "Expanded",
    "OptionInfo",
    "Options",
    "Size",
    "TLSOptions",
    "describe_options",
    "duration_text",
    "is_secret",
    "option",
    "parse_duration",
    "parse_options",
    "parse_size",
    "shortened",
]

T = TypeVar("T")

Duration = NewType("Duration", float)
"""Seconds; in the config string ``500ms``, ``5s``, ``2m``, ``1h``, ``1d`` or a bare number of seconds."""

Size = NewType("Size", int)
"""Bytes; in the config string ``64KiB``, ``1MB`` or a bare number of bytes."""

_DURATION = "a duration such as 500ms, 5s, 2m, 1h or 1d"
_SIZE = "a size such as 65536, 64KiB or 1MB"
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0, "ms": 0.001}
_BYTES = {"gib": 2**30, "mib": 2**20, "kib": 2**10, "gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1, "": 1}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_SECRET = re.compile(
    r"(?!.*_(?:file|path)$).*"
    r"(?:token|passw|passphrase|pwd|secret|credential|api_?key|access_?key|private_?key|nkey|jwt)",
    re.IGNORECASE,
)


def parse_duration(text: str) -> Duration:
    """Seconds from ``500ms 5s 2m 1h 1d`` or a bare number of seconds. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)", text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.inf
    if not math.isfinite(seconds):
        raise ConfigError(f"expected {_DURATION}, got {shortened(text)}")
    return Duration(seconds)


def duration_text(seconds: float) -> str:
    """How long something took, for people: ``12.3 ms``, ``1.5 s``."""
    if seconds < 0.9995:  # else it would be 1e+03 ms
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds:.0f} s"


def parse_size(text: str) -> Size:
    """Bytes from ``64KiB``, ``1MB`` or a bare number of bytes; case does not matter. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]{1,18})([A-Za-z]*)", text)
    if not match or match[2].lower() not in _BYTES:
        raise ConfigError(f"expected {_SIZE}, got {shortened(text)}")
    return Size(int(match[1]) * _BYTES[match[2].lower()])


def option(default: T, help: str, *, secret: bool = False) -> T:
    """A field of an :class:`Options` class. A secret must be named like one (``token``, ``password`` …).

    Typed as its default, as ``dataclasses.field`` is: ``timeout: Duration = option(Duration(5.0), "…")``.
    """
    return field(default=default, repr=not secret, metadata={"help": help, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every backend takes. Subclass it with the same decorator and add fields made by :func:`option`.

    The config string has no ``timeout`` of a layer, unless its subclass declares the field again: it is the backend's.
    """

    timeout: Duration = option(Duration(5.0), "seconds a call may take before RegistryTimeout")

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ConfigError(f"timeout={self.timeout:g}: expected more than 0 seconds, for example timeout=5s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions(Options):
    """TLS, spelt the same for every backend that speaks it."""

    ca: Path | None = option(None, "file with the certificates to trust (PEM); not given: the system's")
    cert: Path | None = option(None, "file with the client certificate (PEM)")
    key: Path | None = option(None, "file with the private key of cert (PEM)")
    server_name: str = option("", "name that the server's certificate must have; not given: the host's")


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option as CLI and docs show it. ``default`` is text that the config string takes, or empty."""

    name: str
    type: str
    default: str
    help: str
    secret: bool


def parse_options(
    cls: type[T],
    url: RegistryURL,
    *,
    layer: str | None = None,
    others: Mapping[str, type[object]] = types.MappingProxyType({}),
) -> T:
    """Fill an options class from ``url``: a backend's own options, or those of ``layer``.

    Types: Duration, Size, bool, int, float, str, Path, Literal, Enum, ``tuple[str, ...]`` (comma list) and
    ``X | None`` (empty = None). Raises ConfigError on an unknown key, a key of a layer that the URL does not
    name, a missing option that has no default, and a value that does not parse. ``others`` are the classes of all that
    the URL names, by layer, the backend's by "": an error finds in them where a key belongs.
    """
    known = _fields(cls, layer=layer is not None)
    where = f"{layer}+" if layer else f"{url.scheme}{':' if url.parts else '://'}"
    values: dict[str, object] = {}
    for key, text in url.options.items():
        prefix, dot, name = key.rpartition(".")
        if prefix != layer if layer else prefix in url.layers:
            continue
        if dot and not layer:
            raise ConfigError(f"option {key}: the URL names no layer {prefix!r}; write {prefix}+{where}…")
        if name not in known:
            raise ConfigError(_unknown(name, where, layer, known, others))
        values[name] = known[name].read(key, text)
    for name, entry in known.items():
        if entry.required and name not in values:
            raise ConfigError(f"{where} needs the option {_key(layer, name)}: {entry.info.help or entry.info.type}")
    return cls(**values)


def describe_options(cls: type[object], *, layer: bool = False) -> tuple[OptionInfo, ...]:
    """The options of a class, in the order of its fields; of a ``layer``, without those that only backends have."""
    return tuple(entry.info for entry in _fields(cls, layer=layer).values())


class Expanded(str):
    """A value with variables of the environment put in; ``template`` is how it was written."""

    template: str

    def __repr__(self) -> str:
        return repr(self.template)


def is_secret(key: str) -> bool:
    """Whether an option is a secret by its name, a layer's prefix aside."""
    return _SECRET.match(key.rpartition(".")[2]) is not None


def shortened(text: str) -> str:
    """A value as an error quotes it: bounded, and as it was written where it came from the environment."""
    written = text.template if isinstance(text, Expanded) else text
    return repr(written if len(written) <= 60 else written[:60] + "…")


@dataclass(frozen=True, slots=True)
class _Reader:
    """How text becomes a value: what CLI and docs call the type, what an error says was expected."""

    label: str
    expected: str
    parse: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class _Field:
    info: OptionInfo
    reader: _Reader
    required: bool

    def read(self, key: str, text: str) -> object:
        try:
            return self.reader.parse(text)
        except (ValueError, KeyError):
            got = "" if self.info.secret or is_secret(key) else f", got {shortened(text)}"
            raise ConfigError(f"option {key}: expected {self.reader.expected}{got}") from None


def _fields(cls: type[object], *, layer: bool = False) -> Mapping[str, _Field]:
    """The options by name; of a layer, without those inherited from Options. Raises TypeError for a wrong class."""
    hints = typing.get_type_hints(cls)
    found: dict[str, _Field] = {}
    inherited = fields(Options) if layer else ()
    for entry in (each for each in fields(typing.cast("type[Options]", cls)) if each not in inherited):
        secret = bool(entry.metadata.get("secret"))
        if secret and not is_secret(entry.name):
            raise TypeError(
                f"{cls.__name__}.{entry.name}: give a secret option a name that says so (token, password, "
                "secret, api_key …), it is what masks it wherever the config string is shown"
            )
        reader = _reader(hints[entry.name], f"{cls.__name__}.{entry.name}")
        required = entry.default is MISSING and entry.default_factory is MISSING
        default = "" if required or secret else _text(entry.default, hints[entry.name])
        info = OptionInfo(entry.name, reader.label, default, entry.metadata.get("help", ""), secret)
        found[entry.name] = _Field(info, reader, required)
    return found


def _reader(hint: object, where: str) -> _Reader:
    plain = _PLAIN.get(hint)
    if plain:
        return plain
    arguments: tuple[object, ...] = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return _one_of({str(value): value for value in arguments})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of({str(member.value): member for member in hint})
    if types.NoneType in arguments and len(arguments) == 2:
        inner = _reader(arguments[arguments[0] is types.NoneType], where)
        return _Reader(inner.label, inner.expected, lambda text: inner.parse(text) if text else None)
    raise TypeError(f"{where}: a config string cannot express the type {hint}")


def _one_of(choices: Mapping[str, object]) -> _Reader:
    return _Reader("|".join(choices), "one of " + ", ".join(choices), choices.__getitem__)


def _boolean(text: str) -> bool:
    if (lower := text.lower()) not in _TRUE + _FALSE:
        raise ValueError
    return lower in _TRUE


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", text):
        raise ValueError
    return float(text)


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


def _list(text: str) -> tuple[str, ...]:
    items = tuple(text.split(",")) if text else ()
    if not all(items):
        raise ValueError
    return items


_PLAIN: Mapping[object, _Reader] = {
    Duration: _Reader("duration", _DURATION, parse_duration),
    Size: _Reader("size", _SIZE, parse_size),
    bool: _Reader("true|false", "true or false (or yes, no, on, off, 1, 0)", _boolean),
    int: _Reader("integer", "a whole number", _integer),
    float: _Reader("number", "a number such as 0.5", _number),
    str: _Reader("text", "text", lambda text: str(text)),  # no Expanded: options hold plain text
    Path: _Reader("path", "the path of a file", _path),
    tuple[str, ...]: _Reader("list", "items separated by commas", _list),
}


def _text(default: object, hint: object) -> str:
    """A default the way the config string spells it; empty when there is none."""
    if default is None or default is MISSING:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(map(str, typing.cast("tuple[object, ...]", default)))
    if isinstance(default, enum.Enum):
        return str(default.value)
    if isinstance(default, float) and Duration in (hint, *typing.get_args(hint)):
        unit = next((unit for unit, seconds in _SECONDS.items() if default and default % seconds == 0), "s")
        return f"{default / _SECONDS[unit]:g}{unit}"
    return str(default)


def _unknown(name: str, where: str, layer: str | None, known: Iterable[str], others: Mapping[str, type[object]]) -> str:
    import difflib

    backend_last = sorted(others.items(), reverse=True, key=lambda item: item[0])
    keys = {each: _key(other, each) for other, cls in backend_last for each in _fields(cls, layer=bool(other))}
    keys |= {each: _key(layer, each) for each in known}
    close = difflib.get_close_matches(name, keys, 1)
    hint = f", did you mean {keys[close[0]]}?" if close else ";"
    names = ", ".join(_key(layer, each) for each in sorted(known)) or "none"
    return f"{where} has no option {_key(layer, name)}{hint} known: {names}"


def _key(layer: str | None, name: str) -> str:
    return f"{layer}.{name}" if layer else name
