"""Runs in bitsandbytes' environment: ../transformers_consumer.py, with weights as they are in the file.

    python plain.py ERRAND.npz ANSWER.npz

Without this, bitsandbytes packs weights anew on processors with AVX512-BF16 and computes in bfloat16.
"""

import runpy
from pathlib import Path

import bitsandbytes.nn.modules

bitsandbytes.nn.modules.has_avx512bf16 = lambda: False  # type: ignore[attr-defined]
runpy.run_path(str(Path(__file__).resolve().parents[1] / "transformers_consumer.py"), run_name="__main__")
