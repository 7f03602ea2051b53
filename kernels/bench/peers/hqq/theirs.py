"""hqq on a CPU, one thread: Quantizer.quantize with the defaults of hqq.core.quantize.BaseQuantizeConfig."""

from functools import partial

import torch
from hqq.core.quantize import Quantizer
from kernels.bench.peers.hqq.settings import SETTINGS, Setting
from kernels.bench.peers.timing import Arrays, Run, serve


def quantize(setting: Setting, inputs: Arrays) -> Run:
    values = torch.from_numpy(inputs["values"])

    def run() -> Arrays:
        packed, meta = Quantizer.quantize(
            values,
            nbits=setting.nbits,
            group_size=setting.group_size,
            round_zero=setting.nbits == 4,
            axis=setting.axis,
            compute_dtype=torch.float32,
            device="cpu",
        )
        return {"packed": packed.numpy(), "scale": meta["scale"].numpy(), "zero": meta["zero"].numpy()}

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({setting.what: partial(quantize, setting) for setting in SETTINGS})
