"""GPTQ by llm-compressor's quantize_weight, with the scales of its min-max observer."""

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams
from kernels.bench.peers.timing import Arrays, Run, serve
from llmcompressor.modifiers.gptq import gptq_quantize

GROUP = 128
ARGS = QuantizationArgs(num_bits=4, group_size=GROUP, strategy="group", symmetric=True)


def solve(inputs: Arrays) -> Run:
    """From the Hessian's factor, which quantize_weight would make itself."""
    factor = torch.from_numpy(inputs["factor"])[None]
    gptq_quantize.factorize_hessian = lambda *_: factor
    return from_hessian(inputs)


def from_hessian(inputs: Arrays) -> Run:
    weights, hessian = torch.from_numpy(inputs["weights"]), torch.from_numpy(inputs["hessian"])

    def run() -> Arrays:
        groups = weights.view(len(weights), -1, GROUP)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), ARGS)
        # Clones: what is passed is used as working memory.
        quantized, _, _ = gptq_quantize.quantize_weight(
            weights.clone()[None], hessian.clone()[None], scale[None], zero[None], None, ARGS
        )
        return {"weights": quantized[0].numpy()}

    return run


if __name__ == "__main__":
    solve_cases = {f"solve int4 g128 {n}": solve for n in (1024, 2048, 4096)}
    serve(solve_cases | {f"from H int4 g128 {n}": from_hessian for n in (1024, 2048, 4096)})
