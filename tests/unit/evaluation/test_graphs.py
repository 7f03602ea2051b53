"""ONNX graphs on a text: decoders by what they predict, encoders by what they make of a window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.onnx_jobs import of_kind, onnx_job
from tests.onnx_models import SmallModel
from tests.small_tokenizers import VOCABULARY, wordpiece

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected, SourceRejected
from quantmill.contract.graph_text import measured_on_text
from quantmill.domain.artifacts import Metric
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.evaluation.graphs import measure_graphs
from quantmill.worker.messages import Finished

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. " * 8
QUICK = EvaluationOptions(window=16)
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer() -> str:
    found: str = wordpiece(lowercase=True).to_str()
    return found


@pytest.fixture
def write(tmp_path: Path, tokenizer: str) -> Write:
    """A graph of tokens with its tokenizer and a config.json, in a new folder."""

    def make(name: str, proto: onnx.ModelProto | None = None, architecture: str = "LlamaForCausalLM") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(proto or model(), str(folder / "model.onnx"))
        (folder / "tokenizer.json").write_text(tokenizer)
        (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        return folder

    return make


def model(output: str = "logits", seed: int = 0, nudge: float = 0) -> onnx.ModelProto:
    """Of one seed; with a `nudge`, the head is another one by that much."""
    made = SmallModel(vocab=VOCABULARY, ids="input_ids", blocks=1, seed=seed).proto()
    made.graph.node[-1].output[0] = made.graph.output[0].name = output
    for each in made.graph.initializer:
        if each.name == "head" and nudge:
            noise = np.random.default_rng(1).standard_normal(tuple(each.dims)).astype(np.float32)
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) + nudge * noise, "head"))
    return made


def metrics(source: Path, artifact: Path, options: EvaluationOptions = QUICK) -> dict[tuple[str, str], Metric]:
    with open_checkpoint(source) as checkpoint:
        found = measure_graphs(checkpoint, artifact, TEXT, options).metrics
    return {(each.subject, each.name): each for each in found}


def slow_nll(path: Path, ids: np.ndarray) -> np.ndarray:
    """By numpy, from the graph's own weights: (window - 1,)."""
    import onnxruntime

    (logits,) = onnxruntime.InferenceSession(str(path)).run(["logits"], {"input_ids": ids[None]})
    scores = logits[0, :-1].astype(np.float64)
    return np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(ids) - 1), ids[1:]]


def test_a_decoder_s_perplexity_is_that_of_its_logits(write: Write) -> None:
    source, artifact = write("source"), write("artifact", model(nudge=0.02))
    with open_checkpoint(source) as checkpoint:
        ids = measure_graphs(checkpoint, artifact, TEXT, QUICK).windows.ids

    found = metrics(source, artifact)

    for subject, folder in (("source", source), ("artifact", artifact)):
        expected = np.exp(np.mean([slow_nll(folder / "model.onnx", each) for each in ids]))
        assert found[subject, "perplexity"].value == pytest.approx(expected, rel=1e-5)
    assert found["artifact", "perplexity"].n == len(ids) * 15
    assert 0 < found["artifact", "kld_mean"].value < 0.05


def test_a_graph_beside_itself_loses_nothing(write: Write) -> None:
    found = metrics(write("source"), write("artifact"))

    assert found["artifact", "kld_max"].value == 0
    assert found["artifact", "top1_agreement"].value == found["artifact", "top5_agreement"].value == 1
    assert found["artifact", "retention"].value == 100


def test_divergence_grows_with_the_difference(write: Write) -> None:
    source = write("source")
    found = [
        metrics(source, write(str(nudge), model(nudge=nudge)))["artifact", "kld_mean"].value
        for nudge in (0.01, 0.03, 0.1)
    ]

    assert found == sorted(found)
    assert found[0] > 0


def test_an_encoder_is_measured_by_the_means_of_its_windows(write: Write) -> None:
    source = write("source", model("last_hidden_state"), "BertModel")
    same = metrics(source, write("same", model("last_hidden_state"), "BertModel"))
    other = metrics(source, write("other", model("last_hidden_state", nudge=0.05), "BertModel"))

    assert same["artifact", "embedding_cosine"].value == pytest.approx(1)
    assert other["artifact", "embedding_cosine_worst"].value < other["artifact", "embedding_cosine"].value < 0.9999
    assert other["artifact", "embedding_cosine"].ci_low is not None


