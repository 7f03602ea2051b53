"""What a job made: published once, whole, and traceable to what it was made from."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from quantmill.contract.errors import IllegalTransition, NotFound
from quantmill.domain.artifacts import ArtifactFile, Lineage, Metric
from quantmill.domain.jobs import Outcome, State
from quantmill.store import artifacts, jobs, tables


def rows_of(read, *names):
    """How many rows each table has."""
    count = select(func.count())
    return [read(lambda tx, name=name: tx.scalar(count.select_from(tables.metadata.tables[name]))) for name in names]


def test_an_artifact_reads_back_with_its_files_and_its_description(start, publish, read):
    job = start()
    publish(job)

    made = read(artifacts.get_artifact, "sha256:a")

    assert (made.kind, made.format, made.size) == ("model", "gguf", 1000)
    assert made.files == (ArtifactFile("model.gguf", "sha256:a-file", 1000, "application/octet-stream"),)
    assert made.description == ArtifactFile("quantmill.json", f"sha256:a-of-{job.id}", 10, "application/json")


def test_publishing_ends_the_job_and_its_attempt(start, publish):
    job = publish(start())

    assert (job.state, job.artifact_digest, job.source_digest) == (State.SUCCEEDED, "sha256:a", "sha256:s")
    assert job.attempts[0].outcome is Outcome.SUCCEEDED


def test_a_job_publishes_once(start, publish, read):
    job = start()
    publish(job)

    with pytest.raises(IllegalTransition):
        publish(job, digest="sha256:b")
    assert [made.digest for made in read(artifacts.list_artifacts, limit=10)] == ["sha256:a"]


def test_a_worker_that_lost_its_job_publishes_nothing(start, publish, write, read):
    job = start()
    write(jobs.release, job.id, 1)

    with pytest.raises(IllegalTransition, match="epoch 1 has passed"):
        publish(job)
    everything = ("artifact", "artifact_file", "blob", "job_input", "job_output", "derivation", "metric", "environment")
    assert rows_of(read, *everything) == [0] * len(everything)


def test_two_jobs_that_make_the_same_bytes_share_the_artifact_and_keep_their_own_story(start, publish, read):
    first, second = start(), start()
    publish(first)
    publish(second)

    assert rows_of(read, "artifact", "job_output", "derivation", "job_input") == [1, 2, 2, 2]
    assert {step.job_id for step in read(artifacts.lineage, "sha256:a")} == {first.id, second.id}
    assert read(artifacts.verification_of, second.id) == {"tensors": 3}


def test_jobs_in_one_environment_share_its_row(start, publish, read):
    publish(start(), digest="sha256:a", environment={"python": "3.11", "cpu": ["avx2"]})
    publish(start(), digest="sha256:b", environment={"cpu": ["avx2"], "python": "3.11"})
    publish(start(), digest="sha256:c", environment={"python": "3.12", "cpu": ["avx2"]})

    assert rows_of(read, "environment") == [2]


def test_nothing_is_derived_from_itself(start, publish, read):
    with pytest.raises(IntegrityError):
        publish(start(), digest="sha256:same", source="sha256:same")
    assert read(artifacts.list_artifacts, limit=10) == []


def test_metrics_read_back_also_where_they_are_not_numbers(start, publish, read):
    metrics = [
        Metric("perplexity", 12.5, "", n=2**40, higher_is_better=False),
        Metric("perplexity", math.inf, "", subject="source"),
        Metric("relative_rmse", 0.1 + 0.2, ""),
    ]
    publish(start(), metrics=[*metrics, Metric("divergence", math.nan, "nat")])

    divergence, *others = read(artifacts.metrics_of, "sha256:a")

    assert divergence.name == "divergence"
    assert math.isnan(divergence.value)
    assert others == [metrics[0], metrics[2], metrics[1]]


def test_the_newest_job_has_the_last_word_on_a_metric(start, publish, read):
    publish(start(), metrics=[Metric("seconds", 10.0, "s"), Metric("perplexity", 12.5, "")])
    publish(start(), metrics=[Metric("seconds", 7.0, "s")])

    assert {each.name: each.value for each in read(artifacts.metrics_of, "sha256:a")} == {
        "seconds": 7.0,
        "perplexity": 12.5,
    }


def test_pages_of_artifacts_make_up_the_whole_list(start, publish, read):
    made = [f"sha256:{number}" for number in range(5)]
    for digest in made:
        publish(start(), digest=digest)
    whole = [artifact.digest for artifact in read(artifacts.list_artifacts, limit=10)]

    seen, after = [], None
    while page := read(artifacts.list_artifacts, after=after, limit=2):
        seen += [artifact.digest for artifact in page]
        after = page[-1].digest

    assert sorted(whole) == made
    assert seen == whole
    assert all(len(artifact.files) == 1 for artifact in read(artifacts.list_artifacts, limit=10))


def test_an_artifact_that_does_not_exist_is_not_found(read):
    with pytest.raises(NotFound):
        read(artifacts.get_artifact, "sha256:none")


def test_a_job_that_published_nothing_has_no_verification(start, read):
    with pytest.raises(NotFound):
        read(artifacts.verification_of, start().id)


@pytest.fixture
def family(start, publish):
    """s -> a -> b -> c, and s -> d: the jobs that made a, b, c and d."""
    steps = {"a": "s", "b": "a", "c": "b", "d": "s"}
    made = {}
    for child, parent in steps.items():
        made[child] = start(params={"to": child}, seed=7)
        publish(made[child], digest=f"sha256:{child}", source=f"sha256:{parent}")
    return made


def steps(lineage):
    return [(step.parent[7:], step.child[7:], step.depth) for step in lineage]


def test_lineage_goes_up_to_the_source(family, read):
    found = read(artifacts.lineage, "sha256:c")

    assert steps(found) == [("b", "c", 1), ("a", "b", 2), ("s", "a", 3)]
    assert found[0] == Lineage(
        child="sha256:c",
        parent="sha256:b",
        relation="quantized",
        job_id=family["c"].id,
        method="gguf",
        method_version="1.0",
        params={"to": "c"},
        seed=7,
        depth=1,
    )


def test_lineage_goes_down_to_everything_made_from_a_source(family, read):
    found = read(artifacts.lineage, "sha256:s", direction="down")

    assert sorted(steps(found)) == [("a", "b", 2), ("b", "c", 3), ("s", "a", 1), ("s", "d", 1)]


def test_lineage_ends_at_the_depth_asked_for(family, read):
    assert steps(read(artifacts.lineage, "sha256:c", depth=2)) == [("b", "c", 1), ("a", "b", 2)]


def test_lineage_ends_where_it_comes_back_to_itself(family, start, publish, read):
    publish(start(), digest="sha256:s", source="sha256:c")

    found = read(artifacts.lineage, "sha256:c", depth=100)

    assert steps(found) == [("b", "c", 1), ("a", "b", 2), ("s", "a", 3), ("c", "s", 4)]


def test_lineage_of_what_nobody_made_is_empty(read):
    assert read(artifacts.lineage, "sha256:none") == []
