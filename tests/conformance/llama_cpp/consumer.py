"""Runs in llama.cpp's environment: loads GGUF files, and quantizes with llama.cpp's own code.

    python consumer.py ERRAND.json ANSWER.json

The errand: `text` and `window`, `load` (paths of GGUF files), `quantize` (source, target, file type
number, options of llama_model_quantize_params, perhaps an importance matrix), `diverge` (a source and files made of
it), `outputs` (path, tokens, context, where to save them), `tokenize`
(path, texts). The answer: for each loaded file the text it generates, the digest of its tokens of the text, the
perplexity over all tokens but the first of each window, and over the second half of each window, as llama-perplexity
has it; for each tokenizer the tokens of each text; for each file of `diverge` its perplexity and its KL divergence from
the source, nats per token over all tokens but the first of each window. Outputs are saved as .npy: float32 (tokens,
vocabulary), or (tokens, hidden) of a model that gives embeddings.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import Llama, llama_cpp

THREADS = 2
PROMPT = "The President shall"

default_params = llama_cpp.llama_model_default_params


def params_without_repacking() -> Any:
    """The weights stay as they are in the file. Repacked for AMX, they crash on machines that announce it (CPUID) but
    do not let processes use it, as virtual ones may."""
    params = default_params()
    params.use_extra_bufts = False
    return params


def load(path: str, text: str, window: int) -> dict[str, Any]:
    model = Llama(path, n_ctx=window, n_batch=window, n_threads=THREADS, logits_all=True, verbose=False)
    generated = model(PROMPT, max_tokens=32, temperature=0)
    tokens = model.tokenize(text.encode(), add_bos=False, special=False)
    nll = [window_nll(model, tokens[start : start + window]) for start in window_starts(tokens, window)]
    return {
        "generated": generated["choices"][0]["text"],
        "generated_tokens": generated["usage"]["completion_tokens"],
        "tokens_sha256": hashlib.sha256(json.dumps(tokens).encode()).hexdigest(),
        "windows": len(nll),
        "perplexity": math.exp(math.fsum(map(np.mean, nll)) / len(nll)),
        "llama_perplexity": math.exp(math.fsum(float(np.mean(each[window // 2 :])) for each in nll) / len(nll)),
    }


def window_starts(tokens: list[int], window: int) -> range:
    return range(0, len(tokens) - window + 1, window)


def window_nll(model: Llama, tokens: list[int]) -> Any:
    """Negative log likelihoods, float64 (window - 1,): [t] is that of token t + 1 from those before it.

    llama-perplexity takes [window / 2] and after: in tools/perplexity/perplexity.cpp `first` is n_ctx / 2, and logits
    from there to the last but one are scored.
    """
    model.reset()
    model.eval(tokens)
    logits = model.scores[: len(tokens) - 1].astype(np.float64)  # (window - 1, vocabulary)
    largest = logits.max(axis=1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return total - logits[np.arange(len(logits)), tokens[1:]]


def outputs(path: str, tokens: list[int], context: int, save: str, embeds: bool) -> None:
    """Every token's logits, or its embedding where the model is one for those. Keys and values are kept in float32."""
    model = Llama(
        path,
        n_ctx=context,
        n_batch=context,
        n_threads=THREADS,
        logits_all=not embeds,
        embedding=embeds,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_NONE,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    if embeds:
        model._batch.set_batch(tokens, 0, True)
        model._ctx.decode(model._batch)
        width = model.n_embd()
        found = [llama_cpp.llama_get_embeddings_ith(model._ctx.ctx, n)[:width] for n in range(len(tokens))]
        np.save(save, np.array(found, np.float32))
    else:
        model.eval(tokens)
        np.save(save, model.scores[: len(tokens)].astype(np.float32))
    model.close()


def tokenize(path: str, texts: list[str]) -> list[list[int]]:
    """Each text's tokens, with those that the model adds before and after; special tokens in it are plain text."""
    model = Llama(path, vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=True, special=False) for text in texts]


def diverge(source: str, files: list[str], text: str, window: int, windows: int) -> dict[str, dict[str, Any]]:
    """Perplexity and divergence of each file, and the divergences of each window for intervals."""
    models = {path: _logits_model(path, window) for path in (source, *files)}
    tokens = models[source].tokenize(text.encode(), add_bos=False, special=False)
    nlls: dict[str, list[float]] = {path: [] for path in models}
    kls: dict[str, list[float]] = {path: [] for path in models}
    for start in list(window_starts(tokens, window))[:windows]:
        piece = tokens[start : start + window]
        wanted = _log_probabilities(models[source], piece)  # (window - 1, vocabulary)
        for path, model in models.items():
            found = wanted if path == source else _log_probabilities(model, piece)
            nlls[path].append(-float(found[np.arange(len(found)), piece[1:]].mean()))
            kls[path].append(float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean()))
    for model in models.values():
        model.close()
    return {
        path: {"perplexity": math.exp(float(np.mean(nlls[path]))), "divergence": float(np.mean(kls[path]))}
        for path in models
    }


def _logits_model(path: str, window: int) -> Any:
    """On one thread: llama.cpp's threads spin while they wait for each other, which a busy machine pays for."""
    return Llama(path, n_ctx=window, n_batch=window, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


def _log_probabilities(model: Any, tokens: list[int]) -> Any:
    """float32 (tokens - 1, vocabulary): row t is what follows token t."""
    model.reset()
    model.eval(tokens)
    logits = model.scores[: len(tokens) - 1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def quantize(source: str, target: str, file_type: int, options: dict[str, Any], imatrix: str | None = None) -> None:
    """`imatrix` names an .npz of mean squared inputs by tensor."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, THREADS
    for name, value in options.items():
        setattr(params, name, value)
    entries = importances(imatrix) if imatrix else None
    if entries is not None:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama_model_quantize({source}, {target}, {file_type}) failed with {failed}")


def importances(path: str) -> Any:
    """llama.cpp's own form of an importance matrix: entries up to one without a name."""
    values = {name: np.ascontiguousarray(array, np.float32) for name, array in np.load(path).items()}
    entries = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
    entries.kept_alive = values
    for entry, (name, array) in zip(entries, values.items(), strict=False):
        entry.name, entry.size = name.encode(), array.size
        entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries


def main() -> None:
    errand = json.loads(Path(sys.argv[1]).read_text())
    llama_cpp.llama_model_default_params = params_without_repacking
    for task in errand["quantize"]:
        quantize(**task)
    for task in errand["outputs"]:
        outputs(**task)
    answer = {path: load(path, errand["text"], errand["window"]) for path in errand["load"]}
    for task in errand["diverge"]:
        answer |= diverge(**task)
    answer |= {task["path"]: tokenize(**task) for task in errand["tokenize"]}
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
