"""What the transports for httpx and httpx2 have in common: a host name becomes a node, a failed call another one.

Knows neither library: a :class:`Dialect` holds what each of them has under another name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, cast

from microreg import ConfigError, Node, NoNodeAvailable, Selector, sync
from microreg.arguments import check_attempts, shown
from microreg.rules import check_name
from microreg.selector.strategies import Key

__all__ = ["KEY", "NAME", "Answer", "AsyncAnswer", "AsyncBalanced", "Balanced", "Dialect"]

NAME = "microreg.name"
"""Request extension: the exact name of the service; the host of a URL is always in lower case."""
KEY = "microreg.key"
"""Request extension: what the call is about, for a strategy that sends equal keys to one node."""

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2: to make such a request twice is to make it once."""


class _Url(Protocol):
    """What is read of a URL."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...


class _Request(Protocol):
    """What is read of a request."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> _Url: ...
    @property
    def stream(self) -> object: ...
    @property
    def extensions(self) -> Mapping[str, object]: ...


class _AsyncStream(AsyncIterable[bytes], Protocol):
    """The body of a response."""

    async def aclose(self) -> None: ...


class _Stream(Iterable[bytes], Protocol):
    """The same for threads."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is the same in both libraries under another name: kinds of errors, and a body that can be sent again."""

    unsent: tuple[type[Exception], ...]
    """There is no connection: the node knows nothing of the request, so any other can get it."""
    broken: tuple[type[Exception], ...]
    """The connection broke: perhaps the node knows of the request."""
    slow: tuple[type[Exception], ...]
    """The node took too long, and so did the call: no other gets it."""
    replayable: type[object]

    def failures(self) -> tuple[type[Exception], ...]:
        """The errors that are the node's fault."""
        return self.unsent + self.broken + self.slow


@dataclass(frozen=True, slots=True)
class _Target:
    """The service that a request is for, and whether an error allows another attempt."""

    name: str
    key: Key | None
    patience: float
    """Seconds to wait for a node: the request's timeout for connecting."""
    repeatable: bool
    dialect: Dialect

    def again(self, error: Exception) -> bool:
        """Whether another node may get the request after this error."""
        return isinstance(error, self.dialect.unsent) or (self.repeatable and isinstance(error, self.dialect.broken))


Q = TypeVar("Q", bound=_Request)
R = TypeVar("R")
_Q = TypeVar("_Q", bound=_Request, contravariant=True)
_R = TypeVar("_R", covariant=True)


class _AsyncTransport(Protocol[_Q, _R]):
    """What makes a request to the address in its URL."""

    async def handle_async_request(self, request: _Q) -> _R: ...
    async def aclose(self) -> None: ...


class _Transport(Protocol[_Q, _R]):
    """The same for threads."""

    def handle_request(self, request: _Q) -> _R: ...
    def close(self) -> None: ...


class _Router(ABC, Generic[Q, R]):
    """Knows which requests are for services, and what their URL says."""

    dialect: ClassVar[Dialect]

    def __init__(self, attempts: int, suffix: str) -> None:
        if not isinstance(suffix, str) or not suffix.startswith(".") or len(suffix) < 2 or suffix != suffix.lower():
            raise ConfigError(f"suffix={shown(suffix)}: expected a dot and a domain in lower case, such as '.microreg'")
        self._attempts = check_attempts(attempts)
        self._suffix = suffix

    def _target(self, request: Q) -> _Target | None:
        """None for a host that is no service's: the request is made as it is."""
        host = request.url.host.removesuffix(".")
        if not host.endswith(self._suffix):
            return None
        if request.url.port is not None:
            raise ConfigError(f"port {request.url.port} in a URL for {host}: leave it out, the registry knows the port")
        name = request.extensions.get(NAME, host.removesuffix(self._suffix))
        if not isinstance(name, str):
            raise ConfigError(f"extension {NAME} of type {type(name).__name__}: expected the name of a service, a str")
        check_name(name)
        key = request.extensions.get(KEY)
        if not isinstance(key, str | bytes | int | None):
            raise ConfigError(f"extension {KEY} of type {type(key).__name__}: expected str, bytes or int")
        replayable = isinstance(request.stream, self.dialect.replayable)
        return _Target(name, key, _patience(request), replayable and request.method in _IDEMPOTENT, self.dialect)

    @abstractmethod
    def _addressed(self, request: Q, node: Node) -> Q:
        """The same request, to this node."""

    @abstractmethod
    def _following(self, response: R, call: ExitStack) -> R:
        """The response, whose stream ends the call."""

    @abstractmethod
    def _absent(self, error: NoNodeAvailable, request: Q) -> Exception:
        """The error as one of the library too."""


