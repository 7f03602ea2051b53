from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from quantmill.calibration import cut, source_weights, tokenize
from quantmill.calibration.tokens import Tokens
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected, SourceRejected, TextRejected
from quantmill.evaluation import Perplexity, perplexity

TEXT = "thequickbrownfoxjumpsoverthelazydog" * 4
# Over all tokens but the first of each window, and over each window's second half, as llama-perplexity counts: by
# llama-cpp-python 0.3.36 on the same 20 000 characters and our F32 file (tests/conformance/llama_cpp)
LLAMA_CPP = (41.852010, 38.633320)
MOST_DIFFERENCE = 1e-4
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def measure(folder: Path, weights: dict[str, np.ndarray] | None = None, text: str = TEXT, **options: Any) -> Perplexity:
    with open_checkpoint(folder) as checkpoint:
        given = source_weights(checkpoint) if weights is None else reader(weights)
        return perplexity(checkpoint, given, text, **options)


def reader(weights: dict[str, np.ndarray]) -> Any:
    return lambda names: ((name, weights[name]) for name in names if name in weights)


def test_importing_evaluation_imports_no_torch() -> None:
    script = "import sys, quantmill.evaluation; print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


# The number


def test_the_shipped_model_has_the_perplexity_that_transformers_measures(millstone: Path, evaluation_text: str) -> None:
    text = evaluation_text[:20_000]

    measured = measure(millstone, text=text, threads=2)

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(millstone / "tokenizer.json"))
    ids = torch.tensor(tokenizer(text)["input_ids"][: 10 * 512]).reshape(10, 512)
    model = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)
    with torch.inference_mode():
        expected = [model(row[None], labels=row[None]).loss.item() for row in ids]
    assert measured.window_nll == pytest.approx(expected, rel=1e-5)
    assert measured.perplexity == pytest.approx(np.exp(np.mean(expected)), rel=1e-5)
    assert measured.perplexity == pytest.approx(LLAMA_CPP[0], rel=MOST_DIFFERENCE)
    assert measured.second_half == pytest.approx(LLAMA_CPP[1], rel=MOST_DIFFERENCE)
    with torch.inference_mode():
        log = model(ids).logits[:, :-1].log_softmax(-1)
    nll = -log.gather(2, ids[:, 1:, None])[..., 0].double()
    assert measured.second_half == pytest.approx(nll[:, 256:].mean().exp().item(), rel=1e-5)
    assert (measured.tokens, measured.windows, measured.window) == (5110, 10, 512)


