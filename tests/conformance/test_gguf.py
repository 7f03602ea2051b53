"""The gguf method obeys the laws of quantmill.contract.testing."""

from quantmill.contract.method import lazy
from quantmill.contract.testing import MethodConformance
from quantmill_gguf.plugin import GGUF


class TestGguf(MethodConformance):
    method = GGUF
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"type": "TQ1_0"},
        {"type": "Q2_K", "pure": True},
        {"type": "Q3_K_S"},
        {"type": "Q4_0"},
        {"type": "Q4_K_M"},
        {"type": "Q5_K_M"},
        {"type": "Q6_K"},
        {"type": "Q8_0", "overrides": {"blk.*": "F16"}},
        {"type": "F16"},
    )
