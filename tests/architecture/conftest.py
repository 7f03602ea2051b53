"""The source as the architecture tests see it: files by room, and what each imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "quantmill": ROOT / "service" / "quantmill",
    "quantmill_bnb": ROOT / "plugins" / "quantmill_bnb",
    "quantmill_fp8": ROOT / "plugins" / "quantmill_fp8",
    "quantmill_gguf": ROOT / "plugins" / "quantmill_gguf",
    "quantmill_gptq": ROOT / "plugins" / "quantmill_gptq",
    "quantmill_hqq": ROOT / "plugins" / "quantmill_hqq",
    "quantmill_onnx": ROOT / "plugins" / "quantmill_onnx",
    "quantmill_repack": ROOT / "plugins" / "quantmill_repack",
    "quantmill_kernels": ROOT / "kernels" / "quantmill_kernels",
    "migrations": ROOT / "migrations",
}


@dataclass(frozen=True)
class Source:
    """One file of ours. `room` is its package, or for quantmill the module or package right below it."""

    path: Path
    module: str
    room: str
    tree: ast.Module

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    """`lazy`: inside a function, or for type checkers only."""

    source: Source
    line: int
    module: str
    lazy: bool

    @property
    def library(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        when = " inside a function" if self.lazy else ""
        return f"{self.source.shown}:{self.line} imports {self.module}{when}"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    return [_source(package, path) for package, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Source]:
    """A text as if it stood in the room `quantmill.api`, to see that a check can fail."""
    path = PACKAGES["quantmill"] / "api" / "planted.py"
    return lambda text: Source(path, "quantmill.api.planted", "quantmill.api", ast.parse(text))


@pytest.fixture(scope="session")
def imports_of() -> Callable[[Source], list[Import]]:
    return lambda source: list(_imports(source, source.tree, lazy=False))


@pytest.fixture(scope="session")
def imports(sources: list[Source]) -> list[Import]:
    """Every import of something that is not Python's own."""
    found = [item for source in sources for item in _imports(source, source.tree, lazy=False)]
    return [item for item in found if item.library not in sys.stdlib_module_names]


def _source(package: str, path: Path) -> Source:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    module = ".".join([package, *(part for part in parts if part != "__init__")])
    room = ".".join(module.split(".")[:2]) if package == "quantmill" else package
    return Source(path, module, room, ast.parse(path.read_text(), str(path)))


def _imports(source: Source, node: ast.AST, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = (
            lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(child)
        )
        match child:
            case ast.Import():
                for alias in child.names:
                    yield Import(source, child.lineno, alias.name, lazy)
            case ast.ImportFrom(module=module, level=level, names=names):
                base = _absolute(source, module, level)
                for alias in names:
                    yield Import(source, child.lineno, f"{base}.{alias.name}", lazy)
        yield from _imports(source, child, inside)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in {
        part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)
    }


def _absolute(source: Source, module: str | None, level: int) -> str:
    if level == 0:
        return module or ""
    package = source.module if source.path.stem == "__init__" else source.module.rpartition(".")[0]
    for _ in range(level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{module}" if module else package
