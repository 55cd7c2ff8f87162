"""The config string: what it means, what is refused and how, and that it never shows a secret."""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from microreg.errors import ConfigError
from microreg.options import duration_text
from microreg.url import (
    Duration,
    OptionInfo,
    Options,
    RegistryURL,
    Size,
    TLSOptions,
    describe_options,
    option,
    parse_duration,
    parse_options,
    parse_size,
)
from support import python

SECRET = "hunter2"
ENV = {"PW": SECRET, "HOME_DC": "berlin", "EMPTY": "", "NEWLINE": "a\n", "WORSE": "\udc80", "NESTED": "${PW}"}


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything(TLSOptions):
    settle: Duration | None = option(None, "a duration or none")
    wait: Duration = option(Duration(0.2), "a fraction")
    limit: Size = option(Size(65536), "a size")
    verify: bool = option(True, "a switch")
    count: int = option(3, "a number")
    ratio: float = option(0.5, "a fraction")
    prefix: str = option("/micro", "a text")
    tags: tuple[str, ...] = option(("a", "b"), "a list")
    layout: Literal["microreg", "go-micro"] = option("microreg", "a choice")
    level: Level = option(Level.LOW, "an enumeration")
    token: str = option("", "a secret", secret=True)
    secret_number: int = option(0, "a secret that is no text", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLike:
    max_stale: Duration = option(Duration(3600.0), "how long")
    disk: Path | None = option(None, "where")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheriting(Options):
    """As the layers of others have it."""

    attempts: int = option(3, "how often")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaring(Options):
    """A layer with a timeout of its own."""

    timeout: Duration = option(Duration(1.0), "until the second try begins")


def parse(text: str, env: Mapping[str, str] = ENV) -> RegistryURL:
    return RegistryURL.parse(text, env)


def read(options: str) -> Everything:
    return parse_options(Everything, parse(f"x://?{options}"))


# What it means


def test_the_whole_grammar() -> None:
    url = parse("cache+etcds://us%65r:${PW}@10.0.0.1:2379,[::1]:2380/microreg/?timeout=2s&cache.max_stale=1h")
    assert (url.layers, url.scheme, url.user, url.password) == (("cache",), "etcds", "user", SECRET)
    assert (url.location, url.path, url.parts) == ("10.0.0.1:2379,[::1]:2380", "microreg", ())
    assert url.options == {"timeout": "2s", "cache.max_stale": "1h"}
    assert url.hosts(1) == (("10.0.0.1", 2379), ("::1", 2380))


def test_the_smallest() -> None:
    assert parse("mdns://") == RegistryURL(scheme="mdns")
    assert parse("MDNS:///") == RegistryURL(scheme="mdns")


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("memory://name", "name"),
        ("mdns://127.0.0.1,eth0", "127.0.0.1,eth0"),
        (
            "static://orders=10.0.0.1:80,[::1]:80;users=a:1?timeout=1s",
            "orders=10.0.0.1:80,[::1]:80;users=a:1",
        ),
        ("memory://${PW}", "${PW}"),
    ],
)
def test_location_is_left_to_the_backend(text: str, location: str) -> None:
    assert parse(text).location == location


@pytest.mark.parametrize("path", ["", "/", "//", "/%2F"])
def test_empty_path_and_slash_are_the_same(path: str) -> None:
    assert parse(f"etcd://a{path}") == parse("etcd://a")


def test_paths_are_decoded_and_not_expanded() -> None:
    assert parse("etcd://a/%C3%BC/b%20c/").path == "ü/b c"
    assert str(parse("etcd://a/%C3%BC/b%20c/")) == "etcd://a/%C3%BC/b%20c"
    assert parse("etcd://a/${PW}").path == "${PW}"


def test_environment_expands_after_splitting_and_decoding() -> None:
    env = {"A": "u:s&e=r@/?#%20", "B": "ä"}
    url = parse("x://${A}:p%24{B}@host?x=<${A}${B}>&y=$${A}&z=$A", env)
    assert (url.user, url.password, url.location) == ("u:s&e=r@/?#%20", "pä", "host")
    assert url.options == {"x": "<u:s&e=r@/?#%20ä>", "y": "${A}", "z": "$A"}


def test_values_of_variables_are_not_expanded_again() -> None:
    assert parse("x://?a=${NESTED}&b=${EMPTY}").options == {"a": "${PW}", "b": ""}


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROREG_TEST_PW", "x")
    assert RegistryURL.parse("x://u:${MICROREG_TEST_PW}@h").password == "x"


