"""`quantmill match` and `quantmill devices`: what they say, how they end, and what they read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill_gguf import planning
from quantmill_gguf.tokenizer import read_tokenizer

MODEL = Path(__file__).parents[2] / "data" / "millstone-4m"


def test_a_model_s_tokenizer_is_read_once_however_many_types_are_planned(quantmill, monkeypatch):
    read = []
    monkeypatch.setattr(planning, "read_tokenizer", lambda *given: read.append(given) or read_tokenizer(*given))

    ran = quantmill("match", "--here", "--model", MODEL, "--json")

    exact = [plan["scheme"] for plan in ran.json["plans"] if plan["memory"]["exact_weights"]]
    assert {"gguf-Q4_K_M", "gguf-Q8_0"} <= set(exact)
    assert len(read) == 1


def test_matching_imports_neither_torch_nor_a_database():
    heavy = {"torch", "transformers", "sqlalchemy", "onnxruntime"}
    program = (
        "import sys; from quantmill.cli import run; "
        f"code = run(['match', '--here', '--model', {str(MODEL)!r}, '--json']); "
        f"print(code, sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stderr.splitlines()[-1] == "0 []"


def test_the_best_plan_for_a_processor_can_be_made_here(quantmill):
    ran = quantmill("match", "--device", "EPYC Genoa", "--ram", "64", "--model", MODEL, "--json")

    best = ran.json["plans"][0]
    assert (ran.code, best["scheme"], best["runtime"], best["installed"]) == (0, "gguf-Q4_K_M", "llama.cpp", True)
    assert best["memory"]["exact_weights"]
    assert best["params"] == {"type": "Q4_K_M"}


def test_a_plan_that_no_installed_method_makes_says_so(quantmill):
    ran = quantmill("match", "--device", "RTX 4090", "--model", MODEL, "--json")

    for plan in ran.json["plans"]:
        assert plan["installed"] or plan["installed_note"]
    (made_by_nobody,) = [plan for plan in ran.json["plans"] if plan["scheme"] == "int8-w8a8"]
    assert (made_by_nobody["installed"], made_by_nobody["method"]) == (False, "")


def test_70b_on_24_gb_is_answered_with_the_split_that_fits(quantmill, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 8192,
                "intermediate_size": 28672,
                "num_hidden_layers": 80,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "vocab_size": 128256,
                "max_position_embeddings": 131072,
            }
        )
    )

    ran = quantmill("match", "--device", "RTX 4090", "--ram", "64", "--model", config, "--context", "8192")

    assert ran.code == 0
    assert "40 of 80 layers on the GPU (-ngl 40)" in ran.out
    assert "awq-4bit-g128: awq_marlin: needs 44.3 GB" in ran.out


def test_where_nothing_runs_it_ends_with_1_and_names_the_nearest_thing(quantmill):
    ran = quantmill("match", "--device", "Edge TPU", "--model", MODEL)

    assert ran.code == 1
    assert "Nearest: " in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which machine"),
        (["--here", "--device", "T4"], "name two machines"),
        (["--here", "--count", "2"], "this machine as it is"),
        (["--device", "RTX 4095"], "written alike: "),
        (["--device", "T4", "--context", "0"], "context must be from 1"),
        (["--device", "T4", "--batch", "-3"], "batch must be from 1"),
        (["--device", "T4", "--memory", "-3"], "a memory must have"),
        (["--device", "T4", "--memory", "nan"], "a memory must have"),
        (["--device", "T4", "--count", "0"], "count must be above 0"),
        (["--device", "M2", "--ram", "8"], "shares its memory"),
        (["--device", "T4", "--objective", "best"], "no objective is named 'best'"),
        (["--device", "T4", "--runtime", "frobnicate"], "no runtime is named 'frobnicate'"),
        (["--device", "T4", "--runtime", "llama.cpp", "--objective", "fine-tuning"], "it does not fine-tune"),
        (["--device", "T4", "--kv-bits", "7"], "KV cache has 4, 8, 16, 32 bits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_contradicts_itself_is_answered_with_what_to_change(quantmill, arguments, said):
    ran = quantmill("match", *arguments)

    assert (ran.code, ran.out) == (3, "")
    assert said in ran.err


def test_devices_are_listed_with_their_sources(quantmill):
    ran = quantmill("devices", "nvidia", "--json")

    assert "H200" in {device["name"] for device in ran.json}
    assert {device["vendor"] for device in ran.json} == {"nvidia"}
    assert all(device["source"] for device in ran.json)


def test_a_device_of_the_installation_is_known(quantmill, tmp_path, monkeypatch):
    file = tmp_path / "devices.yaml"
    file.write_text("families: [{vendor: acme, kind: gpu, source: acme, devices: [{name: Anvil 1, memory_gb: 12}]}]")
    monkeypatch.setenv("QUANTMILL_DEVICE_CATALOGUE", str(file))

    assert "Anvil 1" in quantmill("devices", "acme").out


def test_this_machines_devices_are_shown(quantmill):
    ran = quantmill("devices", "--here", "--json")

    assert [device["kind"] for device in ran.json if device["kind"] == "cpu"] == ["cpu"]
