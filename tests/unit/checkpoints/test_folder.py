from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import NotFound, SourceRejected

EMBEDDING = {"model.embed_tokens.weight": np.ones((4, 2), np.float32)}
HEAD = {"lm_head.weight": np.ones((4, 2), np.float32)}
NORM = {"model.norm.weight": np.ones(2, np.float32)}


def refusal(folder: Path) -> SourceRejected:
    with pytest.raises(SourceRejected) as refused:
        open_checkpoint(folder)
    return refused.value


def config(**keys: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **keys}


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


# What is read


def test_the_shipped_model_is_read_from_its_headers(millstone: Path) -> None:
    with open_checkpoint(millstone) as checkpoint:
        index = checkpoint.index

    assert index.architecture == "LlamaForCausalLM"
    assert len(index.tensors) == 38
    assert list(index.tensors) == sorted(index.tensors)
    assert index.nbytes == 8_393_216
    assert index.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert list(index.files) == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert index.files["tokenizer.json"] == (millstone / "tokenizer.json").resolve()
    assert index.digest == ""


def test_a_tensor_has_its_values_and_its_header(millstone: Path) -> None:
    with open_checkpoint(millstone) as checkpoint:
        norm = checkpoint.tensor("model.norm.weight")

    assert (norm.info.dtype, norm.info.shape) == ("BF16", (256,))
    assert norm.values[:4].tolist() == [2.0, 2.140625, 2.09375, 2.1875]


@pytest.mark.parametrize("name", ["lm_head.weight", "x"])
def test_a_tensor_that_is_not_stored_is_not_found(millstone: Path, name: str) -> None:
    with open_checkpoint(millstone) as checkpoint, pytest.raises(NotFound, match=name):
        checkpoint.tensor(name)


def test_shards_are_read_as_one(make_model: Any) -> None:
    with open_checkpoint(make_model([EMBEDDING, NORM])) as checkpoint:
        assert list(checkpoint.index.tensors) == ["model.embed_tokens.weight", "model.norm.weight"]
        assert checkpoint.tensor("model.norm.weight").values.tolist() == [1.0, 1.0]


