"""A disk that fills up in the middle of a job: the job fails with the reason, and nothing is published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.store import artifacts
from quantmill.store.database import Database

QUANTMILL = Path(sys.executable).with_name("quantmill")
MODEL = Path(__file__).parents[2] / "data/millstone-4m"

# Q4_K_M of the shipped model takes 2.8 MB
PLACES = {
    "while units are kept": ("staging", "1m"),
    "while the artifact is published": ("blobs", "1m"),
}


def quantize_on(tmp_path, folder, size):
    """A job whose data folder has a file system of `size` at `folder`."""
    data_dir, output = tmp_path / "data", tmp_path / "out"
    (data_dir / folder).mkdir(parents=True)
    quantize = [QUANTMILL, "quantize", MODEL, "--method", "gguf", "--output", output, "--json"]
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", data_dir / folder, *quantize],
        env={"QUANTMILL_DATA_DIR": str(data_dir), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_units_and_the_file_they_make_are_on_the_disk_once(tmp_path):
    done = quantize_on(tmp_path, "staging", "4m")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("folder", "size"), PLACES.values(), ids=PLACES)
def test_a_full_disk_fails_the_job_and_publishes_nothing(tmp_path, folder, size):
    done = quantize_on(tmp_path, folder, size)

    assert done.returncode == 1, done.stderr
    problem = json.loads(done.stdout)["error"]
    assert problem["type"] == "/problems/ResourceExhausted"
    assert "full" in problem["detail"]
    assert not (tmp_path / "out").exists()
    database = Database.open(f"sqlite:///{tmp_path / 'data/quantmill.sqlite'}")
    with database.read() as tx:
        assert artifacts.list_artifacts(tx, after=None, limit=10) == []
    database.dispose()
