"""A third-party plugin as a package of its own: GGUF and GPTQ that rest between units, so that a test can interrupt
them there.

An installation has it when this folder is on its path; nothing of it is in the service.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from quantmill.contract import Method, QuantizedTensor, Session, hookimpl, lazy
from quantmill_gguf.params import GgufParams
from quantmill_gguf.plugin import GGUF
from quantmill_gptq.params import GptqParams
from quantmill_gptq.plugin import GPTQ


class PacedParams(GgufParams):
    rest_seconds: float = 0.0
    hoarded_bytes: int = 0  # of memory that the plan does not tell


class PacedGptqParams(GptqParams):
    rest_seconds: float = 0.0


class RestingSession:
    """The session, with a rest before each unit and behind each block."""

    def __init__(self, session: Session, seconds: float) -> None:
        self._session = session
        self._seconds = seconds

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def units(self) -> Iterator[object]:
        for unit in self._session.units():
            time.sleep(self._seconds)
            yield unit

    def blocks(self) -> Iterator[object]:
        for block in self._session.blocks():
            yield block
            time.sleep(self._seconds)


def quantize(session: Session, params: PacedParams) -> Iterator[QuantizedTensor]:
    hoard = bytearray(params.hoarded_bytes)
    hoard[::4096] = b"x" * len(hoard[::4096])
    yield from GGUF.quantize.load()(RestingSession(session, params.rest_seconds), params)


def quantize_gptq(session: Session, params: PacedGptqParams) -> Iterator[QuantizedTensor]:
    yield from GPTQ.quantize.load()(RestingSession(session, params.rest_seconds), params)


PACED: Method = replace(GGUF, name="paced", params=PacedParams, quantize=lazy("paced:quantize"))
PACED_GPTQ: Method = replace(
    GPTQ, name="paced-gptq", params=PacedGptqParams, quantize=lazy("paced:quantize_gptq"), ladder=(), promote=None
)


@hookimpl
def quantmill_methods() -> list[Method]:
    return [PACED, PACED_GPTQ]
