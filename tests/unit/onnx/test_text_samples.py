"""Windows of a text as samples for graphs that take tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.onnx_jobs import of_kind, onnx_job
from tests.onnx_models import Attempts, SmallModel
from tests.small_tokenizers import VOCABULARY, wordpiece

from quantmill.calibration.samples import read_windows
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import Canceled, ParamsRejected, RequestRejected, SourceRejected
from quantmill.contract.graph_text import feed_of, takes_text
from quantmill.contract.onnx import OnnxGraph, read_graph
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.jobs import Phase
from quantmill.worker.messages import Finished, Progressed
from quantmill_onnx import calibration, counting
from quantmill_onnx.counting import activation_ranges
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX
from quantmill_onnx.samples import read_samples
from quantmill_onnx.tokens import TokenSamples

INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
WINDOW = np.array([5, 6, 7])
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 20
TOKENS = ["batch", "tokens"]


def graph_of(**inputs: tuple[int, list[Any]]) -> OnnxGraph:
    named = list(inputs.items())
    made = helper.make_graph(
        [helper.make_node("Identity", [named[0][0]], ["y"])],
        "inputs",
        [helper.make_tensor_value_info(name.replace("__", "."), *each) for name, each in named],
        [helper.make_tensor_value_info("y", named[0][1][0], None)],
    )
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return read_graph(memoryview(data), Path("model.onnx"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of tokens beside a WordPiece tokenizer."""
    folder = SmallModel(vocab=VOCABULARY, ids="input_ids").write(tmp_path_factory.mktemp("text") / "model")
    wordpiece(lowercase=True).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "model_type": "bert"}))
    (folder.parent / "text.txt").write_text(TEXT)
    return folder


def test_a_window_becomes_ids_masks_positions_and_an_empty_cache() -> None:
    cache = (FLOAT, ["batch", 2, "before", 8])
    graph = graph_of(
        input_ids=(INT64, TOKENS),
        attention_mask=(BOOL, ["batch", "before + tokens"]),
        token_type_ids=(TensorProto.INT32, TOKENS),
        position_ids=(INT64, TOKENS),
        past_key_values__0__key=cache,
    )

    feed = feed_of(graph, WINDOW)

    assert {name: (values.tolist(), str(values.dtype)) for name, values in feed.items()} == {
        "input_ids": ([[5, 6, 7]], "int64"),
        "attention_mask": ([[True, True, True]], "bool"),
        "token_type_ids": ([[0, 0, 0]], "int32"),
        "position_ids": ([[0, 1, 2]], "int64"),
        "past_key_values.0.key": ([[[], []]], "float32"),
    }
    assert feed["past_key_values.0.key"].shape == (1, 2, 0, 8)


def test_a_graph_of_a_fixed_length_takes_shorter_windows_masked() -> None:
    graph = graph_of(input_ids=(INT64, [1, 5]), attention_mask=(INT64, [1, 5]))

    feed = feed_of(graph, WINDOW)

    assert feed["input_ids"].tolist() == [[5, 6, 7, 0, 0]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    with pytest.raises(SourceRejected, match="takes 5; use a window of 5"):
        feed_of(graph, np.arange(6))


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixel_values": (FLOAT, ["batch", 3, 32, 32])},
        {"input_ids": (INT64, TOKENS), "pixel_values": (FLOAT, ["batch", 3, 32, 32])},
        {"input_ids": (INT64, ["batch"])},
        {"input_ids": (INT64, [4, "tokens"])},
        {"input_ids": (INT64, [1, 1 << 40])},
        {"input_ids": (INT64, TOKENS), "past_key_values__0__key": (FLOAT, ["batch", "heads", "before", 8])},
        {"input_ids": (INT64, TOKENS), "use_cache_branch": (BOOL, [1])},
    ],
)
def test_inputs_that_do_not_follow_from_a_text_are_seen(inputs: dict[str, Any]) -> None:
    assert not takes_text(graph_of(**inputs))


@pytest.mark.parametrize(
    ("ids", "tokenizer", "said"),
    [
        ("ids", True, "no input input_ids, so that no text can be run; it takes"),
        ("input_ids", False, "has no tokenizer.json that makes tokens of a text"),
    ],
)
def test_a_model_that_no_text_can_calibrate_is_refused_at_once(
    model: Path, tmp_path: Path, ids: str, tokenizer: bool, said: str
) -> None:
    folder = SmallModel(ids=ids).write(tmp_path / "model")
    if tokenizer:
        (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())

    with open_checkpoint(folder) as checkpoint, pytest.raises(ParamsRejected, match=said):
        ONNX.plan.load()(checkpoint.index, OnnxParams(mode="static"))


def test_windows_for_a_graph_begin_and_end_as_the_tokenizer_has_it(model: Path) -> None:
    options = CalibrationOptions("", samples=3, window=8)

    with open_checkpoint(model) as checkpoint:
        packed = read_windows(checkpoint.index, model.parent / "text.txt", options).ids
        single = read_windows(checkpoint.index, model.parent / "text.txt", CalibrationOptions("", packing="documents"))

    cls, sep = 2, 3
    assert [(len(each), each[0], each[-1]) for each in packed] == [(8, cls, sep)] * 3
    assert not any({cls, sep} & set(each[1:-1].tolist()) for each in packed)
    assert [(len(each), each[0], each[-1]) for each in single.ids] == [(64, cls, sep)]  # as much as the model takes


