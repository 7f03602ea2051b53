"""The programs that load artifacts: how they spread a model over devices, and what they keep for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantmill.contract.facts import DeviceKind

MB = 10**6


@dataclass(frozen=True)
class RuntimeProfile:
    """What the memory fit needs of a runtime.

    parallel     how several devices hold one model: `tensor` cuts every weight, `layers` gives each device its layers
    offload      layers that find no place on the GPU run on the processor (llama.cpp's -ngl)
    memory_share share of a device's memory that it may use
    overhead     bytes of a GPU for the driver's context, kernels and graphs: an allowance, not a measurement
    chunk        tokens that a prefill step computes at once
    mla          caches MLA's latent instead of keys and values of every head
    trains       can fine-tune
    """

    name: str
    parallel: Literal["tensor", "layers", "none"]
    source: str
    offload: bool = False
    memory_share: float = 0.95
    overhead: int = 600 * MB
    chunk: int = 512
    mla: bool = False
    trains: bool = False


RUNTIMES = {
    each.name: each
    for each in (
        RuntimeProfile("llama.cpp", "layers", "llama.cpp, tools/server README: -ngl, -ub 512", offload=True, mla=True),
        RuntimeProfile("ollama", "layers", "Ollama docs: runs llama.cpp's kernels", offload=True),
        RuntimeProfile(
            "vllm",
            "tensor",
            "vLLM docs, engine arguments: gpu_memory_utilization 0.9, max_num_batched_tokens 2048",
            memory_share=0.9,
            overhead=1500 * MB,
            chunk=2048,
            mla=True,
        ),
        RuntimeProfile(
            "sglang",
            "tensor",
            "SGLang docs, server arguments: --tp, --mem-fraction-static",
            memory_share=0.88,
            overhead=1500 * MB,
            chunk=2048,
            mla=True,
        ),
        RuntimeProfile(
            "tgi", "tensor", "TGI docs, launcher: --num-shard", memory_share=0.9, overhead=1500 * MB, chunk=2048
        ),
        RuntimeProfile(
            "tensorrt-llm", "tensor", "TensorRT-LLM docs: tp_size", memory_share=0.9, overhead=1500 * MB, chunk=2048
        ),
        RuntimeProfile("exllama", "layers", "ExLlamaV2 README: -gs, split over GPUs", chunk=2048),
        RuntimeProfile("transformers", "layers", "Transformers docs: device_map='auto'", chunk=2048, trains=True),
        RuntimeProfile("onnxruntime", "none", "ONNX Runtime docs: one device an inference session"),
        RuntimeProfile("mlx", "none", "MLX docs: unified memory"),
    )
}

# Of unified memory the GPU may take about three quarters: an allowance after Metal's recommended working set.
UNIFIED_SHARE = 0.75

# Which runtime to name first where several run a scheme equally well; one list a kind of device.
ON_GPU = (
    "vllm",
    "sglang",
    "exllama",
    "llama.cpp",
    "transformers",
    "tgi",
    "tensorrt-llm",
    "onnxruntime",
    "ollama",
    "mlx",
)
ON_PROCESSOR = (
    "llama.cpp",
    "ollama",
    "onnxruntime",
    "vllm",
    "transformers",
    "mlx",
    "sglang",
    "exllama",
    "tgi",
    "tensorrt-llm",
)


def order(runtime: str, kind: DeviceKind, vendor: str, objective: str) -> int:
    """The runtime's place where several run a scheme equally well. A prototype starts where it is one line."""
    if objective == "prototyping" and runtime == "transformers" and vendor != "apple":
        return -1 if kind == "gpu" else len(ON_PROCESSOR)
    preferred = ON_GPU if kind == "gpu" and vendor != "apple" else ON_PROCESSOR
    return preferred.index(runtime) if runtime in preferred else len(preferred)
