"""Runs in lm-eval's environment: our adapter under lm-eval's own evaluator, on the source beside changed weights.

    python consumer.py MODEL TASKS TASK ANSWER.json

TASKS is a folder of task files. The path has quantmill and its libraries (check.py sets it).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from lm_eval.tasks import TaskManager

from quantmill.calibration import source_weights
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.tensors import FloatArray
from quantmill.evaluation import run_tasks

NOISE = 0.5


def main() -> None:
    model, tasks, task, answer = sys.argv[1:]
    with open_checkpoint(Path(model)) as checkpoint:
        stored = source_weights(checkpoint)

        def noisy(names: Collection[str]) -> Iterator[tuple[str, FloatArray]]:
            for name, values in stored(names):
                noise = np.random.default_rng(len(name)).standard_normal(values.shape).astype(np.float32)
                yield name, values + np.float32(NOISE * values.std()) * noise

        found = run_tasks(checkpoint, noisy, [task], task_manager=TaskManager(include_path=tasks), threads=2)
    Path(answer).write_text(json.dumps([vars(metric) for metric in found]))


if __name__ == "__main__":
    main()