def test_opening_reads_no_weights(make_model: Any) -> None:
    folder = make_model()
    nbytes = 100 << 30
    header = json.dumps({"w": {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + nbytes)

    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensor("w").values[-1] == 0  # the last of a hundred gigabytes


def test_a_tensor_out_of_use_leaves_memory(make_model: Any) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    tensors = {f"w{number}": np.ones((4 << 20) // 4, np.float32) for number in range(16)}
    folder = make_model(tensors)
    del tensors

    with open_checkpoint(folder) as checkpoint:
        before = resident()
        for name in checkpoint.index.tensors:
            assert checkpoint.tensor(name).values.sum() == 1 << 20
        grown = resident() - before

    assert grown < 16 << 20  # the file has 64 MiB


@pytest.mark.parametrize("value", ["Infinity", "NaN"])
def test_a_config_may_hold_what_python_writes_for_infinity(make_model: Any, value: str) -> None:
    folder = make_model()
    text = json.dumps(config(tie_word_embeddings=True, time_step_limit=[0.0, "?"])).replace('"?"', value)
    (folder / "config.json").write_text(text)

    open_checkpoint(folder).close()


# Tied weights


TIED = {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("keys", "stored", "tied"),
    [
        ({"tie_word_embeddings": True}, EMBEDDING, TIED),
        ({}, EMBEDDING, TIED),
        ({"tie_word_embeddings": True}, HEAD, {"model.embed_tokens.weight": "lm_head.weight"}),
        ({"tie_word_embeddings": True}, EMBEDDING | HEAD, {}),
        ({"tie_word_embeddings": False}, EMBEDDING | HEAD, {}),
        ({"architectures": ["LlamaModel"], "tie_word_embeddings": True}, EMBEDDING, {}),
        ({"tie_word_embeddings": True}, NORM, {}),
    ],
    ids=["head missing", "config silent", "embedding missing", "both stored", "untied", "no head in it", "neither"],
)
def test_the_end_that_is_not_stored_is_tied_to_the_other(make_model: Any, keys: Any, stored: Any, tied: Any) -> None:
    with open_checkpoint(make_model(stored, config(**keys))) as checkpoint:
        assert checkpoint.index.tied == tied


@pytest.mark.parametrize(
    ("keys", "stored", "missing"),
    [
        ({"tie_word_embeddings": False}, EMBEDDING, "lm_head.weight"),
        ({"tie_word_embeddings": False}, HEAD, "model.embed_tokens.weight"),
        ({}, HEAD, "model.embed_tokens.weight"),
    ],
)
def test_a_model_that_lacks_an_untied_end_is_refused(make_model: Any, keys: Any, stored: Any, missing: str) -> None:
    refused = refusal(make_model(stored, config(**keys)))

    assert refused.fields["tensor"] == missing


# The digest


def test_the_source_digest_is_over_the_digests_of_the_files(make_model: Any) -> None:
    folder = make_model()
    (folder / "config.json").write_text('{"architectures":["LlamaModel"]}')
    (folder / "model.safetensors").write_bytes(packed({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}))
    (folder / "merges.txt").write_text("")
    (folder / "README.md").write_text("not part of the model")

    # printf '{"config.json":"sha256:...","merges.txt":"sha256:...","model.safetensors":"sha256:..."}' | sha256sum
    digest = "sha256:3c5841fcf44246fab9930819097053128f990ff54d3b09e943a98ba0772fb250"
    assert open_checkpoint(folder).source_digest() == digest


def packed(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"\0"


@pytest.mark.parametrize(
    "file", ["config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"]
)
def test_every_file_of_the_model_counts_for_its_digest(make_model: Any, file: str) -> None:
    folder = make_model([EMBEDDING, NORM])
    (folder / "tokenizer.json").write_text("{}")
    before = open_checkpoint(folder).source_digest()

    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-1] + b"\x40" if file.endswith(".safetensors") else data + b"\n")

    assert open_checkpoint(folder).source_digest() != before


def test_the_digest_reports_how_far_it_has_come(millstone: Path) -> None:
    seen: list[tuple[int, int]] = []

    with open_checkpoint(millstone) as checkpoint:
        checkpoint.source_digest(lambda done, total: seen.append((done, total)))

    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_weights_that_change_while_they_are_digested_are_refused(millstone: Path, make_model: Any) -> None:
    folder = make_model()
    checkpoint = open_checkpoint(folder)

    with pytest.raises(SourceRejected, match="changed while it was being read"):
        checkpoint.source_digest(lambda done, total: os.utime(folder / "model.safetensors", ns=(0, 0)))


# What is refused


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "nowhere").detail


def test_a_file_is_not_a_folder(millstone: Path) -> None:
    assert "is not a folder" in refusal(millstone / "config.json").detail


def test_a_folder_without_config_is_refused(make_model: Any) -> None:
    folder = make_model()
    (folder / "config.json").unlink()

    assert "has no config.json; it is not a model folder" in refusal(folder).detail


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": "\\ud800"}', "not valid UTF-8"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        (" " * (10 << 20) + "{}", "larger than 10485760 bytes"),
        ("{}", 'no "architectures"'),
        ('{"architectures": []}', 'no "architectures"'),
        ('{"architectures": "LlamaForCausalLM"}', 'no "architectures"'),
        ('{"architectures": [1]}', 'no "architectures"'),
        ('{"architectures": ["A"], "auto_map": {"AutoModel": "evil--model.A"}}', 'has the key "auto_map"'),
        ('{"architectures": ["A"], "text_config": [{"auto_map": {"x": "y"}}]}', 'has the key "auto_map"'),
        ('{"architectures": ["A"], "quantization_config": {"trust_remote_code": true}}', '"trust_remote_code"'),
    ],
    ids=lambda value: value[:40],
)
def test_a_config_that_cannot_be_trusted_is_refused(make_model: Any, text: str, reason: str) -> None:
    folder = make_model()
    (folder / "config.json").write_text(text)

    refused = refusal(folder)

    assert reason in refused.detail
    assert refused.fields["file"] == "config.json"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.PTH", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_with_the_way_out(make_model: Any, name: str) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / name)

    refused = refusal(folder)

    assert refused.fields["file"] == name
    assert "Convert them to safetensors" in refused.detail


