"""Runs in llama.cpp's environment: what its own graph feeds to the matrices of a model, gathered as llama-imatrix does.

    python consume.py ERRAND.npz ANSWER.npz

The errand: `files` (paths of GGUF files) and, for the file at position n, `n.windows` (windows of one length, int64).
The answer: `n.<tensor>.sums`, float64 (matrices, cols), the squares of all inputs, and `n.<tensor>.counts`, int64
(matrices,), how many there were; a stack of experts has a matrix for each. llama-imatrix itself is not part of
llama-cpp-python; the callback of the evaluation is what it is made of (tools/imatrix/imatrix.cpp), and is set here.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import llama_cpp as package
import numpy as np
from llama_cpp import Llama, llama_cpp

THREADS = 1
F32, I32 = 0, 26  # enum ggml_type

model_params, context_params = llama_cpp.llama_model_default_params, llama_cpp.llama_context_default_params


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor of ggml.h, as far as it is read."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )

    def source(self, position: int) -> GgmlTensor:
        return GgmlTensor.from_address(self.src[position])

    def values(self) -> Any:
        """Its values, the axis of the columns last; they are gone when the callback returns."""
        dtype, ctype = {F32: (np.float32, ctypes.c_float), I32: (np.int32, ctypes.c_int32)}[self.type]
        shape, strides = tuple(self.ne)[::-1], tuple(self.nb)[::-1]
        whole = sum(step * (size - 1) for step, size in zip(strides, shape, strict=True)) // 4 + 1
        flat = np.ctypeslib.as_array(ctypes.cast(self.data, ctypes.POINTER(ctype)), (whole,))
        return np.lib.stride_tricks.as_strided(flat.view(dtype), shape, strides)


base = ctypes.CDLL(str(Path(package.__file__).parent / "lib" / "libggml-base.so"))
base.ggml_op_desc.restype = ctypes.c_char_p
base.ggml_op_desc.argtypes = [ctypes.c_void_p]


class Gathered:
    """Sums over what matrices of blocks are multiplied with."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._look)

    def _look(self, pointer: int, ask: bool, _: Any) -> bool:
        """Asked before a node is computed whether it is wanted, and called again when it is."""
        tensor, op = GgmlTensor.from_address(pointer), base.ggml_op_desc(pointer)
        if op not in (b"MUL_MAT", b"MUL_MAT_ID"):
            return not ask
        name = tensor.source(0).name.decode()
        if not (name.startswith("blk.") and name.endswith(".weight")):
            return not ask
        if not ask:
            x = tensor.source(1).values().astype(np.float64)
            experts = tensor.source(0).ne[2] if op == b"MUL_MAT_ID" else 1
            chosen = tensor.source(2).values()[0, 0] if op == b"MUL_MAT_ID" else None
            self._add(name, x[0], chosen, experts)
        return True

    def _add(self, name: str, x: Any, chosen: Any, experts: int) -> None:
        """`x` is (1, tokens, cols), and of experts (tokens, 1 or each chosen one, cols); `chosen` (tokens, slots)."""
        sums = self.sums.setdefault(name, np.zeros((experts, x.shape[-1])))
        counts = self.counts.setdefault(name, np.zeros(experts, np.int64))
        if chosen is None:
            sums[0] += (x.reshape(-1, x.shape[-1]) ** 2).sum(0)
            counts[0] += x.shape[0] * x.shape[1]
            return
        for slot in range(chosen.shape[1]):
            np.add.at(sums, chosen[:, slot], x[:, slot % x.shape[1]] ** 2)
            np.add.at(counts, chosen[:, slot], 1)


def gather(path: str, windows: Any) -> Gathered:
    """Each window by itself, in one batch; keys and values are kept in float32."""
    gathered = Gathered()

    def watched() -> Any:
        params = context_params()
        params.cb_eval = gathered.callback
        return params

    llama_cpp.llama_context_default_params = watched
    size = windows.shape[1]
    model = Llama(
        path,
        n_ctx=max(size, 64),
        n_batch=size,
        n_ubatch=size,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    gathered.sums.clear()  # of what is run to warm up
    gathered.counts.clear()
    for window in windows:
        model.reset()
        model.eval(window.tolist())
    model.close()
    return gathered


def without_repacking() -> Any:
    """The weights stay as they are in the file, so that their products have their names."""
    params = model_params()
    params.use_extra_bufts = False
    return params


def main() -> None:
    errand = np.load(sys.argv[1])
    llama_cpp.llama_model_default_params = without_repacking
    answer: dict[str, Any] = {}
    for position, path in enumerate(map(str, errand["files"])):
        gathered = gather(path, errand[f"{position}.windows"])
        for name, sums in gathered.sums.items():
            answer |= {f"{position}.{name}.sums": sums, f"{position}.{name}.counts": gathered.counts[name]}
    np.savez(sys.argv[2], **answer)


if __name__ == "__main__":
    main()