def test_a_window_beyond_the_model_s_limit_is_refused(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint, pytest.raises(RequestRejected, match="at most 64, the model's limit"):
        read_windows(checkpoint.index, model.parent / "text.txt", CalibrationOptions("", window=65))


def test_a_fixed_length_is_the_model_s_limit(tmp_path: Path) -> None:
    proto = SmallModel(ids="input_ids").proto()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 12
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')

    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.index.config["max_position_embeddings"] == 12


@pytest.mark.parametrize("stated", ["true", "0", "64.0", '"64"'])
def test_what_is_no_number_of_positions_is_no_limit(tmp_path: Path, stated: str) -> None:
    (tmp_path / "model.onnx").write_bytes(SmallModel(ids="input_ids").proto().SerializeToString())
    (tmp_path / "config.json").write_text(f'{{"max_position_embeddings": {stated}}}')

    with open_checkpoint(tmp_path) as checkpoint:
        assert "max_position_embeddings" not in checkpoint.index.config


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_windows_give_the_ranges_that_the_same_tokens_give_as_arrays(model: Path, tmp_path: Path, method: str) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (6, 9))
    np.savez(tmp_path / "s.npz", input_ids=ids)
    params = OnnxParams(mode="static", calibration_method=method)

    with open_checkpoint(model) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        arrays = activation_ranges(graph, ["x0", "x1"], read_samples(tmp_path / "s.npz", graph), params, 1, Attempts())
        windows = activation_ranges(graph, ["x0", "x1"], TokenSamples(graph, list(ids)), params, 2, Attempts())

    assert windows == arrays


def test_a_canceled_job_ends_within_the_pass(model: Path) -> None:
    host = Attempts(last=3)

    with open_checkpoint(model) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        with pytest.raises(Canceled):
            activation_ranges(graph, ["x0"], TokenSamples(graph, [WINDOW] * 50), OnnxParams(mode="static"), 1, host)

    assert host.samples == 3


@pytest.mark.parametrize("method", ["percentile", "moving_average"])
@pytest.mark.parametrize("last", [7, 10, 12, 20])  # within the passes over 10 samples, and just behind one
def test_an_attempt_runs_only_samples_that_the_one_before_has_not_counted(
    model: Path, monkeypatch: pytest.MonkeyPatch, method: str, last: int
) -> None:
    monkeypatch.setattr(counting, "KEPT_EVERY", 4)
    monkeypatch.setattr(calibration, "SLICE_BYTES", 1)  # each activation has a pass of its own
    params = OnnxParams(mode="static", calibration_method=method)
    ids = list(np.random.default_rng(0).integers(0, VOCABULARY, (10, 9)))
    host = Attempts(last)

    with open_checkpoint(model) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        samples = TokenSamples(graph, ids)
        at_once = activation_ranges(graph, ["x0", "x1"], samples, params, 1, Attempts())
        with pytest.raises(Canceled):
            activation_ranges(graph, ["x0", "x1"], samples, params, 1, host)
        found = activation_ranges(graph, ["x0", "x1"], samples, params, 2, host)

    assert found == at_once
    assert host.steps[-1] == (19, 20)
    assert host.samples - 20 == {7: 3, 10: 2, 12: 2, 20: 2}[last]  # were run twice


def test_a_job_is_calibrated_on_its_text(model: Path, tmp_path: Path) -> None:
    options = CalibrationOptions(str(model.parent / "text.txt"), samples=4, window=16)

    said = onnx_job(model, tmp_path, {"mode": "static"}, calibration=options)

    (finished,) = of_kind(Finished, said)
    steps = [each for each in of_kind(Progressed, said) if each.phase is Phase.CALIBRATE]
    assert [(each.done, each.total) for each in steps] == [(n, 4) for n in range(4)] * 2  # channels, then ranges
    assert finished.calibration["options"]["windows"] == 4
    assert finished.calibration["options"]["window"] == 16
    assert finished.calibration["digest"].startswith("sha256:")
    assert finished.verification["passed"]
    assert finished.plan["calibration"]["windows"] is True
    assert {note.tensor for note in finished.notes} == {"in.0", "gemm.0", "out.0", "in.1", "gemm.1", "out.1", "head"}


def test_a_job_that_lost_its_worker_runs_no_sample_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CalibrationOptions(str(model.parent / "text.txt"), samples=4, window=16)
    (alone,) = of_kind(Finished, onnx_job(model, tmp_path / "alone", {"mode": "static"}, calibration=options))
    onnx_job(model, tmp_path / "lost", {"mode": "static"}, calibration=options)  # whose units nobody has recorded

    monkeypatch.setattr(counting, "run_all", lambda *_: pytest.fail("a sample was run"))
    (later,) = of_kind(
        Finished, onnx_job(model, tmp_path / "lost", {"mode": "static"}, calibration=options, attempt="2")
    )

    assert later.notes == alone.notes
    assert later.verification == alone.verification
