from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from quantmill.contract.errors import ArtifactDamaged, PluginBroken, RequestRejected
from quantmill.contract.tensors import Plan, TensorPlan, Unit
from quantmill.domain.artifacts import Artifact, ArtifactFile, Metric
from quantmill.files.artifacts import EarlyDigests, describe, description_bytes, materialize, store_folder
from quantmill.files.blobs import BlobStore
from quantmill.files.manifest import manifest, manifest_digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
TWO_MEBIBYTES_OF_ZEROS = "sha256:5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "written"
    (folder / "onnx").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"hello")
    (folder / "onnx" / "config.json").write_bytes(b"")
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def artifact_of(*files: ArtifactFile, description: ArtifactFile | None = None) -> Artifact:
    return Artifact(manifest_digest(files), "model", "gguf", files, description, datetime(2026, 1, 2, tzinfo=UTC))


def test_a_folder_is_stored_in_the_order_of_its_paths(written: Path, blobs: BlobStore) -> None:
    assert store_folder(written, blobs) == (
        ArtifactFile("model.gguf", HELLO, 5, "application/octet-stream"),
        ArtifactFile("onnx/config.json", EMPTY, 0, "application/json"),
    )


def test_a_stored_folder_can_give_its_files_away(written: Path, blobs: BlobStore) -> None:
    store_folder(written, blobs, move=True)

    assert not (written / "model.gguf").exists()
    assert blobs.exists(HELLO)


def test_large_files_are_digested_while_others_read_them(written: Path, blobs: BlobStore) -> None:
    (written / "onnx" / "weights").write_bytes(bytes(2 << 20))
    early = EarlyDigests(written)

    assert [*early.wait()] == ["onnx/weights"]
    assert store_folder(written, blobs, move=True, known=early.wait())[-1].digest == TWO_MEBIBYTES_OF_ZEROS


def test_of_a_folder_that_goes_away_nothing_is_known(tmp_path: Path) -> None:
    early = EarlyDigests(tmp_path / "gone")

    early.close()

    assert early.wait() == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / "link").symlink_to("/etc/passwd"),
        lambda folder: (folder / "link").symlink_to("model.gguf"),
        lambda folder: (folder / "links").symlink_to("/etc"),
        lambda folder: os.mkfifo(folder / "pipe"),
        lambda folder: (folder / "a\\b").write_text(""),
        lambda folder: (folder / "a\nb").write_text(""),
    ],
    ids=["link out", "link inside", "link to a folder", "pipe", "backslash", "line break"],
)
def test_a_folder_with_anything_but_plain_files_is_refused(written: Path, blobs: BlobStore, make) -> None:
    make(written)

    with pytest.raises(PluginBroken):
        store_folder(written, blobs)