def test_a_folder_without_weights_is_refused(make_model: Any) -> None:
    folder = make_model()
    (folder / "model.safetensors").unlink()

    assert "neither model.safetensors nor model.safetensors.index.json" in refusal(folder).detail


def test_a_folder_with_two_sets_of_weights_is_refused(make_model: Any) -> None:
    folder = make_model([EMBEDDING])
    save_file(EMBEDDING, folder / "model.safetensors")

    assert "holds both" in refusal(folder).detail


def test_weights_without_a_tensor_are_refused(make_model: Any) -> None:
    assert "holds no tensors" in refusal(make_model({})).detail


@pytest.mark.parametrize(
    "shard",
    [
        "../../x",
        "../model/model-00001-of-00001.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "model\0.safetensors",
        "model\n.safetensors",
        None,
        7,
        ["model-00001-of-00001.safetensors"],
    ],
    ids=repr,
)
def test_an_index_that_names_anything_but_a_file_of_the_folder_is_refused(make_model: Any, shard: object) -> None:
    folder = make_model([EMBEDDING])
    write_index(folder, {"model.embed_tokens.weight": shard})

    refused = refusal(folder)

    assert refused.fields["file"] == "model.safetensors.index.json"


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", 1])
def test_an_index_without_a_weight_map_is_refused(make_model: Any, weight_map: object) -> None:
    folder = make_model([EMBEDDING])
    write_index(folder, weight_map)

    assert 'no "weight_map"' in refusal(folder).detail


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": {"a": "x", "a": "y"}}'])
def test_an_index_that_is_not_an_object_is_refused(make_model: Any, text: str) -> None:
    folder = make_model([EMBEDDING])
    (folder / "model.safetensors.index.json").write_text(text)

    assert "model.safetensors.index.json cannot be read" in refusal(folder).detail


def test_an_index_with_too_many_shards_is_refused(make_model: Any) -> None:
    folder = make_model([EMBEDDING])
    write_index(folder, {f"t{number}": f"{number}.safetensors" for number in range(513)})

    assert "names 513 files; the limit is 512" in refusal(folder).detail


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("shards", "weight_map", "file", "tensor"),
    [
        (
            [EMBEDDING, NORM],
            {"model.embed_tokens.weight": FIRST, "model.norm.weight": FIRST},
            FIRST,
            "model.norm.weight",
        ),
        ([EMBEDDING, NORM], {"model.embed_tokens.weight": FIRST, "x": SECOND}, SECOND, "model.norm.weight"),
        (
            [EMBEDDING, NORM | EMBEDDING],
            {"model.embed_tokens.weight": FIRST, "model.norm.weight": SECOND},
            SECOND,
            "model.embed_tokens.weight",
        ),
        (
            [EMBEDDING | NORM],
            {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"},
            "model-00001-of-00001.safetensors",
            "model.norm.weight",
        ),
    ],
    ids=["not in its shard", "unknown name", "in two shards", "not in the map"],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    make_model: Any, shards: Any, weight_map: Any, file: str, tensor: str
) -> None:
    folder = make_model(shards)
    write_index(folder, weight_map)

    refused = refusal(folder)

    assert refused.fields["file"] == file
    assert refused.fields["tensor"] == tensor


def test_a_missing_shard_is_refused_by_name(make_model: Any) -> None:
    folder = make_model([EMBEDDING, NORM])
    (folder / SECOND).unlink()

    assert refusal(folder).detail == f"{SECOND} cannot be opened: No such file or directory."


