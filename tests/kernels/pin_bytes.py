"""Write tests/data/golden/searched.json: what our own searches make of the golden inputs, for test_golden.py.

The bytes of a searched format change only with a search that is meant to change; then run, from the root:

    python tests/kernels/pin_bytes.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SEARCHED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
SEARCHED_WITH_IMATRIX = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", *SEARCHED]


def digest(name: str, values: np.ndarray, imatrix: np.ndarray | None) -> str:
    return hashlib.sha256(kernels.encode(name, values, imatrix=imatrix).tobytes()).hexdigest()


def main() -> None:
    inputs = dict(np.load(GOLDEN / "ggml" / "inputs.npz", allow_pickle=False))
    cases = [case for case in inputs if "." not in case]
    digests = {f"{name} {case}": digest(name, inputs[case], None) for name in SEARCHED for case in cases}
    for name in SEARCHED_WITH_IMATRIX:
        for case in cases:
            imatrix = inputs[f"imatrix.{inputs[case].shape[1]}"]
            digests[f"{name} {case} imatrix"] = digest(name, inputs[case], imatrix)
    (GOLDEN / "searched.json").write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
