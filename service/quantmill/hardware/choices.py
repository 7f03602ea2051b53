"""What to choose: one row for each objective and class of hardware, the best scheme first. First match wins.

The rows order schemes; whether one runs, fits and is made here is found out elsewhere. Schemes that a row does not name
come after those that it names, in the order of the objective's own measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quantmill.contract.facts import HardwareNeed, Scheme
from quantmill.hardware.profiles import GB, Device
from quantmill.hardware.verdicts import lacks

Objective = Literal["quality", "speed", "size", "balanced", "fine-tuning", "prototyping"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

ARTICLES = "choice tables of the articles behind the project"
FORMATS = "hardware support as in the facts table"


@dataclass(frozen=True)
class Choice:
    objective: Objective
    where: HardwareNeed
    schemes: tuple[str, ...]
    why: str
    source: str
    at_most_bytes: int | None = None  # of one device's memory

    def applies(self, device: Device) -> bool:
        if self.at_most_bytes is not None and (device.memory_bytes is None or device.memory_bytes > self.at_most_bytes):
            return False
        return not any(lacks(self.where, device))


def _gpu(compute_capability: float) -> HardwareNeed:
    return HardwareNeed("gpu", ("nvidia",), compute_capability)


BLACKWELL, ADA, AMPERE, TURING = _gpu(10.0), _gpu(8.9), _gpu(8.0), _gpu(7.5)
NVIDIA = HardwareNeed("gpu", ("nvidia",))
MI300 = HardwareNeed("gpu", ("amd",), architectures=("gfx942", "gfx950"))
GPU, CPU, NPU = HardwareNeed("gpu"), HardwareNeed("cpu"), HardwareNeed("npu")

FP4 = ("nvfp4a16", "mxfp4a16", "nvfp4")
MARLIN = ("awq-4bit-g128", "gptq-4bit-g128", "gptq-w4a16-g128", "awq-w4a16-g128")
GGUF_BALANCED = ("gguf-Q4_K_M", "gguf-Q5_K_M", "gguf-Q4_K_S", "gguf-Q6_K", "gguf-Q3_K_M")
GGUF_QUALITY = ("gguf-Q8_0", "gguf-Q6_K", "gguf-Q5_K_M", "gguf-Q4_K_M")
GGUF_FAST = ("gguf-Q4_0", "gguf-Q4_K_S", "gguf-Q4_K_M")
GGUF_SMALL = ("gguf-Q2_K", "gguf-Q3_K_S", "gguf-Q3_K_M")

CHOICES = (
    Choice("balanced", GPU, GGUF_BALANCED, "up to 8 GB of GPU memory: GGUF, which can leave layers in RAM", ARTICLES,
        8 * GB),
    Choice("balanced", BLACKWELL, (*FP4, "fp8-dynamic", "fp8-block"), "Blackwell computes in FP4", ARTICLES),
    Choice("balanced", ADA, ("fp8-dynamic", "fp8-block", *MARLIN),
        "Ada and Hopper compute in FP8: smallest loss in production", ARTICLES),
    Choice("balanced", AMPERE, MARLIN, "Ampere: 4-bit weights with Marlin kernels, W4A16", ARTICLES),
    Choice("balanced", TURING, ("gptq-4bit-g128", "awq-4bit-g128"), "Turing: formats that do not need Marlin",
        ARTICLES),
    Choice("balanced", MI300, ("fp8-dynamic", *GGUF_BALANCED), "MI300 and later compute in FP8", FORMATS),
    Choice("balanced", GPU, GGUF_BALANCED, "GGUF runs on this GPU with kernels of its own", ARTICLES),
    Choice("balanced", CPU, GGUF_BALANCED, "no GPU: GGUF with llama.cpp", ARTICLES),
    Choice("quality", ADA, ("fp8-dynamic", "gptq-8bit-g128", "int8-w8a8", "fp8-block", "awq-4bit-g128", "hqq-4bit-g64"),
           "8 bits lose least, then AWQ and HQQ", ARTICLES),
    Choice("quality", NVIDIA, ("gptq-8bit-g128", "int8-w8a8", "gguf-Q8_0", "bnb-int8", "awq-4bit-g128", "hqq-4bit-g64"),
           "8 bits lose least, then AWQ and HQQ", ARTICLES),
    Choice("quality", MI300, ("fp8-dynamic", *GGUF_QUALITY), "8 bits lose least", FORMATS),
    Choice("quality", GPU, GGUF_QUALITY, "the more bits the smaller the loss", ARTICLES),
    Choice("quality", CPU, GGUF_QUALITY, "the more bits the smaller the loss", ARTICLES),
    Choice("speed", BLACKWELL, ("nvfp4", "nvfp4a16", "mxfp4a16", *MARLIN), "Blackwell computes in FP4", ARTICLES),
    Choice("speed", AMPERE, ("gptq-4bit-g128", *MARLIN, "hqq-4bit-g64"), "4 bits with Marlin kernels", ARTICLES),
    Choice("speed", TURING, ("gptq-4bit-g128", "awq-4bit-g128"), "Turing: formats that do not need Marlin", ARTICLES),
    Choice("speed", MI300, (*GGUF_FAST, "fp8-dynamic"), "fewest bytes a token", FORMATS),
    Choice("speed", GPU, GGUF_FAST, "fewest bytes a token at 4 bits", FORMATS),
    Choice("speed", CPU, GGUF_FAST, "fewest bytes a token at 4 bits; Q4_0 is repacked for the processor", FORMATS),
    Choice("size", HardwareNeed("gpu", ("apple",)), GGUF_SMALL, "smallest that still answers", ARTICLES),
    Choice("size", CPU, GGUF_SMALL, "smallest that still answers", ARTICLES),
    Choice("fine-tuning", GPU, ("bnb-nf4",), "QLoRA trains adapters on NF4 weights", ARTICLES),
    Choice("fine-tuning", CPU, ("bnb-nf4",), "QLoRA trains adapters on NF4 weights", ARTICLES),
    Choice("fine-tuning", NPU, ("bnb-nf4",), "QLoRA trains adapters on NF4 weights", ARTICLES),
    Choice("prototyping", HardwareNeed("gpu", ("apple",)), GGUF_BALANCED, "one line with llama.cpp or Ollama",
        ARTICLES),
    Choice("prototyping", GPU, ("bnb-nf4", "bnb-int8"), "one line when the model is loaded, nothing to prepare",
        ARTICLES),
    Choice("prototyping", CPU, GGUF_BALANCED, "one line with llama.cpp or Ollama", ARTICLES),
)  # fmt: skip

NO_CHOICE = Choice("balanced", GPU, (), "no choice table names this hardware: ordered by the objective's measure", "")

# Adapters can be trained on these (PEFT docs, quantization); weights in other formats only run.
TRAINABLE = ("bitsandbytes", "gptq", "awq", "hqq")
# What to name first as the nearest thing where nothing runs: the widest spread of each family.
FAMILIAR = ("gguf-Q4_K_M", "bnb-nf4", "gptq-4bit-g128", "onnx-4bit", "mlx-4bit")


def choice_for(objective: Objective, device: Device) -> Choice:
    return next((row for row in CHOICES if row.objective == objective and row.applies(device)), NO_CHOICE)


def preference(choice: Choice, scheme: Scheme) -> int:
    """The scheme's place in the row; those that the row does not name share the place after the last."""
    return choice.schemes.index(scheme.name) if scheme.name in choice.schemes else len(choice.schemes)


def measure(objective: Objective, scheme: Scheme, seconds_per_token: float | None) -> float:
    """What the objective minimizes among schemes that its row does not name."""
    if objective == "quality":
        return -scheme.linear_bits
    if objective == "speed" and seconds_per_token is not None:
        return seconds_per_token
    if objective == "balanced":
        return abs(scheme.linear_bits - 4.8)  # Q4_K_M's bits, which the articles recommend
    return scheme.linear_bits
