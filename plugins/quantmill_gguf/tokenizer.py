"""A tokenizer, from tokenizer.json to what llama.cpp needs to tokenize the same way.

llama.cpp does not read pre-tokenizer rules: it knows some by name (`tokenizer.ggml.pre`). A wrong name degrades a
model without any error, so the rules are recognised here by their structure, and what is not recognised is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.pre_tokenizers import PRE_TOKENIZERS
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf import sentencepiece, spm, unigram, wordpiece

Object = Mapping[str, Any]  # of a JSON file
Tokens = tuple[str, ...]
Types = tuple[int, ...]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type


@dataclass(frozen=True)
class Tokenizer:
    """Tokens by id, as many as the embedding has rows.

    model     llama.cpp's name of the kind: gpt2 (byte-level BPE), llama (SentencePiece's BPE), t5 (its unigram model)
              or bert (WordPiece)
    pre       its name for the rules by which text is cut
    merges    "left right", of byte-level BPE
    scores    of SentencePiece's kinds
    charsmap  SentencePiece's compiled normalization
    ids       by GGUF's names: bos, eos, unknown, padding, seperator, cls, mask
    settings  keys below tokenizer.ggml that are true or false
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    ids: Mapping[str, int]
    settings: Mapping[str, bool]
    chat_template: str = ""
    warnings: tuple[str, ...] = ()
    charsmap: bytes = b""


# Recognising the pre-tokenizer


def _pre_tokenizer(data: Mapping[str, Any]) -> str:
    steps = tuple(_step(step) for step in _flatten(data.get("pre_tokenizer"), "pretokenizers"))
    normalizer = (data.get("normalizer") or {}).get("type")
    ignore_merges = bool(data["model"].get("ignore_merges"))
    for known in PRE_TOKENIZERS:
        if (known.steps, known.ignore_merges) == (steps, ignore_merges) and normalizer in known.normalizers:
            return known.pre
    names = ", ".join(known.pre for known in PRE_TOKENIZERS)
    raise SourceRejected(
        f"tokenizer.json: the pre-tokenizer {_shorten(data.get('pre_tokenizer'))} with normalizer {normalizer!r} and "
        f"ignore_merges {ignore_merges} is none that llama.cpp is known to compute (tried: {names})"
    )


def _step(step: Mapping[str, Any]) -> tuple[str, object]:
    """What matters of one pre-tokenizer step: its kind and the setting that changes its pieces."""
    kind = str(step.get("type"))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return kind, step.get("use_regex", True)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return kind, (step.get("pattern") or {}).get("Regex")
    if kind == "Digits":
        return kind, step.get("individual_digits")
    if kind == "Punctuation":
        return kind, step.get("behavior")
    return kind, _shorten(step)


