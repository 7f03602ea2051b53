"""How much a model loses by an error in each of its matrices.

loss = c(role) * sum w (x - decoded(encoded(x)))^2 / sum w x^2, in nats per token of KL divergence from the source; w is
the importance of a column, 1 without an importance matrix. Errors of tensors are independent enough that their losses
add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantmill_gguf.budget import Group
from quantmill_gguf.families import ExpectedTensor

# Divergence for a unit of relative squared error, by role; of experts as of what they stand for. The README says how
# they were found.
SENSITIVITY: Mapping[str, float] = {
    "attn_q": 0.015,
    "attn_k": 0.025,
    "attn_v": 0.05,
    "attn_qkv": 0.09,  # the three together
    "attn_output": 0.04,
    "ffn_gate": 0.09,
    "ffn_up": 0.07,
    "ffn_down": 0.13,
    "token_embd": 0.5,
}
OUTPUT_SENSITIVITY = 2.5  # of the output matrix, or the embedding that serves as one
OTHER_SENSITIVITY = 0.05

# Relative squared error of normally distributed weights, for the guess before they are measured
TYPICAL_ERRORS: Mapping[str, float] = {
    "Q2_K": 0.2641**2,
    "Q3_K": 0.1437**2,
    "Q4_0": 0.0860**2,
    "IQ4_XS": 0.0750**2,
    "IQ4_NL": 0.0744**2,
    "Q4_K": 0.0714**2,
    "Q5_0": 0.0428**2,
    "Q5_1": 0.0380**2,
    "Q5_K": 0.0361**2,
    "Q6_K": 0.0177**2,
    "Q8_0": 0.0054**2,
    "F16": 0.00022**2,
}


def typical(groups: Sequence[Group], output: str) -> list[list[float]]:
    """Each group's loss by type, before any weight is read. `output` names the output matrix of the file."""
    return [
        [sum(weight_of(tensor, output) for tensor in group.tensors) * TYPICAL_ERRORS[type_] for type_ in group.types]
        for group in groups
    ]


def weight_of(tensor: ExpectedTensor, output: str) -> float:
    """The sensitivity of the file's tensor, or a part's share of it."""
    if tensor.output == output:
        return OUTPUT_SENSITIVITY
    role = tensor.role.removesuffix("_exps").removesuffix("_shexp")
    return SENSITIVITY.get(role, OTHER_SENSITIVITY) / max(1, tensor.parts)
