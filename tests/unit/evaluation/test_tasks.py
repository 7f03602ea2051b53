"""lm-eval's tasks: refused by name where they cannot run; the model behind them, without lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import RequestRejected
from quantmill.evaluation import require_tasks, run_tasks
from quantmill.evaluation.scorer import Scorer
from quantmill.evaluation.tasks import _metrics


@pytest.fixture
def scorer(millstone: Path) -> Iterator[Scorer]:
    with open_checkpoint(millstone) as checkpoint:
        decoder = Decoder.of(checkpoint.index)
        with decoder.whole(source_weights(checkpoint)) as model:
            yield Scorer(model, checkpoint.index, decoder.device)


@pytest.fixture
def plain(millstone: Path) -> Callable[[str, str], tuple[float, bool]]:
    """The log likelihood of a continuation and whether it is the likeliest, by transformers and nothing of ours."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(millstone / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(millstone, dtype=torch.float32)

    def score(context: str, continuation: str) -> tuple[float, bool]:
        before, whole = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, context + continuation)
        )
        with torch.inference_mode():
            log = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before), len(whole))
        total = sum(log[place - 1, whole[place]].item() for place in places)
        return total, all(log[place - 1].argmax() == whole[place] for place in places)

    return score


def test_tasks_without_lm_eval_are_refused_by_the_extra_s_name(millstone: Path) -> None:
    with open_checkpoint(millstone) as checkpoint, pytest.raises(RequestRejected, match=r"quantmill\[lm-eval\]"):
        run_tasks(checkpoint, source_weights(checkpoint), ["piqa"])


def test_no_tasks_need_no_lm_eval() -> None:
    require_tasks([])


def test_a_continuation_is_scored_as_transformers_does(
    scorer: Scorer, plain: Callable[[str, str], tuple[float, bool]]
) -> None:
    pairs = [
        ("The President of the", " United States"),
        ("The Congress of the United States of America shall have", " power"),
        ("To be or not to be, that is the", " elephant of the house"),
    ]

    found = scorer.loglikelihood(pairs)

    assert [total for total, _ in found] == pytest.approx([plain(*pair)[0] for pair in pairs], rel=1e-4)
    assert [greedy for _, greedy in found] == [plain(*pair)[1] for pair in pairs]


def test_spaces_at_the_context_s_end_belong_to_the_continuation(scorer: Scorer) -> None:
    assert scorer.loglikelihood([("The United ", "States")]) == scorer.loglikelihood([("The United", " States")])


def test_a_continuation_of_nothing_is_scored_after_the_beginning_of_text(scorer: Scorer) -> None:
    ((total, _),) = scorer.loglikelihood([("", "The")])

    assert -30 < total < 0


def test_many_texts_of_different_lengths_are_scored_as_each_alone(scorer: Scorer) -> None:
    pairs = [("The House " * count, "of the people") for count in (1, 40, 3, 20, 2)]

    together = scorer.loglikelihood(pairs)

    alone = [scorer.loglikelihood([pair])[0][0] for pair in pairs]
    assert [total for total, _ in together] == pytest.approx(alone, rel=1e-4)


def test_a_rolling_text_counts_each_token_once(scorer: Scorer) -> None:
    text = "The people of the United States. " * 120  # more than one window

    whole, half = scorer.rolling(text), scorer.rolling(text[: len(text) // 2])

    assert whole < half < 0


def test_writing_ends_at_a_stop_or_at_the_limit(scorer: Scorer) -> None:
    free = scorer.generate("The President of the", [], 12)
    stop = free.split()[2]

    assert len(free) > 10
    assert scorer.generate("The President of the", [stop], 12) == free[: free.index(stop)]


def results(values: list[float]) -> dict[str, Any]:
    return {
        "results": {"tiny": {"acc,none": float(np.mean(values)), "acc_stderr,none": 0.1, "alias": "tiny"}},
        "higher_is_better": {"tiny": {"acc": True}},
        "samples": {"tiny": [{"doc_id": n, "filter": "none", "acc": value} for n, value in enumerate(values)]},
    }


def test_a_task_s_metric_is_compared_document_by_document() -> None:
    found = list(_metrics(results([1.0] * 60 + [0.0] * 40), results([1.0] * 50 + [0.0] * 50)))

    assert [(each.subject, each.name, each.value, each.n) for each in found] == [
        ("source", "tiny.acc", 0.6, 100),
        ("artifact", "tiny.acc", 0.5, 100),
        ("artifact", "tiny.acc.difference", pytest.approx(-0.1), 100),
    ]
    difference = found[2]
    assert difference.ci_low is not None
    assert difference.ci_high is not None
    assert -0.17 < difference.ci_low < -0.1 < difference.ci_high < -0.03  # paired: half as wide as two apart
