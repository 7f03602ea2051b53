"""Compare the kernels with what people use today: python -m kernels.bench.peers [PEER ...] [--repeats N] [--json].

Both sides run one after the other on the same values, each on one thread, the peer in an environment of its own. The
times are the best of N runs, processor time. It reports; it asserts nothing.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from kernels.bench.environments import NotInstalled, environment
from kernels.bench.harness import commit, cpu
from kernels.bench.peers.cases import Case, Compared
from kernels.bench.peers.table import PEERS, SHARED
from kernels.bench.peers.timing import Arrays, best_seconds

import quantmill_kernels as kernels

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.peers", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all unless named")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object per line instead of a table")
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")

    for name in args.peers or PEERS:
        try:
            lines = list(compared(name, args.repeats))
        except NotInstalled as error:
            print(f"{name}: not run, its environment could not be made ({error})")
            continue
        for line in lines:
            print(json.dumps(asdict(line)) if args.json else row(line), flush=True)


def compared(name: str, repeats: int) -> Iterator[Compared]:
    kind, environment_name, requirements = SHARED.get(name, ("peers", name, HERE / name / "requirements.txt"))
    python = environment(kind, environment_name, REPOSITORY / requirements)
    for case in PEERS[name]():
        theirs_seconds, theirs = run_theirs(python, name, case, repeats)
        seconds, ours = best_seconds(case.ours, repeats)
        yield Compared(
            peer=name,
            what=case.what,
            isa=kernels.isa(),
            values=case.values,
            mvalues_s=round(case.values / seconds / 1e6, 1),
            theirs_mvalues_s=round(case.values / theirs_seconds / 1e6, 2),
            ratio=round(theirs_seconds / seconds, 2),
            agreement=case.agreement(ours, theirs),
            commit=commit(),
            cpu=cpu(),
        )


def run_theirs(python: Path, name: str, case: Case, repeats: int) -> tuple[float, Arrays]:
    """Seconds and results of kernels/bench/peers/<name>/theirs.py."""
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        inputs, outputs = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        np.savez(inputs, **case.inputs)
        command = [python, "-m", f"kernels.bench.peers.{name}.theirs", case.what, inputs, outputs, str(repeats)]
        process = subprocess.run(
            command, cwd=REPOSITORY, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True
        )
        with np.load(outputs) as arrays:
            return float(process.stdout.split()[-1]), dict(arrays)


def row(line: Compared) -> str:
    return (
        f"{line.peer:16}{line.what:32}{line.isa:8}{line.mvalues_s:>10} {line.theirs_mvalues_s:>10} Mvalues/s "
        f"{line.ratio:>8}x  {line.agreement}  {line.commit}  {line.cpu}"
    )


if __name__ == "__main__":
    main()
