"""All that plugins may see of quantmill."""

from quantmill.contract.calibration import CalibratedBlock, CalibrationNeed, Statistic, Statistics
from quantmill.contract.errors import ErrorKind, QuantmillError
from quantmill.contract.facts import Fact, FormatFacts, HardwareNeed, Measured, Scheme, ShapeRule
from quantmill.contract.hookspecs import hookimpl
from quantmill.contract.inputs import InputFile, InputPath
from quantmill.contract.method import Conversion, Method, Runtime, lazy
from quantmill.contract.reading import WHOLE_ROW, BlockBound, DecodedRows, Inspection, Observation, ReadTensor
from quantmill.contract.session import Note, Session
from quantmill.contract.tensors import (
    Fold,
    ModelIndex,
    Plan,
    QuantizedTensor,
    SourceTensor,
    TensorInfo,
    TensorPlan,
    Unit,
)

__all__ = [
    "WHOLE_ROW",
    "BlockBound",
    "CalibratedBlock",
    "CalibrationNeed",
    "Conversion",
    "DecodedRows",
    "ErrorKind",
    "Fact",
    "Fold",
    "FormatFacts",
    "HardwareNeed",
    "InputFile",
    "InputPath",
    "Inspection",
    "Measured",
    "Method",
    "ModelIndex",
    "Note",
    "Observation",
    "Plan",
    "QuantizedTensor",
    "QuantmillError",
    "ReadTensor",
    "Runtime",
    "Scheme",
    "Session",
    "ShapeRule",
    "SourceTensor",
    "Statistic",
    "Statistics",
    "TensorInfo",
    "TensorPlan",
    "Unit",
    "hookimpl",
    "lazy",
]
