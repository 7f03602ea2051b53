"""solve_hqq against the same algorithm in numpy: slow, plain, a value of every group at a time.

Each step is one float32 operation in the order of the kernels, so codes, scales and zeros are compared with equality.
"""

from dataclasses import dataclass
from typing import Any, Self

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

Floats = NDArray[np.float32]
F = np.float32

STARTS = [F(-0.4), F(0.1), F(0.6), F(1.1)]  # steps by which a start's range is shorter than the group's
ENOUGH = F(1 - 2**-10)  # a fit that lowers the error by less ends the search
LP_NORM, BETA, KAPPA = F(0.7), F(10), F(1.01)  # hqq's own
CHUNK = 512  # values summed before they are added to the total

LEAST_SCALE = {"float32": F(2.0**-100), "bfloat16": F(2.0**-100), "float16": F(2.0**-19)}
LARGEST_SCALE = {"float32": F(2.0**101), "bfloat16": F(2.0**101), "float16": F(65504)}
LARGEST_ZERO = {"float32": F(2**23), "bfloat16": F(2**7), "float16": F(2**10)}


@dataclass(frozen=True)
class Options:
    nbits: int
    lp_norm: np.float32 = LP_NORM
    beta: np.float32 = BETA
    kappa: np.float32 = KAPPA
    iters: int = 20
    integer_zero: bool = False
    compute_dtype: str = "float32"

    @property
    def top(self) -> np.float32:
        return F(2**self.nbits - 1)


@dataclass(frozen=True)
class Fit:
    """x ~ origin + scale * code, for each group."""

    scale: Floats
    origin: Floats

    def where(self, chosen: NDArray[np.bool_], other: Self) -> "Fit":
        return Fit(np.where(chosen, self.scale, other.scale), np.where(chosen, self.origin, other.origin))


@dataclass(frozen=True)
class Sums:
    """Over the values of a group: codes q and what they leave, d = (x - origin) / scale - q."""

    q: Floats
    qq: Floats
    d: Floats
    dq: Floats
    dd: Floats


def summed(terms: Floats) -> Floats:
    """(values, groups) -> (groups,): value after value, chunk after chunk."""
    total = np.zeros(terms.shape[1], np.float32)
    for first in range(0, len(terms), CHUNK):
        part = np.zeros_like(total)
        for term in terms[first : first + CHUNK]:
            part += term
        total += part
    return total


def code_at(position: Floats, top: np.float32) -> Floats:
    return np.rint(np.minimum(np.maximum(position, F(0)), top))


def sums_of(codes: Floats, rest: Floats) -> Sums:
    return Sums(*(summed(term) for term in (codes, codes * codes, rest, rest * codes, rest * rest)))


def power(x: Floats, exponent: np.float32) -> Floats:
    bits = x.view(np.int32)
    exponents = (bits - 0x3F3504F3) & (-1 << 23)
    mantissa = (bits - exponents).view(np.float32)
    s = (mantissa - F(1)) / (mantissa + F(1))
    artanh = horner(s * s, [2.88539008, 0.961796694, 0.577078016, 0.412198583, 0.320598898])
    logarithm = exponent * ((exponents >> 23).astype(np.float32) + s * artanh)
    whole = np.rint(logarithm)
    twos = [1.0, 0.693147181, 0.240226507, 0.0555041087, 0.00961812911, 0.00133335581, 0.000154035304]
    return ((whole.astype(np.int32) + 127) << 23).view(np.float32) * horner(logarithm - whole, twos)


