"""The schemes of quantized ONNX graphs, and the parameters that make them.

The kernels of ONNX Runtime, VNNI's rule among them, are known to quantmill itself (quantmill.hardware.facts).
"""

from __future__ import annotations

from quantmill.contract.facts import FormatFacts, Scheme

OPERATORS = "onnxruntime 1.31, docs/ContribOperators.md"
TABLE_BITS = 8.01  # a code, and a float32 scale for each row of thousands

ONNX_FACTS = FormatFacts(
    (
        Scheme(
            name="onnx-int8-dynamic",
            method="onnx",
            params={"mode": "dynamic"},
            format="onnx",
            bits=8,
            linear_bits=8.01,
            embedding_bits=TABLE_BITS,
            output_bits=8.01,
            source="onnx, docs/Operators.md: MatMulInteger",
            note="int8 weights and tables, activations in 8 bits by token",
        ),
        Scheme(
            name="onnx-8bit",
            method="onnx",
            params={"mode": "weight_only", "weight_bits": 8},
            format="onnx",
            bits=8,
            linear_bits=9.0,
            embedding_bits=TABLE_BITS,
            output_bits=9.0,
            source=OPERATORS,
            group_size=32,
            note="MatMulNBits, blocks of 32 with 32-bit scales",
        ),
        Scheme(
            name="onnx-4bit",
            method="onnx",
            params={"mode": "weight_only", "weight_bits": 4, "block_size": 128, "symmetric": False, "algorithm": "hqq"},
            format="onnx",
            bits=4,
            linear_bits=4.28,
            embedding_bits=TABLE_BITS,
            output_bits=4.28,
            source=OPERATORS,
            group_size=128,
            symmetric=False,
            note="MatMulNBits, blocks of 128 with 32-bit scales",
        ),
    )
)
