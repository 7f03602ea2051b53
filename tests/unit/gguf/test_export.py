"""The written file, as the gguf package reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.card import Card
from quantmill.contract.errors import PluginBroken, VerificationFailed
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.plugin import GGUF

Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Quantize and write a checkpoint; gives the file."""

    def run(checkpoint: Checkpoint, folder: str = "artifact", **params: Any) -> Path:
        run = Run(GGUF, GGUF.params(**params), checkpoint)
        path, *_ = run.write(run.quantize(), tmp_path / folder)
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
        "GGUF.kv_count": 29,
        "general.architecture": "llama",
        "general.type": "model",
        "general.size_label": "4.2M",
        "general.file_type": 15,
        "general.quantization_version": 2,
        "general.license": "cc0-1.0",
        "general.languages": ["en"],
        "general.tags": ["text-generation"],
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


# Files


GENERAL = {
    "name": "Millstone 4M",
    "license": "apache-2.0",
    "source.repo_url": "https://huggingface.co/example/millstone-4m",
    "base_model.0.name": "Millstone",
    "base_model.0.repo_url": "https://huggingface.co/example/millstone",
}


def test_what_is_said_of_the_model_stands_under_general(export: Export, small: Checkpoint) -> None:
    found = metadata(export(small, general=GENERAL))
    assert {name: found[f"general.{name}"] for name in GENERAL} == GENERAL
    assert found["general.base_model.count"] == 1


CARD = """---
license: other
license_name: llama3
license_link: https://example.org/LICENSE
model_name: Small Llama
model_creator: Somebody
base_model:
- example-org/base-7b-v1.5
- https://example.org/other
datasets: [example/texts, wikitext]
language:
- en
- no
tags: [chat]
pipeline_tag: text-generation
---
"""


@pytest.fixture
def with_card(small: Checkpoint, tmp_path: Path) -> Iterator[Checkpoint]:
    folder = shutil.copytree(small.folder, tmp_path / "card")
    (folder / "README.md").write_text(CARD)
    with open_checkpoint(folder) as checkpoint:
        yield checkpoint


def test_the_model_s_card_says_what_the_job_does_not(export: Export, with_card: Checkpoint) -> None:
    path = export(with_card, type="Q8_0", general={"license": "mit", "author": "Me"})
    said = {key.removeprefix("general."): value for key, value in metadata(path).items() if key.startswith("general.")}

    assert said == {
        "architecture": "llama",
        "type": "model",
        "file_type": 7,
        "quantization_version": 2,
        "size_label": "754K",
        "license": "mit",
        "author": "Me",
        "name": "Small Llama",
        "base_model.count": 2,
        "base_model.0.name": "Base 7b v1.5",
        "base_model.0.organization": "Example Org",
        "base_model.0.repo_url": "https://huggingface.co/example-org/base-7b-v1.5",
        "base_model.1.repo_url": "https://example.org/other",
        "dataset.count": 2,
        "dataset.0.name": "Texts",
        "dataset.0.organization": "Example",
        "dataset.0.repo_url": "https://huggingface.co/datasets/example/texts",
        "dataset.1.name": "Wikitext",
        "languages": ["en", "no"],
        "tags": ["chat", "text-generation"],
    }


def test_what_the_card_says_is_what_llama_cpp_s_conversion_says(export: Export, with_card: Checkpoint) -> None:
    found = metadata(export(with_card, type="Q8_0"))
    theirs = gguf.Metadata.load(model_path=with_card.folder)

    assert found["general.license"] == theirs.license
    assert found["general.license.name"] == theirs.license_name
    assert found["general.license.link"] == theirs.license_link
    assert found["general.name"] == theirs.name
    assert found["general.author"] == theirs.author
    assert found["general.tags"] == theirs.tags
    assert found["general.languages"] == theirs.languages
    assert theirs.base_models is not None
    for number, model in enumerate(theirs.base_models):
        said = {key: found.get(f"general.base_model.{number}.{key}") for key in ("name", "organization", "repo_url")}
        assert said == {key: model.get(key) for key in said}


def test_the_card_passes_verification_and_a_change_of_it_does_not(with_card: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="Q8_0"), with_card)
    path, *_ = run.write(run.quantize(), tmp_path / "artifact")
    verify(with_card, run.plan, GGUF, run.params, path.parent)

    path.write_bytes(
        path.read_bytes()
        .replace(b"llama3", b"llama4")
        .replace(b"\x02\x00\x00\x00\x00\x00\x00\x00no", b"\x02\x00\x00\x00\x00\x00\x00\x00nn")
    )

    with pytest.raises(VerificationFailed, match=r"general\.license\.name.*languages\[1\]"):
        verify(with_card, run.plan, GGUF, run.params, path.parent)


def test_a_readme_repeats_the_card_and_the_plan_what_was_passed_over(export: Export, with_card: Checkpoint) -> None:
    lines = (export(with_card, type="Q8_0").parent / "README.md").read_text().splitlines()
    assert lines[: lines.index("---", 1)] == [
        "---",
        "license: 'other'",
        "license_name: 'llama3'",
        "license_link: 'https://example.org/LICENSE'",
        "base_model: ['example-org/base-7b-v1.5', 'https://example.org/other']",
        "datasets: ['example/texts', 'Wikitext']",
        "language: ['en', 'no']",
        "tags: ['chat', 'text-generation']",
    ]
    noted = replace(with_card.index, card=Card(notes=("README.md: license is not repeated",)))
    assert "README.md: license is not repeated" in GGUF.plan.load()(noted, GGUF.params()).warnings


