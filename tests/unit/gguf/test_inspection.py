"""Whatever kind of config and tokenizer the writer carries, the inspection, which reads them on its own, agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.pre_tokenizers import LLAMA3_SPLIT, QWEN2_SPLIT
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill_gguf.inspection import inspect
from quantmill_gguf.plugin import GGUF

Data = dict[str, Any]
Edit = Callable[[Data], object]

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
TEXT, BOS, EOS = ({"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>"}}, {"SpecialToken": {"id": "</s>"}})
SPECIALS = {text: {"id": text, "ids": [id_], "tokens": [text]} for id_, text in enumerate(("<s>", "</s>"))}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def splitting(pattern: object) -> Data:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [rule, BYTES]}


def template(*pieces: Data) -> Data:
    return {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": SPECIALS}


def setting(**values: Any) -> Edit:
    return lambda data: data.update(values)


def without(*keys: str) -> Edit:
    return lambda data: [data.pop(key) for key in keys]


def like_llama_3(data: Data) -> None:
    data.update(pre_tokenizer=splitting(LLAMA3_SPLIT[1]))
    data["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, TEXT)]}
    data["model"]["ignore_merges"] = True
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["added_tokens"].append({"id": 318, "content": "<|tool|>", "special": False})
    del data["model"]["vocab"][next(text for text, id_ in data["model"]["vocab"].items() if id_ == 318)]


def with_fewer_tokens(data: Data) -> None:
    vocab = data["model"]["vocab"]
    data["model"]["vocab"] = {text: id_ for text, id_ in vocab.items() if id_ < 310}
    data["model"]["merges"] = data["model"]["merges"][:50]


CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
KINDS: dict[str, tuple[str, Edit]] = {
    "as it is": (CONFIG, setting()),
    "keys that have defaults are missing": (CONFIG, without("head_dim", "rope_theta", "rms_norm_eps")),
    "keys that have defaults are null": (
        CONFIG,
        setting(head_dim=None, rope_theta=None, rms_norm_eps=None, rope_scaling=None),
    ),
    "an epsilon that float32 rounds": (CONFIG, setting(rms_norm_eps=1.3e-6)),
    "an integer as the rope's base": (CONFIG, setting(rope_theta=1000000)),
    "the rope of transformers 4": (CONFIG, setting(rope_theta=500000.0, rope_scaling=LLAMA3_ROPE)),
    "the rope of transformers 5": (CONFIG, setting(rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0})),
    "a rope's defaults": (CONFIG, setting(rope_parameters={"rope_type": "llama3", "factor": 8.0})),
    "a linear rope": (CONFIG, setting(rope_scaling={"type": "linear", "factor": 4.0})),
    "several ends": (CONFIG, setting(eos_token_id=[1, 5])),
    "Llama 3's tokenizer": (TOKENIZER, like_llama_3),
    "Qwen 2's pre-tokenizer": (TOKENIZER, setting(pre_tokenizer=splitting(QWEN2_SPLIT[1]), normalizer={"type": "NFC"})),
    "SmolLM's pre-tokenizer": (
        TOKENIZER,
        setting(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}
        ),
    ),
    "fewer tokens than rows": (TOKENIZER, with_fewer_tokens),
    "both ends are added": (TOKENIZER, setting(post_processor=template(BOS, TEXT, EOS))),
    "only the end is added": (TOKENIZER, setting(post_processor=template(TEXT, EOS))),
    "no added tokens": (TOKENIZER, setting(added_tokens=None)),
    "no settings": (SETTINGS, without("bos_token", "eos_token")),
    "no begin": (SETTINGS, setting(bos_token="<none>")),
    "tokens as objects": (SETTINGS, setting(bos_token={"content": "<s>"}, pad_token="</s>", unk_token={})),
    "bos added by the settings": (SETTINGS, setting(add_bos_token=True)),
    "a chat template": (SETTINGS, setting(chat_template="{% for m in messages %}\n{{ m }}äß{% endfor %}")),
    "an empty chat template": (SETTINGS, setting(chat_template="")),
    "several chat templates": (
        SETTINGS,
        setting(chat_template=[{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}, None]),
    ),
    "several chat templates, none the default": (SETTINGS, setting(chat_template=[{"name": "rag", "template": "R"}])),
}


@pytest.mark.parametrize(("name", "edit"), KINDS.values(), ids=KINDS)
def test_the_inspection_agrees_with_the_writer(tmp_path: Path, name: str, edit: Edit) -> None:
    folder = SyntheticLlama(hidden=64, ffn=64, heads=2, kv_heads=1, blocks=1).write(tmp_path / "model")
    data = json.loads((folder / name).read_text("utf-8"))
    edit(data)
    (folder / name).write_text(json.dumps(data), "utf-8")

    with open_checkpoint(folder) as source:
        run = Run(GGUF, GGUF.params(type="Q8_0"), source)
        run.write(run.quantize(), tmp_path / "artifact")
        inspection = inspect(tmp_path / "artifact", run.plan, source.index, run.params)

    observations = tuple(inspection.observations)
    assert {"layout", "metadata", "tokenizer", "chat_template", "rope_factors", "modelfile"} == {
        observation.check for observation in observations
    }
    assert [observation for observation in observations if not observation.holds] == []


def test_a_chat_template_in_its_own_file_goes_first(tmp_path: Path) -> None:
    folder = SyntheticLlama(hidden=64, ffn=64, heads=2, kv_heads=1, blocks=1).write(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("own", "utf-8")

    with open_checkpoint(folder) as source:
        run = Run(GGUF, GGUF.params(type="Q8_0"), source)
        run.write(run.quantize(), tmp_path / "artifact")
        observations = inspect(tmp_path / "artifact", run.plan, source.index, run.params).observations

    assert [observation.found for observation in observations if observation.check == "chat_template"] == ["own"]
    assert all(observation.holds for observation in observations)
