"""What llama.cpp will find in a GGUF file beside tensors, and what the source says it must be.

Verification's own reading of config.json and the tokenizer: it shares nothing with planning, the writer and the
tables that they use, so that an error in one of them shows as a difference. Whatever the plan accepted is well formed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.gguf import Scalar
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gguf import expected_pieces
from quantmill_gguf.expectations import (
    EXPECTED,
    embedding_of,
    expected_factors,
    expected_general,
    expected_settings,
    is_copied,
)
from quantmill_gguf.lineage import requantized
from quantmill_gguf.params import GgufParams
from quantmill_gguf.reader import GgufFile, GgufModel

# llama.h, enum llama_ftype
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q2_K_S": 21}
FILE_TYPES |= {"Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17}
FILE_TYPES |= {"Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38}
FILE_TYPES["NVFP4"] = 39


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: GgufParams) -> Inspection:
    """The files, and every key, gap and generated tensor in them.

    Raises VerificationFailed for a file that cannot be read.
    """
    with GgufModel(folder) as file:
        count = len(file.files)
        observations = [
            *(each for part in file.files for each in _layout(part)),
            *_split(file, params),
            *_contents(file, plan, index, params),
        ]
    parts = [f"-{number:05}-of-{count:05}" for number in range(1, count + 1)] if count > 1 else [""]
    names = tuple(f"model-{_named(params)}{part}.gguf" for part in parts)
    observations.append(Observation("modelfile", "Modelfile", *_modelfile(folder, names)))
    beside = (COMPUTED_IMATRIX,) if any(row.beside for row in plan.tensors) else ()
    for name in beside:
        observations.extend(_computed(folder / name, plan))
    return Inspection((*names, *beside, "README.md", "Modelfile"), observations)


def _modelfile(folder: Path, names: Sequence[str]) -> tuple[str | None, str]:
    """What Ollama reads, as it is and as it must be: the files, in their order."""
    wanted, path = "".join(f"FROM ./{name}\n" for name in names), folder / "Modelfile"
    if not path.is_file():
        return None, wanted
    with path.open("rb") as file:
        return file.read(len(wanted) + 1).decode("utf-8", "replace"), wanted


def _contents(file: GgufModel, plan: Plan, index: ModelIndex, params: GgufParams) -> Iterator[Observation]:
    if index.gguf is not None:
        yield from requantized(file, index.gguf, plan, index, params, _file_type(plan, params))
        return
    yield from _metadata(file, plan, index, params)
    yield from _tokenizer(file, index)
    yield from _factors(file, index)


def _named(params: GgufParams) -> str:
    """What comes between model- and .gguf."""
    if params.target_bpw is not None:
        return f"{params.target_bpw:g}bpw"
    return params.type if params.target_size_mb is None else f"{params.target_size_mb:g}MB"


# Layout


def _layout(file: GgufFile) -> Iterator[Observation]:
    """Each tensor begins where the one before it ends, rounded up; nothing follows the last one."""
    end = file.data
    for tensor in file.tensors.values():
        yield Observation("layout", f"{tensor.name}: first byte", tensor.start, end)
        end = -(-(tensor.start + tensor.nbytes) // file.alignment) * file.alignment
    yield Observation("layout", "bytes of the file", file.size, end)


def _split(model: GgufModel, params: GgufParams) -> Iterator[Observation]:
    """Parts are numbered, know each other, and take no more than was asked for, but where one tensor does."""
    count, tensors = len(model.files), len(model.tensors)
    for number, part in enumerate(model.files if count > 1 else ()):
        for key, value in {"no": number, "count": count, "tensors.count": tensors}.items():
            yield Observation("split", f"{part.path.name}: {key}", part.metadata.get(f"split.{key}"), value)
        if number > 0:
            others = sorted(part.metadata.keys() | part.array_keys)
            wanted = ["general.architecture", "split.count", "split.no", "split.tensors.count"]
            if "general.alignment" in model.metadata:
                wanted.insert(0, "general.alignment")
            yield Observation("split", f"{part.path.name}: keys", ", ".join(others), ", ".join(wanted))
    for part in model.files if params.split_max_size_mb is not None else ():
        most = (params.split_max_size_mb or 0) * 10**6
        held = [tensor.nbytes for name, tensor in part.tensors.items() if not name.startswith("rope_")]
        yield Observation("split", f"{part.path.name}: as small as asked", len(held) == 1 or sum(held) <= most, True)


# Settings


def _metadata(file: GgufModel, plan: Plan, index: ModelIndex, params: GgufParams) -> Iterator[Observation]:
    embedding = embedding_of(index.config, index.tensors)
    settings = expected_settings(index.config, embedding, index.tensors[embedding].shape[0])
    if is_copied(index.config, index.tensors):
        settings["quantmill.output_is_copied"] = True
    wanted = _general(plan, index, params) | _source(file, index, params) | _imatrix(plan, params) | settings
    for key, value in wanted.items():
        yield Observation("metadata", key, file.metadata.get(key), value)
    _, lists = expected_general(index.card, dict(params.general.items()))
    for key, values in lists.items():
        yield from _list_facts(file, "metadata", f"general.{key}", values)
    known = wanted.keys() | {f"general.{key}" for key in lists}
    for key in sorted((file.metadata.keys() | file.array_keys) - known):
        if not key.startswith("tokenizer."):
            yield Observation("metadata", key, str(file.metadata.get(key, "an array")), None)


def _general(plan: Plan, index: ModelIndex, params: GgufParams) -> dict[str, Scalar]:
    return {
        "general.architecture": EXPECTED[index.architecture].name,
        "general.type": "model",
        "general.file_type": _file_type(plan, params),
        "general.quantization_version": 2,
    }


def _file_type(plan: Plan, params: GgufParams) -> int:
    return FILE_TYPES[params.type] if params.type in FILE_TYPES else _most_common(plan)


def _most_common(plan: Plan) -> int:
    """The file type of the quantized type that most tensors of the file have; of several the first by name."""
    seen: dict[str, set[str]] = {}
    for row in plan.tensors:
        if row.scheme not in ("F32", "F32+1", "F16", "BF16"):
            seen.setdefault(row.scheme, set()).add(row.output)
    type_ = min(seen, key=lambda type_: (-len(seen[type_]), type_), default="F32")
    return next(FILE_TYPES[name] for name in (f"{type_}_M", type_, f"{type_}_MOE") if name in FILE_TYPES)


def _source(file: GgufModel, index: ModelIndex, params: GgufParams) -> dict[str, Scalar]:
    """What is said of the model; an index without a digest leaves that of the source unseen."""
    said, _ = expected_general(index.card, dict(params.general.items()))
    wanted: dict[str, Scalar] = {f"general.{key}": value for key, value in said.items()}
    wanted["general.size_label"] = _size_label(sum(tensor.values for tensor in index.tensors.values()))
    if len(file.files) > 1:
        wanted |= {"split.no": 0, "split.count": len(file.files), "split.tensors.count": len(file.tensors)}
    digest = index.digest or file.metadata.get("quantmill.source.digest")
    return wanted | ({"quantmill.source.digest": digest} if digest else {})


def _size_label(values: int) -> str:
    """The number of weights as the hubs write it: 4.2M, 1.1B."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
    unit, suffix = next((each for each in units if values > each[0]), (1e3, "K"))
    number = values / unit
    return f"{number:.{max(2 - len(str(round(number)).lstrip('0')), 0)}f}{suffix}"