def test_composites() -> None:
    url = parse("cache+mirror:etcd://u:${PW}@a/x?timeout=1s|namespace+consul://b#cache.max_stale=1h")
    assert (url.layers, url.scheme, url.location) == (("cache",), "mirror", "")
    assert url.parts == (parse("etcd://u:${PW}@a/x?timeout=1s"), parse("namespace+consul://b"))
    assert url.options == {"cache.max_stale": "1h"}
    assert str(url) == "cache+mirror:etcd://u:${PW}@a/x?timeout=1s|namespace+consul://b#cache.max_stale=1h"
    assert len(parse("fallback:a://|b://|c://").parts) == 3


@pytest.mark.parametrize(
    ("location", "hosts"),
    [
        ("", (("127.0.0.1", 9),)),
        ("a", (("a", 9),)),
        ("a:1,b,a:2", (("a", 1), ("b", 9), ("a", 2))),
        ("[::1]", (("::1", 9),)),
        ("[fe80::1%25eth0],[fe80::1%25eth0]:1", (("fe80::1%eth0", 9), ("fe80::1%eth0", 1))),
    ],
)
def test_hosts(location: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert parse(f"x://{location}/p").hosts(9) == hosts


def test_hosts_of_an_empty_location_can_be_chosen() -> None:
    assert parse("x://").hosts(9, "::1") == (("::1", 9),)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("a,,b", "host 2 of the x:// URL: it is empty"),
        ("a,", "host 2 of the x:// URL: it is empty"),
        ("a:0", "host 1 of the x:// URL: the port must be a number from 1 to 65535"),
        ("a:70000", "the port must be"),
        ("a:", "the port must be"),
        (f"user:{SECRET}", "the port must be"),
        (":80", "host is empty"),
        ("::1", "needs brackets"),
        ("::1:80", "needs brackets"),
        ("[::1", "brackets are not balanced"),
        ("::1]", "brackets"),
        ("[::1%25]", "not an IPv6 address"),
        ("1.2.3", "looks like an IPv4 address"),
        ("*", "wildcard"),
        ("a=b", "must be a DNS name"),
        ("a,b,A", "host 3 of the x:// URL repeats A, port 9"),
        ("a,a:9", "repeats a, port 9"),
    ],
)
def test_hosts_refused(location: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"x://{location}").hosts(9)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