class AsyncBalanced(_Router[Q, R]):
    """Makes requests to services, each to a node that the selector picks."""

    def __init__(self, selector: Selector, transport: _AsyncTransport[Q, R], attempts: int, suffix: str) -> None:
        if not isinstance(selector, Selector):
            raise ConfigError(f"expected a microreg.Selector, got {_kind(selector)}")
        super().__init__(attempts, suffix)
        self._selector = selector
        self._transport = transport

    async def aclose(self) -> None:
        """Close the connections. The selector stays open."""
        await self._transport.aclose()

    async def handle_async_request(self, request: Q) -> R:
        """Make a request: to a node, where its host is a service's, else as it is."""
        target = self._target(request)
        if target is None:
            return await self._transport.handle_async_request(request)
        following = self._selector.retries(target.name, self._attempts, key=target.key)
        try:
            node = await self._selector.select(target.name, timeout=target.patience, key=target.key)
        except NoNodeAvailable as error:
            raise self._absent(error, request) from error
        while True:
            try:
                return await self._ask(target.name, node, request)
            except self.dialect.failures() as error:
                other = following(node) if target.again(error) else None
                if other is None:
                    raise
                node = other

    async def _ask(self, name: str, node: Node, request: Q) -> R:
        with ExitStack() as call:
            tracked = self._selector.track(name, node, failures=self.dialect.failures())
            call.enter_context(tracked)
            response = await self._transport.handle_async_request(self._addressed(request, node))
            tracked.answered()
            return self._following(response, call.pop_all())


class Balanced(_Router[Q, R]):
    """The same for threads."""

    def __init__(self, selector: sync.Selector, transport: _Transport[Q, R], attempts: int, suffix: str) -> None:
        if not isinstance(selector, sync.Selector):
            raise ConfigError(f"expected a microreg.sync.Selector, got {_kind(selector)}")
        super().__init__(attempts, suffix)
        self._selector = selector
        self._transport = transport

    def close(self) -> None:
        """Close the connections. The selector stays open."""
        self._transport.close()

    def handle_request(self, request: Q) -> R:
        """Make a request: to a node, where its host is a service's, else as it is."""
        target = self._target(request)
        if target is None:
            return self._transport.handle_request(request)
        following = self._selector.retries(target.name, self._attempts, key=target.key)
        try:
            node = self._selector.select(target.name, timeout=target.patience, key=target.key)
        except NoNodeAvailable as error:
            raise self._absent(error, request) from error
        while True:
            try:
                return self._ask(target.name, node, request)
            except self.dialect.failures() as error:
                other = following(node) if target.again(error) else None
                if other is None:
                    raise
                node = other

    def _ask(self, name: str, node: Node, request: Q) -> R:
        with ExitStack() as call:
            tracked = self._selector.track(name, node, failures=self.dialect.failures())
            call.enter_context(tracked)
            response = self._transport.handle_request(self._addressed(request, node))
            tracked.answered()
            return self._following(response, call.pop_all())


class AsyncAnswer:
    """The body of a response; the call ends when it was read, or is closed, or nobody has it any more."""

    def __init__(self, stream: _AsyncStream, call: ExitStack) -> None:
        self._stream = stream
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._call:
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        """Close the body."""
        self._call.close()
        await self._stream.aclose()

    def __del__(self) -> None:
        self._call.close()


class Answer:
    """The same for threads."""

    def __init__(self, stream: _Stream, call: ExitStack) -> None:
        self._stream = stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        with self._call:
            yield from self._stream

    def close(self) -> None:
        """Close the body."""
        self._call.close()
        self._stream.close()

    def __del__(self) -> None:
        self._call.close()


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"


def _patience(request: _Request) -> float:
    timeout = request.extensions.get("timeout")
    connect = cast(Mapping[str, object], timeout).get("connect") if isinstance(timeout, Mapping) else None
    return float(connect) if isinstance(connect, int | float) else math.inf
