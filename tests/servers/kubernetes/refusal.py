"""How the server says no: the Status object that Kubernetes answers with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class Refusal(Exception):
    """`status` with Kubernetes' `reason`; the message is what `kubectl` and Helm print."""

    status = HTTPStatus.BAD_REQUEST
    reason = "BadRequest"

    def body(self) -> dict[str, Any]:
        named = {"message": str(self), "reason": self.reason, "code": int(self.status)}
        return {"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", **named}


class NotFound(Refusal):
    status = HTTPStatus.NOT_FOUND
    reason = "NotFound"


class AlreadyExists(Refusal):
    status = HTTPStatus.CONFLICT
    reason = "AlreadyExists"


class Conflict(Refusal):
    status = HTTPStatus.CONFLICT
    reason = "Conflict"


class Invalid(Refusal):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    reason = "Invalid"


class Forbidden(Refusal):
    status = HTTPStatus.FORBIDDEN
    reason = "Forbidden"
