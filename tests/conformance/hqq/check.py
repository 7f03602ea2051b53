"""Our HQQ folders in transformers 4.57 with hqq: they load, and predict what our own reader's weights predict."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.loading import Setting, arguments, compare, explained, report, versions

from quantmill_hqq.plugin import HQQ

CONSUMER = Path(__file__).resolve().parents[1] / "transformers_consumer.py"
SETTINGS = [
    *(Setting(HQQ, {"nbits": nbits}) for nbits in (1, 2, 3, 4, 5, 6, 8)),
    *(Setting(HQQ, {"group_size": size}) for size in (8, 16, 32, 128, 256, -1)),
    *(Setting(HQQ, {"axis": 0, "nbits": nbits}) for nbits in (1, 2, 3, 4, 8)),
    Setting(HQQ, {"axis": 0, "group_size": -1}),
    Setting(HQQ, {"nbits": 3, "group_size": -1}),
    Setting(HQQ, {"round_zero": True}),
    Setting(HQQ, {"lp_norm": 1.0, "beta": 100.0, "kappa": 1.1, "iters": 4}),
    *(Setting(HQQ, {"compute_dtype": dtype}) for dtype in ("float16", "float32")),
    Setting(HQQ, {"overrides": {"*.down_proj": {"nbits": 8, "group_size": 128}, "*.0.*.q_proj": {"nbits": 3}}}),
    Setting(HQQ, {"skip_modules": ("*.v_proj", "*.3.mlp.*")}),
]


def main() -> None:
    asked = arguments(__doc__)
    rows = list(compare(asked.python, asked.scratch, CONSUMER, SETTINGS))
    print(f"## hqq ({versions(asked.python, ['hqq', 'transformers', 'torch'])})\n\n{explained()}\n\n{report(rows)}")
    sys.exit(0 if all(row.agrees for row in rows) else 1)


if __name__ == "__main__":
    main()
