"""The bnb method obeys the laws of quantmill.contract.testing."""

from quantmill.contract.method import lazy
from quantmill.contract.testing import MethodConformance
from quantmill_bnb.plugin import BNB


class TestBnb(MethodConformance):
    method = BNB
    open_source = lazy("quantmill.checkpoints:open_checkpoint")
    ladder = (
        {"quant_type": "fp4", "block_size": 512},
        {"quant_type": "fp4", "double_quant": False},
        {"quant_type": "nf4", "block_size": 256},
        {"quant_type": "nf4", "quant_storage": "bfloat16"},
        {"quant_type": "nf4", "block_size": 32, "double_quant": False},
        {"quant_type": "int8"},
    )
