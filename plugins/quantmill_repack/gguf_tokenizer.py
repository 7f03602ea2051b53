"""The tokenizer of a GGUF file as files that transformers reads: those beside it, or tokenizer.json rebuilt from it.

Byte-level BPE is rebuilt: the file has its tokens, merges and special tokens, and names its pre-tokenizer. So is
SentencePiece's BPE, of which it has scores, where they say what merges would (`gguf_pieces`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.gguf import GgufSource, Scalar
from quantmill.contract.model_folder import JSON_LIMIT
from quantmill.contract.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from quantmill.contract.strictjson import parse_object, shown
from quantmill.contract.tensors import ModelIndex
from quantmill_repack import gguf_pieces

FAST, SETTINGS = "tokenizer.json", "tokenizer_config.json"
COMPLETE = ((FAST,), ("tokenizer.model",), ("vocab.json", "merges.txt"))  # each set is a whole tokenizer
BEGIN = "tokenizer.ggml."
BYTE_LEVEL, PIECES = "gpt2", "llama"  # tokenizer.ggml.model
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
TYPES: Mapping[object, tuple[int, ...]] = {
    BYTE_LEVEL: (NORMAL, CONTROL, USER_DEFINED, UNUSED),
    PIECES: (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE),
}
PUTS_BOS = ("llama-bpe", "tekken")  # what llama.cpp puts it before unless the file says otherwise
PUT_BESIDE = "put the model's tokenizer.json beside the file"
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_of(index: ModelIndex, source: GgufSource, rows: int) -> Mapping[str, bytes]:
    """The tokenizer's files that do not stand beside the GGUF file, made of its metadata; empty where it is whole.

    `rows` are the embedding's. Raises SourceRejected for a tokenizer.json that has other tokens than the file, and
    where there is none and the file's is not rebuilt exactly.
    """
    if any(all(name in index.files for name in names) for names in COMPLETE):
        if FAST in index.files:
            _compare(index, source)
        return {}
    tokens = _Tokens.of(source, rows)
    fast = _of_pieces if source.metadata.get(f"{BEGIN}model") == PIECES else _byte_level
    made = {FAST: _json(fast(source, tokens))}
    return made if SETTINGS in index.files else {**made, SETTINGS: _json(_settings(source, tokens))}


def _compare(index: ModelIndex, source: GgufSource) -> None:
    """Raises SourceRejected for the first token that is another one in the file; what only fills its embedding may
    lack."""
    path = index.files[FAST]
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError(f"it is larger than {JSON_LIMIT} bytes")
        found = _by_id(parse_object(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceRejected(f"{FAST} beside the GGUF file cannot be read: {error}", file=FAST) from error
    types = source.array(f"{BEGIN}token_type") or ()
    fills = {id_ for id_, type_ in enumerate(types) if type_ == UNUSED}
    for id_, text in enumerate(_texts(source, "tokens") or ()):
        if found.get(id_) != text and not (id_ in fills and id_ not in found):
            theirs = shown(found[id_]) if id_ in found else "nothing"
            raise SourceRejected(
                f"{FAST} beside the GGUF file has {theirs} for the token {id_}, and the file {shown(text)}", file=FAST
            )


def _by_id(data: Mapping[str, Any]) -> dict[int, str]:
    vocab = data["model"]["vocab"]
    listed = enumerate(text for text, _ in vocab) if isinstance(vocab, list) else ((id_, t) for t, id_ in vocab.items())
    return {**dict(listed), **{each["id"]: each["content"] for each in data.get("added_tokens") or ()}}


# Rebuilt


@dataclass(frozen=True)
class _Tokens:
    """texts and types by id; `ids` of those with a role, by GGUF's names of roles."""

    texts: Sequence[str]
    types: Sequence[int]
    ids: Mapping[str, int]

    @classmethod
    def of(cls, source: GgufSource, rows: int) -> _Tokens:
        kind = source.metadata.get(f"{BEGIN}model")
        if kind not in TYPES:
            raise _refused(f"its tokenizer is of the kind {shown(kind)}; known are {' and '.join(map(str, TYPES))}")
        texts, types = _texts(source, "tokens"), source.array(f"{BEGIN}token_type")
        if not texts or len(texts) > rows or types is None or len(types) != len(texts):
            raise _refused(f"it has no list of at most {rows} tokens with their types")
        if other := next((each for each in types if each not in TYPES[kind]), None):
            raise _refused(f"it has tokens of the type {shown(other)}, which a tokenizer {kind} has not")
        if len(set(texts)) < len(texts):
            raise _refused("it has a token twice")
        found = {role: source.metadata.get(f"{BEGIN}{role}_token_id") for role in ROLES.values()}
        ids = {role: id_ for role, id_ in found.items() if type(id_) is int and 0 <= id_ < len(texts)}
        return cls(texts, [int(each) for each in types], ids)

    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before it is cut."""
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        return [
            {"id": id_, "content": text, **plain, "special": type_ != USER_DEFINED}
            for id_, (text, type_) in enumerate(zip(self.texts, self.types, strict=True))
            if type_ in (UNKNOWN, CONTROL, USER_DEFINED)
        ]

    def vocabulary(self) -> dict[str, int]:
        """With the added ones, whose ids a reader takes from here; without what only fills the embedding."""
        return {text: id_ for id_, text in enumerate(self.texts) if self.types[id_] != UNUSED}


def _byte_level(source: GgufSource, tokens: _Tokens) -> dict[str, Any]:
    name = source.metadata.get(f"{BEGIN}pre")
    pre = next((each for each in PRE_TOKENIZERS if each.pre == name), None)
    if pre is None:
        known = ", ".join(each.pre for each in PRE_TOKENIZERS)
        raise _refused(f"its pre-tokenizer is {shown(name)}, and known are {known}")
    vocabulary = tokens.vocabulary()
    normalizer = pre.normalizers[0]
    return {
        **_begun(tokens),
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": _cutting(pre),
        "post_processor": _around(source, tokens, bos=pre.pre in PUTS_BOS),
        "decoder": _bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary,
            "merges": _merges(source, vocabulary),
        },
    }


def _begun(tokens: _Tokens) -> dict[str, Any]:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens.added()}


def _of_pieces(source: GgufSource, tokens: _Tokens) -> dict[str, Any]:
    """SentencePiece's BPE. Raises SourceRejected where scores do not say what merges would."""
    scores, unknown = source.array(f"{BEGIN}scores"), [*tokens.types].count(UNKNOWN)
    if scores is None or len(scores) != len(tokens.texts) or not all(isinstance(each, float) for each in scores):
        raise _refused("its tokens have no scores")
    if unknown != 1 or not set(tokens.texts).issuperset(gguf_pieces.BYTES):
        raise _refused(f"it has {unknown} unknown tokens, and not one and all {len(gguf_pieces.BYTES)} bytes")
    pieces = {
        text: float(score)
        for text, score, type_ in zip(tokens.texts, scores, tokens.types, strict=True)
        if type_ == NORMAL
    }
    try:
        pairs = gguf_pieces.merges(pieces)
    except ValueError as error:
        raise _refused(str(error)) from error
    before = source.metadata.get(f"{BEGIN}add_space_prefix", True) is not False
    return {
        **_begun(tokens),
        "normalizer": gguf_pieces.normalizer(before),
        "pre_tokenizer": None,
        "post_processor": _around(source, tokens, bos=True),
        "decoder": gguf_pieces.decoder(before),
        "model": gguf_pieces.model(tokens.vocabulary(), tokens.texts[tokens.types.index(UNKNOWN)], pairs),
    }