# What is refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "as str, got NoneType"),
        (b"mdns://", "as str, got bytes"),
        (Path("x"), "as str, got PosixPath"),
        ("", "is empty, expected scheme://"),
        ("mdns", "expected a registry URL, scheme://"),
        ("://a", "expected a registry URL, scheme://"),
        ("+mdns://", "expected a registry URL"),
        ("cache+://", "expected a registry URL"),
        ("1x://", "expected a registry URL"),
        ("x_y://", "expected a registry URL"),
        ("10.0.0.1:2379", "expected a registry URL"),
        ("localhost:2379", "expected // after the scheme"),
        ("etcd:/a", "expected // after the scheme"),
        ("cache+cache+mdns://", "named twice"),
        (" mdns://", "character 1 of the registry URL is ' '"),
        ("mdns://\n", r"character 8 of the registry URL is '\n'"),
        ("mdns://\x00", "control characters"),
        ("mdns://\udc80", r"'\udc80'"),
        ("mdns://\u200b", r"'\u200b'"),
        ("mdns://a%", "% in the registry URL"),
        ("mdns://[fe80::1%eth0]", "%25eth0"),
        ("x://a/%zz", "% in the registry URL"),
        ("x://a%ff", "the host part of the registry URL: its percent escapes are not UTF-8"),
        ("x://%ff@a", "the user of the registry URL: its percent"),
        ("x://u:%ff@a", "the password of the registry URL: its percent"),
        ("x://a/%ff", "the path of the registry URL: its percent"),
        ("x://?a=%ff", "option a of the registry URL: its percent"),
        ("x://u:%00@a", "the password of the registry URL contains an escaped control"),
        ("x://a?b=%0A", "option b of the registry URL contains an escaped control"),
        ("x://a#b=1", "# inside a registry URL is written %23"),
        ("x://a|y://b", "| inside a registry URL is written %7C"),
        ("x://a@b@c", "others as %40"),
        ("x://a?b=c@d", "others as %40"),
        ("x://a&b=1", "options start with ?"),
        ("x://a/p&b=1", "options start with ?"),
        ("x://?a", "option 1 of the registry URL is not key=value"),
        ("x://?a=1&", "option 2 of the registry URL is not key=value"),
        ("x://?=1", "option 1 of the registry URL is not key=value"),
        ("x://?a.b.c=1", "option 1 of the registry URL is not key=value"),
        ("x://?a%62=1", "option 1 of the registry URL is not key=value"),
        ("x://?a=1&a=1", "option a is given twice: keep one of the two"),
        ("x://u:${NOPE}@a", "the password needs the environment variable NOPE, which is not set"),
        ("x://?a=${NOPE}", "option a needs the environment variable NOPE, which is not set"),
        ("x://?a=${PW", "expected ${NAME}; write $${ for a literal ${"),
        ("x://?a=${}", "expected ${NAME}"),
        ("x://?a=${NEWLINE}", "the environment variable NEWLINE contains a control character or line end"),
        ("x://?a=${WORSE}", "the environment variable WORSE contains a control"),
        ("mirror://a", "two or more URLs"),
        ("mirror://a|b://", "URL 1 of mirror: expected a registry URL"),
        ("mirror:", "two or more URLs separated by |"),
        ("mirror:a://", "two or more URLs separated by |"),
        ("mirror:a://|", "two or more URLs separated by |"),
        ("mirror:|a://", "two or more URLs separated by |"),
        ("fallback:a://||b://", "two or more URLs separated by |"),
        ("mirror:a://|b", "URL 2 of mirror: expected a registry URL"),
        ("mirror:a://|fallback:b://|c://", "URL 2 of mirror: fallback: expects two or more"),
        ("mirror:a://|b://#x", "option 1 of the registry URL is not key=value"),
        ("mirror:a://|b://#x=1#y=2", "option 1 of the registry URL: write # as %23"),
    ],
)
def test_malformed(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RegistryURL.parse(text, ENV)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"etcd:user:{SECRET}@host",
        f"user:{SECRET}@host",
        f"etcd:/?token={SECRET}",
        f"etcd/x?token={SECRET}",
        f"etcd://user:{SECRET}/ss@host",
        f"etcd://user:{SECRET}?ss@host",
        f"etcd://user:{SECRET}#ss@host",
        f"etcd://user:{SECRET}@host@host",
        f"etcd://{SECRET}@host@host",
        f"etcd://{SECRET}%ff@host",
        f"etcd://user:{SECRET}%ff@host",
        f"etcd://user:{SECRET}%00@host",
        f"etcd://user:{SECRET}%@host",
        f"etcd://user:{SECRET} @host",
        f"etcd://user:{SECRET}${{NOPE}}@host",
        f"etcd://user:{SECRET}${{@host",
        f"etcd://host?token=x&{SECRET}",
        f"etcd://host?token={SECRET}%ff",
        f"etcd://host?token={SECRET}&token={SECRET}",
        f"mirror:etcd://user:{SECRET}@host",
        f"mirror:etcd:user:{SECRET}@host|a://",
        f"mirror:a://#token={SECRET}",
    ],
)
def test_a_malformed_url_does_not_show_its_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


# Showing it


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"x://u:{SECRET}@h", "x://u:***@h"),
        (f"x://:{SECRET}@h", "x://:***@h"),
        ("x://u:${PW}@h", "x://u:${PW}@h"),
        ("x://u:${PW}${HOME_DC}@h", "x://u:${PW}${HOME_DC}@h"),
        (f"x://u:{SECRET}${{HOME_DC}}@h", "x://u:***@h"),
        ("x://${PW}@h", "x://${PW}@h"),
        ("x://u:@h", "x://***@h"),
        (f"x://{SECRET}@h", "x://***@h"),
        (f"x://{SECRET}${{HOME_DC}}@h", "x://***@h"),
        ("x://@h", "x://h"),
        ("X://h/?", "x://h"),
        (f"x://?z=1&a=2&token={SECRET}", "x://?a=2&token=***&z=1"),
        (f"x://?cache.api_key={SECRET}", "x://?cache.api_key=***"),
        ("x://?token=${PW}&zone=dc-${HOME_DC}", "x://?token=${PW}&zone=dc-${HOME_DC}"),
        ("x://?token=", "x://?token="),
        ("x://?token_file=/run/t&key=/k.pem", "x://?key=/k.pem&token_file=/run/t"),
        ("x://?a=%20%26%40%23%7C%25", "x://?a=%20%26%40%23%7C%25"),
        ("x://?a=$${PW}", "x://?a=$${PW}"),
        (f"mirror:x://u:{SECRET}@h|y://?token={SECRET}#password={SECRET}", None),
        (f"mirror:x://{SECRET}@h|y://{SECRET}:@h", "mirror:x://***@h|y://***@h"),
    ],
)
def test_str_is_canonical_and_secret_free(text: str, shown: str | None) -> None:
    url = parse(text)
    if shown is not None:
        assert str(url) == shown
    assert SECRET not in str(url) + repr(url)
    assert repr(url) == f"RegistryURL({str(url)!r})"


