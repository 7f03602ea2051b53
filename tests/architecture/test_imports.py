"""Who may import whom. Arrows point inward only; the table is the house's plan."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.architecture.conftest import Import, Source


@dataclass(frozen=True)
class Room:
    """What a room may import: rooms (or single modules) of ours, libraries, and what only inside functions."""

    ours: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    lazily: frozenset[str] = frozenset()


def room(ours: str = "", libraries: str = "", lazily: str = "") -> Room:
    return Room(frozenset(ours.split()), frozenset(libraries.split()), frozenset(lazily.split()))


CONTRACT = "quantmill.contract"
VALUES = f"{CONTRACT} quantmill.domain"
OPENED = f"{VALUES} quantmill.settings quantmill.plugins quantmill.services"

MAY_IMPORT = {
    "quantmill_kernels": room(libraries="numpy ml_dtypes"),
    "quantmill_awq": room(f"{CONTRACT} quantmill_kernels", libraries="numpy ml_dtypes pydantic", lazily="torch"),
    "quantmill_bnb": room(f"{CONTRACT} quantmill_kernels", libraries="numpy pydantic"),
    "quantmill_fp8": room(f"{CONTRACT} quantmill_kernels", libraries="numpy ml_dtypes pydantic"),
    "quantmill_gguf": room(f"{CONTRACT} quantmill_kernels", libraries="numpy ml_dtypes pydantic gguf"),
    "quantmill_gptq": room(f"{CONTRACT} quantmill_kernels", libraries="numpy ml_dtypes pydantic", lazily="torch"),
    "quantmill_gptq.columns": room(CONTRACT, libraries="numpy torch"),
    "quantmill_hqq": room(f"{CONTRACT} quantmill_kernels", libraries="numpy ml_dtypes pydantic"),
    "quantmill_onnx": room(
        f"{CONTRACT} quantmill_kernels",
        libraries="numpy pydantic",
        lazily="PIL onnx onnx_ir onnxruntime torch transformers",
    ),
    "quantmill_repack": room(f"{CONTRACT} quantmill_kernels", libraries="numpy pydantic"),
    "quantmill.contract": room(libraries="numpy ml_dtypes pydantic pluggy"),
    "quantmill.contract.hessians": room(CONTRACT, libraries="numpy", lazily="torch"),
    "quantmill.contract.testing": room("quantmill.checkpoints", libraries="numpy pydantic pytest hypothesis"),
    "quantmill.domain": room(CONTRACT),
    "quantmill.settings": room(CONTRACT, libraries="pydantic pydantic_settings"),
    "quantmill.plugins": room(CONTRACT, libraries="pluggy"),
    "quantmill.checkpoints": room(CONTRACT, libraries="numpy ml_dtypes rfc8785 yaml"),
    "quantmill.hardware": room(CONTRACT, libraries="pydantic yaml psutil"),
    "quantmill.files": room(VALUES, libraries="rfc8785"),
    "quantmill.store": room(VALUES, libraries="sqlalchemy alembic rfc8785"),
    "quantmill.services": room("quantmill.settings quantmill.plugins quantmill.files quantmill.store"),
    "quantmill.verification": room(f"{VALUES} quantmill.checkpoints quantmill_kernels", libraries="numpy"),
    "quantmill.calibration": room(
        f"{VALUES} quantmill.checkpoints quantmill.files quantmill.texts",
        libraries="numpy safetensors",
        lazily="jinja2 tokenizers",
    ),
    "quantmill.calibration.decoder": room(CONTRACT, libraries="torch transformers"),
    "quantmill.calibration.origins": room(CONTRACT, libraries="torch transformers"),
    "quantmill.calibration.forward": room(f"{CONTRACT} quantmill.files", libraries="numpy torch"),
    "quantmill.calibration.accumulate": room(CONTRACT, libraries="numpy torch"),
    "quantmill.calibration.activations": room(f"{CONTRACT} quantmill.files", libraries="torch"),
    "quantmill.calibration.block": room(CONTRACT, libraries="numpy torch"),
    "quantmill.calibration.engine": room(CONTRACT, libraries="numpy torch"),
    "quantmill.calibration.resident": room(CONTRACT, libraries="numpy torch transformers"),
    "quantmill.calibration.routing": room(CONTRACT, libraries="torch"),
    "quantmill.calibration.taps": room(CONTRACT, libraries="torch"),
    "quantmill.evaluation": room(
        f"{VALUES} quantmill.checkpoints quantmill.files quantmill.calibration quantmill.hardware quantmill.texts",
        libraries="numpy",
        lazily="torch lm_eval onnxruntime",
    ),
    "quantmill.evaluation.timed": room(lazily="llama_cpp torch transformers"),
    "quantmill.evaluation.scorer": room(f"{CONTRACT} quantmill.calibration", libraries="torch", lazily="tokenizers"),
    "quantmill.evaluation.greedy": room(f"{CONTRACT} quantmill.calibration", libraries="numpy torch"),
    "quantmill.evaluation.predictions": room(f"{CONTRACT} quantmill.calibration", libraries="numpy torch"),
    "quantmill.texts": room(CONTRACT),
    "quantmill.jobs": room(
        f"{OPENED} quantmill.checkpoints quantmill.files quantmill.hardware quantmill.texts quantmill.store "
        "quantmill.evaluation.report",
        libraries="pydantic rfc8785",
        lazily="jsonschema referencing",  # for methods that only workers have installed
    ),
    "quantmill.worker": room(
        f"{OPENED} quantmill.checkpoints quantmill.files quantmill.store quantmill.verification quantmill.evaluation "
        "quantmill.calibration quantmill.texts quantmill.hardware quantmill_kernels",
        libraries="blake3 numpy psutil pydantic safetensors structlog",
    ),
    "quantmill.dispatch": room(
        f"{OPENED} quantmill.hardware quantmill.store quantmill.worker", libraries="celery structlog"
    ),
    "quantmill.api": room(
        f"{OPENED} quantmill.jobs quantmill.evaluation.page",
        libraries="fastapi starlette pydantic prometheus_client structlog",
        lazily="quantmill.hardware",  # types only
    ),
    "quantmill.client": room(f"{VALUES} quantmill.api.schemas", libraries="httpx pydantic"),
    # the composition root: it may reach everything, but a command loads only what it needs
    "quantmill.cli": room(
        VALUES,
        libraries="typer pydantic structlog",
        lazily=f"{OPENED} quantmill.client quantmill.jobs quantmill.store quantmill.dispatch quantmill.worker "
        "quantmill.api quantmill.checkpoints quantmill.verification quantmill.evaluation quantmill.files "
        "quantmill.hardware quantmill.texts quantmill.calibration quantmill_kernels rich uvicorn",
    ),
    "migrations": room("quantmill.store quantmill.settings", libraries="sqlalchemy alembic"),
}
# modules that import heavy libraries at their top; others import these inside functions only
HEAVY_MODULES = (
    "quantmill.calibration.accumulate",
    "quantmill.calibration.activations",
    "quantmill.calibration.block",
    "quantmill.calibration.decoder",
    "quantmill.calibration.engine",
    "quantmill.calibration.forward",
    "quantmill.calibration.origins",
    "quantmill.calibration.resident",
    "quantmill.calibration.routing",
    "quantmill.calibration.taps",
    "quantmill.evaluation.greedy",
    "quantmill.evaluation.predictions",
    "quantmill.evaluation.scorer",
    "quantmill_gptq.columns",
)
# a file that is not bound by its room's row has one of its own
OWN_ROW = {"quantmill.contract.hessians", "quantmill.contract.testing", "quantmill.evaluation.timed", *HEAVY_MODULES}

OUR_PACKAGES = {
    "quantmill",
    "quantmill_bnb",
    "quantmill_fp8",
    "quantmill_gguf",
    "quantmill_gptq",
    "quantmill_hqq",
    "quantmill_kernels",
    "quantmill_onnx",
    "quantmill_repack",
}
COMES_WITH = {
    "starlette": "fastapi is made of it",
    "referencing": "jsonschema takes its registries",
    "tokenizers": "transformers is made of it",
    "onnx_ir": "onnxscript is made of it",
}
# extras that no environment of ours holds: their import names by the distribution's
NOT_INSTALLED = {"lm_eval": "lm-eval", "llama_cpp": "llama-cpp-python"}
NEEDS_NO_EXTRA = [
    row
    for row in MAY_IMPORT
    if row
    not in {
        "quantmill_gptq",  # worker, for the factor alone
        "quantmill_onnx",  # onnx, for verification alone
        "quantmill.contract.hessians",  # worker, for the factor
        "quantmill.contract.testing",  # dev
        "quantmill.worker",  # worker
        "quantmill.calibration",  # worker
        "quantmill.evaluation",  # worker
        "quantmill.evaluation.timed",  # runtimes
        *HEAVY_MODULES,  # worker
        "quantmill.dispatch",  # worker, redis
    }
]
HEAVY = ("torch", "transformers", "onnxruntime")


def row_of(source: Source) -> str:
    return source.module if source.module in OWN_ROW else source.room


def is_allowed(item: Import) -> bool:
    row = row_of(item.source)
    if row not in MAY_IMPORT:
        return False
    may = MAY_IMPORT[row]
    allowed = may.ours | may.libraries | {item.source.room} | (may.lazily if item.lazy else frozenset())
    return any(item.module == name or item.module.startswith(f"{name}.") for name in allowed)


def test_an_import_is_seen_wherever_it_stands(
    parse: Callable[[str], Source], imports_of: Callable[[Source], list[Import]]
) -> None:
    source = parse(
        "import torch.nn as nn\n"
        "from . import pages\n"
        "from ..store.jobs import transition\n"
        "if TYPE_CHECKING:\n    import celery\n"
        "class A:\n    async def f(self):\n        import quantmill.store\n"
    )

    seen = [(item.module, item.lazy, is_allowed(item)) for item in imports_of(source)]

    assert seen == [
        ("torch.nn", False, False),
        ("quantmill.api.pages", False, True),
        ("quantmill.store.jobs.transition", False, False),
        ("celery", True, False),
        ("quantmill.store", True, False),
    ]


def test_every_room_stands_in_the_table(sources: list[Source]) -> None:
    assert {source.room for source in sources} - {"quantmill"} <= set(MAY_IMPORT)


@pytest.mark.parametrize("row", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(imports: list[Import], row: str) -> None:
    assert [str(item) for item in imports if row_of(item.source) == row and not is_allowed(item)] == []


def test_only_the_store_and_its_migrations_know_sql(imports: list[Import]) -> None:
    users = {item.source.room for item in imports if item.library in {"sqlalchemy", "alembic", "psycopg"}}

    assert users <= {"quantmill.store", "migrations"}


def test_heavy_libraries_wait_until_a_function_needs_them(imports: list[Import]) -> None:
    at_start = [item for item in imports if not item.lazy and item.source.module not in HEAVY_MODULES]

    assert [str(item) for item in at_start if item.module.startswith((*HEAVY, *HEAVY_MODULES))] == []


def test_nothing_names_a_plugin_but_the_plugin_itself(imports: list[Import]) -> None:
    foreign = [
        item for item in imports if item.module.startswith("quantmill_gguf") and item.source.room != "quantmill_gguf"
    ]

    assert [str(item) for item in foreign] == []


def test_every_library_is_a_dependency_that_we_declare(imports: list[Import], project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"].values()
    declared = {library for listed in [project["dependencies"], *extras] for library in _libraries(listed)}
    imported = {item.library for item in imports} - OUR_PACKAGES

    assert imported - declared - set(COMES_WITH) == set()


@pytest.mark.parametrize("row", NEEDS_NO_EXTRA)
def test_what_the_api_and_the_clients_import_is_installed_without_extras(
    imports: list[Import], project: dict[str, Any], row: str
) -> None:
    installed = _libraries(project["dependencies"]) | OUR_PACKAGES | set(COMES_WITH)

    assert [str(item) for item in imports if row_of(item.source) == row and item.library not in installed] == []


@pytest.mark.parametrize("entrance", ["quantmill.api.app", "quantmill.cli", "quantmill.dispatch.celery_app"])
def test_processes_that_run_no_method_start_without_heavy_libraries(entrance: str) -> None:
    program = (
        f"import sys, {entrance}\n"
        "from quantmill.plugins import load_plugins\n"
        "assert not load_plugins().failures, load_plugins().failures\n"
        f"print(sorted(set(sys.modules) & set({HEAVY})))"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (loaded.stdout.strip(), loaded.returncode) == ("[]", 0), loaded.stderr


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def _libraries(requirements: list[str]) -> set[str]:
    """The import names that these requirements install."""
    wanted = {_normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}
    installed = packages_distributions().items()
    named = {name for name, distributions in installed if wanted & {_normal(item) for item in distributions}}
    return named | {name for name, distribution in NOT_INSTALLED.items() if distribution in wanted}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
