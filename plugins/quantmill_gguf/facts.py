"""Where GGUF runs: llama.cpp's back ends and the other programs that read its files.

Sizes: bits per weight of llama-quantize's mixes over the Linears of Llama-3-8B. Quality: the increase of perplexity
that llama-quantize's own help quotes for that model. Hardware: ggml-cuda and ggml-cpu of llama.cpp c392e50.
"""

from __future__ import annotations

from quantmill.contract.facts import Fact, FormatFacts, HardwareNeed, Measured, Scheme, ShapeRule

HELP = "llama.cpp, tools/quantize help: Llama-3-8B"
MIXES = "llama.cpp, llama_tensor_get_type"

# file type -> bits of a code, of a Linear's weight, of the embedding, of the output matrix; quoted perplexity increase.
# Left out: Q2_K_S, which needs a file beside the model; MXFP4_MOE, whose size hangs on the share of the experts; TQ1_0
# and TQ2_0, which ruin a model that was not trained ternary, and would be chosen as the smallest.
SIZES: dict[str, tuple[int, float, float, float, float | None]] = {
    "F32": (32, 32, 32, 32, None),
    "F16": (16, 16, 16, 16, None),
    "BF16": (16, 16, 16, 16, None),
    "Q8_0": (8, 8.5, 8.5, 8.5, 0.0026),
    "Q6_K": (6, 6.5625, 6.5625, 6.5625, 0.022),
    "Q5_K_M": (5, 5.653, 5.5, 6.5625, 0.057),
    "Q5_K_S": (5, 5.5, 5.5, 6.5625, 0.105),
    "Q5_1": (5, 6.0, 6.0, 6.5625, None),
    "Q5_0": (5, 5.5, 5.5, 6.5625, None),
    "Q4_K_M": (4, 4.797, 4.5, 6.5625, 0.175),
    "Q4_K_S": (4, 4.536, 4.5, 6.5625, 0.269),
    "Q4_1": (4, 5.0, 5.0, 6.5625, None),
    "Q4_0": (4, 4.5, 4.5, 6.5625, 0.469),
    "IQ4_NL": (4, 4.553, 4.5, 6.5625, None),
    "IQ4_XS": (4, 4.316, 4.25, 6.5625, None),
    "Q3_K_L": (3, 4.191, 3.4375, 6.5625, 0.556),
    "Q3_K_M": (3, 3.844, 3.4375, 6.5625, 0.657),
    "Q3_K_S": (3, 3.4375, 3.4375, 6.5625, 1.63),
    "Q2_K": (2, 2.942, 2.625, 6.5625, 3.52),
}


def _scheme(name: str) -> Scheme:
    bits, linear, embedding, output, increase = SIZES[name]
    quality = () if increase is None else (Measured("perplexity increase", increase, HELP),)
    return Scheme(
        name=f"gguf-{name}",
        method="gguf",
        params={"type": name},
        format="gguf",
        bits=bits,
        linear_bits=linear,
        embedding_bits=embedding,
        output_bits=output,
        source=MIXES,
        quality=quality,
    )


def _fact(runtime: str, hardware: HardwareNeed, support: str, kernel: str, source: str, **more: object) -> Fact:
    return Fact("gguf", runtime, hardware, support, kernel, source, **more)  # type: ignore[arg-type]


CUDA, CPU_SOURCE, DOCS = "llama.cpp ggml-cuda", "llama.cpp ggml-cpu", "llama.cpp docs, build.md"
OLLAMA = "Ollama docs, gpu.md"


def _cpu(*features: str) -> HardwareNeed:
    return HardwareNeed("cpu", features=features)


def _nvidia(compute_capability: float) -> HardwareNeed:
    return HardwareNeed("gpu", ("nvidia",), compute_capability)


AMD_TARGETS = (
    "gfx908",
    "gfx90a",
    "gfx942",
    "gfx950",
    "gfx906",
    "gfx1030",
    "gfx1031",
    "gfx1100",
    "gfx1101",
    "gfx1102",
    "gfx1151",
    "gfx1201",
)
AMD = HardwareNeed("gpu", ("amd",), architectures=AMD_TARGETS)
LARGE_OR_LEGACY = ShapeRule(bits=(2, 3, 4, 5, 6, 8), note="one file; no TQ, no MXFP4")

