"""Variants of formats that quantmill knows beside those that plugins tell of. Sizes follow from each layout."""

from __future__ import annotations

from typing import Any

from quantmill.contract.facts import Measured, Scheme

BENCHMARK = "JarvisLabs benchmark: vLLM 0.6, Llama-3.1-8B-Instruct, WikiText-2 word perplexity, 16 bits: 6.56"


def scheme(
    name: str, method: str, layout: str, bits: int, linear_bits: float, source: str, *, outside: float = 16, **more: Any
) -> Scheme:
    """A scheme that leaves embedding and output matrix at `outside` bits."""
    params = more.pop("params", {})
    return Scheme(name, method, params, layout, bits, linear_bits, outside, outside, source, **more)


def perplexity(value: float) -> tuple[Measured, ...]:
    return (Measured("perplexity", value, BENCHMARK),)


GROUPED = "bits per weight: codes plus a 16-bit scale and a zero point a group"

SCHEMES = (
    scheme("gptq-4bit-g128", "gptq", "gptq", 4, 4.156, GROUPED, group_size=128, quality=perplexity(6.90),
           params={"bits": 4, "group_size": 128, "sym": True, "desc_act": False}),
    scheme("gptq-8bit-g128", "gptq", "gptq", 8, 8.188, GROUPED, group_size=128,
           params={"bits": 8, "group_size": 128, "sym": True, "desc_act": False}),
    scheme("gptq-w4a16-g128", "gptq", "compressed-tensors/int", 4, 4.125, "compressed-tensors pack-quantized layout",
           group_size=128, params={"bits": 4, "group_size": 128, "sym": True, "format": "compressed-tensors"}),
    scheme("awq-4bit-g128", "awq", "awq", 4, 4.156, GROUPED, group_size=128, symmetric=False, quality=perplexity(6.84),
           params={"bits": 4, "group_size": 128, "zero_point": True, "format": "gemm"}),
    scheme("awq-w4a16-g128", "awq", "compressed-tensors/int", 4, 4.156, "compressed-tensors pack-quantized layout",
           group_size=128, symmetric=False,
           params={"bits": 4, "group_size": 128, "zero_point": True, "format": "compressed-tensors"}),
    scheme("hqq-4bit-g64", "hqq", "hqq", 4, 4.5, GROUPED, group_size=64, symmetric=False,
           params={"nbits": 4, "group_size": 64, "axis": 1}),
    scheme("hqq-3bit-g64", "hqq", "hqq", 3, 3.7, "HQQ packs ten 3-bit codes into 32 bits", group_size=64,
           symmetric=False, params={"nbits": 3, "group_size": 64, "axis": 1}),
    scheme("hqq-2bit-g64", "hqq", "hqq", 2, 2.5, GROUPED, group_size=64, symmetric=False,
           params={"nbits": 2, "group_size": 64, "axis": 1},
           note="2 bits lose much in groups of 64; groups of 16 cost 4 bits a weight"),
    scheme("bnb-nf4", "bnb", "bitsandbytes", 4, 4.127, "NF4 blocks of 64 with double quantization", group_size=64,
           quality=perplexity(6.67), params={"quant_type": "nf4", "double_quant": True, "block_size": 64}),
    scheme("bnb-int8", "bnb", "bitsandbytes", 8, 8.01, "LLM.int8: one scale a row", params={"quant_type": "int8"}),
    scheme("fp8-dynamic", "fp8", "compressed-tensors/fp8", 8, 8.01, "E4M3, one scale an output channel",
           params={"scheme": "FP8_DYNAMIC"}),
    scheme("fp8-static", "fp8", "compressed-tensors/fp8", 8, 8.01, "E4M3, one scale an output channel",
           params={"scheme": "FP8"}, note="activations have one scale a Linear: needs calibration"),
    scheme("fp8-block", "fp8", "compressed-tensors/fp8-block", 8, 8.01, "E4M3, one scale for 128 x 128",
           params={"scheme": "FP8_BLOCK"}),
    scheme("nvfp4", "", "compressed-tensors/nvfp4", 4, 4.5, "E2M1 with an E4M3 scale for 16", group_size=16,
           note="activations in 4 bits too: needs calibration"),
    scheme("nvfp4a16", "fp8", "compressed-tensors/nvfp4a16", 4, 4.5, "E2M1 with an E4M3 scale for 16", group_size=16,
           params={"scheme": "NVFP4A16"}),
    scheme("mxfp4a16", "fp8", "compressed-tensors/mxfp4", 4, 4.25, "E2M1 with an E8M0 scale for 32", group_size=32,
           params={"scheme": "MXFP4A16"}),
    scheme("int8-w8a8", "", "compressed-tensors/int8", 8, 8.01, "int8, one scale an output channel"),
    scheme("onnx-int8-dynamic", "onnx", "onnx", 8, 8.01, "int8 weights, embeddings stay in 32 bits", outside=32,
           params={"mode": "dynamic", "per_channel": True}),
    scheme("onnx-4bit", "onnx", "onnx", 4, 4.28, "MatMulNBits, blocks of 128 with 32-bit scales", outside=32,
           group_size=128, symmetric=False, params={"mode": "dynamic", "weight_bits": 4}),
    scheme("mlx-4bit", "", "mlx", 4, 4.5, "MLX affine quantization, groups of 64", outside=4.5, group_size=64),
)  # fmt: skip
