"""Habits that hold in every file of service/, plugins/, migrations/ and the Python of kernels/."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from quantmill.contract import errors, hookspecs

if TYPE_CHECKING:
    from tests.architecture.conftest import Source

LONGEST_FUNCTION_LINES = 80

MAY_READ_THE_ENVIRONMENT = {
    "service/quantmill/settings.py": "Settings is what everybody else gets",
    "service/quantmill/worker/child.py": "chooses what a runner inherits",
}
MAY_IMPORT_BY_NAME = {
    "service/quantmill/contract/method.py": "lazy() loads the heavy parts that a plugin named",
}
# each runs code that came in as data, or hands a text to a shell
DANGEROUS_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
DANGEROUS_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load", "numpy.load",
    "np.load", "runpy.run_path", "runpy.run_module",
}  # fmt: skip


def nodes(sources: list[Source]) -> Iterator[tuple[Source, ast.AST]]:
    return ((source, node) for source in sources for node in ast.walk(source.tree))


def at(source: Source, node: ast.AST) -> str:
    return f"{source.shown}:{getattr(node, 'lineno', 0)}"


def dangerous_calls(sources: list[Source]) -> list[str]:
    return [
        f"{at(source, node)} calls {ast.unparse(node.func)}"
        for source, node in nodes(sources)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DANGEROUS_CALLS
    ]


def readers_of_the_environment(sources: list[Source]) -> set[str]:
    return {
        source.shown
        for source, node in nodes(sources)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"})
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and {"environ", "getenv"} & _names(node))
    }


def test_nothing_that_came_in_as_data_is_run(sources: list[Source]) -> None:
    assert dangerous_calls(sources) == []


@pytest.mark.parametrize("call", sorted(DANGEROUS_CALLS))
def test_a_call_that_runs_data_is_seen(parse: Callable[[str], Source], call: str) -> None:
    assert dangerous_calls([parse(f"def f(text):\n    return [{call}(text)]")])


@pytest.mark.parametrize(
    "text", ["import os\nos.environ['A']", "from os import environ", "import os\nx = os.getenv('A')"]
)
def test_a_reader_of_the_environment_is_seen(parse: Callable[[str], Source], text: str) -> None:
    assert readers_of_the_environment([parse(text)])


def test_no_module_that_unpickles_is_imported(sources: list[Source]) -> None:
    imported = [
        f"{at(source, node)} imports {name}"
        for source, node in nodes(sources)
        for name in _imported(node)
        if name.split(".")[0] in DANGEROUS_MODULES
    ]

    assert imported == []


def test_no_text_is_handed_to_a_shell(sources: list[Source]) -> None:
    through_shell = [
        at(source, node)
        for source, node in nodes(sources)
        if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False"
    ]

    assert through_shell == []


def test_the_environment_is_read_where_settings_are_made(sources: list[Source]) -> None:
    assert readers_of_the_environment(sources) <= set(MAY_READ_THE_ENVIRONMENT)


def test_modules_are_imported_by_name_in_one_place(sources: list[Source]) -> None:
    by_name = {
        source.shown
        for source, node in nodes(sources)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
    }

    assert by_name <= set(MAY_IMPORT_BY_NAME)


def test_only_transition_moves_a_jobs_state(sources: list[Source]) -> None:
    writers = {
        f"{source.module}.{function.name}"
        for source, function in _functions(sources)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values"
        if "state" in {keyword.arg for keyword in node.keywords}
    }

    assert writers == {"quantmill.store.jobs.transition"}


def test_no_function_is_too_long_to_be_read_at_once(sources: list[Source]) -> None:
    long = [
        f"{at(source, function)} {function.name}: {lines} lines"
        for source, function in _functions(sources)
        if source.room != "migrations"  # a first migration is the list of all tables
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LONGEST_FUNCTION_LINES
    ]

    assert long == []


def test_plugins_point_at_parameters_as_a_request_has_them(sources: list[Source]) -> None:
    ours = ((source, node) for source, node in nodes(sources) if source.shown.startswith("plugins/"))
    values = (
        (source, value)
        for source, node in ours
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "pointer"
    )
    starts = ((source, each, each.values[0] if isinstance(each, ast.JoinedStr) else each) for source, each in values)
    astray = [
        at(source, each)
        for source, each, start in starts
        if isinstance(start, ast.Constant) and not str(start.value).startswith("/params/")
    ]
    assert astray == []


def test_no_module_is_a_drawer_for_what_has_no_place(sources: list[Source]) -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}

    assert [source.shown for source in sources if source.path.stem in drawers] == []


# What users and plugin authors read

HOOKS = [
    function for name, function in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("quantmill_")
]
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.QuantmillError)]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_a_hook_says_when_it_is_called(hook: object) -> None:
    assert "Called" in (inspect.getdoc(hook) or "")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_has_a_title_of_its_own_for_its_user(error: type[errors.QuantmillError]) -> None:
    title = (error.__dict__.get("__doc__") or "").strip().splitlines()

    assert title
    assert title[0].endswith(".")


def _functions(sources: list[Source]) -> Iterator[tuple[Source, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for source, node in nodes(sources):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield source, node


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def _names(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}