def test_a_literal_dollar_brace_survives_replace() -> None:
    url = dataclasses.replace(parse("x://"), options={"a": "$${PW}${"})
    assert parse(str(url)) == url


def test_replace_forgets_the_template_of_what_it_replaces() -> None:
    url = dataclasses.replace(parse("x://u:${PW}@h?a=${PW}"), password="other", options={"a": "1"})
    assert (str(url), url.password) == ("x://u:***@h?a=1", "other")


def test_it_is_a_value() -> None:
    url = parse("cache+x://u:${PW}@h/p?a=${PW}")
    same = parse(f"cache+x://u:{SECRET}@h/p?a={SECRET}")
    assert url == same and hash(url) == hash(same) and url != parse("x://h")
    for twin in (pickle.loads(pickle.dumps(url)), copy.deepcopy(url)):
        assert twin == url and str(twin) == str(url)
    with pytest.raises(TypeError):
        url.options["a"] = "2"  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        url.path = "q"  # type: ignore[misc]


# Options


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("timeout=2", "timeout", 2.0),
        ("timeout=500ms", "timeout", 0.5),
        ("settle=", "settle", None),
        ("settle=1m", "settle", 60.0),
        ("limit=64KiB", "limit", 65536),
        ("verify=off", "verify", False),
        ("verify=True", "verify", True),
        ("count=-7", "count", -7),
        ("ratio=0.25", "ratio", 0.25),
        ("prefix=/a%20b", "prefix", "/a b"),
        ("prefix=", "prefix", ""),
        ("tags=x,y", "tags", ("x", "y")),
        ("tags=", "tags", ()),
        ("layout=go-micro", "layout", "go-micro"),
        ("level=high", "level", Level.HIGH),
        ("ca=/etc/ca.pem", "ca", Path("/etc/ca.pem")),
        ("ca=", "ca", None),
        ("token=${PW}", "token", SECRET),
        ("secret_number=7", "secret_number", 7),
    ],
)
def test_options_are_read_by_type(text: str, field: str, value: object) -> None:
    options = read(text)
    assert getattr(options, field) == value
    assert type(getattr(options, field)) in (type(value), type(Path()))
    assert dataclasses.replace(options, **{field: getattr(Everything(), field)}) == Everything()
    assert SECRET not in repr(options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timeout=fast", "option timeout: expected a duration such as 500ms, 5s, 2m, 1h or 1d, got 'fast'"),
        ("timeout=", "expected a duration"),
        ("timeout=-1s", "got '-1s'"),
        ("timeout=nan", "expected a duration"),
        ("limit=1XB", "option limit: expected a size such as"),
        ("verify=maybe", "option verify: expected true or false"),
        ("count=1.5", "option count: expected a whole number, got '1.5'"),
        ("count=1_000", "expected a whole number"),
        ("count=" + "9" * 5000, "expected a whole number, got '99"),
        ("ratio=inf", "option ratio: expected a number such as 0.5, got 'inf'"),
        ("tags=a,,b", "option tags: expected items separated by commas"),
        ("layout=other", "option layout: expected one of microreg, go-micro, got 'other'"),
        ("level=LOW", "option level: expected one of low, high"),
        ("secret_number=" + SECRET, "option secret_number: expected a whole number"),
        ("count=${PW}", "option count: expected a whole number, got '${PW}'"),
        ("count=${PW}" + "x" * 80, "option count: expected a whole number, got '${PW}xx"),
        ("timout=5s", "x:// has no option timout, did you mean timeout? known: ca, cert, count,"),
        ("server-name=a", "did you mean server_name?"),
        ("zzzzz=1", "x:// has no option zzzzz; known: "),
        ("cache.max_stale=1h", "option cache.max_stale: the URL names no layer 'cache'; write cache+x://"),
    ],
)
def test_options_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_backend_and_layers_each_read_their_own() -> None:
    url = parse("cache+namespace+x://h?timeout=2s&cache.max_stale=5m&namespace.name=a")
    assert parse_options(Options, url) == Options(timeout=Duration(2))
    assert parse_options(CacheLike, url, layer="cache") == CacheLike(max_stale=Duration(300))
    with pytest.raises(ConfigError, match=r"namespace\+ has no option namespace.name; known: namespace.disk"):
        parse_options(CacheLike, url, layer="namespace")
    with pytest.raises(ConfigError, match=r"has no option cache.max_stal, did you mean cache.max_stale\?"):
        parse_options(CacheLike, parse("cache+x://?cache.max_stal=1"), layer="cache")


