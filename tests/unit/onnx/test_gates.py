"""Which weights stay float so that outputs on samples keep what gates ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.onnx_jobs import of_kind, onnx_job
from tests.onnx_models import SmallModel, one_product, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import GateFailed, ParamsRejected, SourceRejected
from quantmill.contract.tensors import Plan
from quantmill.contract.testing import MemorySession, Run
from quantmill.domain.jobs import Phase
from quantmill.worker.messages import Finished, Progressed
from quantmill_onnx import gates, planning, trials
from quantmill_onnx.algorithm import quantized_parts
from quantmill_onnx.inspection import open_session
from quantmill_onnx.layout import parts_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX
from quantmill_onnx.samples import read_samples
from quantmill_onnx.sites import Site, find_sites
from quantmill_onnx.trials import Trials

SAMPLES = str(Path(__file__).parents[2] / "data" / "onnx_samples.npz")
MODEL = SmallModel()
NODES = {"in": "block.{}/in/MatMul", "gemm": "block.{}/Gemm", "out": "block.{}/out/MatMul"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("gates") / "model")


def settled(source: Path, **params: Any) -> Plan:
    with open_checkpoint(source) as checkpoint:
        return Run(ONNX, OnnxParams(**{"samples": SAMPLES, **params}), checkpoint).plan


def kept(plan: Plan) -> set[str]:
    return {row.name for row in plan.tensors if row.action == "keep"}


def observed(source: Path, folder: Path, **params: Any) -> float:
    """cosine.mean of the written artifact over the samples."""
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(samples=SAMPLES, **params), checkpoint)
        run.write(run.quantize(), folder)
    theirs, ours = (open_session(path / "model.onnx") for path in (source, folder))
    found = []
    for ids in np.load(SAMPLES)["ids"]:
        a, b = (each.run(None, {"ids": ids[None]})[0].astype(np.float64).ravel() for each in (ours, theirs))
        found.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.mean(found))


MODES: Mapping[str, Mapping[str, Any]] = {
    "dynamic": {"mode": "dynamic", "per_channel": False},
    "static": {"mode": "static"},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_written_artifact_meets_the_gate_and_none_of_the_float_weights_can_be_left_out(
    source: Path, tmp_path: Path, mode: str
) -> None:
    params, limit = MODES[mode], 0.9999
    chosen = kept(settled(source, gates=[f"cosine.mean >= {limit}"], **params))

    assert 1 <= len(chosen) < 8
    assert observed(source, tmp_path / "searched", gates=[f"cosine.mean >= {limit}"], **params) >= limit
    for left_out in chosen:
        exclude = [label(name) for name in chosen - {left_out}]
        assert observed(source, tmp_path / left_out, exclude=exclude, **params) < limit


def label(name: str) -> str:
    if name in ("head", "table"):
        return {"head": "head/MatMul", "table": "lookup"}[name]
    kind, block = name.split(".")
    return NODES[kind].format(block)


def test_the_report_names_the_nodes_with_what_was_measured(source: Path) -> None:
    plan = settled(source, mode="static", gates=["cosine.mean >= 0.9999"])

    (name, *_) = kept(plan)
    assert plan.by_name[name].reason.startswith(f"node {label(name)} stays float for the gates: noise at ")
    assert all(row.reason.startswith("noise at ") for row in plan.tensors if row.scheme == "INT8-CHANNEL")
    assert f"{len(kept(plan))} of 8 weights stay float for cosine.mean >= 0.9999: cosine.mean 0.999" in plan.warnings[0]


def test_gates_that_are_met_anyway_keep_nothing(source: Path) -> None:
    plan = settled(source, gates=["cosine.mean >= 0.999", "cosine.min >= .99", "pooled.mean >= 0.999"])

    assert kept(plan) == set()
    assert plan.warnings[0].startswith("0 of 8 weights stay float")


def test_the_gate_that_allows_least_decides(source: Path) -> None:
    strict = settled(source, per_channel=False, gates=["cosine.mean >= 0.9999"])
    both = settled(source, per_channel=False, gates=["cosine.mean >= 0.5", "cosine.mean >= 0.9999"])

    assert kept(both) == kept(strict) != set()


def test_gates_that_no_quantized_weight_meets_end_the_job(tmp_path: Path) -> None:
    folder = save(one_product(), tmp_path / "model")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32))

    with pytest.raises(GateFailed, match=r"not met with any weight quantized: cosine\.mean >= 0\.9999999; with all"):
        settled(folder, samples=str(tmp_path / "x.npz"), gates=["cosine.mean >= 0.9999999"])


def test_a_search_says_how_far_it_has_come(source: Path) -> None:
    params = OnnxParams(samples=SAMPLES, gates=["cosine.mean >= 0.99999"])
    with open_checkpoint(source) as checkpoint:
        session = MemorySession(checkpoint, ONNX.plan.load()(checkpoint.index, params))
        plan = ONNX.settle.load()(session, params) if ONNX.settle else None
    assert plan is not None

    done, totals = zip(*session.steps, strict=True)

    assert done == tuple(range(len(done)))
    assert list(totals) == sorted(totals, reverse=True)
    assert session.steps[-1] == (totals[-1] - 1, totals[-1])


def test_a_job_s_progress_counts_the_steps_of_its_search(source: Path, tmp_path: Path) -> None:
    said = onnx_job(source, tmp_path, {"samples": SAMPLES, "gates": ["cosine.mean >= 0.999"]})

    searching = [each for each in of_kind(Progressed, said) if each.message == "measuring the weights"]

    assert {each.phase for each in searching} == {Phase.PLAN}
    assert [each.done for each in searching if each.total] == [0]  # the gate is met by the first trial
    assert len(of_kind(Finished, said)) == 1


def test_threads_change_nothing(source: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(samples=SAMPLES, mode="static", gates=["cosine.mean >= 0.9999"]), checkpoint)

        assert run.settled(threads=3) == run.plan


def test_the_noise_of_a_node_is_that_of_its_weight_and_activation_alone(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    params = OnnxParams(mode="weight_only", weight_bits=4, accuracy_level=1, samples=str(tmp_path / "x.npz"))
    with open_checkpoint(save(one_product(), tmp_path / "model")) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        sites = find_sites(graph, params)
        site, weight = sites["w"], np.array(checkpoint.tensor("w").values)
        assert isinstance(site, Site)
        parts = quantized_parts(checkpoint.tensor("w"), site, params, 1)
        arrays = {each.name: parts[each.part] for each in parts_of(site, params)}
        feeds = read_samples(tmp_path / "x.npz", graph).feeds()

        (found,) = Trials(graph, params, arrays, feeds, 1).noise(sites).values()

        run = Run(ONNX, params, checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
    stored = dict(ONNX.weights(tmp_path / "artifact"))["w"]
    expected = 10 * np.log10(np.sum((x @ weight) ** 2) / np.sum((x @ stored - x @ weight) ** 2))
    assert found == pytest.approx(expected, abs=0.01)


def test_only_as_many_samples_are_run_as_they_and_the_source_s_outputs_may_take(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_checkpoint(source) as checkpoint:
        graph = checkpoint.index.graph
        assert graph is not None
        feeds = read_samples(Path(SAMPLES), graph)
        all_of_them = Trials(graph, OnnxParams(), {}, feeds.feeds(), 1)
        assert len(all_of_them.feeds) == min(feeds.count, trials.SAMPLES)
        outputs_of_two = sum(each.nbytes for found in all_of_them.expected[:2] for each in found)
        monkeypatch.setattr(trials, "KEPT_BYTES", outputs_of_two)
        assert len(Trials(graph, OnnxParams(), {}, feeds.feeds(), 1).feeds) == 1
        monkeypatch.setattr(trials, "KEPT_BYTES", 1)
        assert len(Trials(graph, OnnxParams(), {}, feeds.feeds(), 1).feeds) == 1


# What is measured

A = np.array([[[1, 0], [0, 1], [5, 5]]], np.float32)
B = np.array([[[0, 1], [1, 0], [-5, 5]]], np.float32)
OFF = np.array([[[np.nan, 0], [0, 1], [0, 0]]], np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs", "feed", "cosine", "pooled"),
    [
        ([A], [A], {}, 1, 1),
        ([A], [B], {}, 0, 12 / np.sqrt(72 * 52)),
        ([A], [B], {"attention_mask": np.array([[1, 1, 0]])}, 0, 1),
        ([A, A], [A, -A], {}, -1, -1),
        ([OFF], [A], {}, -1, -1),
        ([0 * A], [0 * A], {}, 1, 1),
        ([A[..., 0]], [A[..., 1]], {}, 25 / 26, 25 / 26),
    ],
)
def test_measures_of_one_sample(
    ours: list[np.ndarray], theirs: list[np.ndarray], feed: dict[str, np.ndarray], cosine: float, pooled: float
) -> None:
    found = gates.measure(ours, theirs, feed)

    assert (found["cosine"], found["pooled"]) == (pytest.approx(cosine), pytest.approx(pooled))


@pytest.mark.parametrize(
    ("text", "observed", "loss"),
    [("cosine.mean >= 0.9", 0.94, 0.6), ("cosine.min >=.9", 0.9, 1), ("pooled.min>= 0.5", 0.25, 1.5)],
)
def test_the_loss_is_the_share_of_what_a_gate_allows(text: str, observed: float, loss: float) -> None:
    samples = [{"cosine": 0.9, "pooled": 0.25}, {"cosine": 0.98, "pooled": 0.5}]
    gate = gates.parse(text)

    assert gate.observed(samples) == pytest.approx(observed)
    assert gates.loss([gate, gates.parse("cosine.min >= 0.1")], samples) == pytest.approx(loss)


# What is refused


@pytest.mark.parametrize("text", ["cosine >= 0.9", "kld.mean <= 0.1", "cosine.mean >= 1", "cosine.mean > 0.9", ""])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        OnnxParams(samples=SAMPLES, gates=[text])


def test_without_samples_the_calibration_text_is_asked_for(tmp_path: Path) -> None:
    folder = save(one_product(), tmp_path / "model")

    with pytest.raises(ParamsRejected, match="no input input_ids, so that no text can be run"):
        settled(folder, samples=None, gates=["cosine.mean >= 0.9"])


def test_a_model_too_large_to_be_run_is_refused_when_the_job_is_planned(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "RUN_LIMIT", 1000)

    with pytest.raises(ParamsRejected, match="weights take more than 1000 bytes") as caught:
        settled(source, gates=["cosine.mean >= 0.9"])
    assert caught.value.fields["errors"][0]["pointer"] == "/params/gates"


def test_samples_that_have_changed_end_the_job(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, ids=np.load(SAMPLES)["ids"])
    with open_checkpoint(source) as checkpoint:
        run = Run(ONNX, OnnxParams(samples=str(path), gates=["cosine.mean >= 0.9"]), checkpoint)
        first = run.first_plan
        np.savez(path, ids=np.load(SAMPLES)["ids"][::-1])
        with pytest.raises(SourceRejected, match="have changed"):
            ONNX.settle.load()(MemorySession(checkpoint, first, 1), run.params)  # type: ignore[union-attr]
