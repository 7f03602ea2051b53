"""Print the table of the kernel benchmarks: python -m kernels.bench [FAMILY ...] [--formats Q4_K ...] [--threads N].

Each line is measured a second time by a process that runs the scalar code; `x_scalar` is the ratio of the best times.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain

from kernels.bench import bitsandbytes, codecs, gptq, harness, hqq, small_floats, words

import quantmill_kernels as kernels

FAMILIES: dict[str, Callable[[argparse.Namespace], Iterator[harness.Case]]] = {
    "codecs": lambda args: codecs.cases(args.formats, args.threads),
    "bitsandbytes": lambda args: bitsandbytes.cases(args.threads),
    "gptq": lambda args: gptq.cases(args.threads),
    "hqq": lambda args: hqq.cases(args.threads),
    "words": lambda args: words.cases(args.threads),
    "small_floats": lambda args: small_floats.cases(args.threads),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all unless named")
    parser.add_argument("--formats", nargs="+", choices=list(kernels.formats()), default=list(kernels.formats()))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="spent on each line")
    parser.add_argument("--json", action="store_true", help="one object per line instead of a table")
    args = parser.parse_args()
    if unknown := set(args.families) - set(FAMILIES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(FAMILIES)}")

    cases = chain.from_iterable(FAMILIES[name](args) for name in args.families or FAMILIES)
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
