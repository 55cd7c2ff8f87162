"""The error tree: what the docstring draws is what there is, and every error survives its travels."""

from __future__ import annotations

import builtins
import copy
import pickle
import re

import pytest

from microreg import errors
from microreg.errors import (
    PermissionDenied,
    RecordTooLarge,
    RegistryError,
    RegistryTimeout,
    RegistryUnavailable,
    ServiceNotFound,
    Unsupported,
)

CLASSES: list[type[RegistryError]] = [getattr(errors, name) for name in errors.__all__]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def drawn() -> dict[str, tuple[str, str]]:
    """Name -> (name of the parent, name of the builtin) as the module's docstring draws them."""
    found: dict[str, tuple[str, str]] = {"RegistryError": ("Exception", "Exception")}
    path: list[tuple[int, str]] = [(0, "RegistryError")]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(.*[├└]── )(\w+)(?: \((\w+)\))?", line)
        if match:
            depth, name, builtin = len(match[1]), match[2], match[3]
            while path[-1][0] >= depth:
                path.pop()
            found[name] = path[-1][1], builtin or ""
            path.append((depth, name))
    return found


def test_the_drawn_tree_is_the_tree() -> None:
    tree = drawn()
    assert sorted(tree) == sorted(errors.__all__)
    for cls in CLASSES:
        parent, builtin = tree[cls.__name__]
        assert cls.__bases__[0].__name__ == parent
        if builtin:
            assert issubclass(cls, getattr(builtins, builtin))


@each_class
def test_what_every_error_promises(cls: type[RegistryError]) -> None:
    assert cls.__doc__
    assert re.fullmatch("[a-z_]+", cls.code)
    assert 400 <= cls.http_status < 600
    assert cls.code in str([other.code for other in CLASSES])
    assert [other for other in CLASSES if other.code == cls.code] == [cls]


@each_class
def test_errors_pickle_and_copy(cls: type[RegistryError]) -> None:
    error = cls("what was wrong")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert str(twin) == str(error)
        assert "what was wrong" in str(twin)


def test_attributes_survive_too() -> None:
    large = pickle.loads(pickle.dumps(RecordTooLarge("too large", size=70_000, limit=65_536)))
    assert (large.size, large.limit) == (70_000, 65_536)
    missing = pickle.loads(pickle.dumps(ServiceNotFound("greeter", authoritative=False)))
    assert (missing.name, missing.authoritative) == ("greeter", False)


def test_service_not_found_says_how_sure_it_is() -> None:
    assert str(ServiceNotFound("greeter")) == "no node of service 'greeter' is registered"
    assert "may still exist" in str(ServiceNotFound("greeter", authoritative=False))


def test_builtin_handlers_catch_them() -> None:
    for error, kinds in (
        (RegistryTimeout("x"), (RegistryUnavailable, TimeoutError, ConnectionError, OSError)),
        (PermissionDenied("x"), (PermissionError,)),
        (Unsupported("x"), (NotImplementedError,)),
        (ServiceNotFound("x"), (LookupError,)),
        (RecordTooLarge("x"), (ValueError,)),
    ):
        for kind in (*kinds, RegistryError):
            with pytest.raises(kind):
                raise error
