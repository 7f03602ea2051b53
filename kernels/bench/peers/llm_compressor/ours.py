"""GPTQ, 4 bits in groups of 128, from the Hessian's factor and from the Hessian itself."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from kernels.bench.peers.cases import Case
from kernels.bench.peers.timing import Arrays

import quantmill_kernels as kernels

SIZES = (1024, 2048, 4096)
DAMP = 0.01  # llm-compressor's


def cases() -> Iterator[Case]:
    for n in SIZES:
        weights, hessian = layer(n)
        inputs = {"weights": weights, "hessian": hessian, "factor": factor_of(hessian)}
        agreement = partial(losses, weights, hessian)
        yield Case(f"solve int4 g128 {n}", weights.size, inputs, partial(solve, weights, inputs["factor"]), agreement)
        yield Case(f"from H int4 g128 {n}", weights.size, inputs, partial(from_hessian, weights, hessian), agreement)


def layer(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights (n, n), and the Hessian of correlated inputs of unlike magnitudes."""
    rng = np.random.default_rng(12)
    weights = (rng.standard_t(5, (n, n)) * 0.02).astype(np.float32)
    mixed = rng.standard_normal((n, n), np.float32) * np.float32(0.7 / np.sqrt(n)) + np.eye(n, dtype=np.float32)
    inputs = rng.standard_normal((2 * n, n), np.float32) @ mixed * (rng.random(n, np.float32) ** 2 + 0.1)
    return weights, 2 / len(inputs) * inputs.T @ inputs


def factor_of(hessian: np.ndarray) -> np.ndarray:
    """Upper triangular U with U^T U the inverse of the damped Hessian.

    With J the reversal of rows and columns, J H J = L L^T makes H = (J L J)(J L J)^T, and U is the inverse of J L J.
    """
    damped = hessian + np.eye(len(hessian), dtype=np.float32) * (DAMP * np.diag(hessian).mean())
    return inverse_of_upper(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1])


def inverse_of_upper(matrix: np.ndarray) -> np.ndarray:
    """By halves: the corner is -A^-1 B D^-1."""
    n = len(matrix)
    if n <= 64:
        return np.triu(np.linalg.inv(matrix))
    half, inverse = n // 2, np.zeros_like(matrix, order="C")
    inverse[:half, :half] = inverse_of_upper(matrix[:half, :half])
    inverse[half:, half:] = inverse_of_upper(matrix[half:, half:])
    inverse[:half, half:] = -inverse[:half, :half] @ (matrix[:half, half:] @ inverse[half:, half:])
    return inverse


def solve(weights: np.ndarray, factor: np.ndarray) -> Arrays:
    scales, zeros = kernels.find_gptq_scales(weights, bits=4, group_size=128)
    codes, scales, zeros, _ = kernels.solve_gptq(weights, factor, bits=4, group_size=128, scales=scales, zeros=zeros)
    return {"codes": codes, "scales": scales, "zeros": zeros}


def from_hessian(weights: np.ndarray, hessian: np.ndarray) -> Arrays:
    return solve(weights, factor_of(hessian))


def losses(weights: np.ndarray, hessian: np.ndarray, ours: Arrays, theirs: Arrays) -> str:
    steps = ours["codes"].reshape(*ours["scales"].shape, -1) - ours["zeros"][..., None].astype(np.float32)
    quantized = (ours["scales"][..., None] * steps).reshape(weights.shape)
    ratio = proxy_loss(weights - quantized, hessian) / proxy_loss(weights - theirs["weights"], hessian)
    return f"proxy loss {ratio:.4f}x"


def proxy_loss(errors: np.ndarray, hessian: np.ndarray) -> float:
    """tr(E H E^T)."""
    return float(np.sum((errors @ hessian) * errors, dtype=np.float64))
