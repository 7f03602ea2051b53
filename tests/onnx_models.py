"""Small ONNX models in the shapes that exporters give them, with random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantmill.contract.errors import Canceled
from quantmill_onnx.inspection import open_session


@dataclass(frozen=True)
class SmallModel:
    """A table that is looked up, `blocks` of MatMul, Gemm and MatMul behind a Transpose, and a head.

    `ids` names the input. `tied`: the head is the table's transpose. `external` names a file beside the model that the
    weights lie in.
    """

    vocab: int = 300
    hidden: int = 48
    inner: int = 80
    blocks: int = 2
    opset: int = 17
    ir_version: int = 8
    tied: bool = False
    external: str = ""
    seed: int = 0
    ids: str = "ids"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def proto(self) -> onnx.ModelProto:
        nodes = [helper.make_node("Gather", ["table", self.ids], ["x0"], name="lookup", axis=0)]
        for block in range(self.blocks):
            nodes += self._block(block)
        last = f"x{self.blocks}"
        if self.tied:
            nodes.append(helper.make_node("Transpose", ["table"], ["head"], name="turn_head", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", [last, "head"], ["logits"], name="head/MatMul"))
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info(self.ids, onnx.TensorProto.INT64, ["batch", "sequence"])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "sequence", self.vocab])],
            [numpy_helper.from_array(values, name) for name, values in self.weights().items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = self.ir_version
        helper.set_model_props(model, dict(self.metadata))
        return model

    def _block(self, block: int) -> list[onnx.NodeProto]:
        x, y = f"x{block}", f"x{block + 1}"
        flat, inner, out = (f"{x}_{name}" for name in ("flat", "inner", "out"))
        return [
            helper.make_node("MatMul", [x, f"in.{block}"], [f"{x}_in"], name=f"block.{block}/in/MatMul"),
            helper.make_node("Tanh", [f"{x}_in"], [inner], name=f"block.{block}/Tanh"),
            helper.make_node("Reshape", [inner, "rows"], [flat], name=f"block.{block}/flatten"),
            helper.make_node(
                "Gemm", [flat, f"gemm.{block}", f"bias.{block}"], [f"{x}_gemm"], name=f"block.{block}/Gemm", transB=1
            ),
            helper.make_node("Shape", [x], [f"{x}_shape"]),
            helper.make_node("Reshape", [f"{x}_gemm", f"{x}_shape"], [f"{x}_same"]),
            helper.make_node("Transpose", [f"out.{block}"], [f"{x}_turned"], name=f"block.{block}/turn", perm=[1, 0]),
            helper.make_node("MatMul", [f"{x}_same", f"{x}_turned"], [out], name=f"block.{block}/out/MatMul"),
            helper.make_node("Add", [x, out], [y], name=f"block.{block}/Add"),
        ]

    def weights(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(self.seed)

        def normal(*shape: int) -> np.ndarray:
            return (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

        found = {"table": normal(self.vocab, self.hidden)}
        for block in range(self.blocks):
            found[f"in.{block}"] = normal(self.hidden, self.inner)
            found[f"gemm.{block}"] = normal(self.hidden, self.inner)
            found[f"bias.{block}"] = normal(self.hidden)
            found[f"out.{block}"] = normal(self.hidden, self.hidden)
        if not self.tied:
            found["head"] = normal(self.hidden, self.vocab)
        found["rows"] = np.array([-1, self.inner], np.int64)
        return found

    def write(self, folder: Path) -> Path:
        return save(self.proto(), folder, self.external)


def save(model: onnx.ModelProto, folder: Path, external: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"save_as_external_data": bool(external), "location": external, "size_threshold": 1024}
    onnx.save(model, str(folder / "model.onnx"), **(kept if external else {}))
    return folder


def one_product(
    op_type: str = "MatMul", weight: np.ndarray | None = None, inputs: Sequence[str] = ("x", "w"), **attributes: object
) -> onnx.ModelProto:
    """y = op_type(x, w): a single node."""
    values = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32) if weight is None else weight
    domain = str(attributes.pop("domain", ""))
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), ["y"], name="product", domain=domain, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


class Attempts:
    """What a job's attempts have of their host: one is canceled at sample number `last`, counted over all of them."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.samples = last, 0
        self.steps: list[tuple[int, int]] = []
        self.state: dict[str, Any] = {}

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        self.samples += 1
        if self.samples == self.last:
            raise Canceled("the job was canceled")

    def keep(self, name: str, arrays: Mapping[str, Any]) -> None:
        self.state[name] = {key: array.copy() for key, array in arrays.items()}

    def kept(self, name: str) -> Any:
        kept = self.state.get(name)
        return None if kept is None else {key: array.copy() for key, array in kept.items()}


def run(folder: Path, **inputs: np.ndarray) -> np.ndarray:
    """The first output of a folder's model."""
    found: np.ndarray = open_session(folder / "model.onnx").run(None, inputs)[0]
    return found


def array(folder: Path, name: str) -> np.ndarray:
    """An initializer of a folder's model."""
    proto = onnx.load(str(folder / "model.onnx"))
    found: np.ndarray = next(numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == name)
    return found


def fused(folder: Path, written: Path) -> Counter[str]:
    """How many nodes of each operator the runtime computes a folder's model with; it writes its graph to `written`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(written)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(written)).graph.node)
