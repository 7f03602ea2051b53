"""The written file, as the gguf package reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import PluginBroken
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill_gguf.plugin import GGUF

Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Quantize and write a checkpoint; gives the file."""

    def run(checkpoint: Checkpoint, folder: str = "artifact", **params: Any) -> Path:
        run = Run(GGUF, GGUF.params(**params), checkpoint)
        (path,) = run.write(run.quantize(), tmp_path / folder)
        return path

    return run


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_the_metadata_is_what_llama_cpp_needs(export: Export, millstone: Checkpoint) -> None:
    path = export(millstone, type="Q4_K_M")
    found = metadata(path)
    tokens, merges, types = (found.pop(f"tokenizer.ggml.{name}") for name in ("tokens", "merges", "token_type"))
    epsilon = found.pop("llama.attention.layer_norm_rms_epsilon")
    assert path.name == "model-Q4_K_M.gguf"
    assert (len(tokens), len(types), len(merges)) == (4096, 4096, 3838)
    assert (tokens[2], types[0], merges[1]) == ("!", 3, "Ġ t")
    assert abs(epsilon - 1e-5) < 1e-12
    assert found == {
        "GGUF.version": 3,
        "GGUF.tensor_count": 38,
        "GGUF.kv_count": 25,
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": 15,
        "general.quantization_version": 2,
        "llama.vocab_size": 4096,
        "llama.context_length": 512,
        "llama.embedding_length": 256,
        "llama.block_count": 4,
        "llama.feed_forward_length": 768,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def test_the_tensors_are_those_of_the_plan_in_its_order(export: Export, millstone: Checkpoint) -> None:
    reader = gguf.GGUFReader(export(millstone, type="Q5_K_M"))
    plan = GGUF.plan.load()(millstone.index, GGUF.params(type="Q5_K_M"))
    found = [(t.name, t.tensor_type.name, tuple(t.shape.tolist()[::-1]), int(t.n_bytes)) for t in reader.tensors]
    assert found == [(row.output, row.scheme, row.shape, row.nbytes) for row in plan.tensors]


def test_the_bytes_do_not_depend_on_where_or_when(export: Export, small: Checkpoint) -> None:
    assert export(small, "a").read_bytes() == export(small, "b").read_bytes()


def test_a_chat_template_and_a_linear_rope_are_written(export: Export, tmp_path: Path) -> None:
    folder = SyntheticLlama(blocks=1).write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with open_checkpoint(folder) as checkpoint:
        found = metadata(export(checkpoint))
    assert found["tokenizer.chat_template"] == "{{ messages }}"
    assert (found["llama.rope.scaling.type"], found["llama.rope.scaling.factor"]) == ("linear", 2.0)


def test_llama_3_s_rope_scaling_becomes_a_tensor(export: Export, tmp_path: Path) -> None:
    folder = SyntheticLlama(blocks=1).write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
    (folder / "config.json").write_text(json.dumps(config))
    with open_checkpoint(folder) as checkpoint:
        path = export(checkpoint)
        read = dict(GGUF.weights(path.parent))
        assert set(read) == set(checkpoint.index.tensors)
    first = gguf.GGUFReader(path).tensors[0]
    assert (first.name, first.data.shape) == ("rope_freqs.weight", (32,))
    assert (first.data[0], first.data[-1]) == (1.0, 8.0)
    assert np.all(np.diff(first.data) >= 0)


def test_tensors_out_of_order_are_refused(small: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="Q8_0"), small)
    with pytest.raises(PluginBroken, match=r"the plan has \('model\.embed_tokens\.weight', 'Q8_0', .* next"):
        run.write(reversed(list(run.quantize())), tmp_path / "reversed")


def test_missing_tensors_are_refused(small: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="Q8_0"), small)
    with pytest.raises(PluginBroken, match="next, got None"):
        run.write(iter(list(run.quantize())[:-1]), tmp_path / "short")