def _imatrix(plan: Plan, params: GgufParams) -> dict[str, Scalar]:
    if params.imatrix == "none":
        return {}
    computed = COMPUTED_IMATRIX if any(row.beside for row in plan.tensors) else "auto"
    return {"quantize.imatrix.file": computed if params.imatrix == "auto" else plan.inputs["imatrix"]}


COMPUTED_IMATRIX = "imatrix.gguf_file"


def _computed(path: Path, plan: Plan) -> Iterator[Observation]:
    """The importance matrix beside the model: an entry of possible numbers for each tensor that it was computed for."""
    wanted: dict[str, tuple[int, ...]] = {}
    for row in plan.tensors:
        if row.beside:
            stacked = wanted.get(f"{row.output}.counts", (0, 1))[0] + 1
            wanted[f"{row.output}.counts"] = (stacked, 1)
            wanted[f"{row.output}.in_sum2"] = (stacked, row.beside // 4 - 1)
    with GgufFile(path) as file:
        yield Observation("imatrix", "general.type", file.metadata.get("general.type"), "imatrix")
        for name in sorted(wanted.keys() | file.tensors.keys()):
            found = file.tensors.get(name)
            shape = None if found is None else f"{found.type.name} {list(found.shape)}"
            expected = f"F32 {list(wanted[name])}" if name in wanted else None
            yield Observation("imatrix", name, shape, expected)
            if found is not None and shape == expected:
                values = file.values(found)
                possible = bool(np.isfinite(values).all() and (values >= 0).all())
                yield Observation("imatrix", f"{name}: finite and not negative", possible, True)
        yield from _layout(file)


# Tensors that no checkpoint has


def _factors(file: GgufModel, index: ModelIndex) -> Iterator[Observation]:
    """The stored divisors of the rope frequencies are those by which transformers slows them."""
    factors = expected_factors(index.config)
    stored = {name for name in file.tensors if name.startswith("rope_")}
    for name in sorted(stored - factors.keys()):
        yield Observation("rope_factors", "a tensor of rope factors", name, None)
    if not factors:
        yield Observation("rope_factors", "tensors of rope factors", len(stored), 0)
    for name, wanted in factors.items():
        found = file.values(file.tensors[name]).reshape(-1).tolist() if name in stored else []
        yield Observation("rope_factors", f"{name}: count", len(found), len(wanted))
        for n, (have, want) in enumerate(zip(found, wanted, strict=False)):
            close = math.isclose(have, want, rel_tol=1e-5)
            yield Observation("rope_factors", f"{name}[{n}]", want if close else have, want)


# Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, OF_A_BYTE = 1, 2, 3, 4, 5, 6  # llama.h, enum llama_token_type


def _tokenizer(file: GgufModel, index: ModelIndex) -> Iterator[Observation]:
    settings = {}
    if "tokenizer_config.json" in index.files:
        settings = json.loads(index.files["tokenizer_config.json"].read_bytes())
    rows = index.tensors[embedding_of(index.config, index.tensors)].shape[0]
    fast = "tokenizer.json" in index.files
    wanted, lists = _fast(index, settings, rows) if fast else expected_pieces.told(index, settings, rows)
    if "type_vocab_size" in index.config:
        wanted["token_type_count"] = index.config["type_vocab_size"]
    for key, value in wanted.items():
        yield Observation("tokenizer", key, file.metadata.get(f"tokenizer.ggml.{key}"), value)
    for key, values in lists.items():
        yield from _list_facts(file, "tokenizer", f"tokenizer.ggml.{key}", values)
    template = file.metadata.get("tokenizer.chat_template")
    yield Observation("chat_template", "tokenizer.chat_template", template, _template(index, settings))
    known = {"tokenizer.chat_template", *(f"tokenizer.ggml.{key}" for key in (*wanted, *lists))}
    for key in sorted((file.metadata.keys() | file.array_keys) - known):
        if key.startswith("tokenizer."):
            yield Observation("tokenizer", key, str(file.metadata.get(key, "an array")), None)


Further = tuple[dict[str, Scalar], dict[str, Sequence[Scalar]]]  # keys, and lists


def _fast(index: ModelIndex, settings: Mapping[str, Any], rows: int) -> Further:
    """By tokenizer.json."""
    data = json.loads(index.files["tokenizer.json"].read_bytes())
    kind = _kind(data["model"])
    tokens, types = _vocabulary(data, rows)
    wanted: dict[str, Scalar] = {"model": kind, "pre": _pre(data) if kind == "gpt2" else "default"}
    if kind != "bert":
        wanted |= _special_ids(index.config, settings, tokens)
        wanted |= dict(zip(("add_bos_token", "add_eos_token"), _added(data, settings), strict=True))
    further, lists = KINDS[kind](data, tokens, types)
    return wanted | further, lists


def _unigram(data: Mapping[str, Any], tokens: list[str], types: list[int]) -> Further:
    steps = [step for key in ("normalizer", "pre_tokenizer") for step in _steps(data.get(key))]
    further, lists = expected_pieces.unigram(data, steps, len(tokens))
    kinds = [UNKNOWN if id_ == data["model"]["unk_id"] else type_ for id_, type_ in enumerate(types)]
    return further, {"tokens": tokens, "token_type": kinds, **lists}


def _bytes_bpe(data: Mapping[str, Any], tokens: list[str], types: list[int]) -> Further:
    return {}, {"tokens": tokens, "token_type": types, "merges": _joined(data)}


def _sentencepiece(data: Mapping[str, Any], tokens: list[str], types: list[int]) -> Further:
    unknown = data["model"].get("unk_token")
    kinds = [
        UNKNOWN if token == unknown else OF_A_BYTE if BYTE.fullmatch(token) else type_
        for token, type_ in zip(tokens, types, strict=True)
    ]
    lists: dict[str, Sequence[Scalar]] = {
        "tokens": tokens,
        "token_type": kinds,
        "scores": _scores(_joined(data), tokens),
    }
    return {"add_space_prefix": _begins_with_a_space(data)}, lists


def _bert(data: Mapping[str, Any], tokens: list[str], types: list[int]) -> Further:
    kinds = [CONTROL if token in BERT_SPECIAL else type_ for token, type_ in zip(tokens, types, strict=True)]
    marked = [_marked(token) if kind == NORMAL else token for token, kind in zip(tokens, kinds, strict=True)]
    return _bert_ids(tokens) | _bert_normalizing(data["normalizer"]), {"tokens": marked, "token_type": kinds}


KINDS: Mapping[str, Callable[[Mapping[str, Any], list[str], list[int]], Further]] = {
    "gpt2": _bytes_bpe,
    "llama": _sentencepiece,
    "t5": _unigram,
    "bert": _bert,
}


def _joined(data: Mapping[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]


BYTE = re.compile(r"<0x[0-9A-F]{2}>")
BERT_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def _kind(model: Mapping[str, Any]) -> str:
    if model.get("type") in ("WordPiece", "Unigram"):
        return "bert" if model["type"] == "WordPiece" else "t5"
    return "llama" if model.get("byte_fallback") else "gpt2"


def _marked(token: str) -> str:
    """Words begin with a mark in GGUF; in tokenizer.json all other parts of words do."""
    return token[2:] if token[:2] == "##" else "\u2581" + token


def _bert_ids(tokens: list[str]) -> dict[str, Scalar]:
    roles = {"unknown": "[UNK]", "bos": "[CLS]", "cls": "[CLS]", "seperator": "[SEP]"}
    roles |= {"padding": "[PAD]", "mask": "[MASK]"}
    return {f"{role}_token_id": tokens.index(text) for role, text in roles.items()}


def _bert_normalizing(normalizer: Mapping[str, Any]) -> dict[str, Scalar]:
    lower = normalizer.get("lowercase", True)
    strip = normalizer.get("strip_accents")
    return {"normalizer.lowercase": lower, "normalizer.strip_accents": strip if strip is not None else lower}


def _scores(merges: list[str], tokens: list[str]) -> list[float]:
    """Minus the place of the first merge that makes a token; -1000 for those that none makes."""
    first: dict[str, int] = {}
    for place, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        first.setdefault(left + right, place)
    return [-float(first[token]) if token in first else -1000.0 for token in tokens]


def _begins_with_a_space(data: Mapping[str, Any]) -> bool:
    """Prepended by the normalizer, or by Metaspace unless it says never."""
    kinds = {step.get("type"): step for key in ("normalizer", "pre_tokenizer") for step in _steps(data.get(key))}
    if "Metaspace" in kinds:
        return kinds["Metaspace"].get("prepend_scheme") != "never"
    return "Prepend" in kinds


def _list_facts(file: GgufModel, check: str, key: str, wanted: Sequence[Scalar]) -> Iterator[Observation]:
    """How many there are, and the first that differs."""
    found, name = file.array(key) if key in file.array_keys else [], key.removeprefix("tokenizer.ggml.")
    yield Observation(check, f"number of {name}", len(found), len(wanted))
    for n, (have, want) in enumerate(zip(found, wanted, strict=False)):
        if have != want:
            yield Observation(check, f"{name}[{n}]", have, want)
            break


def _vocabulary(data: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Token texts and types by id; rows of the embedding that no token has are filled."""
    tokens = [f"[PAD{id_}]" for id_ in range(rows)]
    types = [UNUSED] * rows
    vocab = data["model"]["vocab"]
    by_id = enumerate(text for text, _ in vocab) if isinstance(vocab, list) else ((vocab[text], text) for text in vocab)
    for id_, text in by_id:
        tokens[id_], types[id_] = text, NORMAL
    for added in data.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    return tokens, types


def _pre(data: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rules by which text is cut, told by what only these rules have.

    The pattern of Llama 3 takes digits by threes, that of Qwen 2 one by one, SmolLM has a step for digits, and
    GPT-2's pattern is ByteLevel's own. Falcon sets punctuation apart; GPT-4o and Tekken tell capitals from others.
    """
    rules = json.dumps(data.get("pre_tokenizer"))
    if '"Punctuation"' in rules:
        return "falcon"
    if r"\\p{Lu}" in rules:
        return "gpt-4o" if "'ve" in rules else "tekken"
    if r"\\p{N}{1,3}" in rules:
        return "llama-bpe" if data["model"].get("ignore_merges") else "dbrx"
    if '"Digits"' in rules:
        return "smollm"
    return "qwen2" if r"\\p{N}|" in rules else "gpt-2"


def _special_ids(config: Mapping[str, Any], settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Scalar]:
    """Named in tokenizer_config.json, else numbered in config.json; a missing begin is the end."""
    id_of = {text: id_ for id_, text in enumerate(tokens)}
    found = {}
    for short, output in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        named = settings.get(f"{short}_token")
        text = named.get("content") if isinstance(named, dict) else named
        id_ = id_of.get(text) if isinstance(text, str) else config.get(f"{short}_token_id")
        if isinstance(id_, list):
            id_ = next(iter(id_), None)
        if id_ is not None:
            found[f"{output}_token_id"] = id_
    return {"bos_token_id": found["eos_token_id"], **found}


def _added(data: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a token comes before, and one after, each text: a template decides, else the settings."""
    for step in _steps(data.get("post_processor")):
        if step.get("type") == "TemplateProcessing":
            return "SpecialToken" in step["single"][0], "SpecialToken" in step["single"][-1]
    return bool(settings.get("add_bos_token")), bool(settings.get("add_eos_token"))


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if step is not None:
        yield step
        for inner in step.get("processors") or step.get("normalizers") or step.get("pretokenizers") or []:
            yield from _steps(inner)


def _template(index: ModelIndex, settings: Mapping[str, Any]) -> str | None:
    """Its own file goes before the settings; of several the one named default is taken."""
    if "chat_template.jinja" in index.files:
        return index.files["chat_template.jinja"].read_text("utf-8") or None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None
