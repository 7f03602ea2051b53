"""Plans a job from headers alone, and refuses what could not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from quantmill.checkpoints import open_checkpoint
from quantmill.checkpoints.uris import resolve
from quantmill.contract.errors import QuantmillError, RequestRejected, TextRejected
from quantmill.contract.inputs import may_be_folder, named_files
from quantmill.contract.method import Method
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill.jobs.methods import published_method
from quantmill.jobs.params import pointer, validate
from quantmill.services import Services


@dataclass(frozen=True)
class Planned:
    """What a method will do with a source: its parameters with defaults filled in, and the plan they lead to."""

    params: BaseModel
    plan: Plan
    index: ModelIndex


def make_plan(services: Services, source: str, method: str, params: Mapping[str, Any]) -> Planned:
    """Validate the parameters, read the source's headers and plan. Nothing is written and no weight is read.

    Raises UnknownMethod, ParamsRejected, SourceRejected (ArchitectureUnsupported) or PolicyRefused; each carries
    `errors` with a JSON pointer into the request.
    """
    with pointing_at("/method"):
        if method not in services.plugins.methods:
            published_method(services, method)
            raise RequestRejected(
                f"method {method!r} is installed on workers only; they plan its jobs when they run them"
            )
        chosen = services.plugins.method(method)
    with pointing_at("/source"):
        folder = resolve(source, services.settings.source_roots)
    validate(chosen, params)
    found = find_inputs(services, chosen.params.model_json_schema(), params)
    with pointing_at("/source"):
        return plan_folder(chosen, folder, found)


def plan_folder(method: Method, folder: Path, params: Mapping[str, Any]) -> Planned:
    """Plan a method for a checkpoint folder wherever it lies. Raises ParamsRejected, SourceRejected."""
    model = validate(method, params)
    with open_checkpoint(folder) as checkpoint:
        return Planned(model, method.plan.load()(checkpoint.index, model), checkpoint.index)


def find_inputs(services: Services, schema: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the real path, below one of the source roots, of every file that they name."""
    found = dict(params)
    for name, uri in named_files(schema, params).items():
        with pointing_at(pointer("params", name)):
            path = resolve(uri, services.settings.source_roots)
            if not path.is_file() and not (path.is_dir() and may_be_folder(schema, name)):
                raise RequestRejected(f"{uri!r} is not a file")
            found[name] = str(path)
    return found


def find_text(services: Services, uri: str, place: str = "/evaluation_text") -> Path:
    """The readable, non-empty text file that `uri`, which stands at `place`, names below one of the source roots."""
    with pointing_at(place):
        path = resolve(uri, services.settings.source_roots)
        if not path.is_file():
            raise TextRejected(f"{uri!r} is not a file; name a UTF-8 text file")
        if not path.stat().st_size:
            raise TextRejected(f"{uri!r} is empty; name a text of at least a few hundred words")
        return path


@contextmanager
def pointing_at(pointer: str) -> Iterator[None]:
    """Give errors raised inside the place in the request that they are about, where they don't name one already."""
    try:
        yield
    except QuantmillError as error:
        code = type(error).__name__
        error.fields.setdefault("errors", [{"pointer": pointer, "code": code, "message": error.detail}])
        raise
