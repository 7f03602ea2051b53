"""Environments of other people's programs: their pins conflict, so each has one of its own, kept between runs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("QUANTMILL_CACHE", Path(__file__).resolve().parents[2] / ".cache"))


class NotInstalled(Exception):
    """An environment could not be made; the message is pip's last line."""


def environment(kind: str, name: str, requirements: Path) -> Path:
    """Python of the environment for the content of `requirements`, made at the first call.

    It stands in $QUANTMILL_CACHE/<kind>, or in .cache/<kind> of the repository. Raises NotInstalled.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = CACHE / kind / f"{name}-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"{name}: making its environment; the first time takes minutes", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", "--clear", folder],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise NotInstalled(made.stderr.strip().splitlines()[-1])
        done.touch()
    return python