def test_an_empty_folder_is_not_an_artifact(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(PluginBroken, match="no files"):
        store_folder(tmp_path / "empty", blobs)


def test_the_manifest_is_canonical_json_without_quantmill_json() -> None:
    files = [
        ArtifactFile("quantmill.json", HELLO, 5, "application/json"),
        ArtifactFile("model.gguf", HELLO, 5),
        ArtifactFile("a/é.json", EMPTY, 0, "application/json"),
    ]

    assert manifest(files).decode() == (
        '{"files":['
        f'{{"digest":"{EMPTY}","mediaType":"application/json","path":"a/é.json","size":0}},'
        f'{{"digest":"{HELLO}","mediaType":"application/octet-stream","path":"model.gguf","size":5}}'
        '],"mediaType":"application/vnd.quantmill.manifest.v1+json"}'
    )
    assert manifest_digest(files) == manifest_digest(files[:0:-1])
    assert manifest_digest(files) == "sha256:c4804b3cb5e8bf16a29debe96253c492cfc197b73b5de0e87b4bea4cf75a0b52"


def test_an_artifact_comes_out_as_it_went_in(written: Path, blobs: BlobStore, tmp_path: Path) -> None:
    files = store_folder(written, blobs)
    description = ArtifactFile("quantmill.json", blobs.put_bytes(b"{}").digest, 2)

    materialize(artifact_of(*files, description=description), blobs, tmp_path / "out")

    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"hello"
    assert (tmp_path / "out" / "onnx" / "config.json").read_bytes() == b""
    assert (tmp_path / "out" / "quantmill.json").read_bytes() == b"{}"


def test_editing_a_materialized_file_does_not_touch_the_blob(written: Path, blobs: BlobStore, tmp_path: Path) -> None:
    materialize(artifact_of(*store_folder(written, blobs)), blobs, tmp_path / "out")

    (tmp_path / "out" / "model.gguf").write_bytes(b"edited")

    blobs.verify(HELLO)


def test_an_empty_folder_is_filled(written: Path, blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    materialize(artifact_of(*store_folder(written, blobs)), blobs, tmp_path / "out")

    assert (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.parametrize("kind", ["not empty", "file", "link"])
def test_what_exists_is_not_written_over(written: Path, blobs: BlobStore, tmp_path: Path, kind: str) -> None:
    artifact = artifact_of(*store_folder(written, blobs))
    out = tmp_path / "out"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        out.write_text("mine")
    else:
        (out / "mine").mkdir(parents=True)

    with pytest.raises(RequestRejected, match="exists and is not an empty folder"):
        materialize(artifact, blobs, out)

    assert [name for name in names_in(tmp_path) if name.endswith(".part")] == []


def test_a_damaged_blob_leaves_no_folder(written: Path, blobs: BlobStore, tmp_path: Path) -> None:
    artifact = artifact_of(*store_folder(written, blobs))
    blobs.path(HELLO).chmod(0o644)
    blobs.path(HELLO).write_bytes(b"jello")

    with pytest.raises(ArtifactDamaged) as damaged:
        materialize(artifact, blobs, tmp_path / "out")

    assert damaged.value.fields["path"] == "model.gguf"
    assert names_in(tmp_path) == ["blobs", "written"]


def test_a_missing_blob_leaves_no_folder(written: Path, blobs: BlobStore, tmp_path: Path) -> None:
    artifact = artifact_of(*store_folder(written, blobs))
    blobs.delete(EMPTY)

    with pytest.raises(ArtifactDamaged, match="missing"):
        materialize(artifact, blobs, tmp_path / "out")

    assert names_in(tmp_path) == ["blobs", "written"]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", "."])
def test_a_path_that_leaves_the_folder_is_never_written(blobs: BlobStore, tmp_path: Path, path: str) -> None:
    blob = blobs.put_bytes(b"hello")

    with pytest.raises(ArtifactDamaged):
        materialize(artifact_of(ArtifactFile(path, blob.digest, 5)), blobs, tmp_path / "in" / "out")

    assert names_in(tmp_path / "in") == []


def test_quantmill_json_says_how_the_artifact_was_made() -> None:
    plan = Plan(
        tensors=(TensorPlan("a.weight", (2, 32), "BF16", "quantize", "Q8_0", "a.weight", 68),),
        units=(Unit("a.weight", ("a.weight",)),),
        peak_memory_bytes=1000,
    )
    arguments = {
        "files": (ArtifactFile("model.gguf", HELLO, 5),),
        "kind": "model",
        "format": "gguf",
        "source_uri": "/models/a",
        "source_digest": EMPTY,
        "method": "gguf",
        "method_version": "1",
        "params": {"type": "Q8_0"},
        "seed": 7,
        "plan": plan,
        "verification": {"passed": True},
        "metrics": [Metric("perplexity", 30.5, "", n=512)],
        "measured": {"options": {"window": 256}},
        "notes": [{"tensor": "a.weight", "found": "damping raised", "figures": {"used": 0.06}}],
        "environment": {"python": "3.11"},
        "job_id": UUID(int=1),
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    }

    first, second = description_bytes(describe(**arguments)), description_bytes(describe(**arguments))

    assert first == second
    assert json.loads(first) == {
        "schema": "quantmill.artifact.v1",
        "digest": manifest_digest(arguments["files"]),
        "kind": "model",
        "format": "gguf",
        "created_at": "2026-01-02T00:00:00+00:00",
        "job_id": "00000000-0000-0000-0000-000000000001",
        "source": {"uri": "/models/a", "digest": EMPTY},
        "method": {"name": "gguf", "version": "1"},
        "params": {"type": "Q8_0"},
        "seed": 7,
        "steps": [],
        "notes": [{"tensor": "a.weight", "found": "damping raised", "figures": {"used": 0.06}}],
        "calibration_digest": None,
        "calibration": {},
        "files": [{"path": "model.gguf", "digest": HELLO, "size": 5, "media_type": "application/octet-stream"}],
        "bits_per_weight": 8.5,
        "plan": plan.to_json(),
        "verification": {"passed": True},
        "evaluation": [
            {
                "name": "perplexity",
                "value": 30.5,
                "unit": "",
                "subject": "artifact",
                "n": 512,
                "higher_is_better": None,
                "ci_low": None,
                "ci_high": None,
            }
        ],
        "measured": {"options": {"window": 256}},
        "environment": {"python": "3.11"},
    }
