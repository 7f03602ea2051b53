#!/usr/bin/env python3
"""Writes a checkpoint with the dimensions of TinyLlama-1.1B: 1.1 billion seeded random BF16 weights in four shards.

It streams, so it needs a few megabytes of memory; the folder takes 2.2 GB of disk.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from quantmill.contract.synthetic import SyntheticLlama

TINY_LLAMA = SyntheticLlama(
    hidden=2048, ffn=5632, blocks=22, heads=32, kv_heads=4, vocab=32000, context=2048, dtype="BF16", shards=4
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(replace(TINY_LLAMA, seed=arguments.seed).write(arguments.folder))


if __name__ == "__main__":
    main()
