"""Everything an installation can set, declared once. Environment variables carry the prefix QUANTMILL_."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME", "~/.local/share")).expanduser() / "quantmill"


class Settings(BaseSettings):
    """One frozen value, read at start and passed in; nothing else reads the environment."""

    model_config = SettingsConfigDict(env_prefix="QUANTMILL_", frozen=True, extra="ignore")

    data_dir: Path = Field(default_factory=_default_data_dir, description="blobs, staging and the SQLite file")
    database_url: SecretStr | None = Field(
        default=None, description="sqlite:///... or postgresql://...; default: an SQLite file in data_dir"
    )
    broker_url: SecretStr | None = Field(
        default=None, description="redis://... for Celery; without it jobs run in the process of `quantmill serve`"
    )
    source_roots: tuple[Path, ...] = Field(
        default_factory=lambda: (Path.cwd(),), description="folders that sources and texts may be read from"
    )
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8642, ge=0, le=65535, description="port that the API listens on; 0 takes a free one")
    autoscaling_token: SecretStr | None = Field(
        default=None, description="bearer token of GET /internal/autoscaling/{queue}, which is off without one"
    )
    server: str = Field(default="http://127.0.0.1:8642", description="the service that client commands talk to")
    device_catalogue: Path | None = Field(
        default=None, description="a YAML file with devices that the matcher knows beside its own"
    )

    threads: PositiveInt = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), description="kernel threads of one running job"
    )
    device: str = Field(
        default="cpu", description="torch's name of the device that this worker calibrates on: cpu, cuda, cuda:1"
    )
    slots: PositiveInt = Field(default=1, description="jobs that one worker runs at a time")
    queue: str | None = Field(
        default=None,
        description="the queue that this worker serves; default: that of workers with the same hardware and methods",
    )

    lease_seconds: PositiveFloat = Field(default=60, description="a worker silent this long loses its job to another")
    heartbeat_seconds: PositiveFloat = Field(default=10, description="how often a worker renews its lease")
    scheduler_seconds: PositiveFloat = Field(default=1, description="pause between two rounds of the scheduler")
    redispatch_seconds: PositiveFloat = Field(
        default=30, description="a dispatched job that nobody claimed for this long is sent again"
    )
    heartbeat_file: Path | None = Field(
        default=None, description="a worker or scheduler touches it as long as it works: its age is for probes"
    )
    queue_memory_seconds: PositiveFloat = Field(
        default=30 * 86_400, description="a queue is known for this long after its last worker; jobs can wait for it"
    )
    worker_start_seconds: PositiveFloat = Field(
        default=900, description="a queue that has no worker after jobs waited this long for one is the last choice"
    )
    retry_backoff_seconds: PositiveFloat = Field(default=5, description="first pause before a lost job is sent again")
    max_attempts: PositiveInt = Field(default=5, description="a job that loses its worker this often has failed")
    cancel_grace_seconds: PositiveFloat = Field(default=5, description="between SIGTERM and SIGKILL of a canceled job")
    job_timeout_seconds: PositiveInt = Field(default=86_400, description="a job that runs longer than this expires")
    runner_memory_bytes: PositiveInt | None = Field(
        default=None, description="resident memory at which a running job is stopped; default: no limit"
    )
    evaluation_cache_bytes: NonNegativeInt = Field(
        default=4 << 30, description="disk for what sources gave for texts, so that the next job need not run them"
    )
    statistics_cache_bytes: NonNegativeInt = Field(
        default=16 << 30, description="disk for statistics of sources on calibration texts, so that they are made once"
    )
    idempotency_seconds: PositiveInt = Field(default=86_400, description="how long an Idempotency-Key is remembered")

    @property
    def database(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'quantmill.sqlite'}"

    @property
    def blobs_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def staging_dir(self) -> Path:
        return self.data_dir / "staging"

    @property
    def statistics_cache_dir(self) -> Path:
        return self.data_dir / "statistics-cache"

    @property
    def evaluation_cache_dir(self) -> Path:
        return self.data_dir / "evaluation-cache"
