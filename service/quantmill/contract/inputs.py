"""Files that a method's parameters name.

A parameter of type InputFile holds the path of a file. Whoever submits a job gives a path or file: URI as for a source;
before the method sees it, the host has made it the real path of a file below one of the source roots. The method's plan
records in `Plan.inputs` the digests of what it read there, so that a file that changes ends the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

FORMAT = "input-file"  # of the parameter in its JSON schema

InputFile = Annotated[str, Field(min_length=1, max_length=4096, json_schema_extra={"format": FORMAT})]


def named_files(schema: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Which of `params` name a file, by the JSON schema of a method's parameters; words that it lists are none."""
    properties = schema.get("properties", {})
    return {
        name: value
        for name, value in params.items()
        if isinstance(value, str) and _takes_file(properties.get(name, {}), value)
    }


def _takes_file(described: Mapping[str, Any], value: str) -> bool:
    branches = described.get("anyOf", [described])
    words = {word for branch in branches for word in [*branch.get("enum", ()), branch.get("const")]}
    return value not in words and any(branch.get("format") == FORMAT for branch in branches)
