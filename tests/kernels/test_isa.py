"""Every instruction set of this machine gives the bytes and values of the scalar code."""

import hashlib
import json
import os
import subprocess
import sys
from functools import cache

import ml_dtypes
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
    families = (
        digests_of_words(),
        digests_of_bitsandbytes(),
        digests_of_small_floats(values),
        digests_of_int8(values),
        digests_of_gptq(),
        digests_of_hqq(),
        digests_of_differences(values),
    )
    for digests_of_family in families:
        results |= digests_of_family
    return results


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


def digests_of_small_floats(values: np.ndarray) -> dict[str, str]:
    rng = np.random.default_rng(6)
    anything = rng.integers(0, 256, (ROWS, COLS), dtype=np.uint8)
    scales, ones = anything[:, : COLS // 16].copy(), np.ones((ROWS, 1), np.float32)
    outputs = {
        "decode fp8": kernels.decode_fp8(anything, ones),
        "decode nvfp4": kernels.decode_nvfp4(anything[:, : COLS // 2].copy(), scales, 300.0),
        "decode mxfp4": kernels.decode_mxfp4(anything[:, : COLS // 2].copy(), scales[:, : COLS // 32].copy()),
        "decode mxfp8": kernels.decode_mxfp8(anything, scales[:, : COLS // 32].copy()),
    }
    outputs = {what: np.nan_to_num(decoded, nan=1.5) for what, decoded in outputs.items()}
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        source = np.clip(values, -6e4, 6e4).astype(dtype)
        name = source.dtype.name
        for strategy in ("tensor", "channel", "block"):
            for scale_dtype in ("float32", name):
                codes, scale = kernels.encode_fp8(source, strategy=strategy, scale_dtype=scale_dtype)
                outputs[f"{name} fp8 {strategy} {scale_dtype}"] = codes
                outputs[f"{name} fp8 {strategy} {scale_dtype} scale"] = scale
        for scheme in ("nvfp4", "mxfp4", "mxfp8"):
            codes, scale = getattr(kernels, f"encode_{scheme}")(source)[:2]
            outputs |= {f"{name} {scheme}": codes, f"{name} {scheme} scale": scale}
    return {what: sha256(output) for what, output in outputs.items()}


def digests_of_int8(values: np.ndarray) -> dict[str, str]:
    results = {}
    for axis in (None, 0, 1):
        for symmetric in (False, True):
            parts = kernels.encode_int8_affine(values, axis=axis, symmetric=symmetric)
            decoded = kernels.decode_int8_affine(*parts, axis=axis)
            for what, part in zip(("codes", "scale", "zero_point", "values"), (*parts, decoded), strict=True):
                results[f"int8 axis {axis} symmetric {symmetric} {what}"] = sha256(part)
    return results


def digests_of_differences(values: np.ndarray) -> dict[str, str]:
    results = {}
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        source = np.clip(values, -6e4, 6e4).astype(dtype)
        near = (source.astype(np.float32) * np.float32(1.01)).reshape(-1)
        for block, group in ((16, 256), (100, 100), (COLS, COLS)):
            found = kernels.compare(
                near, source.reshape(-1), block=block, group=group, relative=0.1, group_relative=0.1
            )
            results[f"differences {np.dtype(dtype).name} {block}"] = sha256(np.array(found))
    return results


def digests_of_gptq() -> dict[str, str]:
    rng = np.random.default_rng(6)
    weights = (rng.standard_t(4, (77, 320)) * 10.0 ** rng.integers(-6, 3, (77, 1))).astype(np.float32)
    factor = np.triu(rng.standard_normal((320, 320)) * 0.02, 1).astype(np.float32) + np.eye(320, dtype=np.float32)
    results = {}
    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            for options in ({"group_size": 64}, {"group_size": 20, "mse": 2.4}, {"scale_dtype": "float16"}):
                solution = kernels.solve_gptq(weights, factor, bits=bits, symmetric=symmetric, **options)
                name = f"GPTQ of {bits} bits, symmetric {symmetric}, {options}"
                results |= {f"{name}, {i}": sha256(part) for i, part in enumerate(solution)}
    return results


def digests_of_hqq() -> dict[str, str]:
    rng = np.random.default_rng(5)
    values = (rng.standard_t(4, (ROWS, 784)) * 10.0 ** rng.integers(-6, 3, (ROWS, 1))).astype(np.float32)
    anything = rng.integers(0, 256, (7, 83), dtype=np.uint8)
    words = rng.integers(-(2**31), 2**31, (7, 83), dtype=np.int32)
    results = {}
    for nbits in (1, 2, 3, 4, 5, 6, 8):
        for axis, group_size, compute_dtype in ((1, 16, "float32"), (1, None, "bfloat16"), (0, 56, "float16")):
            for integer_zero in (False, True):
                solved = kernels.solve_hqq(
                    values,
                    nbits=nbits,
                    group_size=group_size,
                    axis=axis,
                    integer_zero=integer_zero,
                    compute_dtype=compute_dtype,
                )
                outputs = dict(zip(("codes", "scale", "zero"), solved, strict=True))
                outputs["decoded"] = kernels.decode_hqq(*solved, values.shape)
                case = f"{nbits}-bit hqq, axis {axis}, {group_size}, {compute_dtype}, {integer_zero=}"
                results |= {f"{case}: {what}": sha256(out) for what, out in outputs.items()}
    for packing, parts in {"8bit_u8": 1, "4bit_u8": 2, "3bit_32": 10, "2bit_u8": 4, "1bit_u8": 8}.items():
        codes = kernels.unpack_hqq(packing, words if packing == "3bit_32" else anything, 7 * parts)
        results |= {f"{packing} codes": sha256(codes), packing: sha256(kernels.pack_hqq(packing, codes))}
    return results


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
