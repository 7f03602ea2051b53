"""Print the table of the kernel benchmarks: python -m kernels.bench [--formats Q4_K ...] [--threads N] [--json].

Each line is measured a second time by a process that runs the scalar code; `x_scalar` is the ratio of the best times.
"""

import argparse
import os
import subprocess
import sys

from kernels.bench import codecs, harness

import quantmill_kernels as kernels


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("--formats", nargs="+", choices=list(kernels.formats()), default=list(kernels.formats()))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="spent on each line")
    parser.add_argument("--json", action="store_true", help="one object per line instead of a table")
    args = parser.parse_args()

    cases = codecs.cases(args.formats, args.threads)
    scalar = {} if kernels.isa() == "scalar" else harness.best_times(scalar_lines())
    lines = harness.measure(cases, kernels.isa(), args.threads, args.seconds, scalar)
    (harness.print_json if args.json else harness.print_table)(lines)


def scalar_lines() -> list[str]:
    """The same benchmark, one JSON object per line, from a process that runs the scalar code."""
    command = [sys.executable, "-m", "kernels.bench", *sys.argv[1:], "--json"]
    environment = os.environ | {"QUANTMILL_ISA": "scalar"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    main()
