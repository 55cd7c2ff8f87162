"""What microreg_etcd uses of the stubs that aetcd generates from etcd's protocol; it has no types of its own."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Generic, TypeVar

from grpc import ChannelCredentials
from grpc.aio import EndOfStream

Q = TypeVar("Q")
A = TypeVar("A")
Metadata = Sequence[tuple[str, str]]

class StatusCode(Enum):
    CANCELLED = ...
    UNKNOWN = ...
    INVALID_ARGUMENT = ...
    DEADLINE_EXCEEDED = ...
    NOT_FOUND = ...
    ALREADY_EXISTS = ...
    PERMISSION_DENIED = ...
    RESOURCE_EXHAUSTED = ...
    FAILED_PRECONDITION = ...
    ABORTED = ...
    OUT_OF_RANGE = ...
    UNIMPLEMENTED = ...
    INTERNAL = ...
    UNAVAILABLE = ...
    DATA_LOSS = ...
    UNAUTHENTICATED = ...

class AioRpcError(Exception):
    def __init__(
        self, code: StatusCode, initial_metadata: Metadata, trailing_metadata: Metadata, details: str | None = ...
    ) -> None: ...
    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...

class UnaryCall(Generic[Q, A]):
    async def __call__(self, request: Q, *, timeout: float | None = ..., metadata: Metadata | None = ...) -> A: ...

class StreamCall(Generic[Q, A]):
    async def write(self, request: Q) -> None: ...
    async def read(self) -> A | EndOfStream: ...
    def cancel(self) -> bool: ...

class Stream(Generic[Q, A]):
    def __call__(self, *, metadata: Metadata | None = ...) -> StreamCall[Q, A]: ...

class Channel:
    async def close(self, grace: float | None = ...) -> None: ...

def insecure_channel(target: str, options: Sequence[tuple[str, object]] = ...) -> Channel: ...
def secure_channel(
    target: str, credentials: ChannelCredentials, options: Sequence[tuple[str, object]] = ...
) -> Channel: ...

class ResponseHeader:
    cluster_id: int
    revision: int

class KeyValue:
    key: bytes
    value: bytes
    mod_revision: int
    lease: int

class RangeRequest:
    def __init__(
        self, *, key: bytes, range_end: bytes = ..., limit: int = ..., revision: int = ..., keys_only: bool = ...
    ) -> None: ...
    revision: int

class RangeResponse:
    header: ResponseHeader
    kvs: Sequence[KeyValue]
    more: bool

class PutRequest:
    def __init__(self, *, key: bytes, value: bytes, lease: int = ...) -> None: ...

class PutResponse: ...

class DeleteRangeRequest:
    def __init__(self, *, key: bytes, range_end: bytes = ...) -> None: ...

class Compare:
    EQUAL: int
    MOD: int
    def __init__(self, *, key: bytes, target: int, result: int, mod_revision: int) -> None: ...

class RequestOp:
    def __init__(
        self,
        *,
        request_put: PutRequest = ...,
        request_range: RangeRequest = ...,
        request_delete_range: DeleteRangeRequest = ...,
    ) -> None: ...

class ResponseOp:
    response_range: RangeResponse

class TxnRequest:
    def __init__(
        self, *, compare: Iterable[Compare], success: Iterable[RequestOp], failure: Iterable[RequestOp]
    ) -> None: ...

class TxnResponse:
    header: ResponseHeader
    succeeded: bool
    responses: Sequence[ResponseOp]

class CompactionRequest:
    def __init__(self, *, revision: int, physical: bool = ...) -> None: ...

class CompactionResponse: ...

class LeaseGrantRequest:
    def __init__(self, *, ID: int, TTL: int) -> None: ...

class LeaseGrantResponse:
    ID: int
    TTL: int

class LeaseRevokeRequest:
    def __init__(self, *, ID: int) -> None: ...

class LeaseRevokeResponse: ...

class LeaseStatus:
    ID: int

class LeaseLeasesRequest: ...

class LeaseLeasesResponse:
    leases: Sequence[LeaseStatus]

class LeaseTimeToLiveRequest:
    def __init__(self, *, ID: int) -> None: ...

class LeaseTimeToLiveResponse:
    TTL: int
    grantedTTL: int

class LeaseKeepAliveRequest:
    def __init__(self, *, ID: int) -> None: ...

class LeaseKeepAliveResponse:
    header: ResponseHeader
    ID: int
    TTL: int

class Event:
    PUT: int
    DELETE: int
    type: int
    kv: KeyValue

class WatchCreateRequest:
    def __init__(self, *, key: bytes, range_end: bytes, start_revision: int, progress_notify: bool = ...) -> None: ...

class WatchRequest:
    def __init__(self, *, create_request: WatchCreateRequest) -> None: ...

class WatchResponse:
    header: ResponseHeader
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    events: Sequence[Event]

class AlarmRequest:
    GET: int
    DEACTIVATE: int
    def __init__(self, *, action: int, memberID: int = ..., alarm: int = ...) -> None: ...

class AlarmMember:
    memberID: int
    alarm: int

class AlarmResponse:
    alarms: Sequence[AlarmMember]

class StatusRequest: ...

class StatusResponse:
    version: str
    leader: int
    errors: Sequence[str]
    def __init__(self, *, version: str = ..., leader: int = ..., errors: Sequence[str] = ...) -> None: ...

class DefragmentRequest: ...
class DefragmentResponse: ...

class AuthenticateRequest:
    def __init__(self, *, name: str, password: str) -> None: ...

class AuthenticateResponse:
    token: str

class Permission:
    READ: int
    WRITE: int
    READWRITE: int
    def __init__(self, *, permType: int, key: bytes, range_end: bytes) -> None: ...

class AuthUserAddRequest:
    def __init__(self, *, name: str, password: str) -> None: ...

class AuthUserAddResponse: ...

class AuthUserGrantRoleRequest:
    def __init__(self, *, user: str, role: str) -> None: ...

class AuthUserGrantRoleResponse: ...

class AuthRoleAddRequest:
    def __init__(self, *, name: str) -> None: ...

class AuthRoleAddResponse: ...

class AuthRoleGrantPermissionRequest:
    def __init__(self, *, name: str, perm: Permission) -> None: ...

class AuthRoleGrantPermissionResponse: ...
class AuthEnableRequest: ...
class AuthEnableResponse: ...

class KVStub:
    def __init__(self, channel: Channel) -> None: ...
    Range: UnaryCall[RangeRequest, RangeResponse]
    Put: UnaryCall[PutRequest, PutResponse]
    Compact: UnaryCall[CompactionRequest, CompactionResponse]
    Txn: UnaryCall[TxnRequest, TxnResponse]

class LeaseStub:
    def __init__(self, channel: Channel) -> None: ...
    LeaseGrant: UnaryCall[LeaseGrantRequest, LeaseGrantResponse]
    LeaseRevoke: UnaryCall[LeaseRevokeRequest, LeaseRevokeResponse]
    LeaseLeases: UnaryCall[LeaseLeasesRequest, LeaseLeasesResponse]
    LeaseTimeToLive: UnaryCall[LeaseTimeToLiveRequest, LeaseTimeToLiveResponse]
    LeaseKeepAlive: Stream[LeaseKeepAliveRequest, LeaseKeepAliveResponse]

class WatchStub:
    def __init__(self, channel: Channel) -> None: ...
    Watch: Stream[WatchRequest, WatchResponse]

class AuthStub:
    def __init__(self, channel: Channel) -> None: ...
    Authenticate: UnaryCall[AuthenticateRequest, AuthenticateResponse]
    AuthEnable: UnaryCall[AuthEnableRequest, AuthEnableResponse]
    UserAdd: UnaryCall[AuthUserAddRequest, AuthUserAddResponse]
    UserGrantRole: UnaryCall[AuthUserGrantRoleRequest, AuthUserGrantRoleResponse]
    RoleAdd: UnaryCall[AuthRoleAddRequest, AuthRoleAddResponse]
    RoleGrantPermission: UnaryCall[AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse]

class MaintenanceStub:
    def __init__(self, channel: Channel) -> None: ...
    Alarm: UnaryCall[AlarmRequest, AlarmResponse]
    Defragment: UnaryCall[DefragmentRequest, DefragmentResponse]
    Status: UnaryCall[StatusRequest, StatusResponse]
