"""Containers run as any user: without a name, without a home, with no right to write but where they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.jobs import State

SOMEBODY = 1000680000  # no entry in passwd
DATA = Path(__file__).parents[2] / "data"
EVALUATION_TEXT = DATA / "text/evaluation.txt"

# Makes all but FOLDER read-only and becomes somebody. An interpreter below /root, which only root may enter, is shown
# there alone; all mounts are the process's own.
SANDBOX = """
case "$PREFIX" in /root/*)
    mount --bind "$PREFIX" /mnt
    mount -t tmpfs -o mode=755 none /root
    mkdir -p "$PREFIX"
    mount --bind /mnt "$PREFIX"
esac
mount --bind "$FOLDER" "$FOLDER"
mount -o remount,bind,ro /
exec setpriv --reuid "$SOMEBODY" --regid 0 --clear-groups --bounding-set=-all --no-new-privs "$@"
"""


def sandbox(folder: Path) -> list[str]:
    """The beginning of a command that runs as somebody who may write to `folder` alone."""
    told = {"FOLDER": folder, "PREFIX": sys.base_prefix, "SOMEBODY": SOMEBODY}
    variables = [f"{name}={value}" for name, value in told.items()]
    return ["env", *variables, "unshare", "--mount", "sh", "-ec", SANDBOX, "sandbox"]


def works(folder: Path) -> bool:
    """Only where root may mount, and somebody can reach the interpreter."""
    write = f"import os, sys; sys.exit(os.access({str(DATA)!r}, os.W_OK) or not os.access({str(folder)!r}, os.W_OK))"
    twice = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {write!r}]))"
    return subprocess.run([*sandbox(folder), sys.executable, "-c", twice], check=False).returncode == 0


@pytest.fixture
def folder():
    """Somebody's own; tmp_path lies below a folder that only its owner may enter."""
    with tempfile.TemporaryDirectory(prefix="quantmill-") as name:
        yield Path(name)


def test_a_user_without_name_and_home_runs_jobs_and_evaluates_them(install, folder):
    data, scratch, text = folder / "data", folder / "scratch", folder / "text.txt"
    text.write_text(EVALUATION_TEXT.read_text()[:1000])
    briefly = EvaluationOptions(window=64, prompts=0)
    scratch.mkdir()
    installation = install("embedded", data_dir=data, source_roots=(DATA, folder), lease_seconds=60.0)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, SOMEBODY, 0)
    installation.wrapper = sandbox(folder)
    if not works(folder):
        pytest.skip("needs root that may mount, unshare and setpriv")

    installation.start(HOME="/nonexistent", TMPDIR=str(scratch), PYTHONDONTWRITEBYTECODE="1")
    job = installation.wait(installation.submit("Q4_0", evaluation_text=str(text), evaluation=briefly).id, seconds=240)

    assert job.state is State.SUCCEEDED, job.error
    assert {path.stat().st_uid for path in (data / "blobs").rglob("*") if path.is_file()} == {SOMEBODY}
