"""`store.jobs.transition` alone writes a job's state: there the epoch is checked and the event written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.architecture.conftest import Source

THE_ONE = ("service/quantmill/store/jobs.py", "transition")
WRITTEN_AS_TEXT = re.compile(r"\bupdate\s+job\b|\bset\s+state\b|insert\s+into\s+job\b", re.IGNORECASE)
WRITING_METHODS = {"values", "ordered_values", "on_conflict_do_update"}


def test_only_one_function_changes_a_jobs_state(sources: list[Source]) -> None:
    writers = {
        (source.shown, function)
        for source in sources
        if source.room != "migrations"  # they make the column; a later one may have to rewrite it
        for function in writers_of_state(source.tree)
    }

    assert writers == {THE_ONE}


@pytest.mark.parametrize(
    "code",
    [
        "update(job).values(state=State.FAILED)",
        "insert(job).values({'state': 'failed'})",
        "update(job).values({job.c.state: 'failed'})",
        "update(job).values(**{'state': 'failed'})",
        "update(tables.job).ordered_values((tables.job.c.state, 'failed'))",
        "tx.execute(update(job), [{'state': 'failed'}])",
        "tx.exec_driver_sql('UPDATE job SET epoch = 1')",
    ],
)
def test_each_way_to_write_the_state_is_noticed(code: str) -> None:
    assert list(writers_of_state(ast.parse(f"def cheat(tx):\n    {code}"))) == ["cheat"]


@pytest.mark.parametrize(
    "code", ["select(job.c.state)", "where(job.c.state.in_(HELD))", "Job(state=row.state)", "facts = {'state': 'x'}"]
)
def test_reading_the_state_is_free(code: str) -> None:
    assert list(writers_of_state(ast.parse(f"def read(tx):\n    {code}"))) == []


def writers_of_state(tree: ast.Module) -> Iterator[str]:
    """Names of the outermost functions (or <module>) in which a statement writes a column `state`."""
    for top in tree.body:
        name = getattr(top, "name", "<module>")
        if any(_writes_state(node) for node in ast.walk(top)):
            yield name


def _writes_state(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return WRITTEN_AS_TEXT.search(text) is not None
        case ast.Call(func=ast.Attribute(attr=method)) if method in WRITING_METHODS:
            return any(_names_state(part) for argument in [*node.args, *node.keywords] for part in ast.walk(argument))
        case ast.Call(func=ast.Attribute(attr="execute"), args=[_, parameters, *_]):
            return any(_names_state(part) for part in ast.walk(parameters))
    return False


def _names_state(part: ast.AST) -> bool:
    match part:
        case ast.keyword(arg="state") | ast.Constant(value="state") | ast.Attribute(attr="state"):
            return True
    return False
