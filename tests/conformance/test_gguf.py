"""The gguf method obeys the laws of quantmill.contract.testing."""

from quantmill.contract.method import lazy
from quantmill.contract.testing import MethodConformance
from quantmill_gguf.plugin import GGUF


class TestGguf(MethodConformance):
    method = GGUF
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = tuple({"type": type_} for type_ in ("Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16"))