def _merges(source: GgufSource, vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = [merge.split(" ") for merge in _texts(source, "merges") or ()]
    for pair in merges:
        if len(pair) != 2 or not all(each in vocabulary for each in (*pair, "".join(pair))):
            raise _refused(f"its merge {shown(' '.join(pair))} is not of two tokens to a third")
    if not merges:
        raise _refused("it has no merges")
    return merges


def _cutting(pre: PreTokenizer) -> dict[str, Any]:
    steps = [STEPS[kind](setting) for kind, setting in pre.steps]
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _bytes(use_regex: object) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: object) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


STEPS: Mapping[str, Callable[[object], dict[str, Any]]] = {
    "ByteLevel": _bytes,
    "Split": _split,
    "Digits": lambda setting: {"type": "Digits", "individual_digits": setting},
    "Punctuation": lambda setting: {"type": "Punctuation", "behavior": setting},
}


def _around(source: GgufSource, tokens: _Tokens, *, bos: bool) -> dict[str, Any]:
    """What stands before and after a text; `bos` says whether a begin does where the file does not."""
    usual = {"bos": bos, "eos": False}
    asked = {role: source.metadata.get(f"{BEGIN}add_{role}_token", usual[role]) for role in usual}
    for role, wanted in asked.items():
        if type(wanted) is not bool or (wanted and role not in tokens.ids):
            raise _refused(f"{BEGIN}add_{role}_token is {shown(wanted)}, and its {role} token {tokens.ids.get(role)}")
    put = {role: tokens.texts[tokens.ids[role]] for role, wanted in asked.items() if wanted}
    single, pair = (_template(put, sequences) for sequences in ("A", "AB"))
    special = {text: {"id": text, "ids": [tokens.ids[role]], "tokens": [text]} for role, text in put.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _template(put: Mapping[str, str], sequences: str) -> list[dict[str, Any]]:
    pieces = []
    for type_id, sequence in enumerate(sequences):
        around = {role: {"SpecialToken": {"id": text, "type_id": type_id}} for role, text in put.items()}
        inner = {"Sequence": {"id": sequence, "type_id": type_id}}
        pieces += [each for each in (around.get("bos"), inner, around.get("eos")) if each]
    return pieces


def _settings(source: GgufSource, tokens: _Tokens) -> dict[str, Any]:
    named = {key: tokens.texts[tokens.ids[role]] for key, role in ROLES.items() if role in tokens.ids}
    template = source.metadata.get("tokenizer.chat_template")
    context = source.number("context_length")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        **({"model_max_length": context} if context else {}),
        **({"chat_template": template} if isinstance(template, str) and template else {}),
        "clean_up_tokenization_spaces": False,
    }


def _texts(source: GgufSource, key: str) -> list[str] | None:
    values: list[Scalar] | None = source.array(f"{BEGIN}{key}")
    if values is None or not all(isinstance(each, str) for each in values):
        return None
    return [str(each) for each in values]


def _refused(why: str) -> SourceRejected:
    return SourceRejected(f"no tokenizer.json is rebuilt for the GGUF file: {why}; {PUT_BESIDE}")


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()  # without indents, which take seconds of a large one
