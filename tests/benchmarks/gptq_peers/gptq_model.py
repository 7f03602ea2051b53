"""Runs in GPTQModel's environment for tests/benchmarks/gptq.py: it quantizes on token ids and saves what it made."""

import json
import os
import sys
import time

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling each of its layers takes minutes
os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # it does not start with one, its own choice on two processors

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def main() -> None:
    errand = json.loads(sys.argv[1])
    torch.set_num_threads(errand["threads"])
    ids = np.load(errand["ids"])
    settings = QuantizeConfig(bits=errand["bits"], group_size=errand["group_size"], sym=True, device="cpu")
    model = GPTQModel.load(errand["model"], settings, dtype=torch.float32)
    windows = [{"input_ids": each.tolist(), "attention_mask": [1] * len(each)} for each in ids]
    seconds, processor = time.perf_counter(), time.process_time()
    model.quantize(windows, batch_size=4, calibration_sort=None, backend=BACKEND.GPTQ_TORCH)
    took = {"seconds": time.perf_counter() - seconds, "processor_seconds": time.process_time() - processor}
    model.save(errand["saved"])
    print("\n" + json.dumps(took))


if __name__ == "__main__":
    main()
