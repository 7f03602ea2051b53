"""Secrets as client-go sends them: Kubernetes' protobuf envelope, read as far as Helm's release records need it.

Envelope: `k8s\\0`, then runtime.Unknown {1: TypeMeta {1: apiVersion, 2: kind}, 2: raw}
(k8s.io/apimachinery/pkg/runtime/generated.proto). Raw: Secret (k8s.io/api/core/v1/generated.proto).
"""

from __future__ import annotations

import base64
from typing import Any

from servers.kubernetes.refusal import Refusal

MAGIC = b"k8s\0"
VARINT, BYTES = 0, 2

Message = dict[int, list[bytes]]


def decode_secret(body: bytes) -> dict[str, Any]:
    """The Secret in `body`, as JSON has it."""
    if not body.startswith(MAGIC):
        raise Refusal("a protobuf body must start with k8s\\0")
    unknown = fields(body[len(MAGIC) :])
    named = fields(unknown[1][0])
    kind = {"apiVersion": text(named, 1), "kind": text(named, 2)}
    if kind != {"apiVersion": "v1", "kind": "Secret"}:
        raise Refusal(f"protobuf is understood for Secrets alone, not for {kind}")
    secret = fields(unknown[2][0])
    data = {name: base64.b64encode(value).decode() for name, value in pairs(secret, 2).items()}
    return {**kind, "metadata": metadata(fields(secret[1][0])), "data": data, "type": text(secret, 3) or "Opaque"}


def metadata(message: Message) -> dict[str, Any]:
    names = {"name": text(message, 1), "namespace": text(message, 3), "resourceVersion": text(message, 6)}
    labels = {name: value.decode() for name, value in pairs(message, 11).items()}
    annotations = {name: value.decode() for name, value in pairs(message, 12).items()}
    return {name: value for name, value in {**names, "labels": labels, "annotations": annotations}.items() if value}


def text(message: Message, number: int) -> str:
    return message.get(number, [b""])[-1].decode()


def pairs(message: Message, number: int) -> dict[str, bytes]:
    """A map field: each entry is a message {1: key, 2: value}."""
    entries = (fields(entry) for entry in message.get(number, []))
    return {text(entry, 1): entry.get(2, [b""])[-1] for entry in entries}


def fields(message: bytes) -> Message:
    """The length-delimited fields of a message by number; numbers are skipped, no other kind occurs in a Secret."""
    found: Message = {}
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire not in (VARINT, BYTES):
            raise Refusal(f"wire type {wire} in field {number}")
        size, at = varint(message, at)
        if wire == BYTES:
            if at + size > len(message):
                raise Refusal(f"field {number} ends behind its message")
            found.setdefault(number, []).append(message[at : at + size])
            at += size
    return found


def varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise Refusal("a number that does not end")
