"""lm-eval's tasks on our models: its evaluator with our adapter has the accuracy that a plain loop counts.

The task is made here, from the evaluation text: which of three words follows a line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = REPOSITORY / "tests" / "data"
TASK = "quantmill_following_word"
DOCUMENTS = 40
YAML = """task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {data}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def documents() -> list[dict[str, Any]]:
    """A line's first ten words, and the eleventh among the eleventh words of two other lines."""
    lines = [line.split() for line in (DATA / "text" / "evaluation.txt").read_text().splitlines()]
    long = [words for words in lines if len(words) > 10][: DOCUMENTS + 2]
    made = []
    for number in range(DOCUMENTS):
        choices = [f" {long[number + other][10]}" for other in range(3)]
        answer = number % 3
        choices[0], choices[answer] = choices[answer], choices[0]
        made.append({"context": " ".join(long[number][:10]), "choices": choices, "answer": answer})
    return made


def plain_accuracy(made: list[dict[str, Any]]) -> float:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(DATA / "millstone-4m" / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(DATA / "millstone-4m", dtype=torch.float32)

    def likelihood(context: str, continuation: str) -> float:
        before, whole = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
        with torch.inference_mode():
            log = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(log[place - 1, whole[place]].item() for place in range(len(before), len(whole)))

    right = 0
    for each in made:
        scores = [likelihood(each["context"], choice) for choice in each["choices"]]
        right += scores.index(max(scores)) == each["answer"]
    return right / len(made)


def run(python: Path, scratch: Path, made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    tasks, answer = scratch / "tasks", scratch / "answer.json"
    tasks.mkdir()
    data = scratch / "following.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in made))
    (tasks / "following.yaml").write_text(YAML.format(task=TASK, data=data))
    path = os.pathsep.join([str(REPOSITORY / "service"), sysconfig.get_paths()["purelib"]])
    command = [
        str(each) for each in (python, Path(__file__).with_name("consumer.py"), DATA / "millstone-4m", tasks, TASK)
    ]
    environ = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "cache")}
    done = subprocess.run([*command, str(answer)], env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return {(each["subject"], each["name"]): each for each in json.loads(answer.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of lm-eval's environment")
    parser.add_argument("--scratch", type=Path, required=True)
    arguments = parser.parse_args()
    made = documents()
    found = run(arguments.python, arguments.scratch, made)
    expected = plain_accuracy(made)
    source, artifact = found["source", f"{TASK}.acc"], found["artifact", f"{TASK}.acc"]
    difference = found["artifact", f"{TASK}.acc.difference"]
    agrees = abs(source["value"] - expected) < 1e-9 and source["n"] == DOCUMENTS
    print(
        "## lm-eval (lm_eval 0.4.13)\n\n"
        f"A task of {DOCUMENTS} documents made from the evaluation text, run by lm-eval's evaluator on our adapter, "
        "and counted by a plain loop over transformers' model.\n\n"
        "| model | accuracy | interval | plain loop |\n|---|---|---|---|\n"
        f"| source | {source['value']:.4f} | {source['ci_low']:.3f} to {source['ci_high']:.3f} | {expected:.4f} |\n"
        f"| with noise | {artifact['value']:.4f} | {artifact['ci_low']:.3f} to {artifact['ci_high']:.3f} | |\n"
        f"| difference | {difference['value']:+.4f} | {difference['ci_low']:+.3f} to {difference['ci_high']:+.3f} | |\n"
    )
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    main()
