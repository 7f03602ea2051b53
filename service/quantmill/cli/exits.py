"""Exit codes, one table for errors and one for the states that jobs end in."""

from __future__ import annotations

from enum import IntEnum

from quantmill.contract.errors import ArtifactDamaged, Canceled, ErrorKind, QuantmillError
from quantmill.domain.jobs import State


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    CANCELED = 2
    USAGE = 3
    INFRASTRUCTURE = 4


INTERRUPTED_BY_TYPER = 130  # what typer makes of a KeyboardInterrupt

OF_KIND: dict[ErrorKind, ExitCode] = {
    ErrorKind.USER: ExitCode.USAGE,
    ErrorKind.POLICY: ExitCode.USAGE,
    ErrorKind.DATA: ExitCode.FAILED,
    ErrorKind.PLUGIN: ExitCode.FAILED,
    ErrorKind.RESOURCE: ExitCode.INFRASTRUCTURE,
    ErrorKind.INFRASTRUCTURE: ExitCode.INFRASTRUCTURE,
}
OF_ERROR: dict[type[QuantmillError], ExitCode] = {  # where its kind would say something else
    Canceled: ExitCode.CANCELED,
    ArtifactDamaged: ExitCode.FAILED,
}
OF_STATE: dict[State, ExitCode] = {
    State.SUCCEEDED: ExitCode.DONE,
    State.FAILED: ExitCode.FAILED,
    State.CANCELED: ExitCode.CANCELED,
    State.EXPIRED: ExitCode.FAILED,
}


def exit_code(error: QuantmillError) -> ExitCode:
    return OF_ERROR.get(type(error), OF_KIND[error.kind])
