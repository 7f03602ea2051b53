#!/usr/bin/env python3
"""The memory that the onnx method takes for a graph with much external data: that of one weight, not of the graph.

The graph is a row of square products whose weights lie in a sparse file: it takes no room on the disk, and reads as
zeros. Beyond 2 GB no protobuf could hold it. Prints the source's size, the artifact's, the most memory that quantizing
took beyond what the process had before, the plan's own figure, and the seconds of processor time, as JSON.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/onnx_large.py [--megabytes 2400] [--set KEY=VALUE]
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path

import onnx
from onnx import helper

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill_onnx.plugin import ONNX

HIDDEN = 1792
WEIGHT_BYTES = 4 * HIDDEN * HIDDEN  # 12.8 MB
DATA = "weights.bin"


def make(folder: Path, megabytes: int) -> int:
    """folder/model.onnx with so many megabytes of weights beside it; gives their bytes."""
    folder.mkdir()
    count = max(1, megabytes * 10**6 // WEIGHT_BYTES)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"product.{i}") for i in range(count)]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, ["batch", HIDDEN])],
        [helper.make_tensor_value_info(f"x{count}", onnx.TensorProto.FLOAT, ["batch", HIDDEN])],
        [_external(f"w{i}", i * WEIGHT_BYTES) for i in range(count)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with (folder / DATA).open("wb") as file:
        file.truncate(count * WEIGHT_BYTES)
    return count * WEIGHT_BYTES


def _external(name: str, begin: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[HIDDEN, HIDDEN])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": DATA, "offset": begin, "length": WEIGHT_BYTES}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def memory(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2400)
    parser.add_argument("--set", nargs="*", default=[], dest="sets", metavar="KEY=VALUE")
    asked = parser.parse_args()
    params = ONNX.params.model_validate(dict(each.split("=", 1) for each in asked.sets))
    with tempfile.TemporaryDirectory(prefix="onnx-large-") as scratch:
        source, artifact = Path(scratch) / "source", Path(scratch) / "artifact"
        nbytes = make(source, asked.megabytes)
        before, start = memory("VmRSS"), time.process_time()
        with open_checkpoint(source) as checkpoint:
            run = Run(ONNX, params, checkpoint)
            run.write(run.quantize(), artifact)
            planned = run.plan.peak_memory_bytes
        told = {
            "source_bytes": nbytes,
            "artifact_bytes": sum(path.stat().st_size for path in artifact.iterdir()),
            "peak_bytes": memory("VmHWM") - before,
            "planned_bytes": planned,
            "seconds": round(time.process_time() - start, 1),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
