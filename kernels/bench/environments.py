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

    An `alone.txt` beside it names what is built and installed after it without what it asks for: packages that want a
    CUDA build of torch. A `removed.txt` names what is taken out again: packages that others ask for and that cannot be
    imported beside the CPU build of torch. The environment stands in $QUANTMILL_CACHE/<kind>, or in .cache/<kind> of
    the repository. Raises NotInstalled.
    """
    alone, removed = requirements.with_name("alone.txt"), requirements.with_name("removed.txt")
    contents = b"".join(each.read_bytes() for each in (requirements, alone, removed) if each.exists())
    digest = hashlib.sha256(contents).hexdigest()[:12]
    folder = CACHE / kind / f"{name}-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"{name}: making its environment; the first time takes minutes", file=sys.stderr)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        commands = [[sys.executable, "-m", "venv", "--clear", folder], [*pip, "install", "-r", requirements]]
        if alone.exists():
            commands.append([*pip, "install", "--no-deps", "--no-build-isolation", "-r", alone])
        if removed.exists():
            commands.append([*pip, "uninstall", "--yes", "-r", removed])
        for command in commands:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise NotInstalled(made.stderr.strip().splitlines()[-1])
        done.touch()
    return python
