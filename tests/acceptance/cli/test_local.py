"""Commands that need no service."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gguf_models import LLAMA, file, tensor
from tests.installed import METHODS
from tests.unit.repack.nvfp4_files import SMALL, as_file, in_nvfp4

from quantmill.cli.exits import OF_KIND, OF_STATE
from quantmill.cli.options import parse_sets
from quantmill.contract.errors import ErrorKind
from quantmill.domain.jobs import FINAL

QUANTMILL = Path(sys.executable).with_name("quantmill")
DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "millstone-4m"
QUICK_MEASURES = ["--measure", "prompts=0", "--measure", "speed=false", "--measure", "window=128"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """What `quantmill quantize` made, with what it said."""
    folder = tmp_path_factory.mktemp("quantize")
    command = [QUANTMILL, "quantize", MODEL, "--method", "gguf", "--set", "type=Q4_K_M", "--output", folder / "out"]
    ran = subprocess.run(
        [*command, "--data-dir", folder / "data", "--json"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return folder / "out", json.loads(ran.stdout)


# Every command


def test_help_imports_nothing_that_only_commands_need():
    heavy = {"torch", "transformers", "sqlalchemy", "fastapi", "celery", "httpx", "alembic", "onnx", "onnxruntime"}
    program = (
        "import sys; from quantmill.cli import run; "
        f"code = run(['--help']); print(code, sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stderr.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["plan"],
        ["plan", MODEL],
        ["plan", MODEL, "--method"],
        ["plan", MODEL, "--method", "gguf", "--frobnicate"],
        ["job", "not-a-uuid"],
        ["serve", "--port", "70000"],
        ["quantize", MODEL, "--method", "gguf", "--set", "type", "--output", "x"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:1] + arguments[2:])),
)
def test_a_command_that_is_wrongly_put_ends_with_3(quantmill, arguments):
    ran = quantmill(*arguments)

    assert (ran.code, ran.out) == (3, "")
    assert ran.err.strip()


def test_with_json_an_error_is_a_problem_document(quantmill):
    ran = quantmill("plan", MODEL, "--method", "gguf", "--set", "typ=Q4_K_M", "--json")

    assert ran.code == 3
    assert ran.problem["type"] == "/problems/ParamsRejected"
    assert [error["pointer"] for error in ran.problem["errors"]] == ["/params/typ"]


def test_without_json_an_error_is_its_title_and_what_happened(quantmill):
    ran = quantmill("plan", MODEL, "--method", "magic")

    assert ran.err.startswith("No installed plugin offers this method: no method is named 'magic'")


def test_settings_that_do_not_hold_are_usage(quantmill, monkeypatch):
    monkeypatch.setenv("QUANTMILL_THREADS", "many")

    ran = quantmill("doctor")

    assert ran.code == 3
    assert "threads" in ran.err


def test_every_kind_of_error_and_every_end_of_a_job_has_an_exit_code():
    assert set(OF_KIND) == set(ErrorKind)
    assert set(OF_STATE) == FINAL


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=4", 4),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=null", None),
        ('a="4"', "4"),
        ("a=[1, 2]", [1, 2]),
        ("a=Q4_K_M", "Q4_K_M"),
        ("a=x=y", "x=y"),
        ("a=", ""),
    ],
)
def test_a_set_value_is_json_where_it_parses_and_text_elsewhere(text, value):
    assert parse_sets([text]) == {"a": value}


# plan


def test_a_plan_shows_each_tensor_and_the_sums(quantmill):
    ran = quantmill("plan", MODEL, "--method", "gguf", "--set", "type=Q4_K_M")

    assert ran.code == 0
    assert "model.layers.3.mlp.down_proj.weight" in ran.out
    assert "norms stay F32" in ran.out
    assert "5.256" in ran.out
    assert "no such job has run here yet" in ran.out


def test_a_plan_for_a_size_says_what_is_open_and_measures_where_asked(quantmill):
    asked = ("plan", MODEL, "--method", "gguf", "--set", "target_bpw=4.5")

    guess, measured = quantmill(*asked), quantmill(*asked, "--measure", "--json").json

    assert "29 tensors get their schemes once the weights are measured" in guess.out
    assert "nats per token" in guess.out
    assert measured["summary"]["open"] == 0
    assert measured["summary"]["nbytes"] <= measured["summary"]["limit_bytes"] == 2360592
    assert all(row["candidates"] == [] for row in measured["tensors"])


def test_a_plan_as_json_is_the_apis(quantmill):
    plan = quantmill("plan", MODEL, "--method", "gguf", "--set", "type=Q4_K_M", "--json").json

    assert len(plan["tensors"]) == 38
    assert plan["summary"]["schemes"] == {"Q4_K": 24, "Q6_K": 5, "F32": 9}


def test_a_plan_is_corrected_by_the_jobs_that_ran_here(quantmill, tmp_path):
    before = quantmill("plan", MODEL, "--method", "gguf", "--json").json["estimate"]
    quantmill("quantize", MODEL, "--method", "gguf", "--output", tmp_path / "out")

    after = quantmill("plan", MODEL, "--method", "gguf", "--json").json["estimate"]

    assert (before["runs"], before["hardware"], after["runs"]) == (0, None, 1)
    assert after["artifact_bytes"] == before["artifact_bytes"]
    assert after["seconds"]["most"] / after["seconds"]["least"] < before["seconds"]["most"] / before["seconds"]["least"]
    estimates = next(check for check in quantmill("doctor", "--json").json if check["check"] == "estimates")
    assert "gguf: time" in estimates["detail"]


@pytest.mark.parametrize("model", [DATA / "text", DATA / "nowhere", MODEL / "config.json"])
def test_what_is_no_model_is_refused(quantmill, model):
    assert quantmill("plan", model, "--method", "gguf").code == 3


# quantize


def test_quantize_leaves_a_verified_artifact_and_says_how_to_run_it(artifact):
    folder, said = artifact

    assert {path.name for path in folder.iterdir()} == {"Modelfile", "README.md", "model-Q4_K_M.gguf", "quantmill.json"}
    assert (folder / "model-Q4_K_M.gguf").read_bytes()[:4] == b"GGUF"
    assert said["state"] == "succeeded"
    assert said["digest"] == json.loads((folder / "quantmill.json").read_bytes())["digest"]
    assert str(folder / "model-Q4_K_M.gguf") in said["run"]["llama.cpp"]


def test_a_gguf_file_is_a_model(quantmill, tmp_path):
    source = tmp_path / "small.gguf"
    source.write_bytes(file([LLAMA], [tensor("blk.0.attn_q.weight", (32, 2))], bytes(256)))

    ran = quantmill("quantize", source, "--method", "gguf", "--set", "type=Q4_0", "--output", tmp_path / "out")

    assert (ran.code, (tmp_path / "out" / "model-Q4_0.gguf").read_bytes()[:4]) == (0, b"GGUF")
    assert quantmill("verify", tmp_path / "out", "--against", source).code == 0


@pytest.mark.parametrize("kind", ["file", "folder with a file"])
def test_an_output_that_is_occupied_is_refused_before_any_work(quantmill, tmp_path, kind):
    output = tmp_path / "out"
    kept = output if kind == "file" else output / "kept.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")

    ran = quantmill("quantize", MODEL, "--method", "gguf", "--output", output)

    assert (ran.code, str(output) in ran.err) == (3, True)
    assert kept.read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_a_wrong_parameter_is_refused_before_any_work(quantmill, tmp_path):
    ran = quantmill("quantize", MODEL, "--method", "gguf", "--set", "type=Q9", "--output", tmp_path / "out")

    assert ran.code == 3
    assert not (tmp_path / "out").exists()


def test_a_job_that_this_machine_cannot_run_is_given_up_with_what_is_missing(quantmill, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTMILL_RUNNER_MEMORY_BYTES", str(30 << 20))

    ran = quantmill("quantize", MODEL, "--method", "gguf", "--output", tmp_path / "out")

    assert ran.code == OF_KIND["resource"]
    assert "this machine cannot run the job" in ran.err
    assert "it allows 31.5 MB" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job(tmp_path, number):
    command = [QUANTMILL, "quantize", MODEL, "--method", "gguf", "--output", tmp_path / "out"]
    process = subprocess.Popen(
        [*command, "--data-dir", tmp_path / "data"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and hands that down to its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr.readline() == "queued\n"

    process.send_signal(number)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 2, told
    assert "canceling" in told
    assert not (tmp_path / "out").exists()


# verify and evaluate


def test_an_artifact_is_verified_against_its_source(quantmill, artifact):
    ran = quantmill("verify", artifact[0], "--against", MODEL, "--json")

    assert ran.code == 0
    assert ran.json["digest"] == artifact[1]["digest"]
    assert ran.json["verification"]["passed"] is True


def test_a_gguf_file_in_nvfp4_becomes_a_checkpoint_that_is_verified_against_it(quantmill, tmp_path):
    source = as_file(in_nvfp4(SMALL.write(tmp_path / "plain"), tmp_path / "nvfp4"), tmp_path / "file")
    repack = ["--method", "repack", "--set", "to=nvfp4-pack-quantized", "--output", tmp_path / "out"]

    made = quantmill("quantize", source, *repack)
    verified = quantmill("verify", tmp_path / "out", "--against", source)

    assert (made.code, verified.code) == (0, 0), made.err + verified.err
    assert "warning: rebuilt from the GGUF file's metadata: config.json, tokenizer.json" in made.err
    described = json.loads((tmp_path / "out" / "quantmill.json").read_text())
    conversion = described["verification"]["checks"][0]
    assert (conversion["name"], conversion["observed"]["values that differ"]) == ("conversion", 0)


def test_an_artifact_whose_types_the_weights_decided_is_verified_against_its_source(quantmill, tmp_path):
    made = quantmill(
        "quantize", MODEL, "--method", "gguf", "--set", "target_bpw=4.5", "--output", tmp_path / "out",
        "--data-dir", tmp_path / "data",
    )  # fmt: skip

    ran = quantmill("verify", tmp_path / "out", "--against", MODEL)

    assert (made.code, ran.code) == (0, 0), made.err + ran.err


def test_an_artifact_with_a_changed_byte_does_not_verify(quantmill, artifact, tmp_path):
    copy = Path(shutil.copytree(artifact[0], tmp_path / "copy"))
    with (copy / "model-Q4_K_M.gguf").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\xff")

    ran = quantmill("verify", copy, "--against", MODEL)

    assert (ran.code, "model-Q4_K_M.gguf" in ran.err) == (1, True)


def test_an_artifact_without_one_of_its_files_does_not_verify(quantmill, artifact, tmp_path):
    copy = Path(shutil.copytree(artifact[0], tmp_path / "copy"))
    (copy / "model-Q4_K_M.gguf").unlink()

    assert quantmill("verify", copy, "--against", MODEL).code == 1


@pytest.mark.parametrize("content", [None, "", "[]", '{"method": {}}'])
def test_a_folder_that_is_no_artifact_does_not_verify(quantmill, tmp_path, content):
    if content is not None:
        (tmp_path / "quantmill.json").write_text(content)

    ran = quantmill("verify", tmp_path, "--against", MODEL)

    assert (ran.code, "quantmill.json" in ran.err) == (3, True)


def test_what_an_artifact_has_lost_is_measured_on_a_text(quantmill, artifact, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:2000])

    measured = quantmill("evaluate", artifact[0], "--against", MODEL, "--text", text, "--json").json

    metrics = {(metric["subject"], metric["name"]): metric for metric in measured["metrics"]}
    assert metrics["source", "perplexity"]["n"] == metrics["artifact", "perplexity"]["n"] == 511
    assert 0.9 < metrics["artifact", "perplexity_ratio"]["value"] < 1.2
    assert 0 < metrics["artifact", "kld_mean"]["value"] < 1
    assert metrics["model.layers.3", "output_cosine"]["value"] > 0.9


def test_an_evaluation_says_what_runs_what_it_takes_and_what_was_left_out(quantmill, artifact, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:2000])

    measured = quantmill(
        "evaluate", artifact[0], "--against", MODEL, "--text", text, "--prompts", "2", "--context", "256", "--json"
    ).json

    metrics = {(metric["subject"], metric["name"]): metric for metric in measured["metrics"]}
    assert metrics["artifact", "continuation_agreement"]["n"] == 160  # one window, one prompt
    assert metrics["artifact", "word_perplexity"]["value"] > metrics["artifact", "perplexity"]["value"]
    assert metrics["artifact", "predicted_memory"]["unit"] == "byte at 256 tokens"
    assert metrics["artifact", "predicted_memory"]["value"] < metrics["source", "predicted_memory"]["value"]
    assert measured["options"]["window"] == measured["options"]["stride"] == 512
    assert {each["what"] for each in measured["left_out"]} <= {"speed"}


def test_a_task_without_lm_eval_is_refused_by_the_extra_s_name(quantmill, artifact, short_text):
    refused = quantmill("evaluate", artifact[0], "--against", MODEL, "--text", short_text, "--task", "piqa")

    assert refused.code == 3
    assert "pip install 'quantmill[lm-eval]'" in refused.err


@pytest.mark.parametrize("measure", ["windows=4", "window=1", "dtype=int8"])
def test_an_evaluation_that_cannot_be_is_refused_before_any_work(quantmill, tmp_path, short_text, measure):
    refused = quantmill(
        "quantize", MODEL, "--method", "gguf", "--output", tmp_path / "out", "--evaluate", short_text,
        "--measure", measure, "--data-dir", tmp_path / "data",
    )  # fmt: skip

    assert refused.code == 3
    assert not (tmp_path / "out").exists()


def test_texts_are_described_and_compared(quantmill, tmp_path):
    words = (DATA / "text" / "evaluation.txt").read_text().split()
    (tmp_path / "a.txt").write_text(" ".join(words[:400]))
    (tmp_path / "b.txt").write_text("<|im_start|> " + " ".join(words[200:600]))

    described = quantmill("texts", tmp_path / "a.txt", tmp_path / "b.txt", "--model", MODEL, "--json").json

    assert [row["words"] for row in described["texts"]] == [400, 401]
    assert all(row["tokens"] > 400 and set(row["languages"]) == {"en"} for row in described["texts"])
    assert described["texts"][1]["control_tokens"] == {"<|im_start|>": 1}
    assert 0.4 < described["overlaps"][0]["share"] < 0.6


def test_a_text_is_registered_with_its_licence_and_refused_when_it_changed(quantmill, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("the words of the text are these and not those")

    assert quantmill("texts", text, "--register", "mine").code == 3
    registered = quantmill("texts", text, "--register", "mine", "--licence", "CC0-1.0", "--json")
    text.write_text("others")

    assert (registered.json["texts"][0]["name"], registered.json["texts"][0]["licence"]) == ("mine", "CC0-1.0")
    assert "has changed since it was registered as mine" in quantmill("texts", text).err


def test_an_evaluation_on_what_was_calibrated_on_is_warned_of(quantmill, artifact, short_text):
    measured = quantmill(
        "evaluate", artifact[0], "--against", MODEL, "--text", short_text, "--calibration", short_text,
        "--prompts", "0", "--no-speed", "--json",
    ).json  # fmt: skip

    metrics = {(metric["subject"], metric["name"]): metric["value"] for metric in measured["metrics"]}
    assert metrics["text", "calibration_overlap"] == 1.0
    assert "100.0 % of the evaluation text stands in the calibration text" in measured["warnings"][0]
    assert measured["text"]["tokens"] > 511
    assert measured["text"]["batches"].startswith("sha256:")


def test_windows_may_overlap_in_an_evaluation(quantmill, artifact, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:2000])

    shown = quantmill(
        "evaluate", artifact[0], "--against", MODEL, "--text", text, "--window", "64", "--stride", "32",
        "--prompts", "0", "--no-speed",
    )  # fmt: skip

    assert "kld_mean" in shown.out
    assert " to " in shown.out


def test_a_device_that_is_not_there_is_refused(quantmill, artifact, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:2000])

    refused = quantmill("evaluate", artifact[0], "--against", MODEL, "--text", text, "--device", "cuda:7")

    assert refused.code == 3
    assert "'cuda:7' is not a device of this machine" in refused.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"too short", "a window takes 512"),
        (b"caf\xe9 " * 999, "is not UTF-8: byte 3"),
        ("text ".encode("utf-16") * 999, "is UTF-16; save it as UTF-8"),
        (b"\n" * 99, "is empty"),
        (None, "text.txt"),
    ],
    ids=["shorter than a window", "another encoding", "UTF-16", "white space", "no file"],
)
def test_a_text_that_cannot_be_evaluated_on_is_refused(quantmill, artifact, tmp_path, content, said):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)

    refused = quantmill("evaluate", artifact[0], "--against", MODEL, "--text", tmp_path / "text.txt")

    assert refused.code == 1
    assert said in refused.err


def test_another_tokenizer_s_control_tokens_are_plain_text_and_said(quantmill, artifact, tmp_path):
    (tmp_path / "text.txt").write_text("<|im_start|>user\nfour score and seven years ago<|im_end|>\n" * 40)

    measured = quantmill(
        "evaluate", artifact[0], "--against", MODEL, "--text", tmp_path / "text.txt", "--window", "64",
        "--prompts", "0", "--no-speed", "--json",
    ).json  # fmt: skip

    assert measured["warnings"] == [
        "the text holds <|im_end|> (40 times), <|im_start|> (40 times): control tokens to some tokenizer, "
        "here plain text, which costs likelihood"
    ]


def test_an_artifact_that_misses_its_gate_is_not_written(quantmill, tmp_path):
    made = quantmill(
        "quantize", MODEL, "--method", "gguf", "--set", "type=Q8_0", "--output", tmp_path / "out",
        "--gate", "size_mb <= 1", "--data-dir", tmp_path / "data",
    )  # fmt: skip

    assert made.code == 1
    assert "size_mb <= 1" in made.err
    assert not (tmp_path / "out").exists()


def test_a_quantization_escalates_until_its_gates_are_met(quantmill, tmp_path):
    made = quantmill(
        "quantize", MODEL, "--method", "gguf", "--set", "type=Q4_0", "--output", tmp_path / "out",
        "--gate", "rmse <= 0.03", "--escalate", 3, "--escalate-mb", 4,
    )  # fmt: skip

    assert made.code == 0, made.err
    assert "to type=Q5_K_M, after type=Q4_0, type=Q4_K_M" in made.out
    assert (tmp_path / "out" / "model-Q5_K_M.gguf").exists()


def test_a_quantization_meets_its_gate_after_its_worst_block_alone_got_more_bits(quantmill, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:2000])
    made = quantmill(
        "quantize", MODEL, "--method", "gguf", "--set", "type=Q4_0", "--output", tmp_path / "out", "--evaluate", text,
        *QUICK_MEASURES, "--gate", "kld.mean <= 0.011", "--escalate", 2, "--escalate-by", "blocks",
    )  # fmt: skip

    assert made.code == 0, made.err
    description = json.loads((tmp_path / "out" / "quantmill.json").read_text())
    assert set(description["params"]["overrides"].values()) == {"Q5_K"}
    assert {name.split(".")[2] for name in description["params"]["overrides"]} == {"0"}
    (missed,) = description["steps"]
    assert missed["gates"][0]["observed"] == pytest.approx(0.01325, rel=0.01)
    assert 2_770_000 < sum(path.stat().st_size for path in (tmp_path / "out").glob("*.gguf")) < 2_900_000


@pytest.mark.parametrize("bound", [("--escalate-mb", 4), ("--escalate-by", "blocks")])
def test_a_budget_without_escalation_is_refused(quantmill, tmp_path, bound):
    refused = quantmill("quantize", MODEL, "--method", "gguf", "--output", tmp_path / "out", *bound)

    assert (refused.code, "--escalate" in refused.err) == (3, True)


def test_a_variant_that_escalated_is_reported_with_its_steps(quantmill, short_text, tmp_path):
    compared = quantmill(
        "compare", MODEL, "--variant", "gguf:type=Q4_0", "--gate", "rmse <= 0.03", "--escalate", 4,
        *QUICK_MEASURES, "--text", short_text, "--report", tmp_path / "report.html", "--json",
    )  # fmt: skip

    (variant,) = compared.json["variants"]
    assert (compared.code, variant["made_with"]) == (0, {"type": "Q5_K_M"})
    assert variant["name"] == "gguf type=Q4_0 → type=Q5_K_M"
    assert "Gates were not met with type=Q4_0 (rmse" in (tmp_path / "report.html").read_text()


@pytest.fixture
def short_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DATA / "text" / "evaluation.txt").read_text()[:4000])
    return text


def test_variants_are_compared_in_a_page_with_json_and_csv_beside_it(quantmill, short_text, tmp_path):
    compared = quantmill(
        "compare", MODEL, "--variant", "gguf:type=Q8_0", "--variant", "gguf:type=Q4_0",
        "--measure", "window=128", "--measure", "prompts=2", "--text", short_text, "--report", tmp_path / "report.html",
    )  # fmt: skip

    assert compared.code == 0, compared.err
    assert "take gguf type=" in compared.out
    whole = json.loads((tmp_path / "report.json").read_text())
    assert [each["state"] for each in whole["variants"]] == ["succeeded", "succeeded"]
    assert whole["evaluation"] == {"window": 128, "prompts": 2}
    assert "continued" in compared.out
    assert "memory MB" in compared.out
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 3


def test_a_comparison_with_a_variant_that_misses_its_gate_fails_with_its_report(quantmill, short_text, tmp_path):
    compared = quantmill(
        "compare", MODEL, "--variant", "gguf:type=Q8_0", "--variant", "gguf:type=Q4_0", "--gate", "bpw <= 6",
        *QUICK_MEASURES, "--text", short_text, "--report", tmp_path / "report.html", "--json",
    )  # fmt: skip

    assert compared.code == 1
    assert [each["state"] for each in compared.json["variants"]] == ["failed", "succeeded"]
    assert "bpw" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("variant", "report", "said"),
    [
        (":type=Q8_0", "r.html", "names no method"),
        ("gguf:Q8_0", "r.html", "KEY=VALUE"),
        ('gguf:{"type"', "r.html", "no JSON object"),
        ("gguf:typ=1", "r.html", "typ"),
        ("gguf", "r.pdf", ".html"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(quantmill, short_text, tmp_path, variant, report, said):
    refused = quantmill("compare", MODEL, "--variant", variant, "--text", short_text, "--report", tmp_path / report)

    assert refused.code in (1, 3)
    assert said in refused.err


# This installation


def test_methods_are_listed_with_their_parameters(quantmill):
    assert [method["name"] for method in quantmill("methods", "--json").json] == METHODS
    assert "Q4_K_M" in quantmill("methods", "gguf").out


def test_plugins_are_listed_with_where_they_come_from(quantmill):
    loaded = quantmill("plugins", "--json").json

    assert [plugin["name"] for plugin in loaded["loaded"]] == METHODS
    assert {plugin["distribution"] for plugin in loaded["loaded"]} == {"quantmill"}
    assert loaded["failures"] == []


def test_doctor_finds_this_installation_well(quantmill):
    ran = quantmill("doctor", "--json")

    assert [check["check"] for check in ran.json if not check["ok"]] == []
    assert ran.code == 0


def test_doctor_says_what_is_wrong(quantmill, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTMILL_DATA_DIR", str(tmp_path / "file"))

    ran = quantmill("doctor", "--json")

    assert ran.code == 4
    assert "data folder" in [check["check"] for check in ran.json if not check["ok"]]


def test_migrate_makes_the_database_current(quantmill):
    assert [quantmill("migrate", "--json").json["current"] for _ in range(2)] == [True, True]


@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_a_part_that_needs_a_broker_says_so(quantmill, command):
    ran = quantmill(command)

    assert (ran.code, "QUANTMILL_BROKER_URL" in ran.err) == (3, True)
