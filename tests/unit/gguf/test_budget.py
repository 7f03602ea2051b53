"""Types that are chosen to fit a size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.random_models import RANDOM_MODELS

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import ParamsRejected
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.tensors import Plan, SourceTensor, TensorInfo, TensorPlan
from quantmill.contract.testing import MemorySession, Run
from quantmill.verification import verify
from quantmill_gguf.budget import Group, allot, preferred, types_for
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.imatrix import Entry, ImportanceMatrix, write_imatrix
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.plugin import GGUF
from quantmill_gguf.reader import GgufModel
from quantmill_gguf.settling import measured


def group(rows: int, cols: int = 256) -> Group:
    tensor = ExpectedTensor("source", "blk.0.ffn_up.weight", "ffn_up", 0, (rows, cols), (rows, cols))
    return Group((tensor,), types_for(cols))


def made(checkpoint: Checkpoint, folder: Path, **params: object) -> tuple[Plan, Path]:
    run = Run(GGUF, GGUF.params.model_validate(params), checkpoint)
    path, *_ = run.write(run.quantize(), folder)
    return run.plan, path


def types_of(plan: Plan) -> dict[str, str]:
    return {row.output: row.scheme for row in plan.tensors if row.action == "quantize"}


# The choice


@pytest.mark.parametrize(
    ("cols", "types"),
    [
        (256, ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")),
        (96, ("IQ4_NL", "Q4_0", "Q5_0", "Q5_1", "Q8_0")),
        (80, ("F16",)),
    ],
)
def test_rows_can_be_what_divides_them(cols: int, types: tuple[str, ...]) -> None:
    assert types_for(cols) == types


@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
def test_no_other_choice_that_fits_loses_less(rows: list[int], seed: int, share: float) -> None:
    groups = [group(count) for count in rows]
    losses = np.sort(np.random.default_rng(seed).random((len(rows), 7)), axis=1)[:, ::-1].tolist()
    smallest, largest = (sum(each.nbytes[place] for each in groups) for place in (0, -1))
    limit = smallest + int(share * (largest - smallest))

    picks = allot(groups, losses, limit)

    def cost(choice: tuple[int, ...]) -> tuple[int, float]:
        nbytes = sum(each.nbytes[pick] for each, pick in zip(groups, choice, strict=True))
        return nbytes, sum(loss[pick] for loss, pick in zip(losses, choice, strict=True))

    fitting = (cost(choice) for choice in product(range(7), repeat=len(rows)))
    best = min(lost for nbytes, lost in fitting if nbytes <= limit)
    assert cost(tuple(picks))[0] <= limit
    assert cost(tuple(picks))[1] == pytest.approx(best)


def test_what_is_left_by_counting_in_steps_is_spent_too() -> None:
    groups = [group(rows) for rows in range(10_007, 10_407, 2)]
    losses = [[7.0 - place for place in range(7)] for _ in groups]
    limit = sum(each.nbytes[2] for each in groups)

    picks = allot(groups, losses, limit)

    nbytes = sum(each.nbytes[pick] for each, pick in zip(groups, picks, strict=True))
    assert limit - min(each.nbytes[1] - each.nbytes[0] for each in groups) < nbytes <= limit


@pytest.mark.parametrize(
    ("limit", "mixes", "chosen"),
    [
        (400, [[1, 1]], [1, 1]),
        (400, [[1, 1], [1, 2]], [1, 2]),
        (219, [[1, 1]], [0, 2]),
        (400, [[0, 1]], [0, 2]),
        (400, [], [0, 2]),
    ],
    ids=["as good", "the better of two", "too large", "not as good", "no mixes"],
)
def test_a_fixed_mix_that_is_predicted_to_lose_no_more_is_taken(
    limit: int, mixes: list[list[int]], chosen: list[int]
) -> None:
    losses = [[1.0, 0.51, 0.1, 0.1, 0.1, 0.1, 0.1], [1.0, 0.51, 0.005, 0.0, 0.0, 0.0, 0.0]]

    assert preferred([group(1), group(1)], losses, limit, [0, 2], mixes) == chosen


def test_types_that_do_not_fit_are_refused_with_what_they_need() -> None:
    with pytest.raises(ValueError, match="84"):
        allot([group(1)], [[0.0] * 7], 83)


# Plans


def test_headers_alone_give_a_first_guess_within_the_budget_that_says_what_is_open(millstone: Checkpoint) -> None:
    planned = plan(millstone.index, GgufParams(target_bpw=4.5))

    assert planned.limit_bytes == int(4.5 * sum(row.values for row in planned.tensors) / 8)
    assert planned.nbytes <= planned.limit_bytes
    assert planned.predicted_loss is not None
    row = planned.by_name["model.layers.0.mlp.down_proj.weight"]
    assert row.candidates == ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    assert row.reason.startswith("a first guess")
    assert planned.by_name["model.norm.weight"].candidates == ()


@pytest.mark.parametrize("bpw", [2.7, 3.3, 4.0, 4.5, 5.3, 6.6, 8.4, 20])
def test_the_settled_plan_fits_and_leaves_little_unused(millstone: Checkpoint, bpw: float) -> None:
    run = Run(GGUF, GGUF.params(target_bpw=bpw), millstone)

    assert run.plan.settles(run.first_plan)
    assert run.plan.limit_bytes is not None
    used = run.plan.nbytes / run.plan.limit_bytes
    assert 0.99 < used <= 1 or set(types_of(run.plan).values()) == {"Q8_0"}


def test_more_bytes_are_predicted_to_lose_less(millstone: Checkpoint) -> None:
    losses = [Run(GGUF, GGUF.params(target_bpw=bpw), millstone).plan.predicted_loss for bpw in (2.8, 3.5, 4.5, 6, 8.5)]

    assert losses == sorted(losses, key=lambda loss: -(loss or 0))
    assert losses[0] == pytest.approx(0.26, rel=0.1)


def test_queries_share_their_type_with_keys_and_gates_with_what_they_open(millstone: Checkpoint) -> None:
    types = types_of(Run(GGUF, GGUF.params(target_bpw=4.3), millstone).plan)

    assert len(set(types.values())) > 2
    for block in range(4):
        assert types[f"blk.{block}.attn_q.weight"] == types[f"blk.{block}.attn_k.weight"]
        assert types[f"blk.{block}.ffn_gate.weight"] == types[f"blk.{block}.ffn_up.weight"]


def test_a_tensor_whose_type_is_asked_for_has_it_and_the_others_make_room(millstone: Checkpoint) -> None:
    asked = {"overrides": {"*.attn_v.weight": "Q8_0"}, "output_type": "Q6_K"}

    settled = Run(GGUF, GGUF.params.model_validate({"target_bpw": 4.5} | asked), millstone).plan

    types = types_of(settled)
    assert {types[f"blk.{block}.attn_v.weight"] for block in range(4)} == {"Q8_0"}
    assert types["token_embd.weight"] == "Q6_K"
    assert settled.bits_per_weight <= 4.5


def test_rows_that_do_not_divide_into_256_fall_back_and_the_plan_says_so(tmp_path: Path) -> None:
    folder = SyntheticLlama(hidden=256, ffn=96, blocks=1).write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        settled, path = made(checkpoint, tmp_path / "artifact", target_bpw=5)
        down = "model.layers.0.mlp.down_proj.weight"
        assert settled.by_name[down].scheme in ("IQ4_NL", "Q4_0", "Q5_0", "Q5_1", "Q8_0")
        assert any(warning.startswith(down) and "96" in warning for warning in settled.warnings)
        assert path.name == "model-5bpw.gguf"


def test_a_size_counts_all_that_is_in_the_files(millstone: Checkpoint, tmp_path: Path) -> None:
    _, path = made(millstone, tmp_path / "one", target_size_mb=2.5)
    _, first = made(millstone, tmp_path / "split", target_size_mb=2.5, split_max_size_mb=0.5)

    parts = list(first.parent.glob("*.gguf"))
    assert path.name == "model-2.5MB.gguf"
    assert 2_490_000 < path.stat().st_size <= 2_500_000
    assert len(parts) > 4
    assert 2_470_000 < sum(part.stat().st_size for part in parts) <= 2_500_000


def test_the_file_says_the_type_that_most_of_its_tensors_have(millstone: Checkpoint, tmp_path: Path) -> None:
    _, path = made(millstone, tmp_path / "artifact", target_bpw=4.4)

    with GgufModel(path.parent) as file:
        assert file.metadata["general.file_type"] == 30  # IQ4_XS


@pytest.mark.parametrize("case", ["mixtral, 4 experts", "qwen2moe", "gpt2", "gptneox"])
def test_experts_fused_and_transposed_matrices_are_measured_as_the_file_has_them(case: str, tmp_path: Path) -> None:
    with open_checkpoint(RANDOM_MODELS[case].write(tmp_path / "model", hidden=256)) as checkpoint:
        settled, path = made(checkpoint, tmp_path / "artifact", target_bpw=6)
        run = Run(GGUF, GGUF.params(target_bpw=6), checkpoint)

        assert settled.settles(run.first_plan)
        assert settled.nbytes > 0.98 * (settled.limit_bytes or 0)
        by_output = {(row.output, row.scheme) for row in settled.tensors}
        assert len(by_output) == len({row.output for row in settled.tensors})
        verify(checkpoint, settled, GGUF, run.params, path.parent)


def test_many_experts_are_judged_by_some(small: Checkpoint) -> None:
    looked_at: list[str] = []

    class Watched(MemorySession):
        def tensor(self, name: str) -> SourceTensor:
            looked_at.append(name)
            values = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
            return SourceTensor(TensorInfo(name, "F32", (256, 256), values.nbytes), values)

    experts = tuple(
        ExpectedTensor(str(part), "blk.0.ffn_up_exps.weight", "ffn_up_exps", 0, (256, 256), (256, 256), 128, part)
        for part in range(128)
    )
    one = ExpectedTensor("one", "blk.0.ffn_up.weight", "ffn_up", 0, (256, 256), (256, 256))
    rows = tuple(
        TensorPlan(each.name, each.shape, "F32", "quantize", "Q4_K", each.output, 0) for each in (*experts, one)
    )
    session = Watched(small, Plan(rows, (), 0))

    many, single = measured(session, [Group(experts, types_for(256)), Group((one,), types_for(256))], "output", None)

    assert looked_at == ["0", "16", "32", "48", "64", "80", "96", "112", "one"]
    assert many == pytest.approx(single, rel=0.05)


# Importance


def importance(checkpoint: Checkpoint, path: Path, weights: Callable[[str, int], np.ndarray]) -> str:
    rows = [row for row in plan(checkpoint.index, GgufParams()).tensors if row.output.startswith("blk.")]
    entries = {
        row.output: Entry(weights(row.output, row.shape[1]), np.ones(1, np.float32))
        for row in rows
        if len(row.shape) > 1
    }
    return str(write_imatrix(path, ImportanceMatrix(entries, chunks=1)))


def test_importance_decides_with_the_weights(millstone: Checkpoint, tmp_path: Path) -> None:
    """Two columns that carry everything cost little to keep: what is left is worth fewer bits."""

    def few(output: str, cols: int) -> np.ndarray:
        weights = np.full(cols, 1e-4, np.float32)
        weights[:2] = 1e4 if ".ffn_down" in output else 1e-4
        return weights

    file = importance(millstone, tmp_path / "imatrix.gguf", few)

    plain, weighted = (
        Run(GGUF, GGUF.params.model_validate({"target_bpw": 4.2, **extra}), millstone).plan
        for extra in ({}, {"imatrix": file})
    )

    def down(plan: Plan) -> int:
        return sum(row.nbytes for row in plan.tensors if ".ffn_down." in row.output)

    assert down(weighted) < down(plain)
    assert weighted.inputs["imatrix"].startswith("sha256:")


def test_a_budget_that_comes_to_types_without_importance_is_no_error(millstone: Checkpoint, tmp_path: Path) -> None:
    file = importance(millstone, tmp_path / "imatrix.gguf", lambda _, cols: np.ones(cols, np.float32))

    settled = Run(GGUF, GGUF.params(target_bpw=16, imatrix=file), millstone).plan

    assert set(types_of(settled).values()) == {"Q8_0"}


# What is refused


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"target_bpw": 4, "target_size_mb": 4}, "takes one of"),
        ({"type": "budget"}, "takes one of"),
        ({"type": "Q4_K_M", "target_bpw": 4}, "goes with type budget"),
        ({"target_bpw": 4, "pure": True}, "pure"),
        ({"target_bpw": 0}, "greater than 0"),
        ({"target_size_mb": -1}, "greater than 0"),
        ({"target_bpw": float("nan")}, "target_bpw"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GgufParams.model_validate(params)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"target_bpw": 2.5}, "target_bpw 2.5 is too small: the smallest types take 2.642 bits per weight"),
        ({"target_size_mb": 1}, "target_size_mb 1 is too small: the smallest types take 1.519 MB"),
        ({"target_bpw": 2.7, "output_type": "Q8_0"}, "the smallest types take 4.110 bits"),
    ],
)
def test_a_budget_below_the_smallest_types_is_refused_with_what_they_take(
    millstone: Checkpoint, params: dict[str, object], said: str
) -> None:
    with pytest.raises(ParamsRejected, match=said) as caught:
        plan(millstone.index, GgufParams.model_validate(params))

    assert caught.value.fields["errors"][0]["pointer"] == f"/params/{next(iter(params))}"
