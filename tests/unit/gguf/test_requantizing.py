"""GGUF files as the source of the method: what becomes of their tensors and keys, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.gguf_models import LLAMA, file, i32s_key, tensor, text_key, texts_key, u32_key
from tests.random_models import RANDOM_MODELS, TYPED_MODELS

from quantmill.calibration import tokenize
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, ParamsRejected, SourceRejected, VerificationFailed
from quantmill.contract.gguf import GgufContainer
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_gguf.imatrix import Entry, ImportanceMatrix, write_imatrix
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.plugin import GGUF

Sources = Callable[[str], Checkpoint]
Requantize = Callable[..., Path]


@pytest.fixture(scope="module")
def source_of(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    """The small checkpoint as a GGUF file of some type, opened."""
    opened: dict[str, Checkpoint] = {}

    def of(type_: str) -> Checkpoint:
        if type_ not in opened:
            run = Run(GGUF, GGUF.params(type=type_), small)
            path, *_ = run.write(run.quantize(), tmp_path_factory.mktemp("sources") / type_)
            opened[type_] = open_checkpoint(path)
        return opened[type_]

    yield of
    for checkpoint in opened.values():
        checkpoint.close()


@pytest.fixture
def requantize(tmp_path: Path) -> Requantize:
    """Quantize a GGUF source and verify what was written; gives the (first) file."""

    def run(source: Checkpoint, folder: str = "artifact", **params: Any) -> Path:
        run = Run(GGUF, GGUF.params(**params), source)
        path, *_ = run.write(run.quantize(), tmp_path / folder)
        verify(source, run.plan, GGUF, run.params, tmp_path / folder)
        return path

    return run


def packed(path: Path) -> dict[str, tuple[str, bytes]]:
    with GgufContainer(path) as opened:
        return {name: (each.type.name, opened.packed(each).tobytes()) for name, each in opened.tensors.items()}


def keys(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# Types and values


@pytest.mark.parametrize("type_", ["Q4_K_M", "Q3_K_S", "IQ4_XS", "Q8_0", "BF16"])
def test_a_file_of_the_source_s_own_values_gives_what_the_checkpoint_gives(
    source_of: Sources, requantize: Requantize, small: Checkpoint, tmp_path: Path, type_: str
) -> None:
    direct = Run(GGUF, GGUF.params(type=type_), small)
    path, *_ = direct.write(direct.quantize(), tmp_path / "direct")

    assert packed(requantize(source_of("BF16"), type=type_)) == packed(path)


SOURCES = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"]
SOURCES += ["Q3_K_M", "Q2_K", "TQ1_0", "TQ2_0", "F16"]


@pytest.mark.parametrize("of", SOURCES)
def test_every_type_can_be_requantized_and_is_verified(source_of: Sources, requantize: Requantize, of: str) -> None:
    target = "Q4_0" if of != "Q4_0" else "Q4_1"
    types = {type_ for type_, _ in packed(requantize(source_of(of), type=target, allow_requantize=True)).values()}
    assert types == {"F32", target, "Q6_K"}


def test_blocks_of_the_wanted_type_are_copied(source_of: Sources, requantize: Requantize) -> None:
    source = source_of("Q4_K_M")
    path = requantize(source, type="Q4_K_M")
    with GgufContainer(source.folder / "model-Q4_K_M.gguf") as opened:
        assert packed(path) == packed(opened.path)
    rows = Run(GGUF, GGUF.params(type="Q4_K_M"), source).plan.tensors
    assert {row.action for row in rows} == {"keep"}
    assert {row.reason for row in rows if row.scheme == "Q4_K"} == {"Q4_K in the source: its blocks are copied"}


ARRANGED = ["mixtral, 4 experts", "gpt2", "gemma3", "gptneox", "falcon", "bert", "phi3, longrope"]


@pytest.mark.parametrize("name", ARRANGED)
def test_tensors_of_any_architecture_stay_where_and_as_they_are(
    tmp_path: Path, requantize: Requantize, name: str
) -> None:
    with open_checkpoint(RANDOM_MODELS[name].write(tmp_path / "model")) as checkpoint:
        source, direct = Run(GGUF, GGUF.params(type="F32"), checkpoint), Run(GGUF, GGUF.params(), checkpoint)
        plain, *_ = source.write(source.quantize(), tmp_path / "source")
        path, *_ = direct.write(direct.quantize(), tmp_path / "direct")
    with open_checkpoint(plain) as opened:
        found = requantize(opened)
    assert packed(found) == packed(path)
    assert list(packed(found)) == list(packed(path))
    said, wanted = keys(found), keys(path)
    assert said.pop("quantmill.source.format") == "gguf"
    assert (said.pop("GGUF.kv_count"), said) == (wanted.pop("GGUF.kv_count") + 1, wanted)


GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/gguf/family_types.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_a_mix_is_llama_cpp_s_by_what_the_file_says(name: str, tmp_path: Path) -> None:
    """The file has no weights: only its header is looked at."""
    with open_checkpoint(TYPED_MODELS[name].write(tmp_path / "model", hidden=256, filled=False)) as checkpoint:
        params = GgufParams(type="F32")
        placement = GGUF.place.load()(plan(checkpoint.index, params), checkpoint.index, params)  # type: ignore[union-attr]
    (head,) = placement.weights.values()
    with (tmp_path / "a.gguf").open("wb") as written:
        written.write(head.head)
        written.truncate(head.size)

    with open_checkpoint(tmp_path / "a.gguf") as source:
        for type_, golden in GOLDEN[name].items():
            found: dict[str, list[str]] = {}
            for row in plan(source.index, GgufParams(type=type_)).tensors:
                if row.output.endswith(".weight"):
                    found.setdefault(row.output.split(".")[-2], []).append(row.scheme)
            assert found == {role: each.split() for role, each in golden.items()}, type_


# Keys


def test_every_key_is_copied_but_those_that_are_no_longer_so(tmp_path: Path, requantize: Requantize) -> None:
    copied = [
        text_key("x.unknown", "\u00e9"),
        LLAMA,
        texts_key("tokenizer.ggml.tokens", b"\xff", "b"),
        i32s_key("llama.attention.head_count_kv", 1, 1),
        text_key("tokenizer.chat_template", "{{ messages }}"),
        u32_key("general.file_type", 1),
        text_key("quantize.imatrix.file", "/models/of/somebody/imatrix.dat"),
        u32_key("llama.block_count", 1),
    ]
    (tmp_path / "a.gguf").write_bytes(file(copied, [tensor("blk.0.attn_q.weight", (32, 2))], bytes(256)))
    with open_checkpoint(tmp_path / "a.gguf") as source:
        path = requantize(source, type="Q8_0", general={"name": "A model"})
    with GgufContainer(path) as found:
        assert [found.raw(key) for key in ("x.unknown", "tokenizer.ggml.tokens", "llama.attention.head_count_kv")] == [
            struct.pack("<IQ", 8, 2) + "\u00e9".encode(),
            copied[2].removeprefix(struct.pack("<Q", 21) + b"tokenizer.ggml.tokens"),
            copied[3].removeprefix(struct.pack("<Q", 29) + b"llama.attention.head_count_kv"),
        ]
        assert found.metadata == {
            "x.unknown": "\u00e9",
            "general.architecture": "llama",
            "tokenizer.chat_template": "{{ messages }}",
            "general.file_type": 7,
            "quantize.imatrix.file": "imatrix.dat",
            "llama.block_count": 1,
            "general.name": "A model",
            "general.quantization_version": 2,
            "quantmill.source.format": "gguf",
        }


def test_the_source_s_digest_and_its_alignment_stand_in_the_file(tmp_path: Path) -> None:
    tensors = [tensor("a.weight", (32, 1)), tensor("b.weight", (32, 1), offset=128)]
    aligned = u32_key("general.alignment", 64)
    (tmp_path / "a.gguf").write_bytes(file([LLAMA, aligned], tensors, bytes(256), alignment=64))
    with open_checkpoint(tmp_path / "a.gguf") as source:
        source.index = replace(source.index, digest="sha256:" + "0" * 64)
        run = Run(GGUF, GGUF.params(type="Q8_0"), source)
        path, *_ = run.write(run.quantize(), tmp_path / "artifact")
        verify(source, run.plan, GGUF, run.params, tmp_path / "artifact")
    with GgufContainer(path) as found:
        assert found.metadata["quantmill.source.digest"] == "sha256:" + "0" * 64
        assert [each.start % 64 for each in found.tensors.values()] == [0, 0]
        assert found.alignment == 64


def test_parts_are_numbered_anew(source_of: Sources, requantize: Requantize) -> None:
    source = source_of("BF16")
    first = requantize(source, type="Q4_0", split_max_size_mb=0.3)
    with open_checkpoint(first.parent) as parts:
        assert sorted(parts.index.tensors) == sorted(source.index.tensors)
        again = requantize(parts, "again", type="Q4_0")
    assert packed(again) == packed(requantize(source, "whole", type="Q4_0"))
    assert not [key for key in keys(again) if key.startswith("split.")]


def test_the_readme_says_what_the_source_s_keys_say(tmp_path: Path, requantize: Requantize) -> None:
    said = [text_key("general.name", "A model"), text_key("general.license", "mit"), text_key("general.author", "x\ny")]
    (tmp_path / "a.gguf").write_bytes(file([LLAMA, *said], [tensor("a.weight", (32, 1))], bytes(128)))
    with open_checkpoint(tmp_path / "a.gguf") as source:
        folder = requantize(source, type="Q8_0").parent
    lines = (folder / "README.md").read_text().splitlines()
    assert lines[:5] == ["---", "license: 'mit'", "---", "", "# A model, Q8_0"]
    assert "llama, quantized to GGUF by quantmill without an importance matrix." in lines


# Importance and budgets


def matrix_of(path: Path, source: Checkpoint, experts: int = 1) -> Path:
    generator = np.random.default_rng(0)
    entries = {}
    for name, info in source.index.tensors.items():
        if name.startswith("blk.") and len(info.shape) > 1:
            matrices = experts if "_exps" in name else 1
            sums = generator.lognormal(0, 2, (matrices, info.shape[-1])).astype(np.float32)
            entries[name] = Entry(sums, np.ones(matrices, np.float32))
    return write_imatrix(path, ImportanceMatrix(entries, "", 1, 512, ("c.txt",)))


def test_an_importance_matrix_weights_what_it_weights_of_the_checkpoint(tmp_path: Path, requantize: Requantize) -> None:
    with open_checkpoint(RANDOM_MODELS["mixtral, 4 experts"].write(tmp_path / "model")) as checkpoint:
        plain = Run(GGUF, GGUF.params(type="F32"), checkpoint)
        path, *_ = plain.write(plain.quantize(), tmp_path / "plain")
        with open_checkpoint(path) as source:
            params = {"type": "Q4_0", "imatrix": str(matrix_of(tmp_path / "imatrix.gguf", source, experts=4))}
            found = requantize(source, **params)
        direct = Run(GGUF, GGUF.params(**params), checkpoint)
        wanted, *_ = direct.write(direct.quantize(), tmp_path / "direct")
    assert packed(found) == packed(wanted)
    assert keys(found)["quantize.imatrix.file"].startswith("sha256:")


def test_a_budget_is_kept_and_chooses_as_from_the_checkpoint(
    source_of: Sources, requantize: Requantize, small: Checkpoint
) -> None:
    source = source_of("BF16")
    path = requantize(source, target_bpw=5)
    direct = Run(GGUF, GGUF.params(target_bpw=5), small)
    assert {name: type_ for name, (type_, _) in packed(path).items()} == {
        row.output: row.scheme for row in direct.plan.tensors
    }


def test_a_budget_of_experts_in_one_tensor_is_settled(tmp_path: Path, requantize: Requantize) -> None:
    with open_checkpoint(RANDOM_MODELS["mixtral, 4 experts"].write(tmp_path / "model")) as checkpoint:
        plain = Run(GGUF, GGUF.params(type="Q8_0"), checkpoint)
        path, *_ = plain.write(plain.quantize(), tmp_path / "plain")
    with open_checkpoint(path) as source:
        requantize(source, target_bpw=6, imatrix=str(matrix_of(tmp_path / "imatrix.dat", source, experts=4)))


# Refusals


def test_a_lossy_source_is_refused_by_its_types_unless_it_is_allowed(source_of: Sources) -> None:
    source = source_of("Q4_K_M")
    with pytest.raises(
        SourceRejected, match=r"Q4_K: 6 tensors, token_embd\.weight and others.*allow_requantize"
    ) as refused:
        plan(source.index, GgufParams(type="Q4_0"))
    assert refused.value.fields["types"] == {"Q4_K": 6, "Q6_K": 2}
    allowed = plan(source.index, GgufParams(type="Q4_0", allow_requantize=True))
    assert "read as what they stand for" in allowed.warnings[0]


def test_a_source_of_q8_0_is_taken_with_a_word(source_of: Sources) -> None:
    assert "the source is quantized (Q8_0: " in plan(source_of("Q8_0").index, GgufParams(type="Q4_0")).warnings[0]


def test_importance_cannot_be_computed_of_a_gguf_file(source_of: Sources) -> None:
    with pytest.raises(ParamsRejected, match="for a GGUF file give the importance matrix as a file"):
        plan(source_of("BF16").index, GgufParams(imatrix="auto"))


def test_a_gguf_file_is_not_run_on_a_text(source_of: Sources) -> None:
    with pytest.raises(SourceRejected, match="give the checkpoint that it was made from"):
        tokenize(source_of("BF16").index, "a text")


def opened(tmp_path: Path, *names: str, architecture: str = "mamba") -> Checkpoint:
    tensors = [tensor(name, (32, 2), offset=256 * number) for number, name in enumerate(names)]
    (tmp_path / "a.gguf").write_bytes(
        file([text_key("general.architecture", architecture)], tensors, bytes(256 * len(names)))
    )
    return open_checkpoint(tmp_path / "a.gguf")


def test_an_unknown_architecture_is_refused_with_the_list_but_for_pure(tmp_path: Path, requantize: Requantize) -> None:
    with opened(tmp_path, "blk.0.ssm_in.weight", "blk.0.ssm_conv1d.weight", "blk.0.ssm_a") as source:
        with pytest.raises(ArchitectureUnsupported, match=r"'mamba' a mix.*it knows: bert, falcon, .*With pure"):
            plan(source.index, GgufParams())
        path = requantize(source, type="Q4_0", pure=True)
    assert {name: type_ for name, (type_, _) in packed(path).items()} == {
        "blk.0.ssm_in.weight": "Q4_0",
        "blk.0.ssm_conv1d.weight": "F32",
        "blk.0.ssm_a": "F32",
    }


@pytest.mark.parametrize("method", ["hqq", "gptq", "awq", "bnb", "fp8"])
def test_other_methods_say_that_they_need_the_checkpoint(source_of: Sources, method: str) -> None:
    from quantmill.plugins import load_plugins

    chosen = load_plugins().method(method)
    with pytest.raises(SourceRejected, match=r"the source is a GGUF file.*give the checkpoint that it was made from"):
        chosen.plan.load()(source_of("BF16").index, chosen.params())


# Verification


def turn(content: bytearray, found: GgufContainer) -> None:
    """Swap two rows."""
    stored = found.tensors["blk.0.attn_q.weight"]
    row = stored.nbytes // stored.rows
    first, second = stored.start, stored.start + row
    content[first:second], content[second : second + row] = content[second : second + row], content[first:second]


def forget(content: bytearray, found: GgufContainer) -> None:
    """Another token."""
    place = content.index(b"tokenizer.ggml.tokens") + 21 + 4 + 4 + 8 + 8
    content[place] ^= 1


def relabel(content: bytearray, found: GgufContainer) -> None:
    place = content.index(b"general.file_type") + 17 + 4
    content[place] ^= 1


DAMAGES = [(turn, "blk.0.attn_q.weight"), (forget, "tokenizer.ggml.tokens"), (relabel, "general.file_type")]


@pytest.mark.parametrize(("damage", "named"), DAMAGES)
def test_a_file_that_is_not_what_the_source_says_is_no_artifact(
    source_of: Sources,
    requantize: Requantize,
    damage: Callable[[bytearray, GgufContainer], None],
    named: str,
) -> None:
    source, params = source_of("BF16"), {"type": "Q8_0"}
    path = requantize(source, **params)
    content = bytearray(path.read_bytes())
    with GgufContainer(path) as found:
        damage(content, found)
    path.write_bytes(content)
    run = Run(GGUF, GGUF.params(**params), source)
    with pytest.raises(VerificationFailed, match=named):
        verify(source, run.plan, GGUF, run.params, path.parent)
