"""Print the table of the kernel benchmarks: python -m kernels.bench [--formats Q4_K ...] [--threads N] [--json]."""

import argparse

from kernels.bench import codecs, harness

import quantmill_kernels as kernels


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("--formats", nargs="+", choices=list(kernels.formats()), default=list(kernels.formats()))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="spent on each line")
    parser.add_argument("--json", action="store_true", help="one object per line instead of a table")
    args = parser.parse_args()

    lines = harness.measure(codecs.cases(args.formats, args.threads), kernels.isa(), args.threads, args.seconds)
    (harness.print_json if args.json else harness.print_table)(lines)


if __name__ == "__main__":
    main()
