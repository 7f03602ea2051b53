"""Static scales of activations: what Linears were fed in the source model, on the calibration text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import PluginBroken
from quantmill.contract.experts import Stack, stacks
from quantmill.contract.linears import linears
from quantmill.contract.session import Session
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import STORED

EXPERT = re.compile(r"\.experts\.\d+\.")


class InputScales:
    """Scales of the Linears' inputs, one for each set of Linears for which vLLM keeps one: the largest of theirs.

    These are the modules of one product (q, k and v; gate and up), and the same module of all experts of a block: an
    expert that no token of the text was routed to has the scale of the others. Computed at the first use of a set.
    """

    def __init__(self, session: Session, params: Fp8Params) -> None:
        self._session = session
        self._percentile = params.percentile
        self._dtype_of: dict[str, str] = {}
        self._set_of: dict[str, tuple[str, ...]] = {}
        self._members: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self._largest: dict[tuple[str, ...], float] = {}
        for name, linear in linears(session.index).items():
            if session.plan.by_name[name].action == "quantize":
                self._add(name, linear.tensor.dtype, linear.fused)
        for stack in stacks(session.index).values():
            for expert in range(stack.experts if session.plan.by_name[stack.tensor.name].action == "quantize" else 0):
                names = stack.names(expert)
                for name in names:
                    self._add(name, stack.tensor.dtype, tuple(each.removesuffix(".weight") for each in names))

    def _add(self, name: str, dtype: str, fused: Sequence[str]) -> None:
        """`fused` are the modules of one product, the weight's own among them."""
        self._dtype_of[name] = dtype
        self._set_of[name] = tuple(EXPERT.sub(".experts.*.", module) for module in fused)
        self._members[self._set_of[name]].append(name)

    def of(self, name: str) -> NDArray[Any]:
        """The scale of a weight's inputs, (1,) in the weight's dtype."""
        members = self._set_of[name]
        if members not in self._largest:
            self._largest[members] = max(self._covered(each) for each in self._members[members])
        stored, dtype = STORED[self._dtype_of[name]]
        return np.array([quantmill_kernels.fp8_scale(self._largest[members], scale_dtype=stored)], dtype)

    def of_stack(self, stack: Stack) -> dict[str, NDArray[Any]]:
        """The scales of the inputs of all experts of a stack, by the names of their weights."""
        return {name: self.of(name) for expert in range(stack.experts) for name in stack.names(expert)}

    def _covered(self, name: str) -> float:
        """Up to which magnitude the scale covers what a Linear was fed; 0 for an expert that no token reached."""
        found = self._session.statistics(name)
        if found.tokens == 0:
            return 0.0
        if self._percentile < 100:
            return found.percentile(self._percentile / 100)
        if found.absmax is None:
            raise PluginBroken(f"the calibration gives no absmax for {name}", tensor=name)
        return float(found.absmax.max())
