"""The matcher over HTTP."""

from __future__ import annotations

import pytest

from quantmill.domain.artifacts import Metric

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def test_devices_are_listed_with_what_is_known_of_them(api):
    devices = {device["name"]: device for device in api.get("/v1/devices").json()["items"]}

    assert len(devices) > 100
    assert devices["RTX 4090"]["compute_capability"] == 8.9
    assert devices["T4"]["bandwidth"] is None


def test_a_source_is_matched_with_its_exact_size(api):
    planned = api.post("/v1/plans", json={"source": "millstone-4m", "method": "gguf", "params": {"type": "Q8_0"}})
    response = api.post("/v1/match", json={"device": "M1", "source": "millstone-4m", "objective": "quality"})

    best = response.json()["plans"][0]
    assert (response.status_code, best["scheme"], best["installed"]) == (200, "gguf-Q8_0", True)
    assert best["memory"]["weights_bytes"] == planned.json()["summary"]["nbytes"]


def test_a_config_alone_is_enough(api):
    found = api.post("/v1/match", json={"device": "H100", "config": CONFIG}).json()

    assert found["plans"][0]["scheme"] == "fp8-dynamic"
    assert not found["plans"][0]["memory"]["exact_weights"]
    assert "config.json alone" in " ".join(found["notes"])


def test_what_jobs_here_have_lost_stands_before_published_figures(api, publish, submitted):
    def lost(ratio, **request):
        job_id = submitted(evaluation_text="text/evaluation.txt", **request)
        publish(str(ratio).encode(), job_id, [Metric("perplexity_ratio", ratio, "")])
        return job_id

    lost(1.5)
    newest = lost(1.25)
    lost(1.75, params={"type": "Q2_K"})

    for asked in ({"source": "millstone-4m"}, {"config": CONFIG}):
        plans = api.post("/v1/match", json={"device": "H100", **asked}).json()["plans"]
        (plan,) = (plan for plan in plans if plan["scheme"] == "gguf-Q4_K_M")
        assert plan["quality"][0] == {
            "what": "perplexity over the source's, millstone-4m",
            "value": 1.25,
            "source": f"job {newest}",
        }
        assert not [each for each in plan["quality"][1:] if each["source"].startswith("job")]


def test_without_a_plan_the_nearest_thing_is_named(api):
    response = api.post("/v1/match", json={"device": "Hexagon", "config": CONFIG})

    assert (response.status_code, response.json()["plans"]) == (200, [])
    assert response.json()["nearest"]
    assert all(each["reasons"] for each in response.json()["rejected"])


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"device": "RTX 4095"}, 422, "/device"),
        ({"device": "M1", "ram_gb": 8}, 422, "/device"),
        ({"count": 0}, 422, "/count"),
        ({"context": -1}, 422, "/context"),
        ({"objective": "best"}, 422, "/objective"),
        ({"frobnicate": 1}, 422, "/frobnicate"),
        ({"source": "nowhere"}, 422, "/source"),
        ({"source": "/etc"}, 403, "/source"),
        ({"config": CONFIG | {"hidden_size": -1}}, 422, "/config"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_answered_points_at_the_reason(api, change, status, pointer):
    response = api.post("/v1/match", json={"device": "T4"} | change)

    assert response.status_code == status
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_a_model_that_is_named_twice_is_refused(api):
    response = api.post("/v1/match", json={"device": "T4", "source": "millstone-4m", "config": CONFIG})

    assert response.status_code == 422
    assert "give one of them" in response.json()["detail"]
