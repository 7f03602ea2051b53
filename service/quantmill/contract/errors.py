"""Errors that cross the border between quantmill and its plugins, its store and its users.

An error says what failed and carries the facts as fields; its class docstring is the title a user reads.
It knows no HTTP status and no exit code: `api` and `cli` each keep one table for that.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class ErrorKind(StrEnum):
    """Who can act on a failed job."""

    USER = "user"  # the request names something that is not so
    DATA = "data"  # the checkpoint or the text is at fault
    PLUGIN = "plugin"  # the method broke its own promises
    INFRASTRUCTURE = "infrastructure"  # a process, a disk or a network went away
    RESOURCE = "resource"  # memory, disk or time ran out
    POLICY = "policy"  # a rule of this installation forbids it


class QuantmillError(Exception):
    """Something went wrong."""

    kind: ClassVar[ErrorKind] = ErrorKind.INFRASTRUCTURE

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class SourceRejected(QuantmillError):
    """The source is not a checkpoint that can be read safely."""

    kind = ErrorKind.USER


class ArchitectureUnsupported(SourceRejected):
    """The method does not know this model architecture."""


class NonFiniteTensor(QuantmillError):
    """A source tensor holds NaN or infinite values."""

    kind = ErrorKind.DATA


class NonFiniteActivation(QuantmillError):
    """The model computes NaN or infinite values on the calibration text."""

    kind = ErrorKind.DATA


class RangeExceeded(QuantmillError):
    """A source tensor holds values that the chosen type cannot hold."""

    kind = ErrorKind.DATA


class TextRejected(QuantmillError):
    """The text cannot be used for evaluation or calibration."""

    kind = ErrorKind.DATA


class ParamsRejected(QuantmillError):
    """The parameters are not ones this method accepts."""

    kind = ErrorKind.USER

    def __init__(self, detail: str, errors: list[dict[str, str]], **fields: Any) -> None:
        """`errors` holds one {pointer, code, message} per problem; pointers are RFC 6901 into the request."""
        super().__init__(detail, errors=errors, **fields)


class RequestRejected(QuantmillError):
    """The request cannot be carried out as it stands."""

    kind = ErrorKind.USER


class NotFound(QuantmillError):
    """Nothing has this name."""

    kind = ErrorKind.USER


class UnknownMethod(NotFound):
    """No installed plugin offers this method."""


class Conflict(QuantmillError):
    """The request does not fit the present state."""

    kind = ErrorKind.USER


class IllegalTransition(Conflict):
    """The job is not in a state that allows this."""


class IdempotencyMismatch(RequestRejected):
    """The same idempotency key was used with another request."""


class PluginBroken(QuantmillError):
    """A plugin cannot be used, or did not keep to its contract."""

    kind = ErrorKind.PLUGIN


class CalibrationMissing(QuantmillError):
    """The method asks for statistics that were not gathered."""

    kind = ErrorKind.PLUGIN


class VerificationFailed(QuantmillError):
    """The written artifact is not what was planned."""

    kind = ErrorKind.PLUGIN


class ArtifactDamaged(QuantmillError):
    """Stored bytes do not match their digest."""


class ResourceExhausted(QuantmillError):
    """Memory, disk or time ran out."""

    kind = ErrorKind.RESOURCE


class PolicyRefused(QuantmillError):
    """A rule of this installation forbids it."""

    kind = ErrorKind.POLICY


class GateFailed(QuantmillError):
    """The artifact did not meet a gate of its job, and was not published."""

    kind = ErrorKind.POLICY


class Canceled(QuantmillError):
    """The job was canceled."""

    kind = ErrorKind.USER


class DatabaseUnavailable(QuantmillError):
    """The database cannot be used."""


class WorkerLost(QuantmillError):
    """The process that ran the job went away."""


def describe(error: QuantmillError) -> dict[str, Any]:
    """What a failed job's row and a problem document keep of an error: plain JSON values."""
    kind = type(error)
    return {
        "type": f"/problems/{kind.__name__}",
        "title": (kind.__doc__ or "").strip().splitlines()[0],
        "detail": error.detail,
        "kind": error.kind.value,
        **error.fields,
    }