def test_what_a_graph_of_a_fixed_length_is_filled_up_with_does_not_count(write: Write) -> None:
    found = []
    for length in (0, 24):
        protos = [model("last_hidden_state", nudge=nudge) for nudge in (0, 0.05)]
        for each in protos if length else ():
            for dimension, size in zip(each.graph.input[0].type.tensor_type.shape.dim, (1, length), strict=True):
                dimension.dim_value = size
        source, artifact = (write(f"{length}-{n}", each, "BertModel") for n, each in enumerate(protos))
        found.append(metrics(source, artifact)["artifact", "embedding_cosine"].value)

    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_an_encoder_s_windows_begin_and_end_as_the_tokenizer_has_it(write: Write) -> None:
    source = write("source", model("last_hidden_state"), "BertModel")
    with open_checkpoint(source) as checkpoint:
        ids = measure_graphs(checkpoint, source, TEXT, QUICK).windows.ids

    assert ids.shape[1] == 16
    assert {(int(each[0]), int(each[-1])) for each in ids} == {(2, 3)}


@pytest.mark.parametrize(
    ("output", "architecture", "expected"),
    [
        ("logits", "LlamaForCausalLM", "predictions"),
        ("logits", "GPT2LMHeadModel", "predictions"),
        ("last_hidden_state", "BertModel", "embeddings"),
        ("last_hidden_state", "", "embeddings"),
    ],
)
def test_what_is_measured_follows_from_outputs_and_architecture(
    write: Write, output: str, architecture: str, expected: str
) -> None:
    with open_checkpoint(write("source", model(output), architecture)) as checkpoint:
        assert measured_on_text(checkpoint.index) == expected


@pytest.mark.parametrize(
    ("proto", "architecture", "said"),
    [
        (model(), "BertForMaskedLM", "this graph gives"),
        (model("scores"), "LlamaForCausalLM", "this graph gives"),
        (SmallModel().proto(), "LlamaForCausalLM", "no input input_ids"),
    ],
    ids=["masked", "another output", "another input"],
)
def test_a_graph_that_a_text_says_nothing_of_is_refused(
    write: Write, proto: onnx.ModelProto, architecture: str, said: str
) -> None:
    with (
        open_checkpoint(write("source", proto, architecture)) as checkpoint,
        pytest.raises(RequestRejected, match=said),
    ):
        measured_on_text(checkpoint.index)


@pytest.mark.parametrize("options", [{"tasks": ("arc_easy",)}, {"device": "cuda"}, {"dtype": "bfloat16"}])
def test_what_only_models_of_transformers_have_is_refused(write: Write, options: dict[str, Any]) -> None:
    source = write("source")

    with pytest.raises(RequestRejected, match="as it stands, on the processor"):
        metrics(source, source, EvaluationOptions(window=16, **options))


def test_predictions_that_are_not_finite_are_refused(write: Write) -> None:
    source = write("source")

    with pytest.raises(ArchitectureUnsupported, match="NaN or infinite"):
        metrics(source, write("artifact", model(nudge=float("nan"))))


def test_embeddings_that_are_not_finite_are_refused(write: Write) -> None:
    source = write("source", model("last_hidden_state"), "BertModel")
    broken = write("broken", model("last_hidden_state", nudge=float("nan")), "BertModel")

    with pytest.raises(ArchitectureUnsupported, match="embedding is zero, NaN or infinite"):
        metrics(source, broken)


def test_a_folder_without_a_graph_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(SourceRejected, match="holds no ONNX model"):
        metrics(write("source"), tmp_path / "empty")


def test_a_job_is_evaluated_on_a_text(write: Write, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)

    (finished,) = of_kind(
        Finished,
        onnx_job(write("source"), tmp_path / "job", {}, text=tmp_path / "text.txt", evaluation=QUICK),
    )

    found = {(each.subject, each.name): each.value for each in finished.metrics}
    assert found["artifact", "perplexity_ratio"] == pytest.approx(1, abs=0.02)
    assert [each["what"] for each in finished.measured["left_out"]] == ["continuations", "memory", "speed"]
    assert finished.measured["options"]["window"] == 16