def test_a_truncated_shard_is_refused_by_name(make_model: Any) -> None:
    folder = make_model([EMBEDDING, NORM])
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])

    assert refusal(folder).fields["file"] == SECOND


# Links


FILES = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def linked(make_model: Any) -> Callable[[str, str], Path]:
    """A model folder of which one file is a link, and the file itself as `real` beside the folder."""

    def make(file: str, target: str) -> Path:
        folder: Path = make_model()
        (folder / "tokenizer.json").write_text("{}")
        (folder / file).rename(folder.parent / "real")
        (folder / file).symlink_to(target)
        return folder

    return make


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("target", ["../real", "/etc/passwd", "../model/../real", "/dev/zero", ".."])
def test_a_link_that_leaves_the_folder_is_refused(linked: Any, file: str, target: str) -> None:
    refused = refusal(linked(file, target))

    assert refused.detail == f"{file} is a link that leaves the model folder. Replace it by the file itself."


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("target", ["nothing", "folder", "."])
def test_a_link_to_nothing_readable_is_refused(linked: Any, file: str, target: str) -> None:
    folder = linked(file, target)
    (folder / "folder").mkdir()

    assert refusal(folder).fields["file"] == file


@pytest.mark.parametrize("file", FILES)
def test_a_link_to_itself_is_refused(linked: Any, file: str) -> None:
    assert refusal(linked(file, file)).fields["file"] == file


@pytest.mark.parametrize("file", FILES)
def test_a_pipe_is_refused_without_waiting_for_it(make_model: Any, file: str) -> None:
    folder = make_model()
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)

    assert refusal(folder).detail == f"{file} is not a regular file."


def test_a_link_within_the_folder_is_followed(make_model: Any) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")

    open_checkpoint(folder).close()


def test_a_model_folder_may_be_a_link_itself(make_model: Any, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(make_model())

    open_checkpoint(tmp_path / "alias").close()


@pytest.fixture
def hub_snapshot(make_model: Any, tmp_path: Path) -> Path:
    """The layout of the Hugging Face cache: links from snapshots/<revision> to blobs."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(make_model().iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return snapshot


def test_the_links_of_the_hugging_face_cache_are_followed(hub_snapshot: Path) -> None:
    with open_checkpoint(hub_snapshot) as checkpoint:
        assert checkpoint.index.tied == TIED
        assert checkpoint.source_digest().startswith("sha256:")


def test_a_link_of_the_hugging_face_cache_to_anywhere_else_is_refused(hub_snapshot: Path) -> None:
    (hub_snapshot / "config.json").unlink()
    (hub_snapshot / "config.json").symlink_to("/etc/passwd")

    assert "leaves the model folder" in refusal(hub_snapshot).detail


def test_blobs_that_are_a_link_themselves_are_refused(hub_snapshot: Path, tmp_path: Path) -> None:
    (hub_snapshot.parents[1] / "blobs").rename(tmp_path / "elsewhere")
    (hub_snapshot.parents[1] / "blobs").symlink_to(tmp_path / "elsewhere")

    assert "leaves the model folder" in refusal(hub_snapshot).detail


def test_another_folder_called_snapshots_has_no_blobs(make_model: Any, tmp_path: Path) -> None:
    folder = make_model(name="evil/snapshots/1")
    (tmp_path / "evil" / "blobs").mkdir()
    (folder / "config.json").rename(tmp_path / "evil" / "blobs" / "config")
    (folder / "config.json").symlink_to("../../blobs/config")

    assert "leaves the model folder" in refusal(folder).detail


def test_a_refused_folder_leaves_no_file_open(make_model: Any) -> None:
    folder = make_model([EMBEDDING, NORM])
    write_index(folder, {"model.embed_tokens.weight": FIRST, "x": SECOND})
    before = len(list(Path("/dev/fd").iterdir()))

    for _ in range(10):
        refusal(folder)

    assert len(list(Path("/dev/fd").iterdir())) == before
