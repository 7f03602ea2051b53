"""Everything an installation can set, declared once. Environment variables carry the prefix QUANTMILL_."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from quantmill.contract.errors import RequestRejected

PREFIX = "QUANTMILL_"
SETTINGS_FILE = "QUANTMILL_SETTINGS_FILE"
SECRETS = ("database_url", "broker_url", "autoscaling_token")


def _default_data_dir() -> Path:
    try:
        return Path(os.environ.get("XDG_DATA_HOME", "~/.local/share")).expanduser() / "quantmill"
    except RuntimeError:  # a user without an entry in passwd, as in a container
        raise RequestRejected("this user has no home folder; set QUANTMILL_DATA_DIR") from None


def _from_settings_file() -> dict[str, Any]:
    """What the TOML file that QUANTMILL_SETTINGS_FILE names says, by setting."""
    path = os.environ.get(SETTINGS_FILE)
    if not path:
        return {}
    try:
        said = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RequestRejected(f"{SETTINGS_FILE}={path} cannot be read: {error}") from None
    if unknown := sorted(said.keys() - Settings.model_fields.keys()):
        raise RequestRejected(f"{path} has what is no setting: {', '.join(unknown)}; docs/settings.md names all")
    return said


def _from_secret_files() -> dict[str, str]:
    """The secrets that lie in files of their own, which variables like QUANTMILL_DATABASE_URL_FILE name."""
    found = {}
    for name in SECRETS:
        variable = PREFIX + name.upper()
        path = os.environ.get(f"{variable}_FILE")
        if not path:
            continue
        if os.environ.get(variable):
            raise RequestRejected(f"{variable} and {variable}_FILE are both set; keep one of them")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, ValueError) as error:
            raise RequestRejected(f"{variable}_FILE={path} cannot be read: {error}") from None
        if not found[name]:
            raise RequestRejected(f"{variable}_FILE={path} is empty")
    return found


class Settings(BaseSettings):
    """One frozen value, read at start and passed in; nothing else reads the environment.

    What is given in code wins over a variable, that over a secret's file, and that over the settings file. An empty
    variable says nothing. Raises RequestRejected for a file that cannot be read, has an unknown key or an empty secret.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

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
        default=None,
        min_length=1,
        description="bearer token of GET /internal/autoscaling/{queue}, which is off without one",
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
    schema_wait_seconds: NonNegativeFloat = Field(
        default=120, description="how long a process waits at its start for the database and for its schema"
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = InitSettingsSource(settings_cls, dict(_from_secret_files()))
        return init_settings, env_settings, secrets, InitSettingsSource(settings_cls, _from_settings_file())

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
