"""Commands that talk to a service, here a real one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

DATA = Path(__file__).parents[2] / "data"
SUBMIT = ("submit", "millstone-4m", "--method", "gguf", "--set", "type=Q4_0")


def test_submit_prints_the_id_and_nothing_else(remote):
    ran = remote(*SUBMIT)

    assert (ran.code, ran.err) == (0, "")
    assert remote("job", ran.out.strip(), "--json").json["state"] in ("queued", "running", "succeeded")


def test_a_path_that_exists_here_is_sent_absolute(remote, monkeypatch):
    monkeypatch.chdir(DATA)

    job = remote("submit", "./millstone-4m", "-m", "gguf", "--set", "type=Q4_0", "--json").json

    assert job["source"] == str(DATA / "millstone-4m")


def test_submit_takes_everything_that_a_job_has(remote):
    more = ("--seed", 7, "--label", "team=search", "--time-limit", 600, "--idempotency-key", "cli-everything")

    job = remote(*SUBMIT, *more, "--json").json
    again = remote(*SUBMIT, *more, "--json").json

    assert (job["seed"], job["labels"], job["timeout_seconds"]) == (7, {"team": "search"}, 600)
    assert again["id"] == job["id"]


def test_submit_and_wait_ends_with_the_jobs_end(remote):
    ran = remote(*SUBMIT, "--wait", "--json")

    assert (ran.code, ran.json["state"]) == (0, "succeeded")


def test_a_refused_submit_ends_with_3_and_the_problem(remote):
    ran = remote("submit", "millstone-4m", "-m", "gguf", "--set", "typ=Q4_0", "--json")

    assert (ran.code, ran.out) == (3, "")
    assert ran.problem["errors"][0]["pointer"] == "/params/typ"


def test_jobs_are_listed(remote, finished):
    assert str(finished.id) in remote("jobs", "--label", "made=once").out
    assert [job["id"] for job in remote("jobs", "--label", "made=once", "--json").json["items"]] == [str(finished.id)]


def test_a_job_is_shown(remote, finished):
    ran = remote("job", finished.id)

    assert ran.code == 0
    assert finished.artifact_digest in ran.out
    assert remote("job", finished.id, "--json").json == finished.model_dump(mode="json")


def test_what_a_job_s_plan_warns_of_is_said(remote, finished, monkeypatch):
    plan = finished.plan.model_copy(update={"warnings": ["the router is kept"]})
    monkeypatch.setattr("quantmill.client.Client.get", lambda self, job_id: finished.model_copy(update={"plan": plan}))

    assert "warning: the router is kept" in remote("job", finished.id).err


def test_waiting_for_an_ended_job_gives_its_exit_code(remote, finished):
    canceled = remote(*SUBMIT).out.strip()
    remote("cancel", canceled)

    assert remote("wait", finished.id).code == 0
    assert remote("wait", canceled, "--timeout", 60).code in (0, 2)  # it may have been faster than the cancel


def test_events_are_one_line_each(remote, finished):
    lines = remote("events", finished.id, "--json").out.splitlines()
    said = remote("events", finished.id, "--after", 1).out

    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert "job.succeeded" in said
    assert "job.queued" not in said


def test_a_job_that_succeeded_is_neither_canceled_nor_retried(remote, finished):
    assert [remote(verb, finished.id).code for verb in ("cancel", "retry")] == [3, 3]


def test_a_canceled_job_is_retried_as_another(remote):
    jobs = [remote(*SUBMIT).out.strip() for _ in range(4)]  # one runs, the last one waits its turn
    assert remote("cancel", jobs[-1], "--json").json["state"] in ("canceled", "canceling")
    assert remote("wait", jobs[-1]).code == 2

    again = remote("retry", jobs[-1], "--json").json

    assert again["retry_of"] == jobs[-1]


def test_a_job_that_is_replayed_makes_the_same_bytes(remote, finished):
    ran = remote("replay", finished.id, "--json")

    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["same"], ran.json["replayed"]) == (True, finished.artifact_digest)
    assert remote("job", ran.json["replay"], "--json").json["labels"] == {"replay_of": str(finished.id)}


def test_a_replay_that_makes_other_bytes_says_so(remote, finished, monkeypatch):
    other = finished.model_copy(update={"artifact_digest": f"sha256:{0:064}", "method_version": "0"})
    monkeypatch.setattr("quantmill.client.Client.get", lambda self, job_id: other)

    ran = remote("replay", finished.id)

    assert ran.code == 1
    assert ran.out.splitlines()[-1].split() == ["same", "no"]
    assert "the method is another one since: 0 then" in ran.err


def test_artifacts_and_their_lineage_are_shown(remote, finished):
    digest = finished.artifact_digest

    assert digest in remote("artifacts").out
    assert digest in [row["digest"] for row in remote("artifacts", "--json").json["items"]]
    assert f"quantized from {finished.source_digest}" in remote("lineage", digest).out
    assert str(finished.id) in [step["job_id"] for step in remote("lineage", digest, "--json").json]


def test_a_download_is_the_artifact(remote, finished, tmp_path):
    ran = remote("download", finished.artifact_digest, "--output", tmp_path / "out", "--json")

    assert ran.code == 0
    for file in ran.json["files"]:
        content = (tmp_path / "out" / file["path"]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == file["digest"]


def test_a_download_into_an_occupied_folder_is_refused(remote, finished, tmp_path):
    (tmp_path / "kept").write_text("mine")

    assert remote("download", finished.artifact_digest, "--output", tmp_path).code == 3


def test_an_unknown_job_is_usage_and_an_absent_service_is_infrastructure(remote):
    unknown = "01a200a2-89e7-7966-9a12-2eb7dec128b0"

    assert remote("job", unknown).code == 3
    assert remote("job", unknown, "--server", "http://127.0.0.1:9").code == 4


def test_variants_are_compared_on_the_service(remote, service, tmp_path):
    ran = remote(
        "compare", "millstone-4m", "--variant", "gguf:type=Q8_0", "--variant", 'gguf:{"type": "Q4_0", "pure": true}',
        "--text", service.text, "--report", tmp_path / "out" / "report.html", "--server", service.url,
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert "take gguf type=" in ran.out
    assert "gguf type=Q4_0 pure=true" in (tmp_path / "out" / "report.csv").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.json", "report.csv"}


def test_a_comparison_that_the_service_refuses_ends_with_3_and_the_problem(remote, service, tmp_path):
    ran = remote(
        "compare", "millstone-4m", "--variant", "gguf:typ=1", "--text", service.text,
        "--report", tmp_path / "report.html", "--server", service.url, "--json",
    )  # fmt: skip

    assert (ran.code, ran.out) == (3, "")
    assert ran.problem["errors"][0]["pointer"] == "/variants/0/params/typ"


def test_the_options_of_the_embedded_store_mean_nothing_to_a_service(remote, service, tmp_path):
    ran = remote(
        "compare", "millstone-4m", "--variant", "gguf", "--text", service.text,
        "--report", tmp_path / "report.html", "--server", service.url, "--threads", 2,
    )  # fmt: skip

    assert (ran.code, "--threads" in ran.err) == (3, True)
