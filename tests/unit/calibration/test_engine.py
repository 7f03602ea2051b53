"""What Linears are fed, block by block, is what transformers' whole model feeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.unit.evaluation.test_forward import save_random
from transformers.pytorch_utils import Conv1D

from quantmill.calibration import StatisticsCache, block
from quantmill.calibration.block import ExpertRules
from quantmill.calibration.engine import Engine, calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import STATISTICS, CalibrationNeed, Statistic, calibration_cost
from quantmill.contract.errors import CalibrationMissing, NonFiniteActivation, PluginBroken
from quantmill.contract.sensitivity import sensitivity
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan, Unit

FAMILIES = (
    "Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Qwen2 MoE", "Qwen3 MoE", "Gemma2", "Gemma3", "Phi3", "Granite",
    "OLMo2", "GPT-NeoX", "GPT-2", "StableLM",
)  # fmt: skip
TIED = ("embed_tokens.weight", "wte.weight")  # a head that is another tensor's second name
LENGTHS = (12, 12, 7, 12, 3)


def windows() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, 64, length) for length in LENGTHS]


def plan_of(
    index: ModelIndex, names: tuple[str, ...], kinds: tuple[Statistic, ...] = STATISTICS, blocks: int = 2
) -> Plan:
    rows = tuple(
        TensorPlan(info.name, info.shape, info.dtype, "keep", "as it is", info.name, info.nbytes, "a test")
        for info in index.tensors.values()
    )
    units = tuple(Unit(f"block {number}", (rows[number].name,), number) for number in range(2))
    return Plan(rows, units, 0, calibration=CalibrationNeed(STATISTICS, names, STATISTICS))


# The whole model, with hooks


def reference(model: Any, source: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The inputs (tokens, in) of every Linear that the source has a weight of, by that weight's name."""
    fed: dict[str, list[torch.Tensor]] = {}

    def note(weight: torch.Tensor, x: torch.Tensor) -> None:
        for name, values in source.items():
            if values.shape == weight.shape and torch.equal(values, weight):
                fed.setdefault(name, []).append(x.reshape(-1, x.shape[-1]))

    def see_experts(module: Any, args: tuple[Any, ...]) -> None:
        hidden, chosen = args[0], args[1]
        for expert, (gate_up, down) in enumerate(zip(module.gate_up_proj, module.down_proj, strict=True)):
            x = hidden[(chosen == expert).any(-1)]
            gate, up = (x @ gate_up.T).chunk(2, dim=-1)
            for weight in gate_up.chunk(2):
                note(weight, x)
            note(down, module.act_fn(gate) * up)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D) or type(module).__name__.endswith("Router"):
            module.register_forward_pre_hook(lambda module, args: note(module.weight, args[0]))
        elif (
            hasattr(module, "gate_up_proj")
            and hasattr(module, "act_fn")
            and module.gate_up_proj.__class__.__name__ == "Parameter"
        ):
            module.register_forward_pre_hook(see_experts)
    with torch.inference_mode():
        for ids in windows():
            model(torch.from_numpy(ids[None]))
    return {name: torch.cat(parts).double().numpy() for name, parts in fed.items() if not name.endswith(TIED)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_s_statistics_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    model = save_random(tmp_path / "model", name)
    expected = reference(model, load_file(tmp_path / "model" / "model.safetensors"))

    with open_checkpoint(tmp_path / "model") as source:
        names = tuple(each for each in expected if each in source.index.tensors)
        with calibrate(source, plan_of(source.index, names), windows(), folder=tmp_path, threads=2) as engine:
            found = {each: engine.statistics(each) for each in names}
            weights = {each: source.tensor(each).values.astype(np.float32) for each in names}
            lost = dict(engine.sensitivity)

    assert len(names) >= 8
    for each, inputs in expected.items():
        if each not in found:
            continue
        statistics = found[each]
        assert statistics.tokens == len(inputs), each
        wanted = {
            "second_moment": (inputs**2).sum(0),
            "mean_abs": np.abs(inputs).sum(0),
            "hessian": inputs.T @ inputs,
        }
        for kind, total in wanted.items():
            mean = total / max(len(inputs), 1)
            close = {"rtol": 1e-3, "atol": 1e-4 * np.abs(mean).max(initial=1e-6)}
            np.testing.assert_allclose(getattr(statistics, kind), mean, err_msg=f"{each} {kind}", **close)
        if len(inputs):
            np.testing.assert_allclose(statistics.absmax, np.abs(inputs).max(0), rtol=1e-3, atol=1e-4)
        weight = weights[each].T if name == "GPT-2" else weights[each]
        assert lost.get(each) == sensitivity(weight, statistics), each


# One small model, looked at closely


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "model"
    save_random(folder, "Llama")
    return folder


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral") / "model"
    save_random(folder, "Mixtral")
    return folder


@pytest.fixture
def open_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    with ExitStack() as opened:

        def make(folder: Path, names: tuple[str, ...] = (), **options: Any) -> Engine:
            source = opened.enter_context(open_checkpoint(folder))
            plan = plan_of(source.index, names)
            return opened.enter_context(calibrate(source, plan, windows(), folder=tmp_path, **options))

        yield make


def walk(engine: Engine, change: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> dict[str, np.ndarray]:
    """Every Hessian on a walk that changes each Linear once it has been looked at."""
    found = {}
    for each in engine.blocks(()):
        for stage in each.stages:
            statistics = each.statistics(stage, ("hessian",))
            for name in stage:
                found[name] = np.array(statistics[name].hessian)
                each.replace(name, change(each.weight(name)))
    return found


def stages_of(engine: Engine) -> tuple[tuple[str, ...], ...]:
    """Those of the first block."""
    with closing(engine.blocks(())) as blocks:
        return next(blocks).stages


def test_stages_are_the_linears_with_one_input_in_their_order(open_engine: Callable[..., Engine], llama: Path) -> None:
    stages = stages_of(open_engine(llama))

    at = "model.layers.0."
    assert stages == (
        (f"{at}self_attn.q_proj.weight", f"{at}self_attn.k_proj.weight", f"{at}self_attn.v_proj.weight"),
        (f"{at}self_attn.o_proj.weight",),
        (f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight"),
        (f"{at}mlp.down_proj.weight",),
    )


def test_all_experts_have_stages_their_first_ones_before_their_second(
    open_engine: Callable[..., Engine], mixtral: Path
) -> None:
    stages = stages_of(open_engine(mixtral))

    experts = [stage for stage in stages if ".experts." in stage[0]]
    assert [[name.split(".experts.")[1] for name in stage] for stage in experts] == [
        *([f"{expert}.w1.weight", f"{expert}.w3.weight"] for expert in range(12)),
        *([f"{expert}.w2.weight"] for expert in range(12)),
    ]


@pytest.mark.parametrize("model", ["llama", "mixtral"])
def test_what_is_replaced_reaches_what_comes_after(
    open_engine: Callable[..., Engine], model: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)

    unchanged, changed = walk(open_engine(folder)), walk(open_engine(folder), lambda values: np.round(values, 1))

    stages = stages_of(open_engine(folder))
    assert all(np.array_equal(unchanged[name], changed[name]) for name in stages[0])
    assert not np.allclose(unchanged[stages[-1][0]], changed[stages[-1][0]])
    assert not np.allclose(
        unchanged["model.layers.1.self_attn.q_proj.weight"], changed["model.layers.1.self_attn.q_proj.weight"]
    )


def test_a_walk_that_changes_nothing_sees_what_the_source_s_own_pass_sees(
    open_engine: Callable[..., Engine], llama: Path
) -> None:
    walked = walk(open_engine(llama))
    engine = open_engine(llama, tuple(walked))

    assert all(np.array_equal(engine.statistics(name).hessian, hessian) for name, hessian in walked.items())


@pytest.mark.parametrize("model", ["llama", "mixtral"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_windows_at_once_do_not_change_a_bit(
    open_engine: Callable[..., Engine], model: str, threads: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.round(values, 1)

    one, several = walk(open_engine(folder), rounded), walk(open_engine(folder, threads=threads), rounded)

    assert all(np.array_equal(one[name], several[name]) for name in one)


def test_experts_that_are_looked_at_ahead_are_what_they_are_one_by_one(
    open_engine: Callable[..., Engine], mixtral: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = walk(open_engine(mixtral), lambda values: np.round(values, 1))
    monkeypatch.setattr(block, "AHEAD_BYTES", 0)

    one_by_one = walk(open_engine(mixtral), lambda values: np.round(values, 1))

    assert all(np.array_equal(ahead[name], one_by_one[name]) for name in ahead)


def test_experts_are_counted_and_starved_ones_may_be_fed_everything(
    open_engine: Callable[..., Engine], mixtral: Path
) -> None:
    all_tokens, fed = sum(LENGTHS), {}
    for rules in (ExpertRules(), ExpertRules(10, all_tokens=True)):
        with closing(open_engine(mixtral, experts=rules).blocks(())) as blocks:
            first = next(blocks)
            names = [name for stage in first.stages for name in stage if ".w2." in name]
            found = first.statistics(names, ("second_moment",))
            fed[rules.all_tokens] = [found[name].tokens for name in names]

    counted = fed[False]
    assert sum(counted) == 2 * all_tokens
    assert fed[True] == [count if count >= 10 else all_tokens for count in counted]


def test_what_was_not_asked_for_is_refused_by_name(open_engine: Callable[..., Engine], llama: Path) -> None:
    engine = open_engine(llama, ("model.layers.0.mlp.up_proj.weight",))
    blocks = engine.blocks(())
    each = next(blocks)

    for ask in (
        lambda: engine.statistics("model.layers.1.mlp.up_proj.weight"),
        lambda: each.statistics(["model.layers.1.mlp.up_proj.weight"], ("hessian",)),
        lambda: each.weight("model.layers.1.mlp.up_proj.weight"),
    ):
        with pytest.raises(CalibrationMissing, match=r"model\.layers\.1\.mlp\.up_proj"):
            ask()
    with pytest.raises(ValueError, match="not"):
        each.replace("model.layers.0.mlp.up_proj.weight", np.zeros((1, 1), np.float32))
    engine.advance()
    with pytest.raises(PluginBroken, match="replaced after"):
        each.replace("model.layers.0.mlp.up_proj.weight", each.weight("model.layers.0.mlp.up_proj.weight"))


def test_activations_that_are_not_finite_name_the_linear(
    open_engine: Callable[..., Engine], llama: Path, tmp_path: Path
) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1e38
    (tmp_path / "broken").mkdir()
    save_file(weights, tmp_path / "broken" / "model.safetensors")
    (tmp_path / "broken" / "config.json").write_bytes((llama / "config.json").read_bytes())

    engine = open_engine(tmp_path / "broken", ("model.layers.1.mlp.down_proj.weight",))

    with pytest.raises(NonFiniteActivation, match=r"model\.layers\.1\.mlp\.down_proj"):
        engine.statistics("model.layers.1.mlp.down_proj.weight")


def test_a_pass_that_was_made_is_not_made_again(
    open_engine: Callable[..., Engine], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StatisticsCache(tmp_path / "cache", 1 << 30)
    name = "model.layers.0.mlp.up_proj.weight"
    first = open_engine(llama, (name,), cache=cache, key={"source": "a"}).statistics(name)
    expected = np.array(first.hessian)
    monkeypatch.setattr(Engine, "_source_pass", lambda *_: pytest.fail("made again"))

    engine = open_engine(llama, (name,), cache=cache, key={"source": "a"})

    assert np.array_equal(engine.statistics(name).hessian, expected)
    assert engine.from_cache
    assert engine.sensitivity.keys() == {name}


def test_the_statistics_that_were_used_longest_ago_go_first(
    open_engine: Callable[..., Engine], llama: Path, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    size = 1_500_000  # of one: 65536 counts of 8 bytes, and little else, twice

    def cached(source: str) -> bool:
        cache = StatisticsCache(tmp_path / "cache", size)
        engine = open_engine(llama, (name,), cache=cache, key={"source": source})
        engine.statistics(name)
        return engine.from_cache

    assert [cached(source) for source in ("a", "b", "a", "c", "b")] == [False, False, True, False, False]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200),
    st.floats(0.01, 1.0),
)
def test_a_percentile_is_at_most_a_step_too_high(values: list[float], share: float) -> None:
    from quantmill.calibration.accumulate import Gathering

    gathering = Gathering(1, ("magnitudes",))
    x = torch.tensor(values)[:, None]
    gathering.count(len(x))
    for work in gathering.work:
        work([x])

    found = gathering.result().percentile(share)

    exact = float(np.quantile(np.abs(np.float32(values)), share, method="inverted_cdf"))
    assert exact <= found <= exact * 1.008 + 1e-38


# The source's own pass, block by block


def own_pass(index: ModelIndex) -> Plan:
    """Every Linear's second moment and Hessian, as the walk comes to its block."""
    names = tuple(name for name in index.tensors if name.endswith("_proj.weight"))
    plan = plan_of(index, names)
    return replace(plan, calibration=CalibrationNeed(of_source=("second_moment", "hessian"), weights=names))


@pytest.fixture
def open_own_pass(tmp_path: Path, llama: Path) -> Iterator[Callable[..., Engine]]:
    with ExitStack() as opened:

        def make(**options: Any) -> Engine:
            source = opened.enter_context(open_checkpoint(llama))
            plan = own_pass(source.index)
            units = tuple(
                Unit(f"block {number}", tuple(n for n in plan.calibration.weights if f"layers.{number}." in n), number)
                for number in range(2)
            )
            return opened.enter_context(
                calibrate(source, replace(plan, units=units), windows(), folder=tmp_path, **options)
            )

        yield make


def seen_by(engine: Engine, finished: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Every Hessian of the blocks that are left."""
    return {
        name: np.array(engine.statistics(name).hessian)
        for each in engine.blocks(finished)
        for stage in each.stages
        for name in stage
    }


def test_a_walk_of_the_source_sees_what_its_pass_in_one_go_sees(
    open_own_pass: Callable[..., Engine], open_engine: Callable[..., Engine], llama: Path
) -> None:
    walked = seen_by(open_own_pass(threads=2))
    engine = open_engine(llama, tuple(walked))

    assert len(walked) == 14
    assert all(np.array_equal(engine.statistics(name).hessian, hessian) for name, hessian in walked.items())


def test_a_walk_of_the_source_has_the_statistics_of_one_block_on_disk(
    open_own_pass: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = open_own_pass()
    on_disk = [len(list(tmp_path.rglob("*.safetensors"))) for _ in engine.blocks(())]

    assert on_disk == [1, 1]
    assert list(tmp_path.rglob("*.safetensors")) == []
    with pytest.raises(CalibrationMissing, match="in the block that is given now"):
        engine.statistics("model.layers.0.mlp.up_proj.weight")


def test_a_walk_of_the_source_leaves_its_blocks_as_they_are(open_own_pass: Callable[..., Engine]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    with closing(open_own_pass().blocks(())) as blocks:
        first = next(blocks)

        with pytest.raises(PluginBroken, match="leaves blocks as the source has them"):
            first.replace(name, first.weight(name))


def test_a_walk_of_the_source_goes_on_behind_any_block(open_own_pass: Callable[..., Engine]) -> None:
    carries: dict[str, Path] = {}
    whole = seen_by(open_own_pass(carries=carries))

    rest = seen_by(open_own_pass(carries=carries), ("block 0",))

    assert rest
    assert all(np.array_equal(whole[name], hessian) for name, hessian in rest.items())


def test_a_later_walk_of_the_source_takes_what_is_kept_of_blocks(
    open_own_pass: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StatisticsCache(tmp_path / "cache", 1 << 30)
    first = open_own_pass(cache=cache, key={"source": "a"})
    expected = seen_by(first)
    monkeypatch.setattr(block.RunningBlock, "gather", lambda *_: pytest.fail("gathered again"))

    later = open_own_pass(cache=cache, key={"source": "a"})
    found = seen_by(later)

    assert (first.from_cache, later.from_cache) == (False, True)
    assert all(np.array_equal(found[name], hessian) for name, hessian in expected.items())
    assert later.sensitivity == first.sensitivity


def test_the_estimate_of_a_walk_of_the_source_holds_the_statistics_of_one_block(llama: Path) -> None:
    with open_checkpoint(llama) as source:
        walked = own_pass(source.index)
        in_one_go = replace(walked, units=tuple(replace(unit, block=None) for unit in walked.units))
        costs = [calibration_cost(source.index, plan, windows=1, window=1) for plan in (in_one_go, walked)]
        hidden = 2 * 4 * source.index.config["hidden_size"]

    assert costs[0].disk - hidden == 2 * (costs[1].disk - hidden) > 0


def test_the_estimate_holds_what_a_walk_keeps(llama: Path, tmp_path: Path) -> None:
    with open_checkpoint(llama) as source:
        cost = calibration_cost(source.index, plan_of(source.index, ()), windows=5, window=12, threads=1)
        hidden = source.index.config["hidden_size"]

    assert cost.disk == 2 * 4 * 5 * 12 * hidden
    assert cost.memory > 4 * sum(
        np.prod(info.shape) for info in source.index.tensors.values() if info.name.startswith("model.layers.0.")
    )
