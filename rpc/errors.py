"""Operating errors: each knows the gRPC status and the details that a caller gets.

Handlers raise these; `rpc.interceptors` turns them into a status; `from_rpc_error` turns a status
back into them on the calling side. Anything else that escapes a handler is our bug and becomes
INTERNAL with a request id.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

M = TypeVar("M", bound=Message)

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "vitrine"
_VALUE_CHARS_MAX = 80


class VitrineError(Exception):
    """An error whose text may be shown to a caller."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def details(self) -> Sequence[Message]:
        """Return google.rpc details for programs."""
        return (error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN),)


class InvalidArgument(VitrineError):
    """A field holds what is not allowed: `top_k is 5000; allowed 1..1000`."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {_shown(value)}; allowed {allowed}")
        self.field = field
        self.allowed = allowed

    def outside(self, place: str) -> "InvalidArgument":
        """Return the same error as the caller knows the field, without the place it was put in.

        >>> str(InvalidArgument("queries[0].filter", "x", "a filter").outside("queries.0.."))
        "filter is 'x'; allowed a filter"
        """
        known = InvalidArgument(re.sub(f"^{place}", "", self.field), "", self.allowed)
        known.args = (re.sub(f"^{place}", "", str(self)),)
        return known

    def details(self) -> Sequence[Message]:
        """Return a BadRequest that names the field."""
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=self.field, description=str(self)
        )
        return (error_details_pb2.BadRequest(field_violations=[violation]),)


class NotFound(VitrineError):
    """An item, generation or shard that does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"

    def __init__(self, kind: str, names: Sequence[object]) -> None:
        shown = ", ".join(_shown(name) for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        super().__init__(f"no such {kind}: {shown}{more}")
        self.kind = kind

    def details(self) -> Sequence[Message]:
        """Return a ResourceInfo with the kind of thing."""
        return (
            error_details_pb2.ResourceInfo(
                resource_type=self.kind, resource_name=str(self), description=str(self)
            ),
        )


class FailedPrecondition(VitrineError):
    """Two things that do not belong together, such as an encoder and a generation."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, reason: str, message: str, expected: object = "", got: object = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.expected = str(expected)
        self.got = str(got)

    def details(self) -> Sequence[Message]:
        """Return an ErrorInfo with what was expected and what came."""
        metadata = {"expected": self.expected, "got": self.got}
        return (error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata),)


class ResourceExhausted(VitrineError):
    """A queue or limit is full; raised at once, never after waiting."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        """Return a RetryInfo."""
        delay = Duration(nanos=0)
        delay.FromMilliseconds(int(self.retry_after_s * 1000))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class Unavailable(VitrineError):
    """Nothing that could answer is there now; trying again later may help."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeadlineExceeded(VitrineError):
    """The budget was spent; names the stage it was spent on."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, stage: str) -> None:
        super().__init__(f"the deadline passed while in stage: {stage}")
        self.stage = stage

    def details(self) -> Sequence[Message]:
        """Return an ErrorInfo with the stage."""
        return (
            error_details_pb2.ErrorInfo(
                reason=self.reason, domain=DOMAIN, metadata={"stage": self.stage}
            ),
        )


class DataLoss(VitrineError):
    """A file differs from what its manifest promises."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "DATA_LOSS"

    def __init__(self, file: str, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.file = file

    def details(self) -> Sequence[Message]:
        """Return an ErrorInfo with the file."""
        return (
            error_details_pb2.ErrorInfo(
                reason=self.reason, domain=DOMAIN, metadata={"file": self.file}
            ),
        )


class Unimplemented(VitrineError):
    """A part of the contract that this version does not serve."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not served by this version")


class RemoteError(VitrineError):
    """A status from another service that maps to none of the above; keeps its code and text."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.remote_code = code


def to_status(error: VitrineError) -> status_pb2.Status:
    """Return the google.rpc.Status of an error, details packed."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    for detail in error.details():
        status.details.add().Pack(detail)
    return status


def is_gone(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether nobody took a call, so that another replica may be asked.

    A call that reaches a server in the moment in which it shuts down ends with CANCELLED: gRPC's
    core answers so, and no handler has seen it. (A call that we cancel raises CancelledError.)
    """
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def from_rpc_error(error: grpc.aio.AioRpcError) -> VitrineError:
    """Return our exception for a status that another service answered with."""
    message = error.details() or error.code().name
    status = _status_of(error)
    info = _unpacked(status, error_details_pb2.ErrorInfo)
    reason = info.reason if info else error.code().name
    rebuild = _REBUILD.get(error.code())
    if rebuild is None:
        return RemoteError(error.code(), message)
    rebuilt: VitrineError = rebuild.__new__(rebuild)
    Exception.__init__(rebuilt, message)
    rebuilt.reason = reason
    _fill(rebuilt, status, info)
    return rebuilt


_REBUILD: Mapping[grpc.StatusCode, type[VitrineError]] = {
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def _fill(
    error: VitrineError, status: status_pb2.Status, info: error_details_pb2.ErrorInfo | None
) -> None:
    """Set the attributes that each kind's __init__ would have set."""
    metadata = dict(info.metadata) if info else {}
    match error:
        case InvalidArgument():
            bad = _unpacked(status, error_details_pb2.BadRequest)
            error.field = bad.field_violations[0].field if bad and bad.field_violations else ""
            error.allowed = ""
        case NotFound():
            resource = _unpacked(status, error_details_pb2.ResourceInfo)
            error.kind = resource.resource_type if resource else ""
        case FailedPrecondition():
            error.expected = metadata.get("expected", "")
            error.got = metadata.get("got", "")
        case ResourceExhausted():
            retry = _unpacked(status, error_details_pb2.RetryInfo)
            error.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000 if retry else 0.1
        case DeadlineExceeded():
            error.stage = metadata.get("stage", "")
        case DataLoss():
            error.file = metadata.get("file", "")


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailing: Any = error.trailing_metadata()
    for key, value in trailing or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code_pb2.UNKNOWN)


def _unpacked(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    return None


def _shown(value: object) -> str:
    """Return a value short enough for a message, text quoted."""
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[: _VALUE_CHARS_MAX - 3]}..."