def test_the_timeout_is_the_backends_unless_a_layer_declares_its_own() -> None:
    known = {"": Everything, "retry": Inheriting, "hedge": Declaring}
    url = parse("retry+hedge+x://?timeout=2s&hedge.timeout=1ms")
    assert parse_options(Everything, url, others=known).timeout == 2.0
    assert parse_options(Declaring, url, layer="hedge", others=known).timeout == 0.001
    assert parse_options(Inheriting, url, layer="retry", others=known) == Inheriting()
    with pytest.raises(ConfigError) as caught:
        parse_options(Inheriting, parse("retry+x://?retry.timeout=1ms"), layer="retry", others=known)
    assert str(caught.value) == "retry+ has no option retry.timeout, did you mean timeout? known: retry.attempts"
    assert [info.name for info in describe_options(Inheriting, layer=True)] == ["attempts"]
    assert [info.name for info in describe_options(Declaring, layer=True)] == ["timeout"]


@pytest.mark.parametrize(
    ("key", "layer", "says"),
    [
        ("max_stale", None, "x:// has no option max_stale, did you mean cache.max_stale? known: ca, "),
        ("maxstale", None, "did you mean cache.max_stale?"),
        ("cache.token", "cache", "cache+ has no option cache.token, did you mean token? known: cache.disk"),
        ("cache.attempts", "cache", "did you mean retry.attempts?"),
        ("cache.dis", "cache", "did you mean cache.disk?"),
        ("zzzzz", None, "x:// has no option zzzzz; known: "),
    ],
)
def test_an_option_of_something_else_in_the_string_is_found_there(key: str, layer: str | None, says: str) -> None:
    known = {"": Everything, "cache": CacheLike, "retry": Inheriting}
    with pytest.raises(ConfigError) as caught:
        parse_options(known[layer or ""], parse(f"retry+cache+x://?{key}=1"), layer=layer, others=known)
    assert says in str(caught.value)


