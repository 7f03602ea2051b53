"""The API over a database of its own, without a worker: what is submitted stays queued."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from quantmill.api.app import create_app
from quantmill.domain.artifacts import Artifact, ArtifactFile, Metric
from quantmill.domain.jobs import Job, State
from quantmill.files.manifest import manifest_digest
from quantmill.services import Services
from quantmill.settings import Settings
from quantmill.store import artifacts, jobs

DATA = Path(__file__).parents[2] / "data"
REQUEST = {"source": "millstone-4m", "method": "gguf", "params": {"type": "Q4_K_M"}}


@pytest.fixture
def source_root(tmp_path: Path) -> Path:
    """A second source root, for the sources that a test makes."""
    root = tmp_path / "sources"
    root.mkdir()
    return root


@pytest.fixture
def served_database_url(sqlite_url: str) -> str:
    """Where the API keeps its jobs; a module may override it."""
    return sqlite_url


@pytest.fixture
def services(tmp_path: Path, source_root: Path, served_database_url: str) -> Iterator[Services]:
    roots = (DATA, source_root)
    opened = Services.open(
        Settings(data_dir=tmp_path / "data", database_url=SecretStr(served_database_url), source_roots=roots)
    )
    yield opened
    opened.close()


@pytest.fixture
def api(services: Services) -> TestClient:
    return TestClient(create_app(services), raise_server_exceptions=False)


@pytest.fixture
def submitted(api: TestClient) -> Callable[..., str]:
    """Submit a job, with changes to the usual request; gives its id."""

    def submit(**changes: object) -> str:
        response = api.post("/v1/jobs", json={**REQUEST, **changes})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    return submit


@pytest.fixture
def claimed(services: Services) -> Callable[[str], Job]:
    """Do what scheduler and worker do to start a queued job."""

    def claim(job_id: str) -> Job:
        with services.database.write() as tx:
            queued = jobs.get_job(tx, UUID(job_id))
            epoch = jobs.mark_dispatched(tx, queued.id, queued.epoch, "cpu")
            assert epoch is not None
            job = jobs.claim(tx, queued.id, epoch, "worker-1", 60)
            assert job is not None
            return job

    return claim


@pytest.fixture
def ended(services: Services, claimed: Callable[[str], Job]) -> Callable[[str, State], Job]:
    """Run a queued job to an end other than success."""

    def end(job_id: str, state: State) -> Job:
        job = claimed(job_id)
        if state is State.CANCELED:
            with services.database.write() as tx:
                jobs.request_cancel(tx, job.id)
        error = {
            "error": {"type": "/problems/WorkerLost", "title": "Lost.", "detail": "gone", "kind": "infrastructure"}
        }
        with services.database.write() as tx:
            return jobs.transition(tx, job.id, epoch=job.epoch, to=state, **(error if state is State.FAILED else {}))

    return end


@dataclass(frozen=True)
class Published:
    """An artifact of one file, `weights.gguf`, and its quantmill.json."""

    job: Job
    digest: str
    content: bytes

    @property
    def file_url(self) -> str:
        return f"/v1/artifacts/{self.digest}/files/weights.gguf"


@pytest.fixture
def publish(
    services: Services, submitted: Callable[..., str], claimed: Callable[[str], Job]
) -> Callable[..., Published]:
    """Run a job (by default a new one) to success with an artifact that holds `content`."""

    def publish(content: bytes, job_id: str | None = None, metrics: Sequence[Metric] = ()) -> Published:
        job = claimed(job_id or submitted())
        blob = services.blobs.put_bytes(content)
        described = services.blobs.put_bytes(b"{}")
        files = (ArtifactFile("weights.gguf", blob.digest, blob.size),)
        description = ArtifactFile("quantmill.json", described.digest, described.size, "application/json")
        digest = manifest_digest(files)
        artifact = Artifact(digest, "model", "gguf", files, description, datetime.now(UTC))
        with services.database.write() as tx:
            job = artifacts.publish(
                tx,
                job.id,
                job.epoch,
                artifact,
                source_digest=f"sha256:{hashlib.sha256(b'source').hexdigest()}",
                source_uri=job.request.source,
                metrics=[Metric("bits_per_weight", 4.5, "bit"), *metrics],
                environment={"python": "3.11"},
                verification={"passed": True},
            )
        return Published(job, digest, content)

    return publish


@pytest.fixture
def published(publish: Callable[[bytes], Published]) -> Published:
    return publish(bytes(range(256)) * 40)
