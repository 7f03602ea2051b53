"""What QOperator's operators compute, as the float nodes that define them.

QLinearConv, MatMulInteger: onnx, docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

FLOAT, INT32 = 1, 6  # TensorProto.DataType
FILTERS_AXIS, MATRIX_AXIS = 0, 1  # what the weight's scales stand for
CODES, UNROUNDED = "_quantized", "_unrounded"

Makers = Mapping[str, Any]


def expanded(nodes: Sequence[Any]) -> list[Any]:
    """NodeProtos with operators of integers taken apart: DequantizeLinear of what they take, the float operator, and
    QuantizeLinear of what QLinearConv gives, which is restored where nothing restored it.

    What is not as it is defined here stays as it is, products whose activations are measured as the model runs too.
    """
    makers = {value: node for node in nodes for value in node.output}
    restored = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    found: list[Any] = []
    within: set[str] = set()
    for node in nodes:
        if _is(node, "QLinearConv", 8) or _is(node, "QLinearConv", 9):
            bias, passed = _bias(node, makers)
            found += _convolution(node, bias, node.output[0] not in restored)
        elif product := _product(node, makers):
            passed = [each.output[0] for each in product]
            found += _restored_product(node, *product)
        else:
            passed = []
            found.append(node)
        within.update(passed)
    return [node for node in found if not within.intersection(node.output)]


def _is(node: Any, op_type: str, inputs: int) -> bool:
    return (node.domain, node.op_type, len(node.input), len(node.output)) == ("", op_type, inputs, 1)


def _made(value: str, makers: Makers, op_type: str, inputs: int, to: int | None = None) -> Any | None:
    """The node that makes the value, if it is this one."""
    maker = makers.get(value)
    if maker is None or not _is(maker, op_type, inputs):
        return None
    kinds = [each.i for each in maker.attribute if each.name == "to"]
    return maker if to is None or kinds == [to] else None


def _convolution(node: Any, bias: Sequence[str], restores: bool) -> Iterator[Any]:
    from onnx import helper

    (output,), stem = node.output, node.output[0].removesuffix(CODES)
    taken = [f"{node.input[at]}_of_{output}" for at in (0, 3)]
    yield helper.make_node("DequantizeLinear", node.input[:3], taken[:1])
    yield helper.make_node("DequantizeLinear", node.input[3:6], taken[1:], axis=FILTERS_AXIS)
    computed = helper.make_node("Conv", [*taken, *bias], [f"{stem}{UNROUNDED}"], node.name)
    computed.attribute.extend(node.attribute)
    yield computed
    yield helper.make_node("QuantizeLinear", [computed.output[0], *node.input[6:8]], [output])
    if restores:
        yield helper.make_node("DequantizeLinear", [output, *node.input[6:8]], [stem])


def _bias(node: Any, makers: Makers) -> tuple[Sequence[str], Sequence[str]]:
    """The float bias that a convolution takes in steps of input times filters, and the values between.

    A bias that is not made so is what the convolution is said to take.
    """
    given = list(node.input[8:])
    cast = _made(given[0], makers, "Cast", 1, to=INT32) if given else None
    whole = _made(cast.input[0], makers, "Round", 1) if cast else None
    steps = _made(whole.input[0], makers, "Div", 2) if whole else None
    step = _made(steps.input[1], makers, "Mul", 2) if steps else None
    if cast is None or whole is None or steps is None or step is None:
        return given, ()
    if list(step.input) != [node.input[1], node.input[4]]:
        return given, ()
    return [steps.input[0]], [each.output[0] for each in (cast, whole, steps, step)]


def _product(node: Any, makers: Makers) -> Sequence[Any]:
    """Of the Mul that ends an integer product with a fixed range: the Mul of its scales, Cast and MatMulInteger."""
    if not _is(node, "Mul", 2):
        return ()
    step, cast = _made(node.input[1], makers, "Mul", 2), _made(node.input[0], makers, "Cast", 1, to=FLOAT)
    if step is None or cast is None:
        return ()
    product = _made(cast.input[0], makers, "MatMulInteger", 3) or _made(cast.input[0], makers, "MatMulInteger", 4)
    if product is None or makers.get(product.input[2]) is not None:
        return ()
    return step, cast, product


def _restored_product(node: Any, step: Any, _: Any, product: Any) -> Iterator[Any]:
    from onnx import helper

    activation, weight, zero_point, *offset = product.input
    taken = [f"{each}_of_{node.output[0]}" for each in (activation, weight)]
    yield helper.make_node("DequantizeLinear", [activation, step.input[0], zero_point], taken[:1])
    yield helper.make_node("DequantizeLinear", [weight, step.input[1], *offset], taken[1:], axis=MATRIX_AXIS)
    yield helper.make_node("MatMul", taken, node.output, node.name)


def with_limits(nodes: Sequence[Any], source: Sequence[Any], stands_for: Callable[[Any, Any], bool]) -> list[Any]:
    """`nodes` with the source's Relus and Clips behind convolutions whose range of codes stands for them, as it does in
    QLinearConv.

    `stands_for` says it of what rounds the output, and the Relu or Clip.
    """
    limits = {node.output[0]: node for node in source if node.op_type in ("Relu", "Clip")}
    rounding = {node.input[0]: node for node in nodes if node.op_type == "QuantizeLinear"}
    found: list[Any] = []
    for node in nodes:
        limit = limits.get(node.output[0].removesuffix(UNROUNDED)) if node.op_type == "Conv" else None
        rounds = rounding.get(node.output[0])
        if limit is None or rounds is None or not stands_for(rounds, limit):
            found.append(node)
            continue
        before, behind = type(node)(), type(node)()
        before.CopyFrom(node)
        behind.CopyFrom(limit)
        before.output[0], behind.output[0] = limit.input[0], node.output[0]
        found += [before, behind]
    return found
