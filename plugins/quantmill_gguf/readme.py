"""What the artifact's folder says to people: README.md with the commands that run the model, and Ollama's Modelfile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import dedent

from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gguf.general import HUB, Said, general
from quantmill_gguf.imatrix import BESIDE
from quantmill_gguf.params import GgufParams

README, MODELFILE = "README.md", "Modelfile"


def plain_files(plan: Plan, index: ModelIndex, params: GgufParams, files: Sequence[str]) -> dict[str, bytes]:
    """README.md and Modelfile. Ollama takes the chat template and the end of a text from the file itself."""
    texts = {
        README: _readme(plan, index, params, files),
        MODELFILE: "".join(f"FROM ./{file}\n" for file in files),
    }
    return {name: text.encode() for name, text in texts.items()}


def _readme(plan: Plan, index: ModelIndex, params: GgufParams, files: Sequence[str]) -> str:
    said = general(index, params)
    name = str(said.get("name", index.architecture))
    types = sorted({row.scheme for row in plan.tensors if row.action == "quantize"})
    weighted = "with" if plan.inputs or params.imatrix == "auto" else "without"
    about = f"""\
        # {name}, {params.label}

        {index.architecture}, quantized to GGUF by quantmill {weighted} an importance matrix.
        {plan.bits_per_weight:.2f} bits per weight over all tensors; quantized tensors are {", ".join(types) or "none"}.
        `quantmill.json`, where it lies beside this file, says from what and how, and what was verified.
        """
    matrix = f"""
        `{BESIDE}` is the importance matrix, as llama-imatrix writes it: `llama-quantize --imatrix {BESIDE}` takes it,
        and `quantmill quantize --set imatrix={BESIDE}`.
        """
    computed = dedent(matrix) if any(row.beside for row in plan.tensors) else ""
    return _front_matter(said) + dedent(about) + computed + "\n" + dedent(_commands(name, params, files))


def _front_matter(said: Said) -> str:
    """The keys that model hubs read. The model that was quantized goes before what it was made of."""
    source = [said["source.repo_url"]] if "source.repo_url" in said else []
    keys = {
        "license": [said[key] for key in ("license",) if key in said],
        "license_name": [said[key] for key in ("license.name",) if key in said],
        "license_link": [said[key] for key in ("license.link",) if key in said],
        "base_model": [str(url).removeprefix(HUB) for url in source or _referred(said, "base_model")],
        "base_model_relation": ["quantized"] if source else [],
        "datasets": [str(url).removeprefix(f"{HUB}datasets/") for url in _referred(said, "dataset")],
        "language": said.get("languages", []),
        "tags": said.get("tags", []),
    }
    lines = [_line(key, values) for key, values in keys.items() if isinstance(values, list) and values]
    return "\n".join(["---", *lines, "---", "", ""]) if lines else ""


def _referred(said: Said, kind: str) -> Iterator[str | int | list[str]]:
    """Each one's address, or its name where there is none."""
    for number in range(int(str(said.get(f"{kind}.count", 0)))):
        found = (said.get(f"{kind}.{number}.{key}") for key in ("repo_url", "name"))
        yield next(value for value in found if value is not None)


def _line(key: str, values: Sequence[object]) -> str:
    quoted = [_quoted(str(value)) for value in values]
    return f"{key}: {quoted[0]}" if len(quoted) == 1 else f"{key}: [{', '.join(quoted)}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _commands(name: str, params: GgufParams, files: Sequence[str]) -> str:
    first, tag = files[0], _tag(name, params)
    whole = f"model-{params.label}.gguf"
    merged = "" if len(files) == 1 else f"""
        llama.cpp takes the first of the {len(files)} files and finds the others beside it. For Ollama the Modelfile
        names them all; versions that do not know split files take them merged:

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