def test_a_model_that_knows_nothing_is_as_perplexed_as_it_has_tokens(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    nothing = {name: np.zeros_like(values) for name, values in weights.items()}

    assert measure(make_model(), nothing).perplexity == pytest.approx(32.0)


def test_the_result_is_the_same_twice_and_on_any_number_of_threads(make_model: Callable[..., Path]) -> None:
    folder = make_model()

    first, second, third = measure(folder, threads=1), measure(folder, threads=1), measure(folder, threads=2)

    assert first.window_nll == second.window_nll
    assert first.perplexity == pytest.approx(third.perplexity, rel=1e-6)


def test_torch_has_its_threads_back_afterwards(make_model: Callable[..., Path]) -> None:
    before = torch.get_num_threads()

    measure(make_model(), threads=before + 1)

    assert torch.get_num_threads() == before


def test_progress_counts_tokens_through_blocks_and_head(make_model: Callable[..., Path]) -> None:
    seen: list[tuple[int, int]] = []

    measure(make_model(), window=10, progress=lambda done, total: seen.append((done, total)))

    assert seen[0] == (140, 14 * (10 + 9))
    assert seen[-1] == (266, 266)


def test_nothing_is_fetched_from_a_network(make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = make_model(_name_or_path="org/name", _attn_implementation="org/kernel", attn_implementation="org/kernel")

    assert measure(folder).windows == 8


# Windows


def test_windows_do_not_overlap_and_a_rest_is_left_out() -> None:
    windows = cut(Tokens(list(range(11)), []), 4)

    assert windows.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows.scored.all()
    assert not windows.overlap


def test_with_a_stride_each_token_counts_in_the_first_window_that_has_it() -> None:
    windows = cut(Tokens(list(range(9)), []), 4, stride=2)

    assert windows.ids.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert windows.ids[:, 1:][windows.scored].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert windows.overlap


def test_with_a_stride_and_a_prefix_each_token_counts_once() -> None:
    windows = cut(Tokens(list(range(7)), [30]), 4, stride=1)

    assert windows.ids[0].tolist() == [30, 0, 1, 2]
    assert windows.ids[:, 1:][windows.scored].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stride", [-1, 0, 4])
def test_an_impossible_stride_is_refused(stride: int) -> None:
    with pytest.raises(RequestRejected, match="from 1 to 3"):
        cut(Tokens(list(range(7)), [30]), 4, stride)


def test_each_window_begins_as_the_tokenizer_begins_a_text() -> None:
    assert cut(Tokens(list(range(7)), [30]), 4).ids.tolist() == [[30, 0, 1, 2], [30, 3, 4, 5]]


@pytest.mark.parametrize(("prefix", "expected"), [(False, []), (True, [30])])
def test_the_prefix_is_the_tokenizer_s_own(make_model: Callable[..., Path], prefix: bool, expected: list[int]) -> None:
    with open_checkpoint(make_model(prefix=prefix)) as checkpoint:
        tokens = tokenize(checkpoint.index, "ab!")

    assert tokens == Tokens([0, 1, 31], expected, words=(1, 0, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [("ab cd", (1, 0, 0, 1, 0)), ("  a", (0, 0, 1)), ("", ()), ("a\n\nb ", (1, 0, 0, 1, 0))],
)
def test_a_word_begins_in_the_token_that_has_its_first_character(
    make_model: Callable[..., Path], text: str, words: tuple[int, ...]
) -> None:
    with open_checkpoint(make_model()) as checkpoint:
        assert tokenize(checkpoint.index, text).words == words


def test_words_of_a_byte_level_tokenizer_are_those_between_spaces(millstone: Path, evaluation_text: str) -> None:
    text = evaluation_text[:5000] + " Größenwahn 数学 naïve 🙂🙂 end"
    with open_checkpoint(millstone) as checkpoint:
        tokens = tokenize(checkpoint.index, text)

    assert sum(tokens.words) == len(text.split())
    assert len(tokens.words) == len(tokens.ids)


@pytest.mark.parametrize(
    ("limit", "window", "expected"), [(16, None, 16), (4096, None, 512), (16, 8, 8), (None, None, 512)]
)
def test_the_window_is_512_or_what_the_model_takes(
    make_model: Callable[..., Path], limit: int | None, window: int | None, expected: int
) -> None:
    keys = {} if limit is None else {"max_position_embeddings": limit}
    folder = make_model(**keys)
    if limit is None:
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace('"max_position_embeddings": 16, ', ""))

    assert measure(folder, text=TEXT * 4, window=window).window == expected


def test_a_gpt_2_names_its_limit_otherwise(make_model: Callable[..., Path]) -> None:
    folder = make_model(n_positions=12)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"max_position_embeddings": 16, ', ""))

    assert measure(folder).window == 12


@pytest.mark.parametrize("window", [-1, 0, 1, 17])
def test_an_impossible_window_is_refused(make_model: Callable[..., Path], window: int) -> None:
    with pytest.raises(RequestRejected, match="at least 2 and at most 16"):
        measure(make_model(), window=window)


@pytest.mark.parametrize("text", ["", "abc", "a" * 15])
def test_a_text_shorter_than_a_window_is_refused(make_model: Callable[..., Path], text: str) -> None:
    with pytest.raises(TextRejected) as refused:
        measure(make_model(), text=text)

    assert refused.value.fields == {"tokens": len(text), "window": 16}


def test_a_text_that_is_not_unicode_is_refused(make_model: Callable[..., Path]) -> None:
    with pytest.raises(TextRejected, match="character 2"):
        measure(make_model(), text="ab\ud800")


# The tokenizer


def test_a_control_token_that_a_text_spells_is_plain_text(make_model: Callable[..., Path]) -> None:
    with open_checkpoint(make_model(prefix=True)) as checkpoint:
        assert tokenize(checkpoint.index, "a<s>b").ids == [0, 31, 18, 31, 1]


def test_a_model_without_tokenizer_cannot_be_evaluated(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    (folder / "tokenizer.json").unlink()

    with pytest.raises(SourceRejected, match=r"has no tokenizer\.json"):
        measure(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "model": {"type": "Evil"}}', "\0"])
def test_a_broken_tokenizer_is_refused(make_model: Callable[..., Path], content: str) -> None:
    folder = make_model()
    (folder / "tokenizer.json").write_text(content)

    with pytest.raises(SourceRejected, match=r"tokenizer\.json cannot be used"):
        measure(folder)


def test_a_tokenizer_of_another_model_is_refused(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    folder = make_model(vocab_size=20, tensors={**weights, EMBEDDING: weights[EMBEDDING][:20]})

    with pytest.raises(SourceRejected, match="makes token 25, but the model knows 20 tokens"):
        measure(folder)


# The machine


def test_a_device_that_this_machine_lacks_is_refused(make_model: Callable[..., Path]) -> None:
    device = f"cuda:{torch.cuda.device_count()}"

    with pytest.raises(RequestRejected, match="is not a device of this machine"):
        measure(make_model(), device=device)


def test_another_arithmetic_is_refused_by_name(make_model: Callable[..., Path]) -> None:
    with pytest.raises(RequestRejected, match="dtype 'float16' is not one of float32, bfloat16"):
        measure(make_model(), dtype="float16")


# The weights


def changed(weights: dict[str, np.ndarray], changes: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    return {name: values for name, values in {**weights, **changes}.items() if values is not None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.norm.weight": None}, r"the weights lack model\.norm\.weight"),
        ({EMBEDDING: None}, r"the weights lack model\.embed_tokens\.weight"),
        ({"model.layers.0.self_attn.q_proj.weight": None}, r"the weights lack model\.layers\.0\.self_attn\.q_proj"),
        ({"model.norm.weight": np.ones(1, np.float32)}, r"makes model\.norm\.weight \[8\], but it is \[1\]"),
    ],
    ids=["missing", "both tied ends missing", "missing in a block", "other shape"],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray], changes: Any, reason: str
) -> None:
    with pytest.raises(ArchitectureUnsupported, match=reason):
        measure(make_model(), changed(weights, changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.norm.weight": None}, r"the weights lack model\.norm\.weight"),
        ({"mtp.weight": np.ones(1, np.float32)}, r"has no tensor mtp\.weight"),
        ({"model.norm.weight": np.ones(9, np.float32)}, r"makes model\.norm\.weight \[8\], but it is \[9\]"),
    ],
    ids=["missing", "unknown", "other shape"],
)
def test_a_checkpoint_that_does_not_fit_its_config_is_refused_before_its_weights_are_read(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray], changes: Any, reason: str
) -> None:
    def unread(names: Any) -> Any:
        raise AssertionError("a weight was read")

    folder = make_model(tensors=changed(weights, changes))

    with open_checkpoint(folder) as checkpoint, pytest.raises(ArchitectureUnsupported, match=reason):
        perplexity(checkpoint, unread, TEXT)


def test_what_transformers_computes_may_be_stored_too(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    old = changed(weights, {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)})

    assert measure(make_model(tensors=old), old).windows == 8


def test_tied_ends_that_are_given_apart_count_apart(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    folder = make_model()
    other = np.random.default_rng(9).standard_normal((32, 8)).astype(np.float32)

    tied = measure(folder, weights).window_nll
    equal = measure(folder, {**weights, HEAD: weights[EMBEDDING]}).window_nll
    head_last = measure(folder, {**weights, HEAD: other}).window_nll
    head_first = measure(folder, {HEAD: other, **weights}).window_nll

    assert equal == tied
    assert head_last != tied
    assert head_first == head_last


def test_a_head_is_tied_where_the_config_does_not_say(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    folder = make_model()
    expected = measure(folder).window_nll
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(', "tie_word_embeddings": true', ""))

    assert measure(folder).window_nll == expected


def test_predictions_that_are_not_finite_are_refused(
    make_model: Callable[..., Path], weights: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ArchitectureUnsupported, match="NaN or infinite"):
        measure(make_model(), {**weights, "model.norm.weight": np.full(8, np.nan, np.float32)})


# The architecture


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"model_type": "evil"}, "Unrecognized model identifier: evil"),
        ({"model_type": None}, "cannot be evaluated"),
        ({"model_type": ["llama"]}, "cannot be evaluated"),
        ({"model_type": "bert"}, "transformers has BertLMHeadModel"),
        ({"architectures": ["EvilForCausalLM"]}, "transformers has LlamaForCausalLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "transformers has LlamaForCausalLM"),
        ({"num_hidden_layers": 10**12}, "config.json has 1000000000000 layers, but only 11 tensors"),
        ({"hidden_size": 10**9}, "cannot be evaluated"),
        ({"vocab_size": 10**12}, "config.json makes model.embed_tokens.weight"),
        ({"num_attention_heads": 0}, "cannot be evaluated"),
        ({"hidden_size": "8"}, "cannot be evaluated"),
        ({"hidden_act": "evil"}, "cannot be evaluated"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized already"),
    ],
    ids=str,
)
def test_a_model_that_transformers_does_not_have_is_refused(
    make_model: Callable[..., Path], keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ArchitectureUnsupported) as refused:
        measure(make_model(**keys))

    assert reason in refused.value.detail
