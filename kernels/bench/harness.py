"""Cases, timing and the table of the kernel benchmarks. They report; they assert nothing."""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One line of the table before it is measured."""

    format: str
    operation: str
    values: int
    bytes_moved: int  # read and written by one run, so that GB/s compares with the bandwidth of the memory
    run: Callable[[], object]


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    format: str
    isa: str
    operation: str
    values: int
    threads: int
    min_ms: float
    median_ms: float
    mvalues_s: float
    gb_s: float
    x_scalar: float  # how often as fast as the scalar code
    commit: str
    cpu: str


def milliseconds(run: Callable[[], object], seconds: float) -> list[float]:
    """Times of repeated runs, at least three, until `seconds` have passed, after one that only warms up."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 1000 * seconds:
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times


Key = tuple[str, str, int]  # format, operation, values


def best_times(json_lines: Iterable[str]) -> dict[Key, float]:
    """Least milliseconds of each line that print_json wrote."""
    lines = [json.loads(line) for line in json_lines]
    return {(line["format"], line["operation"], line["values"]): line["min_ms"] for line in lines}


def measure(cases: Iterable[Case], isa: str, threads: int, seconds: float, scalar: dict[Key, float]) -> Iterator[Line]:
    """Run the cases. `scalar`: the best times of the scalar code; a case that is missing there is its own."""
    made_by = {"commit": commit(), "cpu": cpu()}
    for case in cases:
        times = milliseconds(case.run, seconds)
        best = min(times)
        yield Line(
            format=case.format,
            isa=isa,
            operation=case.operation,
            values=case.values,
            threads=threads,
            min_ms=round(best, 3),
            median_ms=round(statistics.median(times), 3),
            mvalues_s=round(case.values / best / 1e3, 1),
            gb_s=round(case.bytes_moved / best / 1e6, 2),
            x_scalar=round(scalar.get((case.format, case.operation, case.values), best) / best, 2),
            **made_by,
        )


def commit() -> str:
    """The commit measured, with `+` when the tree differs from it; `-` outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return process.stdout.strip() or "-"


def cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


WIDTHS = dict(zip((field.name for field in fields(Line)), (6, 6, 13, 9, 7, 9, 9, 9, 6, 8, 9, 0), strict=True))


def print_table(lines: Iterable[Line]) -> None:
    print("  ".join(name.ljust(width) for name, width in WIDTHS.items()))
    for line in lines:
        print("  ".join(str(value).ljust(WIDTHS[name]) for name, value in asdict(line).items()), flush=True)


def print_json(lines: Iterable[Line]) -> None:
    for line in lines:
        print(json.dumps(asdict(line)), flush=True)
