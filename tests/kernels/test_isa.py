"""Every instruction set of this machine gives the bytes and values of the scalar code."""

import hashlib
import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import quantmill_kernels as kernels

ROWS, COLS = 33, 768  # odd, so that every codec meets a part of its lanes empty


def digests() -> dict[str, str]:
    """SHA-256 of what each format encodes and decodes to, for one instruction set."""
    rng = np.random.default_rng(3)
    values = (rng.standard_t(4, (ROWS, COLS)) * 10.0 ** rng.integers(-9, 3, (ROWS, 1))).astype(np.float32)
    values[5] = np.round(values[5])
    values[6, ::3] = 0
    values[7, 40:] = -0.0
    half = np.clip(values, -6e4, 6e4).astype(np.float16)
    imatrix = np.where(rng.random(COLS) < 0.1, 0, rng.random(COLS) ** 2).astype(np.float32)
    results = {}
    for name, form in kernels.formats().items():
        anything = rng.integers(0, 256, (40, 3 * form.block_bytes), dtype=np.uint8)
        outputs = {
            "encode": kernels.encode(name, values),
            "encode float16": kernels.encode(name, half),
            "encode weighted": kernels.encode(name, values, imatrix=imatrix),
            "decode": kernels.decode(name, kernels.encode(name, values), COLS),
            "decode anything": np.nan_to_num(kernels.decode(name, anything, 3 * form.block_values), nan=1.5),
        }
        results |= {f"{name} {what}": sha256(out) for what, out in outputs.items()}
    return results | digests_of_words() | digests_of_bitsandbytes()


def digests_of_words() -> dict[str, str]:
    rng = np.random.default_rng(4)
    anything = rng.integers(-(2**31), 2**31, (96, 77), dtype=np.int32)
    results = {}
    for bits in range(1, 9):
        codes = rng.integers(0, 2**bits, (160, 1120), dtype=np.uint8)
        odd = np.ascontiguousarray(codes[:101, :1101])
        outputs = {
            "rows": kernels.pack_quantized(odd, bits),
            "columns": kernels.pack_quantized_zeros(odd, bits),
            "rows of anything": kernels.unpack_quantized(anything, bits, 77 * 32 // bits),
            "columns of anything": kernels.unpack_quantized_zeros(anything, bits, 96 * 32 // bits),
        }
        if bits in (2, 3, 4, 8):
            outputs["turned rows"] = kernels.pack_gptq(codes, bits)
            outputs["turned columns"] = kernels.pack_gptq_zeros(codes, bits)
            outputs["turned rows of anything"] = kernels.unpack_gptq(anything, bits)
            outputs["turned columns of anything"] = kernels.unpack_gptq_zeros(anything.T.copy(), bits)
        if bits == 4:
            outputs["interleaved"] = kernels.pack_awq(codes)
            outputs["interleaved anything"] = kernels.unpack_awq(anything)
        results |= {f"{bits}-bit words, {what}": sha256(out) for what, out in outputs.items()}
    return results


def digests_of_bitsandbytes() -> dict[str, str]:
    rng = np.random.default_rng(5)
    values = (rng.standard_t(4, (61, 337)) * 10.0 ** rng.integers(-40, 30, (61, 1))).astype(np.float32)
    sources = {"float32": values, "bfloat16": (values.view(np.uint32) >> 16).astype(np.uint16)}
    sources["float16"] = np.clip(values, -6e4, 6e4).astype(np.float16)
    outputs = {}
    for source, matrix in sources.items():
        outputs |= dict(zip((f"int8 {source}", f"int8 absmax {source}"), kernels.encode_int8_rows(matrix), strict=True))
        for name in ("nf4", "fp4"):
            for block_size in (32, 64, 4096):
                packed, absmax = kernels.encode_4bit(name, matrix, block_size=block_size)
                what = f"{name} in {block_size} {source}"
                values_again = kernels.decode_4bit(name, packed, absmax, matrix.shape, block_size=block_size)
                outputs |= {what: packed, f"{what}, absmax": absmax, f"{what}, decoded": values_again}
    outputs["int8 decoded"] = kernels.decode_int8_rows(outputs["int8 float32"], outputs["int8 absmax float32"])
    codes, nested_absmax, _ = kernels.encode_absmax(outputs["nf4 in 64 float16, absmax"])
    outputs |= {"absmax codes": codes, "nested absmax": nested_absmax}
    return {what: sha256(array) for what, array in outputs.items()}


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@cache
def digests_on(isa: str) -> dict[str, str]:
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"QUANTMILL_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ImportError: QUANTMILL_ISA" in process.stderr:
        pytest.skip(process.stderr.strip().splitlines()[-1])
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon"])
def test_an_instruction_set_changes_no_bit(isa: str) -> None:
    differing = {what for what, digest in digests_on(isa).items() if digest != digests_on("scalar")[what]}

    assert differing == set()


if __name__ == "__main__":
    print(json.dumps(digests()))
