"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from quantmill.contract.errors import RequestRejected
from quantmill.domain.escalation import By, Escalation

if TYPE_CHECKING:
    from quantmill.client import Client
    from quantmill.domain.calibration import CalibrationOptions
    from quantmill.domain.evaluation import EvaluationOptions
    from quantmill.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MODEL_HELP = "A checkpoint folder, or a GGUF file."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
LocalModel = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
LocalArtifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact's folder.")]
Against = Annotated[Path, typer.Option("--against", metavar="MODEL", help="The checkpoint that it was made from.")]
MethodName = Annotated[str, typer.Option("--method", "-m", help="A name from `quantmill methods`.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the method; may be repeated.")
]
MeasureWeights = Annotated[
    bool, typer.Option("--measure", help="Read the weights too, where they decide what the headers leave open.")
]
Evaluate = Annotated[Path | None, typer.Option("--evaluate", metavar="FILE", help="UTF-8 text to evaluate on.")]
Window = Annotated[int | None, typer.Option(min=2, help="Tokens that the model sees at once; by default 512.")]
Stride = Annotated[
    int | None, typer.Option(min=1, help="Tokens from one window to the next; by default they do not overlap.")
]
Device = Annotated[str, typer.Option(help="Where models run to be measured: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="What they compute in: float32 or bfloat16.")]
Measures = Annotated[
    list[str] | None,
    typer.Option("--measure", metavar="KEY=VALUE", help="How to evaluate, as window=1024 or tasks=piqa; repeatable."),
]
Prompts = Annotated[int, typer.Option(min=0, help="Texts that both models continue greedily; 0 leaves that out.")]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens that the predicted memory is for.")]
Speed = Annotated[bool, typer.Option(help="Time the artifact in its runtime, where that is installed.")]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="NAME", help="A task of lm-eval's; may be repeated.")
]
TaskDocuments = Annotated[int | None, typer.Option(min=1, help="How many documents of each task.")]
Calibration = Annotated[
    Path | None, typer.Option("--calibration", metavar="FILE", help="What ARTIFACT was calibrated on, to tell overlap.")
]
Calibrate = Annotated[
    str | None,
    typer.Option("--calibration", metavar="FILE", help="Text, or .jsonl of texts or conversations, to calibrate on."),
]
Samples = Annotated[
    list[str] | None,
    typer.Option(
        "--calibrate", metavar="KEY=VALUE", help="How, as samples=256, window=1024 or packing=documents; repeatable."
    ),
]
Text = Annotated[Path, typer.Option("--text", metavar="FILE", help="UTF-8 text to evaluate on.")]
Gates = Annotated[
    list[str] | None,
    typer.Option("--gate", metavar="EXPR", help="What the artifact must meet, as 'kld.mean <= 0.05'; may be repeated."),
]
Escalate = Annotated[
    int | None,
    typer.Option(
        min=2, max=16, metavar="N", help="Go on to larger parameters until the gates are met, N attempts in all."
    ),
]
EscalateBy = Annotated[
    str | None,
    typer.Option(metavar="WHAT", help="What grows: ladder (all of it, the default) or blocks (those that lose most)."),
]
EscalateMb = Annotated[float | None, typer.Option(min=0, metavar="MB", help="None of those attempts larger than this.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")]
Seed = Annotated[int, typer.Option(min=0)]
DataDir = Annotated[Path | None, typer.Option(help="Blobs, staging and the embedded database.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Kernel threads; results do not depend on them.")]
Server = Annotated[str | None, typer.Option(metavar="URL", help="The service; QUANTMILL_SERVER sets the default.")]


def parse_sets(pairs: Sequence[str] | None) -> dict[str, Any]:
    """`key=value` texts as parameters: a value that parses as JSON is that, anything else is a string."""
    return {key: _value(text) for key, text in map(_pair, pairs or ())}


def parse_measures(pairs: Sequence[str] | None) -> EvaluationOptions:
    """What `--measure` asks for; `tasks` may be given several times."""
    from quantmill.domain.evaluation import EvaluationOptions

    given: dict[str, Any] = {}
    for key, value in ((key, _value(text)) for key, text in map(_pair, pairs or ())):
        given[key] = (*given.get(key, ()), value) if key == "tasks" else value
    return EvaluationOptions.of(given)


def parse_calibration(text: str | None, pairs: Sequence[str] | None) -> CalibrationOptions | None:
    """What `--calibration` and `--calibrate` ask for."""
    from quantmill.domain.calibration import CalibrationOptions

    if text is None:
        if pairs:
            raise RequestRejected("--calibrate says how to use the text of --calibration; give both")
        return None
    return CalibrationOptions.of({"text": text, **parse_sets(pairs)})


def parse_escalation(attempts: int | None, size_mb: float | None, by: str | None) -> Escalation | None:
    if attempts is None:
        if size_mb is not None or by is not None:
            raise RequestRejected("--escalate-mb and --escalate-by are for --escalate; give that too")
        return None
    return Escalation(attempts, size_mb, cast(By, by or "ladder"))


def parse_labels(pairs: Sequence[str] | None) -> dict[str, str]:
    return dict(map(_pair, pairs or ()))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise RequestRejected(f"{text!r} is not KEY=VALUE")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def settings(**given: Any) -> Settings:
    """The environment's settings, overridden by the options that were given."""
    from pydantic import ValidationError

    from quantmill.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise RequestRejected(f"the settings (QUANTMILL_...) do not hold: {problems}") from None


def client(server: str | None) -> Client:
    from quantmill.client import Client

    return Client(server or settings().server)
