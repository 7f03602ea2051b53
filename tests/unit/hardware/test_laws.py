"""What holds for any machine, model and wish: more hardware never hurts, and one question has one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantmill.contract.errors import QuantmillError
from quantmill.contract.facts import FormatFacts
from quantmill.hardware.catalogue import catalogue
from quantmill.hardware.choices import OBJECTIVES
from quantmill.hardware.facts import combine
from quantmill.hardware.memory import Load
from quantmill.hardware.models import ModelShape, shape_of
from quantmill.hardware.profiles import Device, Machine
from quantmill.hardware.recommend import Availability, Wish, recommend
from quantmill.hardware.runtimes import RUNTIMES
from quantmill.hardware.verdicts import ANSWERS, Requirement, judge, match
from quantmill.plugins import load_plugins

KNOWN: FormatFacts = combine(load_plugins().format_facts)
DEVICES: Mapping[str, Device] = catalogue()
FEATURES = ("avx", "avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
QUICK = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

bytes_ = st.integers(1, 2**44)
capabilities = st.sampled_from([3.7, 5.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0])
gpus = st.builds(
    Device,
    st.just("gpu"),
    st.just("gpu"),
    st.sampled_from(["nvidia", "amd", "intel", "apple"]),
    st.sampled_from(["", "gfx90a", "gfx942", "gfx1100"]),
    capabilities,
    memory_bytes=bytes_,
    bandwidth=st.none() | st.floats(1e9, 1e13),
    count=st.integers(1, 16),
    unified=st.booleans(),
)
processors = st.builds(
    Device,
    st.just("cpu"),
    st.just("cpu"),
    st.sampled_from(["intel", "arm"]),
    features=st.frozensets(st.sampled_from(FEATURES)),
    memory_bytes=bytes_,
)
machines = st.builds(Machine, processors, st.lists(gpus, max_size=2).map(tuple))
loads = st.builds(Load, st.integers(1, 300_000), st.integers(1, 64), st.sampled_from([8, 16]))
sizes = st.integers(1, 512)
configs = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 130),
        "hidden_size": sizes.map(lambda n: 64 * n),
        "intermediate_size": sizes.map(lambda n: 32 * n),
        "vocab_size": st.integers(2, 300_000),
        "num_attention_heads": st.sampled_from([8, 12, 16, 40, 64]),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "tie_word_embeddings": st.booleans(),
    },
    optional={
        "num_experts": st.integers(8, 256),
        "num_experts_per_tok": st.integers(1, 8),
        "max_position_embeddings": st.integers(1, 10**6),
        "kv_lora_rank": st.integers(1, 1024),
    },
)
models = configs.map(shape_of)
requirements = st.builds(
    lambda scheme, runtime, model, load: Requirement(scheme, runtime, model, None, load),
    st.sampled_from(KNOWN.schemes),
    st.sampled_from(list(RUNTIMES)),
    st.none() | models,
    loads,
)


@st.composite
def more_hardware(draw: Any, machine: Machine) -> Machine:
    """The same machine with more of anything."""
    assert machine.processor is not None
    assert machine.processor.memory_bytes is not None
    processor = replace(
        machine.processor,
        features=machine.processor.features | draw(st.frozensets(st.sampled_from(FEATURES))),
        memory_bytes=machine.processor.memory_bytes + draw(st.integers(0, 2**42)),
    )
    grown = []
    for device in machine.accelerators:
        assert device.memory_bytes is not None
        assert device.compute_capability is not None
        grown.append(
            replace(
                device,
                memory_bytes=device.memory_bytes + draw(st.integers(0, 2**42)),
                compute_capability=max(device.compute_capability, draw(capabilities)),
                count=device.count + draw(st.integers(0, 8)),
                bandwidth=None if device.bandwidth is None else device.bandwidth * 2,
            )
        )
    return Machine(processor, (*grown, *draw(st.lists(gpus, max_size=1))))


@QUICK
@given(st.data(), machines, requirements)
def test_more_hardware_never_makes_a_verdict_worse(data: Any, machine: Machine, requirement: Requirement) -> None:
    more = data.draw(more_hardware(machine))

    before, after = judge(machine, requirement, KNOWN.facts), judge(more, requirement, KNOWN.facts)

    assert ANSWERS.index(after.answer) <= ANSWERS.index(before.answer), (before.reasons, after.reasons)


@QUICK
@given(machines, requirements)
def test_less_context_never_makes_a_verdict_worse(machine: Machine, requirement: Requirement) -> None:
    less = replace(requirement, load=replace(requirement.load, context=max(1, requirement.load.context // 2)))

    before, after = judge(machine, requirement, KNOWN.facts), judge(machine, less, KNOWN.facts)

    assert ANSWERS.index(after.answer) <= ANSWERS.index(before.answer)


@settings(QUICK, max_examples=25)
@given(machines, requirements)
def test_a_verdict_is_total_and_a_no_names_the_nearest_thing(machine: Machine, requirement: Requirement) -> None:
    found = match(machine, requirement, KNOWN.facts, DEVICES)

    assert found.reasons
    assert bool(found.nearest) == (found.answer == "no")


@settings(QUICK, max_examples=25)
@given(
    st.sampled_from(list(DEVICES)),
    st.none() | models,
    st.sampled_from(OBJECTIVES),
    st.none() | st.sampled_from(list(RUNTIMES)),
    loads,
    st.integers(1, 16),
)
def test_a_recommendation_is_total_and_deterministic(
    name: str, model: ModelShape | None, objective: Any, runtime: str | None, load: Load, count: int
) -> None:
    device = replace(DEVICES[name], count=count)
    machine = Machine(device) if device.kind == "cpu" else Machine(accelerators=(device,))
    wish = Wish(objective, runtime, load)

    def ask() -> Any:
        return recommend(machine, model, wish, KNOWN, lambda scheme: Availability(False, ""), DEVICES)

    try:
        found = ask()
    except QuantmillError:  # a runtime that only runs models was asked to fine-tune
        assert (objective, runtime == "transformers") == ("fine-tuning", False)
        return
    assert found == ask()
    assert len(found.plans) + len(found.rejected) == len(KNOWN.schemes)
    assert all(each.reasons for each in found.rejected)
    assert bool(found.nearest) == (not found.plans)


@QUICK
@given(st.dictionaries(st.sampled_from([*["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"],
                                        "num_attention_heads", "num_key_value_heads", "head_dim", "kv_lora_rank",
                                        "num_experts", "num_experts_per_tok", "layer_types", "text_config",
                                        "architectures", "first_k_dense_replace", "sliding_window"]),
                       st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
                       | st.lists(st.integers(), max_size=3)))  # fmt: skip
def test_any_config_is_a_model_or_is_refused(config: dict[str, Any]) -> None:
    try:
        model = shape_of(config)
    except QuantmillError:
        return
    assert model.parameters > 0
