"""The two kinds of maps that values consist of, and the scalars in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Item(BaseModel):
    """An entry of a list or of a map by name. Fields without a default are required."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


def _required_nowhere(schema: dict[str, Any]) -> None:
    schema.pop("required", None)


class Section(Item):
    """A map none of whose keys must be given. Defaults stand in values.yaml, but those that stand here."""

    model_config = ConfigDict(json_schema_extra=_required_nowhere)


def text(pattern: str, longest: int | None = None, **extra: Any) -> Any:
    """Constraints of a string. The pattern is both Rust's and ECMA's: neither look-around nor back-references."""
    return Field(pattern=pattern, max_length=longest, json_schema_extra=extra or None)


DEFINED = "x-defined"


def defined(name: str) -> WithJsonSchema:
    """The schema of a type is `definitions[name]`, which pydantic does not make."""
    return WithJsonSchema({DEFINED: name})


Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=0)]

Quantity = (
    Annotated[str, text(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")] | Annotated[float, Field(ge=0)]
)
"""Of a resource, as Kubernetes writes it: 250m, 4Gi."""

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, text(NAME, 63)]
ObjectName = Annotated[str, text(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253)]
OptionalName = Annotated[str, text(rf"^$|{NAME}", 63)]
OptionalObjectName = Annotated[str, text(r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253)]
SecretKey = Annotated[str, text(r"^[-._a-zA-Z0-9]+$", 253)]
ShortName = Annotated[str, text(r"^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$")]
"""Of a pool or a source: it becomes a part of other names."""

MountPath = Annotated[str, text(r"^/[^:]+$")]
SubPath = Annotated[str, text(r"^[^/]", **{"not": {"pattern": r"(^|/)\.\.(/|$)"}})]
Variable = Annotated[str, text(r"^[A-Za-z_][A-Za-z0-9_]*$")]

# counted repetitions would make each check of the values ten times as slow in Go's regular expressions
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
LabelKey = Annotated[str, text(rf"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL}$")]
LabelValue = Annotated[str, text(rf"^({_LABEL})?$", 63)]
Labels = dict[LabelKey, LabelValue]
Annotations = dict[LabelKey, str]

_REGISTRY = r"[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?(/[A-Za-z0-9._-]+)*"
Registry = Annotated[str, text(rf"^{_REGISTRY}$")]
OptionalRegistry = Annotated[str, text(rf"^$|^{_REGISTRY}$")]
Namespace = Annotated[str, text(r"^$|^[a-z0-9]+([._/-]+[a-z0-9]+)*$")]
"""Of images in a registry: the path before the repository."""

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Image(Section):
    """Which image, and when it is pulled."""

    registry: Registry
    repository: Annotated[str, text(r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$")]
    tag: Annotated[str, text(r"^$|^[A-Za-z0-9_][A-Za-z0-9._-]*$", 128, **{"not": {"const": "latest"}})]
    digest: Annotated[str, text(r"^$|^sha256:[0-9a-f]{64}$")]
    pull_policy: PullPolicy


class Resources(Section):
    """Requests and limits of a container."""

    requests: dict[LabelKey, Quantity]
    limits: dict[LabelKey, Quantity]
