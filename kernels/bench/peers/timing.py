"""How both sides of a comparison are timed; runs in our environment and in each peer's, so it needs numpy only."""

import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[], Arrays]


def best_seconds(run: Run, repeats: int) -> tuple[float, Arrays]:
    """Least processor time of `repeats` runs after one that warms up, and what the last one gave."""
    result = run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def serve(cases: Mapping[str, Callable[[Arrays], Run]]) -> None:
    """A peer's side: CASE INPUTS.npz OUTPUTS.npz REPEATS on the command line, the seconds on standard output.

    `cases[CASE](inputs)` prepares what is not timed and gives what is.
    """
    case, inputs, outputs, repeats = sys.argv[1:]
    with np.load(inputs) as arrays:
        run = cases[case](dict(arrays))
    seconds, result = best_seconds(run, int(repeats))
    np.savez(outputs, **result)
    print(seconds)
