"""Messages of onnx.proto as bytes, the same each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantmill.contract.protobuf import bytes_field, fields, length_prefix, number_field

INTEGER, INTEGERS = 2, 7  # AttributeProto.AttributeType
EXTERNAL = 1  # TensorProto.DataLocation


def node_proto(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str,
    attributes: Mapping[str, int | tuple[int, ...]],
) -> bytes:
    """A NodeProto, named by what it makes."""
    return b"".join(
        [
            *(bytes_field(1, name) for name in inputs),
            *(bytes_field(2, name) for name in outputs),
            bytes_field(3, f"{outputs[0]}_{op_type}"),
            bytes_field(4, op_type),
            *(bytes_field(5, _attribute(name, value)) for name, value in sorted(attributes.items())),
            *([bytes_field(7, domain)] if domain else []),
        ]
    )


def rewired(raw: bytes, op_type: str, inputs: Sequence[str], output: str) -> bytes:
    """A NodeProto with these inputs and this output, named by that, and with the attributes of `raw`."""
    rest = (raw[each.start : each.end] for each in fields(memoryview(raw)) if each.number > 4)
    wires = (*(bytes_field(1, name) for name in inputs), bytes_field(2, output))
    return b"".join((*wires, bytes_field(3, f"{output}_{op_type}"), bytes_field(4, op_type), *rest))


def _attribute(name: str, value: int | tuple[int, ...]) -> bytes:
    if isinstance(value, int):
        return bytes_field(1, name) + number_field(3, value) + number_field(20, INTEGER)
    return bytes_field(1, name) + b"".join(number_field(8, each) for each in value) + number_field(20, INTEGERS)


def tensor_proto(name: str, dtype: int, shape: Sequence[int], data: bytes) -> bytes:
    """A TensorProto with its values."""
    return tensor_head(name, dtype, shape, len(data)) + data


def tensor_head(name: str, dtype: int, shape: Sequence[int], nbytes: int) -> bytes:
    """A TensorProto up to its values, which are the next `nbytes`."""
    return _described(name, dtype, shape) + length_prefix(9, nbytes)


def external_tensor(name: str, dtype: int, shape: Sequence[int], file: str, begin: int, nbytes: int) -> bytes:
    """A TensorProto whose values lie in another file."""
    where = {"location": file, "offset": str(begin), "length": str(nbytes)}
    entries = (bytes_field(13, bytes_field(1, key) + bytes_field(2, value)) for key, value in where.items())
    return _described(name, dtype, shape) + b"".join(entries) + number_field(14, EXTERNAL)


def _described(name: str, dtype: int, shape: Sequence[int]) -> bytes:
    dims = b"".join(number_field(1, size) for size in shape)
    return dims + number_field(2, dtype) + bytes_field(8, name)


def value_info_proto(name: str, dtype: int) -> bytes:
    """A ValueInfoProto of a tensor of any shape."""
    return bytes_field(1, name) + bytes_field(2, bytes_field(1, number_field(1, dtype)))


def opset_proto(domain: str, version: int) -> bytes:
    return (bytes_field(1, domain) if domain else b"") + number_field(2, version)


def metadata_proto(key: str, value: str) -> bytes:
    return bytes_field(1, key) + bytes_field(2, value)