FACTS = (
    _fact("llama.cpp", _nvidia(7.0), "native", "CUDA, tensor cores", CUDA),
    _fact("llama.cpp", _nvidia(6.1), "native", "CUDA, dp4a", CUDA),
    _fact("llama.cpp", _nvidia(5.0), "emulated", "CUDA, dequantize", CUDA, note="no dp4a below compute capability 6.1"),
    _fact("llama.cpp", AMD, "native", "HIP: MFMA, WMMA or dp4a", "llama.cpp ggml-cuda, HIP targets"),
    _fact("llama.cpp", HardwareNeed("gpu", ("amd",)), "emulated", "Vulkan", DOCS),
    _fact("llama.cpp", HardwareNeed("gpu", ("apple",)), "native", "Metal", DOCS),
    _fact("llama.cpp", HardwareNeed("gpu", ("intel",)), "native", "SYCL", DOCS),
    _fact("llama.cpp", _cpu("avx512f", "avx512_vnni", "amx_int8"), "native", "AMX", CPU_SOURCE),
    _fact("llama.cpp", _cpu("avx512f", "avx512_vnni"), "native", "AVX-512 VNNI", CPU_SOURCE),
    _fact("llama.cpp", _cpu("avx2"), "native", "AVX2", CPU_SOURCE, note="Q4_0 is repacked for 8 rows at a time"),
    _fact("llama.cpp", _cpu("avx"), "emulated", "AVX", CPU_SOURCE, note="the baseline: runs, slowly"),
    _fact("llama.cpp", _cpu("asimd", "i8mm"), "native", "NEON i8mm", CPU_SOURCE, note="Q4_0 and IQ4_NL are repacked"),
    _fact("llama.cpp", _cpu("asimd", "asimddp"), "native", "NEON dot products", CPU_SOURCE, note="Q4_0 is repacked"),
    _fact("llama.cpp", _cpu("asimd"), "emulated", "NEON", CPU_SOURCE, note="no dot products: runs, slowly"),
    _fact("ollama", _nvidia(6.1), "native", "llama.cpp CUDA", OLLAMA),
    _fact("ollama", _nvidia(5.0), "emulated", "llama.cpp CUDA", OLLAMA, note="no dp4a below compute capability 6.1"),
    _fact("ollama", AMD, "native", "llama.cpp HIP", OLLAMA),
    _fact("ollama", HardwareNeed("gpu", ("apple",)), "native", "Metal", OLLAMA),
    _fact("ollama", _cpu("avx2"), "native", "llama.cpp AVX2", OLLAMA),
    _fact("ollama", _cpu("asimd", "asimddp"), "native", "llama.cpp NEON", OLLAMA),
    _fact("vllm", _nvidia(6.0), "emulated", "gguf", "vLLM gguf.py@00620f9", rule=LARGE_OR_LEGACY,
          note="experimental; slower than vLLM's own formats",
          speed=Measured("output speed, 16 bits = 1", 0.20,
                         "JarvisLabs benchmark: vLLM 0.6, Llama-3.1-8B-Instruct, output tokens a second")),
    _fact("vllm", HardwareNeed("gpu", ("amd",), architectures=("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101")),
          "emulated", "gguf", "vLLM docs, features/quantization: supported hardware", rule=LARGE_OR_LEGACY,
          note="experimental; slower than vLLM's own formats"),
    _fact("vllm", HardwareNeed("cpu"), "unsupported", "", "vLLM docs, features/quantization: supported hardware",
          note="vLLM has no GGUF kernels for processors"),
    _fact("transformers", HardwareNeed("cpu"), "emulated", "dequantize", "Transformers docs, GGUF: gguf_file=",
          unpacks=True),
    _fact("transformers", _nvidia(6.0), "emulated", "dequantize", "Transformers docs, GGUF: gguf_file=",
          unpacks=True, note="weights are unpacked to floats on loading"),
    _fact("mlx", HardwareNeed("gpu", ("apple",)), "emulated", "mlx.core.load", "MLX docs, mlx.core.load: GGUF",
          unpacks=True, note="types other than Q4_0, Q4_1 and Q8_0 become 16-bit floats"),
)  # fmt: skip

GGUF_FACTS = FormatFacts(tuple(map(_scheme, SIZES)), FACTS)
