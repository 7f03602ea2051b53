"""Clips between zero and a constant, ReLU6 among them, which codes can stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantmill.contract.onnx import OnnxGraph
from quantmill_onnx.constants import Constants
from quantmill_onnx.ranges import LEAST_STEP, LEVELS, Range

LEAST = 2 * LEVELS * float(LEAST_STEP)  # below this a Clip leaves codes no steps


def ceilings(graph: OnnxGraph) -> Mapping[bytes, float]:
    """The upper end of each Clip whose lower end is zero, by the node's bytes."""
    constants = Constants(graph)
    found: dict[bytes, float] = {}
    for node in graph.nodes:
        if node.op_type == "Clip" and not node.domain and len(node.inputs) == 3:
            ends = [constants.floats(name) for name in node.inputs[1:]]
            low, high = (np.nan if each is None or each.size != 1 else float(each[0]) for each in ends)
            if low == 0 and LEAST < high < np.inf:
                found[node.raw] = high
    return found


def beneath(found: Range, ceiling: float | None) -> Range:
    """The range, ended where its last code stands for no more than the ceiling: the Clip then changes nothing.

    Where samples have shown no width, for a channel all of whose values are clipped to zero, up to the ceiling.
    """
    low, high = found
    if ceiling is None or low < 0:
        return found
    reach = min(high, ceiling) if high >= LEAST else ceiling
    scale = np.float32(reach / LEVELS)
    while scale * np.float32(LEVELS) > np.float32(ceiling):
        scale = np.nextafter(scale, np.float32(0))
    return 0.0, float(scale) * LEVELS