def horner(x: Floats, coefficients: list[float]) -> Floats:
    value = np.full_like(x, F(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        value = F(coefficient) + x * value
    return value


class Solver:
    """Groups as columns, (values, groups) float32."""

    def __init__(self, groups: Floats, options: Options) -> None:
        self.x, self.options = groups, options
        self.n = F(len(groups))
        self.low, self.high = groups.min(axis=0), groups.max(axis=0)
        self.mean = summed(groups) / self.n
        self.least_scale = LEAST_SCALE[options.compute_dtype]
        self.largest_scale = LARGEST_SCALE[options.compute_dtype]
        self.largest_zero = LARGEST_ZERO[options.compute_dtype]

    # ---- fits ----

    def positions(self, origin: Floats, inverse: Floats) -> tuple[Floats, Floats]:
        """Codes, and what they leave."""
        position = (self.x - origin) * inverse
        codes = code_at(position, self.options.top)
        return codes, position - codes

    def fitted_freely(self, sums: Sums, fit: Fit) -> tuple[Fit, Floats, NDArray[np.bool_]]:
        determinant = self.n * sums.qq - sums.q * sums.q
        slope = (self.n * sums.dq - sums.d * sums.q) / determinant
        shift = (sums.d - slope * sums.q) * (F(1) / self.n)
        error = sums.dd - slope * sums.dq - shift * sums.d
        better = Fit(fit.scale + slope * fit.scale, fit.origin + shift * fit.scale)
        return better, error, determinant > F(1e-6) * (self.n * sums.qq)

    def fitted_to_a_code(self, sums: Sums, fit: Fit) -> tuple[Fit, Floats, NDArray[np.bool_]]:
        old_zero = np.rint(-fit.origin / fit.scale)
        free, _, usable = self.fitted_freely(sums, fit)
        zero = code_at(np.where(usable, -free.origin / free.scale, old_zero), self.options.top)
        move = zero - old_zero
        ww = sums.qq - F(2) * zero * sums.q + self.n * zero * zero
        dw = sums.dq - zero * sums.d + move * (sums.q - self.n * zero)
        slope = dw / ww
        scale = fit.scale + slope * fit.scale
        return Fit(scale, -zero * scale), sums.dd + move * (F(2) * sums.d + self.n * move) - slope * dw, ww > 0

    def fitted(self, sums: Sums, fit: Fit) -> tuple[Fit, Floats, NDArray[np.bool_]]:
        fitted = self.fitted_to_a_code if self.options.integer_zero else self.fitted_freely
        better, error, usable = fitted(sums, fit)
        storable = (better.scale > self.least_scale) & (better.scale < self.largest_scale)
        return better, error, usable & storable & (np.abs(better.origin) < F(2) * self.largest_zero * better.scale)

    # ---- least squares ----

    def start(self, low: Floats, high: Floats, scale: Floats) -> Fit:
        if not self.options.integer_zero:
            return Fit(scale, low)
        top = self.options.top
        return Fit(scale, -scale * code_at(F(0.5) * (top - (low + high) / scale), top))

    def least_squares(self) -> Fit:
        top = self.options.top
        low = np.minimum(self.low, F(0)) if self.options.integer_zero else self.low
        high = np.maximum(self.high, F(0)) if self.options.integer_zero else self.high
        unit = np.maximum((high - low) / top, np.maximum(-low, high) * (F(1) / self.largest_zero))
        unit = np.maximum(unit, self.least_scale)
        unit_inverse = F(1) / unit
        best, least = self.start(low, high, unit), np.full_like(unit, np.inf)
        for shorter in STARTS:
            finer = (top + shorter) / top
            fit = self.start(low, high, unit * (F(1) / finer))
            best, least, _ = self.keep_better(fit, unit_inverse * finer, unit_inverse, best, least)
        for _ in range(self.options.iters):
            best, least, better = self.keep_better(best, F(1) / best.scale, unit_inverse, best, least)
            if not better.any():
                break
        return best

    def keep_better(
        self, fit: Fit, inverse: Floats, unit_inverse: Floats, best: Fit, least: Floats
    ) -> tuple[Fit, Floats, NDArray[np.bool_]]:
        candidate, error, usable = self.fitted(sums_of(*self.positions(fit.origin, inverse)), fit)
        step = fit.scale * unit_inverse
        error = error * step * step
        better = usable & (error < least)
        return candidate.where(better, best), np.where(better, error * ENOUGH, least), better

    # ---- half-quadratic rounds ----

    def split(self, start: Fit) -> Fit:
        beta, lp_norm = self.options.beta, self.options.lp_norm
        reach = power(np.array([beta]), F(-1) / (F(2) - lp_norm))
        outside = np.maximum(start.origin - self.low, self.high - (start.origin + start.scale * self.options.top))
        improving = np.maximum(outside, F(0.5) * start.scale) > reach
        fit = best = start
        least = np.full_like(start.scale, np.inf)
        for _ in range(self.options.iters + 1):
            inverse = F(1) / fit.scale
            codes, rest = self.positions(fit.origin, inverse)
            magnitude = np.maximum(np.abs(rest) * fit.scale, F(2.0**-126))
            slope = power(magnitude, lp_norm - F(1))
            shrunk = np.maximum(magnitude - slope * (F(1) / beta), F(0)) * inverse
            error = summed(magnitude * slope)
            improving = improving & (error < least)
            least = np.where(improving, error * ENOUGH, least)
            best = fit.where(improving, best)
            better, _, usable = self.fitted(sums_of(codes, rest - np.where(rest < 0, -shrunk, shrunk)), fit)
            fit = better.where(usable, fit)
            beta = beta * self.options.kappa
        return best

    # ---- what is stored ----

    def as_stored(self, values: Floats) -> Floats:
        """bfloat16 by Veltkamp's splitting, which takes the other neighbour at some ties."""
        if self.options.compute_dtype != "bfloat16":
            return values.astype(self.options.compute_dtype).astype(np.float32)
        spread = values * F(65537)
        return spread - (spread - values)

    def stored(self, fit: Fit) -> tuple[Floats, Floats]:
        scale = self.as_stored(fit.scale)
        if self.options.integer_zero:
            zero = np.rint(-fit.origin / fit.scale)
        else:
            zero = self.as_stored((self.mean - fit.origin) / fit.scale - self.mean / scale)
        size = np.abs(self.low)
        constant, large = self.high - self.low < F(2.0**-126), size > self.least_scale
        scale = np.where(constant, np.where(large, self.as_stored(size), F(1)), scale)
        return scale, np.where(constant, np.where(large & (self.low < 0), F(1), F(0)), zero)


def solve(groups: Floats, options: Options) -> tuple[Floats, Floats, Floats]:
    """Codes (values, groups), scale and zero (groups,) of groups that stand in columns."""
    with np.errstate(all="ignore"):
        solver = Solver(groups, options)
        scale, zero = solver.stored(solver.split(solver.least_squares()))
        return code_at(groups * (F(1) / scale) + zero, options.top), scale, zero


# ---- tests ----


def edges(size: int) -> Floats:
    """(groups, size): groups on which a solver can go wrong."""
    rng = np.random.default_rng(41)
    noise = rng.standard_normal(size)
    column = np.arange(size)
    groups = [
        *(np.full(size, value) for value in (0, -0.0, 1, -1, 0.1, -7e-6, 1e-15, -1e-33, 1e-42, 32752)),
        *(noise * 10.0**power for power in (-44, -38, -30, -20, -8, -6, -4, 0, 2, 4)),
        *(base + span * rng.random(size) for base in (1, -1, 300) for span in (1e-6, 1e-3, 1e-1)),
        np.where(column == 3, -30000, noise * 0.01),
        np.where(column == size - 1, 5, noise * 0.01),
        np.tile([0.5, -0.5], size)[:size],
        np.round(noise * 4),
        rng.integers(-1000, 1000, size) * 2.0**-149,
    ]
    return np.clip(np.stack(groups), -32752, 32752).astype(np.float32)


def weights(factor: float) -> Floats:
    """(9, 192)"""
    return (np.random.default_rng(42).standard_t(5, (9, 192)) * factor).astype(np.float32)


def assert_equal_to_definition(values: Floats, group_size: int | None, options: Options) -> None:
    groups = values if group_size is None else values.reshape(-1, group_size)
    expected = solve(np.ascontiguousarray(groups.T), options)

    codes, scale, zero = kernels.solve_hqq(values, group_size=group_size, **vars(options))

    np.testing.assert_array_equal(codes, expected[0].T.astype(np.uint8))
    np.testing.assert_array_equal(scale[:, 0], expected[1])
    np.testing.assert_array_equal(zero[:, 0], expected[2])
    for stored in (scale, zero):
        np.testing.assert_array_equal(stored.astype(options.compute_dtype).astype(np.float32), stored)


STORED = [(False, "float32"), (False, "float16"), (False, "bfloat16"), (True, "float32"), (True, "bfloat16")]


@pytest.mark.parametrize(("integer_zero", "compute_dtype"), STORED)
@pytest.mark.parametrize(("nbits", "group_size"), [(1, 16), (2, 16), (3, 64), (4, 64), (5, 8), (6, 32), (8, None)])
@pytest.mark.parametrize("factor", [0.02, 5])
def test_weights_give_the_bits_of_the_definition(
    nbits: int, group_size: int | None, factor: float, integer_zero: bool, compute_dtype: str
) -> None:
    options = Options(nbits, integer_zero=integer_zero, compute_dtype=compute_dtype)

    assert_equal_to_definition(weights(factor), group_size, options)


@pytest.mark.parametrize(("integer_zero", "compute_dtype"), STORED)
@pytest.mark.parametrize(("nbits", "size"), [(1, 1), (2, 7), (4, 24), (8, 64), (4, 1100)])
def test_edges_give_the_bits_of_the_definition(nbits: int, size: int, integer_zero: bool, compute_dtype: str) -> None:
    options = Options(nbits, integer_zero=integer_zero, compute_dtype=compute_dtype)

    assert_equal_to_definition(edges(size), None, options)


@pytest.mark.parametrize(
    "changed",
    [{"lp_norm": F(0.3)}, {"lp_norm": F(1)}, {"beta": F(500)}, {"beta": F(0.1)}, {"kappa": F(1.5)}, {"iters": 1}],
    ids=str,
)
def test_the_options_of_the_solver_act_as_in_the_definition(changed: dict[str, Any]) -> None:
    values = weights(1)

    assert_equal_to_definition(values, 32, Options(3, **changed))

    chosen = kernels.solve_hqq(values, nbits=3, group_size=32, **changed)
    default = kernels.solve_hqq(values, nbits=3, group_size=32)
    assert not all(np.array_equal(a, b) for a, b in zip(chosen, default, strict=True))


def test_without_rounds_only_the_starts_are_fitted() -> None:
    assert_equal_to_definition(weights(0.02), 64, Options(4, iters=0))


def test_powers_are_near_those_of_numpy() -> None:
    x = np.exp(np.random.default_rng(43).uniform(np.log(2.0**-16), np.log(2.0**16), 10000)).astype(np.float32)
    far = np.array([2.0**-126, 1e-30, 1e30, 2.0**125], np.float32)

    for exponent in (-1, -0.7, -0.3, 0, 0.5, 1):
        np.testing.assert_allclose(power(x, F(exponent)), x.astype(np.float64) ** F(exponent), rtol=1e-6)
        np.testing.assert_allclose(power(far, F(exponent)), far.astype(np.float64) ** F(exponent), rtol=1e-5)
