"""What microreg_consul uses of consul.base. A client over asyncio returns awaitables, and so does every call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Params = Sequence[tuple[str, object]]

class Response(NamedTuple):
    code: int
    headers: Mapping[str, str]
    body: str

class HTTPClient:
    def __init__(
        self, host: str = ..., port: int = ..., scheme: str = ..., verify: bool | str = ..., cert: object = None
    ) -> None: ...
    def uri(self, path: str, params: Params | None = None) -> str: ...
    def get(
        self,
        callback: Callable[[Response], T],
        path: str,
        params: Params | None = None,
        headers: dict[str, str] | None = None,
        raw: bool = False,
    ) -> Awaitable[T]: ...
    def put(
        self,
        callback: Callable[[Response], T],
        path: str,
        params: Params | None = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]: ...
    def delete(
        self,
        callback: Callable[[Response], T],
        path: str,
        params: Params | None = None,
        data: str | bytes = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]: ...
    def post(
        self,
        callback: Callable[[Response], T],
        path: str,
        params: Params | None = None,
        data: str = "",
        headers: dict[str, str] | None = None,
    ) -> Awaitable[T]: ...
    def close(self) -> Awaitable[None]: ...

class AgentService:
    def register(
        self,
        name: str,
        service_id: str | None = None,
        address: str | None = None,
        port: int | None = None,
        tags: Sequence[str] | None = None,
        check: Mapping[str, object] | None = None,
        *,
        meta: Mapping[str, str] | None = None,
        weights: Mapping[str, int] | None = None,
        extra_checks: list[Mapping[str, object]] | None = None,
        replace_existing_checks: bool = False,
    ) -> Awaitable[bool]: ...
    def deregister(self, service_id: str) -> Awaitable[bool]: ...

class AgentCheck:
    def ttl_pass(self, check_id: str, notes: str | None = None) -> Awaitable[bool]: ...
    def ttl_warn(self, check_id: str, notes: str | None = None) -> Awaitable[bool]: ...

class Agent:
    service: AgentService
    check: AgentCheck

class Health:
    def service(
        self, service: str, *, index: str | None = None, wait: str | None = None
    ) -> Awaitable[tuple[str, list[dict[str, object]] | None]]: ...
    def state(
        self, name: str, index: str | None = None, wait: str | None = None
    ) -> Awaitable[tuple[str, list[dict[str, object]] | None]]: ...

class Catalog:
    def services(
        self, index: str | None = None, wait: str | None = None
    ) -> Awaitable[tuple[str, dict[str, list[str]] | None]]: ...

class Consul:
    http: HTTPClient
    token: str | None
    agent: Agent
    health: Health
    catalog: Catalog
    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        token: str | None = None,
        scheme: str | None = None,
        consistency: str = "default",
        dc: str | None = None,
        verify: bool | str | None = None,
        cert: object = None,
    ) -> None: ...
    def prepare_headers(self, token: str | None = None) -> dict[str, str]: ...
