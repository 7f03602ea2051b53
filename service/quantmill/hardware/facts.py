"""Which runtime runs which format on which hardware, beside what plugins tell of their own formats.

Commits behind the sources: vLLM's thresholds were read from gptq_marlin@00161ce, marlin_utils@007d500, awq@000796a,
awq_marlin@0322f29, wNa16@519b90d, w8a8_fp8@00cb05c, w4a4_nvfp4@85f1f91, w4a4_mxfp4@ac2c039, fp8@0071b24 and
the table in docs/features/quantization@50feac9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quantmill.contract.facts import Fact, FormatFacts, HardwareNeed, Measured, Scheme, ShapeRule
from quantmill.hardware.schemes import SCHEMES

BENCHMARK = "JarvisLabs benchmark: vLLM 0.6, Llama-3.1-8B-Instruct, output tokens a second"

ANY_GPU = HardwareNeed("gpu")
OTHER_GPUS = HardwareNeed("gpu", ("amd", "intel", "apple"))
X86 = HardwareNeed("cpu", features=("avx2",))
ARM = HardwareNeed("cpu", features=("asimd",))
CPU = HardwareNeed("cpu")
APPLE = HardwareNeed("gpu", ("apple",))
INTEL = HardwareNeed("gpu", ("intel",))
MI300 = HardwareNeed("gpu", ("amd",), architectures=("gfx942", "gfx950"))
BNB_AMD = HardwareNeed(
    "gpu",
    ("amd",),
    architectures=("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150",
                   "gfx1151", "gfx1200", "gfx1201"),
)  # fmt: skip


def nvidia(compute_capability: float) -> HardwareNeed:
    return HardwareNeed("gpu", ("nvidia",), compute_capability)


def marlin_speed(times: float) -> Measured:
    return Measured("output speed, 16 bits = 1", times, BENCHMARK)


def row(layout: str, runtime: str, hardware: HardwareNeed, support: Any, kernel: str, source: str, **more: Any) -> Fact:
    return Fact(layout, runtime, hardware, support, kernel, source, **more)


MARLIN = ShapeRule(inputs=128, outputs=64, bits=(4, 8), group_sizes=(-1, 32, 64, 128), symmetric_only=True)
EXLLAMA = ShapeRule(inputs=32, outputs=32, bits=(4,), group_sizes=(-1, 32, 64, 128))
VLLM_EXLLAMA = ShapeRule(inputs=32, outputs=8, bits=(2, 3, 4, 8), experts=False, note="float16 activations only")
AWQ_GEMM = ShapeRule(outputs=8, bits=(4,))
AWQ_MARLIN = ShapeRule(inputs=128, outputs=64, bits=(4,), group_sizes=(-1, 32, 64, 128))
WNA16 = ShapeRule(inputs=128, outputs=64, bits=(4, 8), group_sizes=(-1, 32, 64, 128))
FOUR_BITS = ShapeRule(bits=(4,))
EIGHT_BITS = ShapeRule(bits=(8,))
FP8_BLOCKS = ShapeRule(inputs=128, outputs=128)
NVFP4_GROUPS = ShapeRule(inputs=16)
MX_GROUPS = ShapeRule(inputs=32)

VLLM_TABLE = "vLLM docs, features/quantization: supported hardware"
METHODS_OF_VLLM = "vLLM 0.32, layers/quantization: QuantizationMethods"
MODELOPT = "TensorRT-LLM docs: quantized checkpoints are NVIDIA ModelOpt's; others were not established"

VLLM = (
    row("gptq", "vllm", nvidia(8.0), "native", "gptq_marlin", "vLLM gptq_marlin.py, marlin_utils.py", rule=MARLIN,
        speed=marlin_speed(1.54), note="newer versions take compute capability 7.5"),
    row("gptq", "vllm", nvidia(6.0), "native", "gptq (exllama)", "vLLM gptq.py", rule=VLLM_EXLLAMA,
        speed=marlin_speed(0.60)),
    row("gptq", "vllm", X86, "native", "CPU W4A16", f"vLLM CPU build loaded GPTQ v1; {VLLM_TABLE}", rule=FOUR_BITS),
    row("gptq", "vllm", HardwareNeed("gpu", ("amd",)), "unsupported", "", VLLM_TABLE,
        note="vLLM has no GPTQ kernel for ROCm"),
    row("awq", "vllm", nvidia(8.0), "native", "awq_marlin", "vLLM awq_marlin.py", rule=AWQ_MARLIN,
        speed=marlin_speed(1.61)),
    row("awq", "vllm", nvidia(7.5), "native", "awq (gemm)", "vLLM awq.py", rule=AWQ_GEMM, speed=marlin_speed(0.15)),
    row("awq", "vllm", X86, "native", "CPU W4A16", f"vLLM CPU build loaded AWQ GEMM; {VLLM_TABLE}", rule=FOUR_BITS),
    row("awq", "vllm", HardwareNeed("gpu", ("amd",)), "unsupported", "", VLLM_TABLE,
        note="vLLM has no AWQ kernel for ROCm"),
    row("hqq", "vllm", ANY_GPU, "unsupported", "", METHODS_OF_VLLM,
        note="vLLM 0.32 knows no hqq; the method's format compressed-tensors loads"),
    row("bitsandbytes", "vllm", ANY_GPU, "unsupported", "", METHODS_OF_VLLM, note="vLLM 0.32 knows no bitsandbytes"),
    row("compressed-tensors/int", "vllm", nvidia(8.0), "native", "WNA16 Marlin", "vLLM compressed_tensors wNa16.py",
        rule=WNA16),
    row("compressed-tensors/int", "vllm", X86, "native", "CPU W4A16",
        "vLLM CPU build 0.32 loaded pack-quantized W4A16"),
    row("compressed-tensors/int8", "vllm", nvidia(7.5), "native", "CUTLASS int8", VLLM_TABLE),
    row("compressed-tensors/int8", "vllm", X86, "native", "oneDNN int8", VLLM_TABLE),
    row("compressed-tensors/fp8", "vllm", nvidia(8.9), "native", "CUTLASS FP8", "vLLM w8a8_fp8.py"),
    row("compressed-tensors/fp8", "vllm", nvidia(8.0), "emulated", "FP8 Marlin W8A16", "vLLM fp8.py",
        note="weights in 8 bits, activations and arithmetic in 16"),
    row("compressed-tensors/fp8", "vllm", MI300, "native", "hipBLASLt FP8", VLLM_TABLE,
        note="E4M3 is converted to fnuz on MI300"),
    row("compressed-tensors/fp8", "vllm", X86, "emulated", "dequantize", "vLLM CPU build 0.32 loaded FP8_DYNAMIC",
        unpacks=True),
    row("compressed-tensors/fp8-block", "vllm", nvidia(8.9), "native", "block FP8", "vLLM w8a8_fp8.py",
        rule=FP8_BLOCKS),
    row("compressed-tensors/nvfp4", "vllm", nvidia(10.0), "native", "CUTLASS FP4", "vLLM w4a4_nvfp4.py",
        rule=NVFP4_GROUPS),
    row("compressed-tensors/nvfp4", "vllm", nvidia(8.0), "emulated", "FP4 Marlin W4A16", "vLLM w4a4_nvfp4.py",
        rule=NVFP4_GROUPS, note="the 4-bit activations are given up"),
    row("compressed-tensors/nvfp4a16", "vllm", nvidia(10.0), "native", "FP4 Marlin",
        "llm-compressor docs, choosing a scheme",
        rule=NVFP4_GROUPS),
    row("compressed-tensors/nvfp4a16", "vllm", nvidia(8.0), "emulated", "FP4 Marlin W4A16", "vLLM w4a4_nvfp4.py",
        rule=NVFP4_GROUPS, note="no FP4 instructions: unpacked to 16 bits"),
    row("compressed-tensors/mxfp4", "vllm", nvidia(10.0), "native", "MXFP4", "vLLM w4a4_mxfp4.py", rule=MX_GROUPS),
    row("compressed-tensors/mxfp4", "vllm", nvidia(8.0), "emulated", "emulation", "vLLM w4a4_mxfp4.py", rule=MX_GROUPS,
        note="no FP4 instructions: unpacked to 16 bits"),
)  # fmt: skip

SGLANG_DOCS = "SGLang docs, quantization; kernels shared with vLLM"
SGLANG = (
    row("gptq", "sglang", nvidia(8.0), "native", "gptq_marlin", SGLANG_DOCS, rule=MARLIN),
    row("awq", "sglang", nvidia(8.0), "native", "awq_marlin", SGLANG_DOCS, rule=AWQ_MARLIN),
    row("compressed-tensors/int", "sglang", nvidia(8.0), "native", "WNA16 Marlin", SGLANG_DOCS, rule=WNA16),
    row("compressed-tensors/int8", "sglang", nvidia(8.0), "native", "w8a8_int8", SGLANG_DOCS),
    row("compressed-tensors/fp8", "sglang", nvidia(8.9), "native", "w8a8_fp8", SGLANG_DOCS),
    row("compressed-tensors/fp8", "sglang", MI300, "native", "w8a8_fp8", SGLANG_DOCS),
    row("bitsandbytes", "sglang", nvidia(8.0), "native", "bitsandbytes", SGLANG_DOCS, rule=FOUR_BITS),
)  # fmt: skip

TGI_DOCS = "TGI docs, launcher --quantize"
TGI = (
    row("gptq", "tgi", nvidia(8.0), "native", "Marlin", TGI_DOCS, rule=MARLIN),
    row("gptq", "tgi", nvidia(7.5), "native", "ExLlama", TGI_DOCS, rule=EXLLAMA),
    row("awq", "tgi", nvidia(8.0), "native", "Marlin", TGI_DOCS, rule=AWQ_MARLIN),
    row("bitsandbytes", "tgi", nvidia(7.5), "native", "bitsandbytes", TGI_DOCS),
    row("compressed-tensors/fp8", "tgi", nvidia(9.0), "native", "FP8", f"{TGI_DOCS}: H100 and above"),
)  # fmt: skip

TRANSFORMERS = (
    row("gptq", "transformers", nvidia(7.5), "native", "GPTQModel Marlin", "GPTQModel README: kernels", rule=MARLIN,
        minimum_version="gptqmodel 1.4.3, optimum 1.24"),
    row("gptq", "transformers", nvidia(6.0), "emulated", "GPTQModel Torch", "GPTQModel README: kernels",
        minimum_version="gptqmodel 1.4.3, optimum 1.24"),
    row("gptq", "transformers", X86, "emulated", "GPTQModel Torch", "GPTQModel README: kernels",
        minimum_version="gptqmodel 1.4.3, optimum 1.24"),
    row("gptq", "transformers", INTEL, "native", "GPTQModel IPEX", "vLLM and GPTQModel: Intel XPU", rule=FOUR_BITS),
    row("awq", "transformers", nvidia(7.5), "native", "GPTQModel AWQ",
        "Transformers 5 docs, AWQ: loads through gptqmodel",
        rule=AWQ_GEMM, minimum_version="transformers 5 with gptqmodel"),
    row("awq", "transformers", INTEL, "native", "AWQ IPEX", f"{VLLM_TABLE}; Intel GPU", rule=AWQ_GEMM),
    row("hqq", "transformers", nvidia(6.0), "native", "hqq, torchao", "HQQ README", minimum_version="transformers 4.57",
        note="transformers 5 appears not to load it"),
    row("hqq", "transformers", CPU, "emulated", "dequantize", "HQQ README", minimum_version="transformers 4.57",
        note="transformers 5 appears not to load it"),
    row("bitsandbytes", "transformers", nvidia(7.5), "native", "bitsandbytes", "bitsandbytes docs, installation",
        rule=EIGHT_BITS),
    row("bitsandbytes", "transformers", nvidia(6.0), "native", "bitsandbytes", "bitsandbytes docs, installation",
        rule=FOUR_BITS, note="wheels for CUDA 13 need compute capability 7.5"),
    row("bitsandbytes", "transformers", BNB_AMD, "native", "bitsandbytes",
        "bitsandbytes docs, installation: ROCm targets"),
    row("bitsandbytes", "transformers", INTEL, "native", "bitsandbytes", "bitsandbytes docs, installation: Intel XPU"),
    row("bitsandbytes", "transformers", HardwareNeed("npu", ("intel",), architectures=("Gaudi",)), "native",
        "bitsandbytes",
        "bitsandbytes docs, installation: Gaudi", rule=FOUR_BITS),
    row("bitsandbytes", "transformers", HardwareNeed("cpu", features=("avx512f",)), "native", "bitsandbytes AVX-512",
        "bitsandbytes docs, installation"),
    row("bitsandbytes", "transformers", X86, "emulated", "bitsandbytes AVX2", "bitsandbytes docs, installation"),
    row("bitsandbytes", "transformers", ARM, "emulated", "bitsandbytes aarch64", "bitsandbytes docs, installation"),
    *(
        row(layout, "transformers", hardware, "emulated", "dequantize", "Transformers docs, compressed-tensors",
            unpacks=True)
        for layout in ("compressed-tensors/int", "compressed-tensors/int8", "compressed-tensors/fp8")
        for hardware in (nvidia(6.0), OTHER_GPUS, CPU)
    ),
)  # fmt: skip

OTHERS = (
    row("gptq", "exllama", nvidia(6.0), "native", "ExLlamaV2", "ExLlamaV2 README; GPTQModel README: in and out % 32",
        rule=EXLLAMA),
    row("gptq", "exllama", HardwareNeed("gpu", ("amd",)), "emulated", "ExLlamaV2 (HIP)",
        "GPTQModel: accuracy issues on ROCm",
        rule=EXLLAMA, note="GPTQModel reports accuracy issues of ExLlamaV2 on ROCm"),
    row("gptq", "tensorrt-llm", ANY_GPU, "unsupported", "", MODELOPT, note="it reads NVIDIA ModelOpt's checkpoints"),
    row("awq", "tensorrt-llm", ANY_GPU, "unsupported", "", MODELOPT, note="it reads NVIDIA ModelOpt's checkpoints"),
    row("compressed-tensors/fp8", "tensorrt-llm", ANY_GPU, "unsupported", "", MODELOPT,
        note="it reads NVIDIA ModelOpt's checkpoints"),
    row("compressed-tensors/nvfp4", "tensorrt-llm", ANY_GPU, "unsupported", "", MODELOPT,
        note="it reads NVIDIA ModelOpt's checkpoints"),
    row("onnx", "onnxruntime", HardwareNeed("cpu", features=("avx512_vnni",)), "native", "MLAS VNNI",
        "ONNX Runtime quantize.py and docs, quantization"),
    row("onnx", "onnxruntime", HardwareNeed("cpu", features=("avx_vnni",)), "native", "MLAS AVX-VNNI",
        "ONNX Runtime quantize.py and docs, quantization"),
    row("onnx", "onnxruntime", X86, "native", "MLAS AVX2", "ONNX Runtime quantize.py and docs, quantization",
        note="without VNNI 8-bit sums may saturate: quantize with reduce_range"),
    row("onnx", "onnxruntime", HardwareNeed("cpu", features=("asimddp",)), "native", "MLAS dot products",
        "ONNX Runtime quantize.py and docs, quantization"),
    row("onnx", "onnxruntime", nvidia(6.0), "emulated", "CUDA provider",
        "ONNX Runtime docs: the CUDA provider runs few 8-bit operators",
        rule=EIGHT_BITS),
    row("onnx", "onnxruntime", nvidia(7.0), "native", "CUDA MatMulNBits", "ONNX Runtime docs, MatMulNBits",
        rule=FOUR_BITS),
    row("mlx", "mlx", APPLE, "native", "Metal", "MLX docs"),
)  # fmt: skip

KNOWN = FormatFacts(SCHEMES, (*VLLM, *SGLANG, *TGI, *TRANSFORMERS, *OTHERS))


def combine(told: Iterable[FormatFacts]) -> FormatFacts:
    """What quantmill knows with what plugins tell: a plugin's word on a scheme, or on a format in a runtime, wins.

    Sorted, so that the answer does not depend on the order of plugins.
    """
    schemes: dict[str, Scheme] = {each.name: each for each in KNOWN.schemes}
    facts: dict[tuple[str, str], tuple[Fact, ...]] = {}
    for source in (KNOWN, *told):
        schemes |= {each.name: each for each in source.schemes}
        pairs = dict.fromkeys((each.format, each.runtime) for each in source.facts)
        facts |= {pair: tuple(each for each in source.facts if (each.format, each.runtime) == pair) for pair in pairs}
    return FormatFacts(
        tuple(schemes[name] for name in sorted(schemes)), tuple(each for pair in sorted(facts) for each in facts[pair])
    )
