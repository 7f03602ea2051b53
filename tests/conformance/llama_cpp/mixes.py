"""llama.cpp's own choice of tensor types for models other than plain Llamas: mixtures, Falcon, fused attention.

    PYTHONPATH=. .venv/bin/python tests/conformance/llama_cpp/mixes.py --write

makes tests/data/golden/gguf/family_types.json, which `make test` holds our policy to.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
from check import TYPES, consume, export
from kernels.bench.environments import environment
from tests.random_models import TYPED_MODELS

from quantmill.checkpoints import open_checkpoint
from quantmill_gguf.policies import MIXES, NEED_IMATRIX

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[1] / "data" / "golden" / "gguf" / "family_types.json"


# Not those that give every matrix one type, and none that needs an importance matrix
COMPARED = [
    type_ for type_ in TYPES if (MIXES[type_].rules or type_ in ("Q3_K_S", "Q8_0")) and type_ not in NEED_IMATRIX
]


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def by_role(types: dict[str, str]) -> dict[str, str]:
    """Kind of tensor -> its types in the order of the blocks."""
    roles: dict[str, list[str]] = {}
    for name in sorted(types, key=lambda name: int(name.split(".")[1]) if name.startswith("blk.") else 0):
        if name.endswith(".weight"):
            roles.setdefault(name.split(".")[-2], []).append(types[name])
    return {role: " ".join(found) for role, found in sorted(roles.items())}


def compare(name: str, python: Path, scratch: Path) -> tuple[dict[str, Any], list[str]]:
    """llama.cpp's types by file type and kind, and where ours are others."""
    folder = TYPED_MODELS[name].write(scratch / "model", hidden=256)
    golden, different = {}, []
    with open_checkpoint(folder) as checkpoint:
        source = export(checkpoint, {"type": "F32"}, scratch / "source")
        for type_ in COMPARED:
            target = scratch / "theirs.gguf"
            task = {"source": str(source), "target": str(target), "file_type": MIXES[type_].file_type, "options": {}}
            consume(python, scratch, quantize=[task])
            theirs, ours = types_of(target), types_of(export(checkpoint, {"type": type_}, scratch / type_))
            golden[type_] = by_role(theirs)
            different += [
                f"{name}, {type_}, {key}: {ours[key]}, not {theirs[key]}" for key in ours if ours[key] != theirs[key]
            ]
            target.unlink()
    return golden, different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="the golden file")
    arguments = parser.parse_args()
    python = environment("conformance", "llama_cpp", HERE / "requirements.txt")
    golden: dict[str, Any] = {}
    different: list[str] = []
    for name in TYPED_MODELS:
        with tempfile.TemporaryDirectory(prefix="mixes-") as scratch:
            golden[name], others = compare(name, python, Path(scratch))
        print(name, f"{len(others)} tensors of another type", *others[:10], sep="\n  ", flush=True)
        different += others
    if arguments.write:
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
