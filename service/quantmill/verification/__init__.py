"""Verification: is the written artifact what was planned?"""

from quantmill.verification.check import Check, TensorResult, Verification, verify

__all__ = ["Check", "TensorResult", "Verification", "verify"]
