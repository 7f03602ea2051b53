"""What a submit refuses: with a typed problem that points at the place, and nothing written."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from tests.gguf_models import LLAMA, file, tensor
from tests.onnx_models import one_product, save

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "millstone-4m"
REQUEST = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_K_M"}}
GGUF_TYPES = {
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
}
GGUF_TYPES |= {"IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "TQ2_0", "TQ1_0"}


@pytest.fixture
def model(source_root):
    """A copy of the shipped model, to be damaged."""
    return Path(shutil.copytree(MODEL, source_root / "model"))


def refuse(api, request, status, kind):
    """Submit and plan are both refused in the same way, and no job was made; gives the problem."""
    response = api.post("/v1/jobs", json=request)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"/problems/{kind}"
    assert problem["status"] == status
    assert problem["instance"] == "/v1/jobs"
    assert api.get("/v1/jobs").json()["items"] == []
    return problem


def pointers(problem):
    return [error["pointer"] for error in problem["errors"]]


# The source


def test_a_folder_that_is_no_model_is_refused(api):
    problem = refuse(api, {**REQUEST, "source": "text"}, 422, "SourceRejected")

    assert pointers(problem) == ["/source"]
    assert problem["kind"] == "user"


def test_a_file_in_place_of_a_folder_is_refused(api):
    refuse(api, {**REQUEST, "source": "millstone-4m/config.json"}, 422, "SourceRejected")


def test_a_source_that_does_not_exist_is_refused(api):
    assert pointers(refuse(api, {**REQUEST, "source": "nowhere"}, 422, "SourceRejected")) == ["/source"]


@pytest.mark.parametrize(
    "source", ["/etc", "../..", "file:///etc", "/proc/self/root", "https://models.example/x", "s3://bucket/model"]
)
def test_a_source_outside_the_roots_is_forbidden_whether_or_not_it_exists(api, source):
    assert pointers(refuse(api, {**REQUEST, "source": source}, 403, "PolicyRefused")) == ["/source"]


def test_a_link_out_of_the_roots_is_forbidden(api, source_root):
    (source_root / "out").symlink_to("/etc")

    refuse(api, {**REQUEST, "source": str(source_root / "out")}, 403, "PolicyRefused")


def test_a_weight_file_that_is_a_link_out_of_the_folder_is_refused(api, model, tmp_path):
    elsewhere = tmp_path / "weights"
    (model / "model.safetensors").rename(elsewhere)
    (model / "model.safetensors").symlink_to(elsewhere)

    refuse(api, {**REQUEST, "source": "model"}, 422, "SourceRejected")


def test_a_model_without_a_config_is_refused(api, model):
    (model / "config.json").unlink()

    assert "config.json" in refuse(api, {**REQUEST, "source": "model"}, 422, "SourceRejected")["detail"]


def test_a_model_with_only_pickled_weights_is_refused(api, model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02.")

    refuse(api, {**REQUEST, "source": "model"}, 422, "SourceRejected")


def test_an_unknown_architecture_is_refused_by_name(api, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["HyenaForCausalLM"]}))

    problem = refuse(api, {**REQUEST, "source": "model"}, 422, "ArchitectureUnsupported")

    assert "HyenaForCausalLM" in problem["detail"]


def header(entries):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LYING_FILES = {
    "empty": b"",
    "shorter than its header": struct.pack("<Q", 1000) + b"{}",
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "not JSON": header(b"{]"),
    "past the end": header({"a": {**F32, "data_offsets": [0, 8000]}}) + bytes(8),
    "overlapping": header({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}) + bytes(12),
    "unknown dtype": header({"a": {**F32, "dtype": "Q9"}}) + bytes(8),
    "shape and bytes differ": header({"a": {**F32, "shape": [3]}}) + bytes(8),
    "duplicate key": header(b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2)) + bytes(8),
}


@pytest.mark.parametrize("content", LYING_FILES.values(), ids=LYING_FILES.keys())
def test_a_lying_header_is_refused(api, model, content):
    (model / "model.safetensors").write_bytes(content)

    assert pointers(refuse(api, {**REQUEST, "source": "model"}, 422, "SourceRejected")) == ["/source"]


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "a/b.safetensors", "a\0b"])
def test_an_index_that_names_files_elsewhere_is_refused(api, model, name):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    (model / "model.safetensors").unlink()

    refuse(api, {**REQUEST, "source": "model"}, 422, "SourceRejected")


# Method and parameters


def test_an_unknown_method_is_refused_with_those_there_are(api):
    problem = refuse(api, {**REQUEST, "method": "magic"}, 422, "UnknownMethod")

    assert pointers(problem) == ["/method"]
    assert "gguf" in problem["detail"]


@pytest.mark.parametrize(
    ("path", "status", "title"),
    [
        ("/etc/passwd", 403, "PolicyRefused"),
        ("../secret.dat", 403, "PolicyRefused"),
        ("none.dat", 422, "SourceRejected"),
    ],
)
def test_a_file_that_a_parameter_names_lies_below_a_source_root(api, path, status, title):
    problem = refuse(api, {**REQUEST, "params": {"imatrix": path}}, status, title)
    assert problem["errors"][0]["pointer"] == "/params/imatrix"


@pytest.mark.parametrize(
    ("params", "pointer", "code"),
    [
        ({"typ": "Q4_K_M"}, "/params/typ", "extra_forbidden"),
        ({"type": "Q4_K_M", "a/b~c": 1}, "/params/a~1b~0c", "extra_forbidden"),
        ({"type": "Q9_Z"}, "/params/type", "literal_error"),
        ({"type": 4}, "/params/type", "literal_error"),
        ({"type": None}, "/params/type", "literal_error"),
    ],
)
def test_a_parameter_that_the_method_does_not_know_is_pointed_at(api, params, pointer, code):
    problem = refuse(api, {**REQUEST, "params": params}, 422, "ParamsRejected")

    assert (pointer, code) in [(error["pointer"], error["code"]) for error in problem["errors"]]


def test_each_wrong_parameter_is_listed(api):
    problem = refuse(api, {**REQUEST, "params": {"typ": 1, "type": "Q9"}}, 422, "ParamsRejected")

    assert sorted(pointers(problem)) == ["/params/typ", "/params/type"]


# Text and limits


def test_an_evaluation_text_outside_the_roots_is_forbidden(api):
    problem = refuse(api, {**REQUEST, "evaluation_text": "/etc/passwd"}, 403, "PolicyRefused")

    assert pointers(problem) == ["/evaluation_text"]


def test_an_evaluation_without_a_text_is_refused(api):
    problem = refuse(api, {**REQUEST, "evaluation": {"window": 256}}, 422, "RequestRejected")

    assert pointers(problem) == ["/evaluation"]


@pytest.mark.parametrize("options", [{"windows": 2}, {"window": 1}, {"dtype": "int8"}, {"tasks": "piqa"}], ids=str)
def test_an_evaluation_that_cannot_be_is_refused(api, options):
    (name,) = options

    problem = api.post("/v1/jobs", json={**REQUEST, "evaluation": options}).json()

    assert problem["status"] == 422
    assert pointers(problem) == [f"/evaluation/{name}"]


@pytest.mark.parametrize("content", [None, b""], ids=["folder", "empty"])
def test_an_evaluation_text_that_is_no_text_is_refused(api, source_root, content):
    path = source_root / "text.txt"
    path.mkdir() if content is None else path.write_bytes(content)

    assert pointers(refuse(api, {**REQUEST, "evaluation_text": str(path)}, 422, "TextRejected")) == ["/evaluation_text"]


def test_a_longer_run_than_this_installation_allows_is_refused(api):
    problem = refuse(api, {**REQUEST, "timeout_seconds": 86_401}, 422, "RequestRejected")

    assert pointers(problem) == ["/timeout_seconds"]


@pytest.mark.parametrize(
    ("gates", "pointer", "message"),
    [
        (["size_mb <= 9", "loss <= 1"], "/gates/1", "'loss' is not measured"),
        (["size_mb = 9"], "/gates/0", "is not a gate"),
        (["kld.mean <= 1"], "/gates/0", "is measured on a text"),
    ],
)
def test_a_gate_that_cannot_be_judged_is_refused_where_it_stands(api, gates, pointer, message):
    response = api.post(
        "/v1/jobs", json={"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_0"}, "gates": gates}
    )

    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert problem["pointer"] == pointer
    assert message in problem["message"]


def test_a_job_shows_its_gates(api):
    gates = ["size_mb <= 9"]
    job = api.post(
        "/v1/jobs", json={"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_0"}, "gates": gates}
    ).json()

    assert job["gates"] == [{"gate": "size_mb <= 9", "observed": None, "passed": None}]


def test_a_text_for_an_onnx_graph_is_refused(api, source_root):
    save(one_product(), source_root / "graph")
    request = {"source": "graph", "method": "onnx", "params": {}, "evaluation_text": "text/evaluation.txt"}

    assert pointers(refuse(api, request, 422, "RequestRejected")) == ["/evaluation_text"]


@pytest.fixture
def gguf_source(source_root):
    """A GGUF file with one matrix in Q4_0."""
    (source_root / "small.gguf").write_bytes(file([LLAMA], [tensor("blk.0.attn_q.weight", (32, 2), 2)], bytes(36)))
    return {"source": "small.gguf", "method": "gguf"}


@pytest.mark.parametrize(
    ("request_", "pointer", "kind"),
    [
        ({"params": {"type": "Q8_0"}}, "/source", "SourceRejected"),
        ({"params": {"imatrix": "auto", "type": "Q4_0"}}, "/params/imatrix", "ParamsRejected"),
        ({"params": {"type": "Q4_0"}, "evaluation_text": "text/evaluation.txt"}, "/evaluation_text", "RequestRejected"),
        ({"method": "hqq", "params": {}}, "/source", "SourceRejected"),
    ],
)
def test_what_cannot_be_made_of_a_gguf_file_is_refused_at_once(api, gguf_source, request_, pointer, kind):
    assert pointers(refuse(api, {**gguf_source, **request_}, 422, kind)) == [pointer]


def test_a_gguf_file_is_planned(api, gguf_source):
    plan = api.post("/v1/plans", json={**gguf_source, "params": {"type": "Q8_0", "allow_requantize": True}}).json()

    assert [(row["name"], row["scheme"]) for row in plan["tensors"]] == [("blk.0.attn_q.weight", "Q8_0")]
