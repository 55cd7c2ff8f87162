"""Mirror: an object whose async methods are called through a portal, each mirrored by one line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from microreg.sync.portal import Portal

__all__ = ["Blocking", "Mirror", "Part", "blocking"]

P = ParamSpec("P")
A = TypeVar("A")
M = TypeVar("M", bound=AbstractAsyncContextManager[object, None])
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Blocking(Protocol[P, R_co]):
    """What ``blocking`` makes, as type checkers see it: a method with the parameters of the async one."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Callable[Concatenate[object, P], R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[P, R_co]: ...


def blocking(method: Callable[Concatenate[A, P], Coroutine[object, object, R]]) -> Blocking[P, R]:
    """The blocking form of an async method: same name, parameters, result, errors and docstring."""
    name: str = method.__name__

    @wraps(method)
    def call(self: Mirror[A], *args: P.args, **kwargs: P.kwargs) -> R:
        bound: Callable[P, Coroutine[object, object, R]] = getattr(self.inner, name)
        return self.portal.call(bound, *args, **kwargs)

    return cast("Blocking[P, R]", call)


class Mirror(Generic[A]):
    """The blocking form of an object that lives on the event loop of a portal.

    ``inner`` is that object: for what is not mirrored, and only through ``portal.call``.
    """

    def __init__(self, inner: A) -> None:
        self.inner = inner

    @property
    def portal(self) -> Portal:
        """The thread that the calls go to. Raises RegistryClosed before ``open()``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<blocking {self.inner!r}>"


class Part(Mirror[M]):
    """The blocking form of an async context manager that belongs to a registry, and keeps that alive."""

    def __init__(self, owner: Mirror[Any], inner: M) -> None:
        super().__init__(inner)
        self._owner = owner
        self._entered = False

    @property
    def portal(self) -> Portal:
        """The registry's."""
        return self._owner.portal

    def __enter__(self) -> Self:
        inner = self.inner
        self.portal.enter(inner.__aenter__, partial(inner.__aexit__, None, None, None))
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupted body is to the loop what a cancelled one is: the next interrupt ends the leaving at once.
        cancelled = asyncio.CancelledError() if error is not None and not isinstance(error, Exception) else None
        self._leave(partial(self.inner.__aexit__, type(cancelled) if cancelled else None, cancelled, None))

    def _leave(self, leave: Callable[[], Awaitable[object]]) -> None:
        if self._entered:
            self.portal.leave(leave)
