"""`config`: settings of the service by name, with the types that the service itself reads."""

from __future__ import annotations

from typing import Annotated, Any

from helm.model.shapes import defined
from quantmill.settings import Settings

DECIDED_BY_CHART = frozenset(
    {"data_dir", "database_url", "broker_url", "autoscaling_token", "source_roots", "host", "port", "queue", "slots"}
    | {"threads", "server"}
)
"""Settings that follow from other values."""


def config_schema() -> dict[str, Any]:
    fields = Settings.model_json_schema()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _constraint(field) for name, field in fields.items() if name not in DECIDED_BY_CHART},
    }


def _constraint(field: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    kept = {key: value for key, value in options[0].items() if key not in {"title", "default", "format"}}
    return {**kept, "description": field["description"]}


Config = Annotated[dict[str, Any], defined("config")]
