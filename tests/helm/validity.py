"""Whether a cluster would take a document: Kubernetes' own strict schemas, and tests/helm/crds for custom resources."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from servers.kubernetes.schemas import validator

CRDS = Path(__file__).parent / "crds"
CUSTOM = sorted(path.stem for path in CRDS.glob("*.yaml"))


def validate(document: dict[str, Any], kubernetes: str) -> None:
    """Raises where a cluster of that version would refuse `document`, or drop a part of it."""
    _validate(json.dumps(document, sort_keys=True), kubernetes)


@cache
def _validate(text: str, kubernetes: str) -> None:
    document = json.loads(text)
    if document["kind"] in CUSTOM:
        _schema(document["kind"]).validate(document)
        if document["kind"] == "ScaledJob":
            validator("batch/v1", "Job", kubernetes).validate(
                {"apiVersion": "batch/v1", "kind": "Job", "spec": document["spec"]["jobTargetRef"]}
            )
    else:
        validator(document["apiVersion"], document["kind"], kubernetes).validate(document)


@cache
def _schema(kind: str) -> jsonschema.Draft7Validator:
    known = yaml.safe_load((CRDS / f"{kind}.yaml").read_text())
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": known["apiVersion"]},
            "kind": {"const": kind},
            "metadata": {"$ref": "#/definitions/metadata"},
            "spec": known["spec"],
        },
        "definitions": {
            **known.get("definitions", {}),
            "texts": {"type": "object", "additionalProperties": {"type": "string"}},
            "metadata": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
                    "labels": {"$ref": "#/definitions/texts"},
                    "annotations": {"$ref": "#/definitions/texts"},
                },
            },
        },
    }
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)
