"""Files and folders that a method's parameters name.

A parameter of type InputFile holds the path of a file, one of type InputPath that of a file or a folder. Whoever
submits a job gives a path or file: URI as for a source; before the method sees it, the host has made it the real path
of something below one of the source roots. The method's plan records in `Plan.inputs` the digests of what it read
there, so that a file that changes ends the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

FILE, PATH = "input-file", "input-path"  # formats of the parameter in its JSON schema

InputFile = Annotated[str, Field(min_length=1, max_length=4096, json_schema_extra={"format": FILE})]
InputPath = Annotated[str, Field(min_length=1, max_length=4096, json_schema_extra={"format": PATH})]


def named_files(schema: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Which of `params` name a file or folder, by the JSON schema of a method's parameters; words that it lists are
    none."""
    properties = schema.get("properties", {})
    return {
        name: value
        for name, value in params.items()
        if isinstance(value, str) and _takes_file(properties.get(name, {}), value)
    }


def may_be_folder(schema: Mapping[str, Any], name: str) -> bool:
    """Whether the parameter is an InputPath."""
    return any(branch.get("format") == PATH for branch in _branches(schema.get("properties", {}).get(name, {})))


def _takes_file(described: Mapping[str, Any], value: str) -> bool:
    branches = _branches(described)
    words = {word for branch in branches for word in [*branch.get("enum", ()), branch.get("const")]}
    return value not in words and any(branch.get("format") in (FILE, PATH) for branch in branches)


def _branches(described: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = described.get("anyOf", [described])
    return found
