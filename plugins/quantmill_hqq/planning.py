"""The plan of an HQQ folder: which weights are quantized, how they are grouped, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.linears import Linear, kept_modules, linears, plan_linears
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_hqq.layout import COMPUTE_DTYPES, Grouping, grouping_of, parts_of
from quantmill_hqq.params import HqqParams

INTEGER_ZEROS = (
    "zero points are whole numbers, which compressed-tensors needs: the solver looks for such ones, so that the files "
    "hold what it found, and the error is larger than that of format hqq"
)


def plan(index: ModelIndex, params: HqqParams) -> Plan:
    """Quantizes the Linears of the decoder blocks that `skip_modules` does not name; all else is stored as it is.

    Raises what `plan_linears` does, and ParamsRejected for a pattern that matches no Linear, for a Linear that two
    patterns give different settings, or whose shape the groups or the format do not fit.
    """
    planned = plan_linears(
        index, params.skip_modules, lambda linear: _row(linear, params), allow_requantize=params.allow_requantize
    )
    _check_overrides(params, [linear.module for linear in linears(index).values()])
    check = _check_skipped_names if params.format == "hqq" else _check_fused
    check(planned, index, params)
    peak = max(index.tensors[row.name].nbytes + _working_bytes(row, params) for row in planned.tensors)
    warnings = (INTEGER_ZEROS,) if params.format == "compressed-tensors" else ()
    return replace(planned, peak_memory_bytes=peak, warnings=(*planned.warnings, *warnings))


def _working_bytes(row: TensorPlan, params: HqqParams) -> int:
    """What is stored, one byte for each code, and scale and zero as float32."""
    return row.nbytes + (prod(row.shape) + 8 * grouping_of(row, params).groups if row.action == "quantize" else 0)


def _row(linear: Linear, params: HqqParams) -> TensorPlan | str:
    info = linear.tensor
    if info.dtype not in COMPUTE_DTYPES:
        return f"{info.dtype}; hqq quantizes {', '.join(COMPUTE_DTYPES)}"
    grouping = Grouping.of(linear.module, info.shape, params)
    for problem in _problems(grouping, params):
        message = f"{linear.module} is {info.shape[0]} x {info.shape[1]}: {problem}"
        raise _rejected(
            "/params/group_size", "indivisible", message, "choose another group_size or name it in skip_modules"
        )
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", grouping.label(params), info.name, 0)
    return replace(row, nbytes=sum(part.nbytes for part in parts_of(row, params)))


def _problems(grouping: Grouping, params: HqqParams) -> Iterator[str]:
    """Why a consumer could not read it."""
    size, nbits, (outputs, inputs) = grouping.group_size, grouping.nbits, grouping.shape
    along = grouping.shape[grouping.axis]
    if size > along:
        yield f"groups of {size} are longer than its {('columns', 'rows')[grouping.axis]} of {along}"
    elif outputs * inputs % size:
        yield f"groups of {size} do not divide its {outputs * inputs} values"
    elif params.format == "compressed-tensors":
        words = 32 // nbits
        if inputs % size:
            yield f"groups of {size} do not divide its rows of {inputs}, as compressed-tensors needs it"
        if outputs % words or inputs % words:
            yield f"compressed-tensors packs {words} codes of {nbits} bits in a word, which do not divide it"
    elif nbits != 3 and grouping.matrix[0] % grouping.packing.rows:  # 3 bits are filled up with zeros
        share = f"{grouping.packing.rows} rows of {nbits} bits share a byte"
        yield f"{share}, and grouped it has {grouping.matrix[0]} rows"


def _check_overrides(params: HqqParams, modules: Collection[str]) -> None:
    owners: dict[str, str] = {}
    for pattern, settings in params.overrides.items():
        found = [module for module in modules if fnmatchcase(module, pattern)]
        pointer = f"/params/overrides/{pattern}"
        if not found:
            raise _rejected(pointer, "matches_nothing", f"{pattern!r} matches no Linear of this model")
        for module in found:
            other = owners.setdefault(module, pattern)
            if params.overrides[other] != settings:
                message = f"{pattern!r} and {other!r} give {module} different settings"
                raise _rejected(pointer, "ambiguous", message, "make them match different modules")


def _check_skipped_names(planned: Plan, index: ModelIndex, params: HqqParams) -> None:
    """transformers takes a module for skipped whose name contains a name of `skip_modules`."""
    kept = kept_modules(planned, index)
    for row in planned.tensors:
        if row.action == "quantize":
            for name in kept:
                if name in row.name.removesuffix(".weight"):
                    message = f"{name} is not quantized, and transformers would skip {row.name} with it"
                    raise _rejected("/params/skip_modules", "ambiguous", message, "name both or none in skip_modules")


def _check_fused(planned: Plan, index: ModelIndex, params: HqqParams) -> None:
    """Engines that compute modules in one product need one scheme for all of them."""
    for linear in linears(index).values():
        rows = [planned.by_name[f"{module}.weight"] for module in linear.fused]
        schemes = {row.scheme for row in rows}
        if len(schemes) > 1:
            names = ", ".join(f"{row.name.removesuffix('.weight')} {row.scheme}" for row in rows)
            message = f"vLLM computes these in one product, with one scheme: {names}"
            raise _rejected("/params/overrides", "fused", message, "give them the same settings, or skip all of them")


def _rejected(pointer: str, code: str, message: str, remedy: str = "") -> ParamsRejected:
    detail = f"hqq: {message}" + (f"; {remedy}" if remedy else "")
    return ParamsRejected(detail, [{"pointer": pointer, "code": code, "message": message}])
