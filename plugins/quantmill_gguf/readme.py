"""What the artifact's folder says to people: README.md with the commands that run the model, and Ollama's Modelfile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import dedent

from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gguf.params import GeneralKey, GgufParams

README, MODELFILE = "README.md", "Modelfile"


def plain_files(plan: Plan, index: ModelIndex, params: GgufParams, files: Sequence[str]) -> dict[str, bytes]:
    """README.md, and a Modelfile where Ollama can take the model: it reads no files that were split."""
    texts = {README: _readme(plan, index, params, files)}
    if len(files) == 1:
        texts[MODELFILE] = f"FROM ./{files[0]}\n"
    return {name: text.encode() for name, text in texts.items()}


def _readme(plan: Plan, index: ModelIndex, params: GgufParams, files: Sequence[str]) -> str:
    name = params.general.get("name", index.architecture)
    types = sorted({row.scheme for row in plan.tensors if row.action == "quantize"})
    weighted = "with" if plan.inputs or params.imatrix == "auto" else "without"
    about = f"""\
        # {name}, {params.label}

        {index.architecture}, quantized to GGUF by quantmill {weighted} an importance matrix.
        {plan.bits_per_weight:.2f} bits per weight over all tensors; quantized tensors are {", ".join(types) or "none"}.
        `quantmill.json`, where it lies beside this file, says from what and how, and what was verified.
        """
    return _front_matter(params.general) + dedent(about) + "\n" + dedent(_commands(name, params, files))


def _front_matter(general: Mapping[GeneralKey, str]) -> str:
    """The keys that model hubs read."""
    keys = {
        "license": general.get("license"),
        "base_model": general.get("base_model.0.repo_url", "").removeprefix("https://huggingface.co/"),
    }
    lines = [f"{key}: {_quoted(value)}" for key, value in keys.items() if value]
    return "\n".join(["---", *lines, "---", "", ""]) if lines else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _commands(name: str, params: GgufParams, files: Sequence[str]) -> str:
    first, tag = files[0], _tag(name, params)
    whole = f"model-{params.label}.gguf"
    merged = "" if len(files) == 1 else f"""
        llama.cpp takes the first of the {len(files)} files and finds the others beside it. Ollama takes one file:

            llama-gguf-split --merge {first} {whole}
            echo 'FROM ./{whole}' > Modelfile
        """  # fmt: skip
    return f"""\
        ## llama.cpp

            llama-cli -m {first}
            llama-server -m {first} --port 8080
        {merged}
        ## Ollama

            ollama create {tag} -f Modelfile
            ollama run {tag}

        ## LM Studio

            lms import {first}
        """


def _tag(name: str, params: GgufParams) -> str:
    """A name as Ollama takes it: lower case, no spaces."""
    plain = "".join(mark if mark.isascii() and (mark.isalnum() or mark in "-_.") else "-" for mark in name.lower())
    return f"{plain.strip('-._') or 'model'}:{params.label.lower()}"
