"""GGUF: the files that llama.cpp, Ollama and LM Studio run."""

from __future__ import annotations

from quantmill.contract import BlockBound, FormatFacts, Method, Runtime, hookimpl, lazy
from quantmill_gguf.facts import GGUF_FACTS
from quantmill_gguf.families.table import ARCHITECTURES
from quantmill_gguf.params import GgufParams

# Largest relative RMSE of one tensor that verification accepts: about 1.3 times the worst of those measured on
# millstone-4m and on (512, 2048) samples of eleven distributions, normal to log-normal, Student's t with 2 to 5
# degrees of freedom and 20- and 100-fold outliers. tests/unit/gguf/test_error_bounds.py measures them again.
ERROR_BOUNDS = {
    "F32": 0.0,  # exact
    "F32+1": 0.001,  # adding one rounds to 2**-24, at norms of 1e-4
    "F16": 0.0005,  # 0.00022; more for tensors whose values are mostly below 6e-5, where F16 is subnormal
    "BF16": 0.0022,  # 0.0017; half a step of 8 bits is 0.00195
    "Q8_0": 0.016,  # millstone 0.0058, normal 0.0054, worst 0.0124
    "Q6_K": 0.036,  # millstone 0.0189, normal 0.0177, worst 0.0272
    "Q5_K": 0.064,  # millstone 0.0380, normal 0.0361, worst 0.0490
    "Q4_K": 0.126,  # millstone 0.0748, normal 0.0714, worst 0.0966
    "Q5_1": 0.074,  # millstone 0.0395, normal 0.0380, worst 0.0567
    "Q5_0": 0.092,  # millstone 0.0460, normal 0.0428, worst 0.0709
    "Q4_1": 0.137,  # millstone 0.0819, normal 0.0783, worst 0.1053
    "Q4_0": 0.18,  # millstone 0.0926, normal 0.0860, worst 0.1382
    "IQ4_NL": 0.137,  # millstone 0.0779, normal 0.0744, worst 0.1054
    "IQ4_XS": 0.139,  # millstone 0.0786, normal 0.0750, worst 0.1064
    "MXFP4": 0.2,  # millstone 0.1200, normal 0.1151, worst 0.1555
    "Q3_K": 0.25,  # millstone 0.1515, normal 0.1437, worst 0.1934
    "Q2_K": 0.385,  # millstone 0.2712, normal 0.2641, worst 0.2945
    "TQ2_0": 0.95,  # millstone 0.8419, normal 0.8085, worst 0.8494; a tensor of zeros would have 1
    "TQ1_0": 0.95,  # as TQ2_0, which has the same values in other bytes
}

# What a single block may be off by. `relative` is half a step (Q4_0: up to a whole one at its missing 16th level)
# over the largest value; `group_relative` half a step of the scales (2 / 126) and of the minima (1 / 126); `absolute`
# half a step of subnormal float16 times the largest code. The same test holds them to the same distributions, and to
# blocks of very unequal size.
BLOCK_BOUNDS = {
    "F32": BlockBound(32, 0.0),
    "F32+1": BlockBound(32, 2.0**-23, absolute=2.0**-23),
    "F16": BlockBound(32, 0.0005, absolute=2.0**-25),
    "BF16": BlockBound(32, 0.0022),
    "Q8_0": BlockBound(32, 0.0045, absolute=127 * 2.0**-25),
    "Q6_K": BlockBound(16, 0.0165, group=256, group_relative=0.005, absolute=128 * 32 * 2.0**-25),
    "Q5_K": BlockBound(32, 0.028, group=256, group_relative=0.025, absolute=63 * 31 * 2.0**-25),
    "Q4_K": BlockBound(32, 0.052, group=256, group_relative=0.025, absolute=63 * 15 * 2.0**-25),
    "Q5_1": BlockBound(32, 0.034, absolute=32 * 2.0**-25),
    "Q5_0": BlockBound(32, 0.0625, absolute=16 * 2.0**-25),
    "Q4_1": BlockBound(32, 0.069, absolute=16 * 2.0**-25),
    "Q4_0": BlockBound(32, 0.1245, absolute=8 * 2.0**-25),
    "IQ4_NL": BlockBound(32, 0.09, absolute=127 * 2.0**-25),
    "IQ4_XS": BlockBound(32, 0.07, group=256, group_relative=0.03, absolute=32 * 127 * 2.0**-25),
    "MXFP4": BlockBound(32, 0.2505),  # its largest value is 6, the largest magnitude up to 8 of its steps
    "Q3_K": BlockBound(16, 0.15, group=256, group_relative=0.035, absolute=32 * 4 * 2.0**-25),
    "Q2_K": BlockBound(16, 0.25, group=256, group_relative=0.1, absolute=15 * 4 * 2.0**-25),
    "TQ2_0": BlockBound(256, 0.505, absolute=2.0**-25),
    "TQ1_0": BlockBound(256, 0.505, absolute=2.0**-25),
}

# Codes are kept; what differs is one reciprocal for a matrix, and the order of two products: four roundings of float32
NVFP4_BOUND = 2.0**-22

GGUF = Method(
    name="gguf",
    version="0.1.0",
    summary="GGUF files with llama-quantize's mixes of block formats, 2 to 32 bits, for llama.cpp and Ollama",
    params=GgufParams,
    plan=lazy("quantmill_gguf.planning:plan"),
    quantize=lazy("quantmill_gguf.algorithm:quantize"),
    write=lazy("quantmill_gguf.export:write"),
    place=lazy("quantmill_gguf.export:place"),
    settle=lazy("quantmill_gguf.settling:settle"),
    read=lazy("quantmill_gguf.reader:read"),
    inspect=lazy("quantmill_gguf.inspection:inspect"),
    formats=("gguf",),
    architectures=tuple(ARCHITECTURES),
    error_bounds={**ERROR_BOUNDS, "NVFP4": NVFP4_BOUND},
    block_bounds={**BLOCK_BOUNDS, "NVFP4": BlockBound(16, NVFP4_BOUND)},
    runtimes=(
        Runtime("llama.cpp", "llama-cli -m {file}"),
        Runtime("llama-cpp-python", "python -m llama_cpp.server --model {file}"),
        Runtime(
            "transformers",
            "AutoModelForCausalLM.from_pretrained('{folder}', gguf_file='{file}')",
            unless={"type": "NVFP4"},  # it passes the factors by
        ),
    ),
    ladder=tuple(
        {"type": type_, "target_bpw": None, "target_size_mb": None}  # a budget goes on with the next larger mix
        for type_ in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16")
    ),
    promote=lazy("quantmill_gguf.promotion:promote"),
    bits=(2, 3, 4, 5, 6, 8, 16, 32),
    granularity="blocks of 32 or 256 values along a row",
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [GGUF]


@hookimpl
def quantmill_runtimes() -> list[FormatFacts]:
    return [GGUF_FACTS]