def _flatten(step: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a processor that may be absent, single, or a Sequence."""
    if step is None:
        return
    if not isinstance(step, dict):
        raise SourceRejected("tokenizer.json: a processing step is not an object")
    if step.get("type") == "Sequence":
        for inner in _list(step, key):
            yield from _flatten(inner, key)
    else:
        yield step


# Reading the files


def read_tokenizer(index: ModelIndex, rows: int) -> Tokenizer:
    """The tokenizer of a checkpoint whose embedding has `rows` rows; missing tokens are filled with [PAD{id}].

    Raises SourceRejected, naming what cannot be carried into a GGUF file.
    """
    settings = _json(index, "tokenizer_config.json") if "tokenizer_config.json" in index.files else {}
    own = next((name for name in SENTENCEPIECE_FILES if name in index.files), None)
    made = _of_pieces(index, settings, rows, own) if own and FAST not in index.files else _fast(index, settings, rows)
    template, warnings = _chat_template(index, settings)
    return replace(made, chat_template=template, warnings=(*made.warnings, *warnings))


FAST = "tokenizer.json"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model")


def _fast(index: ModelIndex, settings: Object, rows: int) -> Tokenizer:
    data = _json(index, FAST)
    model = data.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in ("BPE", "Unigram", "WordPiece"):
        raise SourceRejected(f"tokenizer.json: gguf carries BPE, Unigram and WordPiece tokenizers, not {kind!r}")
    if kind == "Unigram":
        return _unigram(index, data, settings, rows)
    tokens, types, warnings = _tokens(data, rows)
    make = _wordpiece if kind == "WordPiece" else _spm if spm.is_spm(model) else _byte_level
    made = make(_Files(index, data, settings, tokens, types))
    return replace(made, warnings=(*made.warnings, *warnings))


@dataclass(frozen=True)
class _Files:
    """tokenizer.json and tokenizer_config.json, and the tokens that they say by id."""

    index: ModelIndex
    data: Object
    settings: Object
    tokens: Tokens
    types: Types


def _byte_level(files: _Files) -> Tokenizer:
    _check_plain_bpe(files.data["model"], ("byte_fallback", "fuse_unk"))
    ids = _special_ids(files.index, files.settings, files.tokens)
    return Tokenizer(
        model="gpt2",
        pre=_pre_tokenizer(files.data),
        tokens=files.tokens,
        types=files.types,
        merges=tuple(f"{left} {right}" for left, right in _merges(files.data["model"])),
        scores=(),
        ids=ids,
        settings=_added_around(files.data, files.settings, ids),
    )


def _spm(files: _Files) -> Tokenizer:
    model = files.data["model"]
    _check_plain_bpe(model, ("ignore_merges",))
    normalizers = list(_flatten(files.data.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_flatten(files.data.get("pre_tokenizer"), "pretokenizers"))
    before = spm.puts_a_space_before(normalizers, pre_tokenizers)
    ids = _special_ids(files.index, files.settings, files.tokens)
    kinds = {model.get("unk_token"): UNKNOWN} | dict.fromkeys(spm.BYTES, BYTE)
    return Tokenizer(
        model="llama",
        pre="default",
        tokens=files.tokens,
        types=tuple(kinds.get(token, type_) for token, type_ in zip(files.tokens, files.types, strict=True)),
        merges=(),
        scores=spm.scores(model["vocab"], list(_merges(model)), files.tokens),
        ids=ids,
        settings={**_added_around(files.data, files.settings, ids), "add_space_prefix": before},
        warnings=(TWICE,) if spm.first_space_counts_twice(pre_tokenizers) else (),
    )


TWICE = "tokenizer: llama.cpp puts a space before every text, as SentencePiece does; transformers not before a space"


def _unigram(index: ModelIndex, data: Object, settings: Object, rows: int) -> Tokenizer:
    model = data["model"]
    vocab, scores, unknown = unigram.vocabulary(model, FAST)
    tokens, types, warnings = _tokens({**data, "model": {"vocab": vocab}}, rows)
    normalizers = list(_flatten(data.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_flatten(data.get("pre_tokenizer"), "pretokenizers"))
    flags, charsmap = unigram.settings(normalizers, pre_tokenizers, list(vocab))
    ids = _special_ids(index, settings, tokens)
    if isinstance(unknown, int) and 0 <= unknown < len(vocab):
        ids["unknown"] = unknown
    unigram.check(ids, byte_fallback=bool(model.get("byte_fallback")), file=FAST)
    twice = flags["add_space_prefix"] and not flags["remove_extra_whitespaces"]
    return Tokenizer(
        model="t5",
        pre="default",
        tokens=tokens,
        types=tuple(UNKNOWN if id_ == ids["unknown"] else type_ for id_, type_ in enumerate(types)),
        merges=(),
        scores=tuple(scores.get(id_, spm.SPECIAL_SCORE) for id_ in range(rows)),
        ids=ids,
        settings={**_added_around(data, settings, ids), **flags},
        warnings=(*warnings, *((TWICE,) if twice else ())),
        charsmap=charsmap,
    )


# SentencePiece's own file, where there is no tokenizer.json

# What tokenizers put before and after a text unless tokenizer_config.json says otherwise: bos, eos
AROUND: Mapping[str, tuple[bool, bool]] = {
    "LlamaTokenizer": (True, False),
    "CodeLlamaTokenizer": (True, False),
    "GemmaTokenizer": (True, False),
    "T5Tokenizer": (False, True),
}
USUAL_CLASS = {"llama": "LlamaTokenizer", "mistral": "LlamaTokenizer", "mixtral": "LlamaTokenizer"}  # by model_type


def _of_pieces(index: ModelIndex, settings: Object, rows: int, name: str) -> Tokenizer:
    pieces = sentencepiece.read_pieces(_content(index, name), name)
    vocab = {text: id_ for id_, text in enumerate(pieces.texts)}
    if len(vocab) < len(pieces.texts):
        raise SourceRejected(f"{name}: two pieces have the same text", file=name)
    data = {"model": {"vocab": vocab}, "added_tokens": _added_beside(index, settings)}
    tokens, types, warnings = _tokens(data, rows, name)
    named = {SPECIAL[role]: pieces.texts[id_] for role, id_ in pieces.ids.items()}
    ids = _special_ids(index, {**named, **settings}, tokens)
    around = dict(zip(("add_bos_token", "add_eos_token"), _pieces_around(index, settings, name), strict=True))
    flags = _flags_of_bpe(pieces, vocab, name)
    if pieces.kind == sentencepiece.UNIGRAM:
        unigram.check(ids, byte_fallback=pieces.byte_fallback, file=name)
        unigram.checked_charsmap(pieces.charsmap, name)
        flags = {"add_space_prefix": pieces.space_before, "remove_extra_whitespaces": pieces.merges_spaces}
    return Tokenizer(
        model="t5" if pieces.kind == sentencepiece.UNIGRAM else "llama",
        pre="default",
        tokens=tokens,
        types=tuple(
            type_ if id_ >= len(vocab) or pieces.types[id_] == NORMAL else pieces.types[id_]
            for id_, type_ in enumerate(types)
        ),
        merges=(),
        scores=(*pieces.scores, *[spm.SPECIAL_SCORE] * (rows - len(vocab))),
        ids=ids,
        settings={**around, **flags},
        warnings=tuple(warnings),
        charsmap=pieces.charsmap,
    )


def _flags_of_bpe(pieces: sentencepiece.Pieces, vocab: Mapping[str, int], name: str) -> dict[str, bool]:
    """What llama.cpp has to be told of spaces. Raises SourceRejected for what it does not compute, of any kind."""
    is_bpe = pieces.kind == sentencepiece.BPE
    lacking = next((byte for byte in spm.BYTES if byte not in vocab), None)
    others = {
        "is of another kind than BPE and unigram": pieces.kind not in (sentencepiece.BPE, sentencepiece.UNIGRAM),
        "puts spaces behind words": pieces.spaces_after,
        "leaves spaces as they are": not pieces.escapes_spaces,
        "normalizes texts, which llama.cpp does in unigram models only": is_bpe and bool(pieces.charsmap),
        "joins runs of spaces, which llama.cpp does in unigram models only": is_bpe and pieces.merges_spaces,
        f"has no token {lacking} to fall back to": is_bpe and lacking is not None,
    }
    for what, found in others.items():
        if found:
            raise SourceRejected(f"{name}: the SentencePiece model {what}", file=name)
    return {"add_space_prefix": pieces.space_before}


def _added_beside(index: ModelIndex, settings: Object) -> list[Object]:
    """Tokens that stand in added_tokens.json and tokenizer_config.json, as tokenizer.json would list them."""
    beside = _json(index, "added_tokens.json") if "added_tokens.json" in index.files else {}
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(
        isinstance(each, dict) and id_.isdecimal() for id_, each in decoder.items()
    ):
        raise SourceRejected("tokenizer_config.json: added_tokens_decoder is not an object of tokens by id")
    known = [{**each, "id": int(id_)} for id_, each in decoder.items()]
    ids = {each["id"] for each in known}
    return [*({"id": id_, "content": text} for text, id_ in beside.items() if id_ not in ids), *known]


def _pieces_around(index: ModelIndex, settings: Object, name: str) -> tuple[bool, bool]:
    """Whether bos comes before and eos after a text: by the settings, else as the tokenizer's class does it."""
    class_ = settings.get("tokenizer_class") or USUAL_CLASS.get(str(index.config.get("model_type")))
    usual = AROUND.get(str(class_).removesuffix("Fast"))
    asked = [settings.get(key) for key in ("add_bos_token", "add_eos_token")]
    if usual is None and None in asked:
        raise SourceRejected(
            f"{name}: whether the tokenizer class {class_!r} adds tokens around a text is not known here; say "
            "add_bos_token and add_eos_token in tokenizer_config.json"
        )
    bos, eos = (bool(usual and usual[place]) if each is None else bool(each) for place, each in enumerate(asked))
    return bos, eos


def _wordpiece(files: _Files) -> Tokenizer:
    model = files.data["model"]
    steps = (list(_flatten(files.data.get(key), f"{inner}s")) for key, inner in STEPS_OF_WORDPIECE.items())
    normalizing = wordpiece.settings(model, *steps)
    id_of = {text: id_ for id_, text in enumerate(files.tokens)}
    named = {"unknown": model.get("unk_token", "[UNK]"), **BERT_TOKENS}
    missing = sorted(text for text in named.values() if text not in id_of)
    if missing:
        raise SourceRejected(f"tokenizer.json: WordPiece without the token {missing[0]!r}, which llama.cpp needs")
    _check_around_bert(files.data, id_of)
    kinds = dict.fromkeys(named.values(), CONTROL)
    types = tuple(kinds.get(token, type_) for token, type_ in zip(files.tokens, files.types, strict=True))
    return Tokenizer(
        model="bert",
        pre="default",
        tokens=tuple(
            wordpiece.spaced(token) if type_ == NORMAL else token
            for token, type_ in zip(files.tokens, types, strict=True)
        ),
        types=types,
        merges=(),
        scores=(),
        ids={role: id_of[text] for role, text in named.items()},
        settings=normalizing,
        warnings=(HANGUL,) if normalizing["normalizer.strip_accents"] else (),
    )


HANGUL = "tokenizer: where accents are stripped, llama.cpp loses vowels of Hangul: it cuts Korean text otherwise"

STEPS_OF_WORDPIECE = {"normalizer": "normalizer", "pre_tokenizer": "pretokenizer"}

# By GGUF's names, its spelling included
BERT_TOKENS = {
    "bos": "[CLS]",
    "cls": "[CLS]",
    "seperator": "[SEP]",
    "padding": "[PAD]",
    "mask": "[MASK]",
}


def _check_around_bert(data: Object, id_of: Mapping[str, int]) -> None:
    """llama.cpp puts [CLS] before and [SEP] after each text."""
    steps = list(_flatten(data.get("post_processor"), "processors"))
    if len(steps) == 1 and steps[0].get("type") == "BertProcessing":
        found = [(steps[0].get(key) or [None])[0] for key in ("cls", "sep")]
        fits = found == ["[CLS]", "[SEP]"]
    else:
        fits = len(steps) == 1 and _around(steps[0]) == [id_of["[CLS]"], None, id_of["[SEP]"]]
    if not fits:
        raise SourceRejected(
            f"tokenizer.json: the post-processor {_shorten(data.get('post_processor'))} does not put [CLS] before and "
            "[SEP] after a text, as llama.cpp does"
        )


def _check_plain_bpe(model: Mapping[str, Any], others: tuple[str, ...]) -> None:
    """Refuse the variants of BPE that llama.cpp does not have."""
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", *others):
        if model.get(key):
            raise SourceRejected(f"tokenizer.json: llama.cpp does not compute BPE with {key} {model[key]!r}")


def _tokens(data: Object, rows: int, file: str = FAST) -> tuple[Tokens, Types, list[str]]:
    """Token texts and types by id, and warnings about what llama.cpp does otherwise."""
    by_id: dict[int, str] = {}
    types: dict[int, int] = {}
    warnings = []
    vocab = data["model"].get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise SourceRejected("tokenizer.json: the model has no vocabulary")
    for text, id_ in vocab.items():
        _place(by_id, id_, text, rows, file)
    for added in _list(data, "added_tokens"):
        if not isinstance(added, dict) or not isinstance(added.get("content"), str):
            raise SourceRejected("tokenizer.json: an added token has no text")
        text = added["content"]
        id_ = _place(by_id, added.get("id"), text, rows, file)
        types[id_] = CONTROL if added.get("special") else USER_DEFINED
        if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
            warnings.append(f"tokenizer: llama.cpp does not strip spaces or check words around the token {text!r}")
    for id_ in range(rows):
        if id_ not in by_id:
            by_id[id_] = f"[PAD{id_}]"
            types[id_] = UNUSED
    tokens = tuple(by_id[id_] for id_ in range(rows))
    if len(set(tokens)) < rows:
        twice = next(text for text, count in Counter(tokens).items() if count > 1)
        ids = [id_ for id_, text in by_id.items() if text == twice]
        raise SourceRejected(
            f"{file}: the token ids {ids[0]} and {ids[1]} have the same text {twice!r}, and llama.cpp finds a token by "
            "its text"
        )
    return tokens, tuple(types.get(id_, NORMAL) for id_ in range(rows)), warnings


def _place(by_id: dict[int, str], id_: Any, text: str, rows: int, file: str) -> int:
    if not isinstance(id_, int) or not 0 <= id_ < rows:
        raise SourceRejected(
            f"{file}: token {text!r} has id {id_!r}, but the embedding has {rows} rows; resize it, or take the "
            "tokenizer that the model was trained with"
        )
    if by_id.setdefault(id_, text) != text:
        raise SourceRejected(f"{file}: tokens {by_id[id_]!r} and {text!r} share the id {id_}")
    return id_


def _merges(model: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Merges in order; tokenizer.json has them as pairs, or as "left right"."""
    merges = []
    for merge in _list(model, "merges"):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) and part for part in pair)):
            raise SourceRejected(f"tokenizer.json: {_shorten(merge)} is not a merge of two tokens")
        if " " in pair[0] or " " in pair[1]:
            raise SourceRejected(f"tokenizer.json: the merge {_shorten(merge)} holds a space, which no token can")
        merges.append((pair[0], pair[1]))
    if not merges:
        raise SourceRejected(
            "tokenizer.json: the BPE model has no merges; llama.cpp cannot load such a vocabulary; save the tokenizer "
            "again with them"
        )
    return tuple(merges)


SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def _special_ids(index: ModelIndex, settings: Mapping[str, Any], tokens: tuple[str, ...]) -> dict[str, int]:
    """Ids by role: tokenizer_config.json names the token, else config.json gives the id (the first of several)."""
    id_of = {text: id_ for id_, text in enumerate(tokens)}
    ids = {}
    for role, key in SPECIAL.items():
        named = settings.get(key)
        text = named.get("content") if isinstance(named, dict) else named
        id_ = id_of.get(text) if isinstance(text, str) else index.config.get(f"{key}_id")
        if isinstance(id_, list):
            id_ = id_[0] if id_ else None
        if id_ is None:
            continue
        if not isinstance(id_, int) or not 0 <= id_ < len(tokens):
            raise SourceRejected(f"config.json: {key}_id {id_!r} is not one of the {len(tokens)} tokens")
        ids[role] = id_
    if "eos" not in ids:
        raise SourceRejected("no end-of-sequence token is named in tokenizer_config.json or config.json")
    return {"bos": ids["eos"], **ids}  # left out, llama.cpp would take the token with id 11 for it


def _added_around(data: Object, settings: Object, ids: Mapping[str, int]) -> dict[str, bool]:
    """Whether the tokenizer puts bos before and eos after a text: its template decides, else its settings."""
    for step in _flatten(data.get("post_processor"), "processors"):
        if step.get("type") == "ByteLevel":
            continue
        if step.get("type") != "TemplateProcessing":
            raise SourceRejected(f"tokenizer.json: the post-processor {step.get('type')!r} cannot be carried")
        add_bos, add_eos = _template_adds(step, ids)
        return {"add_bos_token": add_bos, "add_eos_token": add_eos}
    return {key: bool(settings.get(key)) for key in ("add_bos_token", "add_eos_token")}


def _template_adds(step: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[bool, bool]:
    around = _around(step)
    for add_bos in (False, True):
        for add_eos in (False, True):
            if around == [ids["bos"]] * add_bos + [None] + [ids["eos"]] * add_eos:
                return add_bos, add_eos
    raise SourceRejected(
        f"tokenizer.json: the template {_shorten(step.get('single'))} adds more than bos before and eos after"
    )


def _around(step: Mapping[str, Any]) -> list[int | None]:
    """What a template makes of one text: ids of special tokens, and None for the text itself."""
    specials = step.get("special_tokens") or {}
    around: list[int | None] = []
    for piece in _list(step, "single"):
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        added = (specials.get(special.get("id")) or {}).get("ids") or [-1] if special is not None else [None]
        around.extend(added)
    return around


def _chat_template(index: ModelIndex, settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    if "chat_template.jinja" in index.files:
        return index.files["chat_template.jinja"].read_text("utf-8"), []
    template = settings.get("chat_template")
    if isinstance(template, str):
        return template, []
    if not isinstance(template, list):
        return "", []
    by_name = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    chosen = by_name.get("default")
    warning = f"chat templates: of {len(template)} only the one named 'default' is carried"
    return (chosen if isinstance(chosen, str) else ""), [warning]


MAX_FILE_BYTES = 256 * 2**20


def _json(index: ModelIndex, name: str) -> dict[str, Any]:
    content = _content(index, name)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceRejected(f"{name} is not JSON: {error}", file=name) from error
    if not isinstance(data, dict):
        raise SourceRejected(f"{name} is not a JSON object", file=name)
    return data


def _content(index: ModelIndex, name: str) -> bytes:
    if name not in index.files:
        others = " or ".join(SENTENCEPIECE_FILES)
        raise SourceRejected(f"the checkpoint has no {name}, nor {others}; gguf needs a tokenizer", file=name)
    path: Path = index.files[name]
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SourceRejected(f"{name} is larger than {MAX_FILE_BYTES} bytes", file=name)
    return path.read_bytes()


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key) or []
    if not isinstance(value, list):
        raise SourceRejected(f"tokenizer.json: {key} is not a list")
    return value


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:160] + "..."
