"""Kubernetes' own schemas of its kinds, from kubernetes-validate, each read once: `validate` of that package reads a
megabyte for every object."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = files("kubernetes_validate") / "kubernetes-json-schema"


@cache
def validator(api_version: str, kind: str, kubernetes: str) -> Draft202012Validator:
    """The strict schema of a kind in a version such as "1.33": no field that is not named there."""
    group, _, version = api_version.rpartition("/")
    named = f"{group.split('.')[0]}-{version}" if group else version
    schema = _read(kubernetes, f"{kind.lower()}-{named}.json")
    # crawled once; a registry that is not looks through every schema again at each reference
    registry = _definitions(kubernetes).with_resource(schema["$id"], Resource.from_contents(schema)).crawl()
    return Draft202012Validator(schema, registry=registry)


@cache
def _definitions(kubernetes: str) -> Registry[Any]:
    definitions = _read(kubernetes, "_definitions.json")
    return Registry[Any]().with_resource(definitions["$id"], Resource.from_contents(definitions)).crawl()


def _read(kubernetes: str, name: str) -> Any:
    return json.loads((FOLDER / f"v{kubernetes}.0-local-strict" / name).read_text())
