"""Whether a scheme runs in a runtime on a device: each kernel's threshold, shape rule and memory, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quantmill.hardware.verdicts import Verdict

# device, scheme, runtime, verdict, what a reason says: no model, so hardware and format only
HARDWARE = [
    ("H100", "fp8-dynamic", "vllm", "yes", "CUTLASS FP8"),
    ("L4", "fp8-block", "vllm", "yes", "block FP8"),
    ("A100 80GB", "fp8-dynamic", "vllm", "degraded", "FP8 Marlin W8A16"),
    ("RTX 3090", "fp8-block", "vllm", "no", "needs compute capability 8.9, RTX 3090 has 8.6"),
    ("T4", "fp8-dynamic", "vllm", "no", "needs compute capability 8.0, T4 has 7.5"),
    ("MI300X", "fp8-dynamic", "vllm", "yes", "fnuz"),
    ("MI210", "fp8-dynamic", "vllm", "no", "needs one of gfx942, gfx950, MI210 is gfx90a"),
    ("EPYC Genoa", "fp8-dynamic", "vllm", "degraded", "dequantize"),
    ("B200", "nvfp4", "vllm", "yes", "CUTLASS FP4"),
    ("RTX 5090", "mxfp4a16", "vllm", "yes", "MXFP4"),
    ("H100", "nvfp4", "vllm", "degraded", "the 4-bit activations are given up"),
    ("T4", "nvfp4", "vllm", "no", "needs compute capability 8.0"),
    ("MI355X", "nvfp4", "vllm", "no", "not on amd's MI355X"),
    ("A10", "gptq-4bit-g128", "vllm", "yes", "gptq_marlin"),
    ("T4", "gptq-4bit-g128", "vllm", "yes", "gptq (exllama)"),
    ("Tesla P40", "gptq-4bit-g128", "vllm", "yes", "gptq (exllama)"),
    ("MI300X", "gptq-4bit-g128", "vllm", "no", "no GPTQ kernel for ROCm"),
    ("EPYC Milan", "gptq-4bit-g128", "vllm", "yes", "CPU W4A16"),
    ("EPYC Milan", "gptq-8bit-g128", "vllm", "no", "takes 4 bits, not 8"),
    ("T4", "awq-4bit-g128", "vllm", "yes", "awq (gemm)"),
    ("V100", "awq-4bit-g128", "vllm", "no", "needs compute capability 7.5, V100 has 7.0"),
    ("RX 7900 XTX", "awq-4bit-g128", "vllm", "no", "no AWQ kernel for ROCm"),
    ("T4", "gptq-w4a16-g128", "vllm", "no", "needs compute capability 8.0, T4 has 7.5"),
    ("T4", "int8-w8a8", "vllm", "yes", "CUTLASS int8"),
    ("MI300X", "int8-w8a8", "vllm", "no", "not on amd's MI300X"),
    ("A100 80GB", "hqq-4bit-g64", "vllm", "no", "vLLM 0.32 knows no hqq"),
    ("V100", "bnb-nf4", "vllm", "no", "vLLM 0.32 knows no bitsandbytes"),
    ("RTX 4090", "bnb-nf4", "sglang", "yes", "bitsandbytes"),
    ("V100", "bnb-int8", "transformers", "no", "needs compute capability 7.5"),
    ("T4", "bnb-int8", "transformers", "yes", "bitsandbytes"),
    ("Gaudi 3", "bnb-nf4", "transformers", "yes", "bitsandbytes"),
    ("RX 6800", "bnb-nf4", "transformers", "no", "RX 6800 is gfx1030"),
    ("EPYC Genoa", "bnb-nf4", "transformers", "yes", "AVX-512"),
    ("EPYC Milan", "bnb-nf4", "transformers", "degraded", "AVX2"),
    ("Core i7-2600K", "bnb-nf4", "transformers", "no", "needs avx2, which Core i7-2600K is not known to have"),
    ("Tesla K80", "gguf-Q4_K_M", "llama.cpp", "no", "needs compute capability 5.0, Tesla K80 has 3.7"),
    ("Tesla P100", "gguf-Q4_K_M", "llama.cpp", "degraded", "no dp4a"),
    ("GTX 1080", "gguf-Q4_K_M", "llama.cpp", "yes", "dp4a"),
    ("H100", "gguf-Q4_K_M", "vllm", "degraded", "experimental"),
    ("EPYC Genoa", "gguf-Q4_K_M", "vllm", "no", "no GGUF kernels for processors"),
    ("Xeon Sapphire Rapids", "gguf-Q4_K_M", "llama.cpp", "yes", "AMX"),
    ("Core i7-8700K", "gguf-Q4_K_M", "llama.cpp", "yes", "AVX2"),
    ("Raspberry Pi 4", "gguf-Q4_K_M", "llama.cpp", "degraded", "no dot products"),
    ("M4 Max", "gguf-Q4_K_M", "mlx", "degraded", "become 16-bit floats"),
    ("Arc B580", "gguf-Q4_K_M", "llama.cpp", "yes", "SYCL"),
    ("RTX 3090", "gptq-4bit-g128", "exllama", "yes", "ExLlamaV2"),
    ("RTX 3090", "gptq-8bit-g128", "exllama", "no", "takes 4 bits, not 8"),
    ("MI300X", "gptq-4bit-g128", "exllama", "degraded", "accuracy issues"),
    ("RTX 3090", "fp8-dynamic", "tgi", "no", "needs compute capability 9.0"),
    ("H100", "fp8-dynamic", "tensorrt-llm", "no", "ModelOpt"),
    ("Xeon Cascade Lake", "onnx-int8-dynamic", "onnxruntime", "yes", "VNNI"),
    ("EPYC Milan", "onnx-int8-dynamic", "onnxruntime", "yes", "reduce_range"),
    ("Graviton2", "onnx-int8-dynamic", "onnxruntime", "yes", "dot products"),
    ("RTX 4090", "onnx-int8-dynamic", "onnxruntime", "degraded", "few 8-bit operators"),
    ("M2", "mlx-4bit", "mlx", "yes", "Metal"),
    ("RTX 4090", "mlx-4bit", "mlx", "no", "not on nvidia's RTX 4090"),
    ("RTX 4090", "mlx-4bit", "vllm", "no", "vllm is not known to load mlx"),
    ("Edge TPU", "onnx-int8-dynamic", "onnxruntime", "no", "Edge TPU is a npu"),
    ("RTX 4090", "gguf-Q4_K_M", "frobnicate", "no", "no runtime is named 'frobnicate'"),
]  # fmt: skip

# device, count, RAM in GB, scheme, runtime, model, context, verdict, what a reason says
MODELS = [
    ("RTX 4090", 1, None, "gguf-Q4_K_M", "llama.cpp", "8B", 8192, "yes", "KV cache 1.1 GB for 1 x 8192 tokens"),
    ("RTX 4090", 1, 64, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "degraded", "40 of 80 layers on the GPU (-ngl 40)"),
    ("RTX 4090", 1, None, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "degraded", "the memory of the host is not known"),
    ("RTX 4090", 1, 8, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "no", "missing on RTX 4090 with its RAM"),
    ("RTX 4090", 2, None, "gguf-Q4_K_M", "llama.cpp", "70B", 2048, "yes", "needs 43.9 GB"),
    ("RTX A6000", 1, None, "gguf-Q4_K_S", "llama.cpp", "70B", 8192, "yes", "needs 4"),
    ("RTX 4090", 1, None, "awq-4bit-g128", "vllm", "70B", 8192, "no", "22.7 GB missing on RTX 4090"),
    ("RTX 4090", 2, None, "awq-4bit-g128", "vllm", "70B", 8192, "no", "missing on 2 x RTX 4090"),
    ("RTX 4090", 4, None, "awq-4bit-g128", "vllm", "70B", 8192, "yes", "cut over 4 devices"),
    ("A100 80GB", 1, None, "awq-4bit-g128", "vllm", "70B", 8192, "yes", "weights 39.8 GB"),
    ("RTX 3090", 1, None, "gptq-4bit-g128", "vllm", "odd", 4096, "yes", "gptq (exllama)"),  # 2880 % 128: no Marlin
    ("RTX 3090", 1, None, "gptq-w4a16-g128", "vllm", "odd", 4096, "no", "2880 inputs are no multiple of 128"),
    ("H100", 1, None, "fp8-block", "vllm", "odd", 4096, "no", "2880 inputs are no multiple of 128"),
    ("H100", 1, None, "fp8-dynamic", "vllm", "odd", 4096, "yes", "CUTLASS FP8"),
    ("T4", 1, None, "gptq-4bit-g128", "vllm", "8x7B", 4096, "no", "no mixtures of experts"),
    ("A100 80GB", 1, None, "gptq-4bit-g128", "vllm", "8x7B", 4096, "yes", "gptq_marlin"),
    ("H100", 8, None, "fp8-dynamic", "vllm", "MLA", 8192, "no", "missing on 8 x H100"),
    ("H200", 8, None, "fp8-dynamic", "vllm", "MLA", 8192, "yes", "KV cache 0.6 GB"),  # the latent is cached
    ("M2 Max 64GB", 1, None, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "yes", "Metal"),
    ("M1 16GB", 1, None, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "no", "missing on M1"),
    ("EPYC Genoa", 1, 64, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "yes", "AVX-512 VNNI"),
    ("EPYC Genoa", 1, 32, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "no", "missing on EPYC 9654"),
    ("EPYC Genoa", 1, None, "gguf-Q4_K_M", "llama.cpp", "70B", 8192, "yes", "it must have 45.3 GB free"),
    ("RTX 3090", 1, None, "gguf-Q4_K_M", "transformers", "13B", 2048, "no", "dequantize: needs"),  # 16 bits in memory
    ("RTX 3090", 1, None, "gguf-Q4_K_M", "llama.cpp", "13B", 2048, "yes", "weights 7.8 GB"),
    ("RTX 3090", 1, None, "gguf-Q4_K_M", "llama.cpp", "13B", 8192, "degraded", "made for 4096 tokens; 8192 are beyond"),
    ("B300", 1, None, "nvfp4a16", "vllm", "70B", 8192, "yes", "the memory of B300 is not known"),
    ("Inferentia2", 1, None, "gguf-Q4_K_M", "llama.cpp", "8B", 8192, "no", "Inferentia2 is a npu"),
]  # fmt: skip


@pytest.mark.parametrize(("device", "scheme", "runtime", "answer", "reason"), HARDWARE)
def test_hardware_decides(
    verdict: Callable[..., Verdict], device: str, scheme: str, runtime: str, answer: str, reason: str
) -> None:
    found = verdict(device, scheme, runtime)

    assert found.answer == answer, found.reasons
    assert any(reason in each for each in found.reasons), found.reasons
    assert bool(found.nearest) == (answer == "no")


@pytest.mark.parametrize(
    ("device", "count", "ram", "scheme", "runtime", "model", "context", "answer", "reason"), MODELS
)
def test_the_model_decides(
    verdict: Callable[..., Verdict],
    device: str,
    count: int,
    ram: float | None,
    scheme: str,
    runtime: str,
    model: str,
    context: int,
    answer: str,
    reason: str,
) -> None:
    found = verdict(device, scheme, runtime, model, count=count, ram=ram, context=context)

    assert found.answer == answer, found.reasons
    assert any(reason in each for each in found.reasons), found.reasons
    assert bool(found.nearest) == (answer == "no")


NEAREST = [
    ("RTX 4090", "awq-4bit-g128", "vllm", "70B", "awq-4bit-g128 in vllm on "),
    ("RTX 4090", "gguf-Q4_K_M", "mlx", "8B", "gguf-Q4_K_M in llama.cpp on this machine"),
    ("T4", "hqq-4bit-g64", "vllm", "8B", "hqq-4bit-g64 in transformers on this machine"),
    ("Edge TPU", "onnx-int8-dynamic", "onnxruntime", "8B", "onnx-int8-dynamic in onnxruntime on "),
    ("M1", "fp8-block", "vllm", "8B", "fp8-block in vllm on "),
    ("RTX 4090", "gguf-Q4_K_M", "nonsense", None, "gguf-Q4_K_M in llama.cpp on this machine"),
]


@pytest.mark.parametrize(("device", "scheme", "runtime", "model", "nearest"), NEAREST)
def test_a_no_comes_with_the_nearest_thing_that_works(
    verdict: Callable[..., Verdict], device: str, scheme: str, runtime: str, model: str | None, nearest: str
) -> None:
    assert verdict(device, scheme, runtime, model).nearest.startswith(nearest)


def test_a_shorter_context_is_offered_where_that_is_enough(verdict: Callable[..., Verdict]) -> None:
    found = verdict("RTX 3090", "gptq-4bit-g128", "vllm", "8B", context=131072)

    assert (found.answer, found.missing > 0) == ("no", True)
    assert "on this machine" in found.nearest