def test_the_source_s_digest_stands_in_the_file(small: Checkpoint) -> None:
    index = replace(small.index, digest="sha256:" + "0" * 64)
    params = GGUF.params(type="Q8_0")
    placement = GGUF.place.load()(GGUF.plan.load()(index, params), index, params)  # type: ignore[union-attr]
    assert b"quantmill.source.digest" in placement.weights["model-Q8_0.gguf"].head
    assert b"sha256:" + b"0" * 64 in placement.weights["model-Q8_0.gguf"].head


def test_the_readme_has_the_commands_and_what_hubs_read(export: Export, small: Checkpoint) -> None:
    folder = export(small, type="Q4_0", general=GENERAL).parent
    lines = (folder / "README.md").read_text().splitlines()
    assert lines[:5] == [
        "---",
        "license: 'apache-2.0'",
        "base_model: 'example/millstone-4m'",
        "base_model_relation: 'quantized'",
        "---",
    ]
    assert "# Millstone 4M, Q4_0" in lines
    assert "    llama-cli -m model-Q4_0.gguf" in lines
    assert "    ollama create millstone-4m:q4_0 -f Modelfile" in lines
    assert "    lms import model-Q4_0.gguf" in lines
    assert (folder / "Modelfile").read_text() == "FROM ./model-Q4_0.gguf\n"


def test_a_split_model_has_llama_cpp_s_names_and_numbers(export: Export, millstone: Checkpoint) -> None:
    first = export(millstone, type="Q4_K_M", split_max_size_mb=1)
    files = sorted(path.name for path in first.parent.iterdir())
    readers = [gguf.GGUFReader(path) for path in sorted(first.parent.glob("*.gguf"))]

    assert files == ["Modelfile", "README.md", *(f"model-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3))]
    for number, reader in enumerate(readers):
        split = {key: reader.fields[f"split.{key}"].contents() for key in ("no", "count", "tensors.count")}
        assert split == {"no": number, "count": 3, "tensors.count": 38}
        assert sum(int(tensor.n_bytes) for tensor in reader.tensors) <= 1e6
    assert "tokenizer.ggml.tokens" in readers[0].fields
    assert "tokenizer.ggml.tokens" not in readers[1].fields
    plan = GGUF.plan.load()(millstone.index, GGUF.params(type="Q4_K_M"))
    assert [tensor.name for reader in readers for tensor in reader.tensors] == [row.output for row in plan.tensors]


def test_the_parts_hold_what_the_whole_file_holds(export: Export, millstone: Checkpoint) -> None:
    whole = dict(GGUF.weights(export(millstone, "whole", type="Q4_0").parent))
    parts = dict(GGUF.weights(export(millstone, "parts", type="Q4_0", split_max_size_mb=0.5).parent))
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(values, parts[name]) for name, values in whole.items())


def test_a_split_model_passes_inspection(millstone: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="Q4_0", split_max_size_mb=0.5), millstone)
    written = run.write(run.quantize(), tmp_path / "artifact")

    inspection = GGUF.inspect.load()(tmp_path / "artifact", run.plan, millstone.index, run.params)  # type: ignore[union-attr]

    assert sorted(inspection.files) == sorted(path.name for path in written)
    assert [each for each in inspection.observations if not each.holds] == []
    lines = (tmp_path / "artifact" / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ./model-Q4_0-00001-of-00005.gguf", "FROM ./model-Q4_0-00002-of-00005.gguf"]


def lose(folder: Path) -> None:
    next(iter(sorted(folder.glob("*.gguf")))).unlink()


def rename(folder: Path) -> None:
    path = sorted(folder.glob("*.gguf"))[-1]
    path.rename(folder / path.name.replace("model", "other"))


def repeat(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("*.gguf"))
    second.write_bytes(first.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lose, "or all its parts; found"), (rename, "or all its parts; found"), (repeat, "stored in two parts")],
)
def test_parts_that_do_not_belong_together_are_refused(
    export: Export, millstone: Checkpoint, damage: Callable[[Path], None], message: str
) -> None:
    folder = export(millstone, type="Q4_0", split_max_size_mb=0.5).parent
    damage(folder)
    with pytest.raises(VerificationFailed, match=message):
        list(GGUF.weights(folder))


def test_offsets_beyond_four_gigabytes_are_written(small: Checkpoint) -> None:
    params = GGUF.params(type="F32")
    plan = GGUF.plan.load()(small.index, params)
    large = replace(plan, tensors=tuple(replace(row, nbytes=row.nbytes * 5000) for row in plan.tensors))
    placement = GGUF.place.load()(large, small.index, params)  # type: ignore[union-attr]
    last = placement.places[plan.tensors[-1].name][0]
    assert last.begin > 2**32
    assert placement.weights["model-F32.gguf"].size > last.begin + last.nbytes - 1
