"""Calibrated jobs: their blocks stand on each other, and still a job goes on where another process stopped."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select
from tests.acceptance.jobs.conftest import PATIENT

from quantmill.contract.errors import RequestRejected
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.comparisons import ComparisonRequest, VariantRequest
from quantmill.domain.jobs import JobRequest, Outcome, State
from quantmill.jobs import comparisons
from quantmill.jobs.submit import submit
from quantmill.store import tables, units

DATA = Path(__file__).parents[2] / "data"
MODEL, TEXT = DATA / "millstone-4m", DATA / "text" / "calibration.txt"
ON_TEXT = CalibrationOptions(str(TEXT), samples=32, window=128)


def calibrated(installation, bits=4, calibration=ON_TEXT):
    request = JobRequest(source=str(MODEL), method="rounding", params={"bits": bits}, calibration=calibration)
    return submit(installation.services, request)


def description(installation, job):
    """What the job's own quantmill.json says; jobs that made the same bytes share the artifact."""
    output = tables.job_output
    with installation.services.database.read() as tx:
        wanted = select(output.c.description_digest).where(output.c.job_id == job.id)
        digest = tx.execute(wanted).scalar_one()
    return json.loads(installation.services.blobs.open(digest).read())


def test_killed_after_a_block_a_job_resumes_to_the_same_artifact(install):
    installation = install("embedded", slots=1)
    installation.start()
    undisturbed = installation.wait(calibrated(installation).id, seconds=200)
    job = calibrated(installation)
    for block in (1, 3):
        installation.wait(job.id, lambda _, done=block: finished_blocks(installation, job) >= done, 200)
        for runner in installation.runners():
            kill(runner)

    job = installation.wait(job.id, seconds=200)

    assert job.state is State.SUCCEEDED, job.error
    assert job.artifact_digest == undisturbed.artifact_digest
    assert {attempt.outcome for attempt in job.attempts} == {Outcome.LOST, Outcome.SUCCEEDED}
    first, second = description(installation, undisturbed), description(installation, job)
    assert [each["calibration"]["statistics_from_cache"] for each in (first, second)] == [False, True]
    assert first["calibration_digest"] == second["calibration_digest"] == first["calibration"]["digest"]
    installation.stop("serve")
    assert not (installation.settings.staging_dir / str(job.id)).exists()


def finished_blocks(installation, job):
    with installation.services.database.read() as tx:
        return sum(unit.key.startswith("block") for unit in units.finished_units(tx, job.id))


def kill(runner):
    try:
        runner.kill()
    except psutil.NoSuchProcess:
        return


@pytest.mark.parametrize(
    ("method", "calibration", "said"),
    [("rounding", None, "give calibration"), ("gguf", ON_TEXT, "leave it out")],
)
def test_a_text_that_a_method_lacks_or_does_not_take_is_refused_at_once(install, method, calibration, said):
    params = {"type": "Q4_0"} if method == "gguf" else {}

    with pytest.raises(RequestRejected, match=said) as caught:
        submit(
            install("embedded").services,
            JobRequest(source=str(MODEL), method=method, params=params, calibration=calibration),
        )

    assert caught.value.fields["errors"][0]["pointer"] == "/calibration"


def test_two_variants_of_a_comparison_are_calibrated_by_one_pass_and_can_be_made_again(install, short_text):
    """The second one waits for the first one's statistics. What stands in both texts is said of each."""
    installation = install("embedded", slots=2, **PATIENT)
    installation.start()
    variants = tuple(VariantRequest("gguf", {"type": each, "imatrix": "auto"}) for each in ("Q2_K", "Q4_K_M"))
    request = ComparisonRequest(
        str(MODEL), str(short_text), variants, calibration=CalibrationOptions(str(short_text), samples=8, window=64)
    )

    comparison = comparisons.submit(installation.services, request)
    jobs = [installation.wait(variant.job.id, seconds=200) for variant in comparison.variants]

    assert [job.state for job in jobs] == [State.SUCCEEDED] * 2, [job.error for job in jobs]
    known = [description(installation, job)["calibration"] for job in jobs]
    assert sorted(each["statistics_from_cache"] for each in known) == [False, True]
    assert known[0]["digest"] == known[1]["digest"]
    assert known[0]["sensitivity"] == known[1]["sensitivity"]
    assert {each["by"] for each in known[0]["sensitivity"].values()} == {"second_moment"}
    report = comparisons.report(installation.services, comparison.id)
    for variant in report.variants:
        assert f"--calibration {short_text} --calibrate samples=8 --calibrate window=64" in report.command(variant)
        assert variant.value("calibration_overlap", "text") == 1.0


def test_what_a_runner_may_not_hold_of_calibration_is_refused_when_it_is_submitted(install):
    """64 threads hold 64 windows' activations at once."""
    installation = install("embedded", threads=64, runner_memory_bytes=1 << 30)

    with pytest.raises(RequestRejected, match="QUANTMILL_RUNNER_MEMORY_BYTES allows 1073741824") as caught:
        calibrated(installation, calibration=CalibrationOptions(str(TEXT)))

    assert caught.value.fields["needed_bytes"] > caught.value.fields["limit_bytes"] == 1 << 30
    assert caught.value.fields["errors"][0]["pointer"] == "/calibration"


@pytest.fixture(scope="module")
def short_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_text(TEXT.read_text()[:6000])
    return path
