"""More bits for single tensors: the parameters that give each of them the next larger type."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_gguf.params import BUDGET, CODES_KEPT, GgufParams

# The next type that is closer to the weights. What a row does not divide falls back as in a mix.
LARGER: Mapping[str, str] = {
    "TQ1_0": "Q4_K",
    "TQ2_0": "Q4_K",
    "Q2_K": "Q3_K",
    "Q3_K": "Q4_K",
    "MXFP4": "Q5_K",
    "IQ4_XS": "Q5_K",
    "IQ4_NL": "Q5_K",
    "Q4_0": "Q5_K",
    "Q4_1": "Q5_K",
    "Q4_K": "Q5_K",
    "Q5_0": "Q6_K",
    "Q5_1": "Q6_K",
    "Q5_K": "Q6_K",
    "Q6_K": "Q8_0",
}


def promote(index: ModelIndex, plan: Plan, params: GgufParams, names: Collection[str]) -> Mapping[str, Any]:
    """The `overrides` that raise the named tensors; what a pattern of the job's own gives a type, keeps it.

    After Q8_0 comes the source's dtype. A budget has nothing to give: what one tensor gains, others lose. Codes that
    are kept lose nothing.
    """
    if params.type in (BUDGET, CODES_KEPT):
        return {}
    larger = {
        row.name: LARGER.get(row.scheme, row.source_dtype)
        for row in plan.tensors
        if row.name in names and row.action == "quantize" and not _is_asked_for(row, params)
    }
    return {"overrides": {**params.overrides, **larger}} if larger else {}


def _is_asked_for(row: TensorPlan, params: GgufParams) -> bool:
    """By a pattern; a tensor's own full name is what an earlier promotion leaves there."""
    return any(
        fnmatchcase(row.output, pattern) or fnmatchcase(row.name, pattern)
        for pattern in params.overrides
        if pattern != row.name
    )
