"""What parameters may name on the host."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from quantmill.contract.errors import QuantmillError
from quantmill.contract.inputs import InputFile, InputPath
from quantmill.jobs.plan import find_inputs


class Params(BaseModel):
    matrix: InputFile | None = None
    samples: InputPath | None = None


@pytest.fixture
def services(tmp_path: Path) -> Any:
    (tmp_path / "root" / "photos").mkdir(parents=True)
    (tmp_path / "root" / "a.gguf").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    return SimpleNamespace(settings=SimpleNamespace(source_roots=(tmp_path / "root",)))


@pytest.mark.parametrize(("name", "value"), [("matrix", "a.gguf"), ("samples", "a.gguf"), ("samples", "photos")])
def test_a_path_below_a_root_becomes_the_real_one(services: Any, tmp_path: Path, name: str, value: str) -> None:
    found = find_inputs(services, Params.model_json_schema(), {name: value})

    assert found == {name: str((tmp_path / "root" / value).resolve())}


@pytest.mark.parametrize(
    ("name", "value"), [("matrix", "photos"), ("samples", "link"), ("samples", "../other"), ("samples", "nothing")]
)
def test_what_is_of_another_kind_or_elsewhere_is_refused(services: Any, name: str, value: str) -> None:
    with pytest.raises(QuantmillError) as caught:
        find_inputs(services, Params.model_json_schema(), {name: value})

    assert caught.value.fields["errors"][0]["pointer"] == f"/params/{name}"