def test_options_of_a_composite() -> None:
    url = parse("cache+mirror:a://?timeout=1s|b://#cache.max_stale=5m")
    assert parse_options(CacheLike, url, layer="cache").max_stale == Duration(300)
    assert parse_options(Options, url) == Options()
    with pytest.raises(ConfigError, match="mirror: has no option timeot, did you mean timeout"):
        parse_options(Options, parse("mirror:a://|b://#timeot=1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Needy(Options):
    bucket: str
    size: int = dataclasses.field(default_factory=lambda: 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed(Options):
    colour: str = option("", "a secret that does not say so", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strange(Options):
    mapping: dict[str, str] = dataclasses.field(default_factory=lambda: {"a": "b"})


def test_an_option_without_default_is_required() -> None:
    assert parse_options(Needy, parse("x://?bucket=b")) == Needy(bucket="b")
    with pytest.raises(ConfigError, match="x:// needs the option bucket"):
        parse_options(Needy, parse("x://"))


def test_mistakes_of_a_backend_author_are_type_errors() -> None:
    with pytest.raises(TypeError, match=r"Unnamed\.colour: give a secret option a name that says so"):
        describe_options(Unnamed)
    with pytest.raises(TypeError, match=r"Strange\.mapping: a config string cannot express"):
        describe_options(Strange)


def test_describe_options_lists_every_field() -> None:
    infos = {info.name: info for info in describe_options(Everything)}
    assert list(infos) == [field.name for field in dataclasses.fields(Everything)]
    assert infos["timeout"] == OptionInfo(
        "timeout", "duration", "5s", "seconds a call may take before RegistryTimeout", False
    )
    assert infos["token"] == OptionInfo("token", "text", "", "a secret", True)
    assert infos["layout"].type == "microreg|go-micro"
    assert {info.type for info in infos.values()} >= {
        "size",
        "true|false",
        "integer",
        "number",
        "path",
        "list",
    }


def test_described_defaults_read_back_as_the_defaults() -> None:
    shown = "&".join(f"{info.name}={info.default}" for info in describe_options(Everything) if info.default)
    assert "timeout=5s" in shown and "wait=0.2s" in shown and "tags=a,b" in shown
    assert read(shown) == Everything()
    assert {info.default for info in describe_options(CacheLike)} == {"1h", ""}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5", 5),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("5s", 5),
        ("2m", 120),
        ("1h", 3600),
        ("1.5d", 129600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.000_012_3, "0.0123 ms"),
        (0.0456, "45.6 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.5, "1.5 s"),
        (75.04, "75 s"),
        (99.6, "100 s"),
        (3600.4, "3600 s"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-1", "+1", "nan", "inf", "1e3", "1 s", "1w", ".5", "1.", "٣s", "9" * 400, "5s\n", "5S"],
)
def test_durations_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a duration such as 500ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("1MB", 1_000_000),
        ("1mib", 2**20),
        ("2GB", 2 * 10**9),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5MB", "1 MB", "1K", "1TBs", "٣", "9" * 5000, "1MB\n"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as"):
        parse_size(text)


# Laws

ANY = st.text(st.characters(exclude_categories=()), max_size=60)
NEAR = st.lists(
    st.sampled_from(
        "cache+ x mirror: fallback: :// // / : @ ? & = | # % %25 %ff %00 ${PW} ${NO} $${ ${ [::1] , a".split()
    )
    | st.sampled_from([" ", "token", "\udc80", "ü", ".", "timeout=5s"]),
    max_size=14,
).map("".join)


@given(ANY | NEAR | NEAR.map(lambda text: "x://" + text))
@example("x://\ud800")
@example("mirror:")
def test_parse_raises_config_errors_only_and_str_is_a_fixed_point(text: str) -> None:
    try:
        url = parse(text)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    again = parse(str(url))
    assert str(again) == str(url)
    assert str(url).isprintable()
    assert (again.layers, again.scheme, again.location, again.path) == (
        url.layers,
        url.scheme,
        url.location,
        url.path,
    )
    try:
        url.hosts(1)
        parse_options(Everything, url)
    except ConfigError as error:
        assert str(error)


PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@given(
    user=PLAIN,
    path=PLAIN,
    options=st.dictionaries(st.from_regex(r"[a-c]{1,3}(\.[a-c]{1,3})?", fullmatch=True), PLAIN),
)
def test_every_value_survives_its_own_string(user: str, path: str, options: dict[str, str]) -> None:
    password = parse("x://u:${PW}@h").password  # else the user may be a token, and is not shown
    url = RegistryURL(("cache",), "x", user, password, "host:1", path.strip("/"), options)
    assert parse(str(url)) == url


ODD = ["", ":", "/", "?", "#", "@", "|", "%", "%ff", "&", "=", " ", "${", "${NO}", "\udc80"]


@pytest.mark.parametrize(
    "where",
    [
        "x://u:{}@h/p?a=1",
        "x://{}@h/p?a=1",
        "x://h?token={}&a=1",
        "x://h?secret_number={}",
        "mirror:x://u:{}@h|y://?api_key={}#cache.secret={}",
    ],
)
def test_no_secret_is_ever_shown(where: str) -> None:
    # A secret that reads as a further option, &secret=, is named as the unknown option it then is.
    for before, after in set(itertools.product(ODD, ODD)) - {("&", "=")}:
        text = where.replace("{}", before + SECRET + after)
        try:
            url = parse(text)
            shown = f"{url} {url!r} {[str(part) for part in url.parts]}"
            parse_options(Everything, url)
            url.hosts(1)
        except ConfigError as error:
            shown = f"{error} {error!r}"
        assert SECRET not in shown, text


def test_a_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"timeout=0: expected more than 0 seconds"):
        parse_options(Options, RegistryURL.parse("mdns://?timeout=0"))


def test_importing_is_light() -> None:
    code = "import sys, microreg.url; print(*sys.modules)"
    loaded = set(python(code).split())
    assert "microreg.url" in loaded
    assert not loaded & {
        "difflib",
        "asyncio",
        "ifaddr",
        "zeroconf",
        "pluggy",
        "ssl",
        "importlib.metadata",
    }
