from __future__ import annotations

from pathlib import Path

import pytest

from quantmill.checkpoints.uris import resolve
from quantmill.contract.errors import PolicyRefused, SourceRejected


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "my model").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "way out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "alias").symlink_to("my model")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "uri",
    [
        "{root}/my model",
        "my model",
        "./my model/",
        "alias",
        "alias/../my model",
        "file://{root}/my%20model",
        "file://localhost{root}/my%20model",
        "file:{root}/my%20model",
        "FILE://{root}/my%20model",
    ],
)
def test_a_path_below_a_root_is_found(root: Path, uri: str) -> None:
    assert resolve(uri.format(root=root), [root]) == root / "my model"


def test_a_relative_path_is_looked_up_in_each_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "second" / "other").mkdir(parents=True)

    assert resolve("other", [root, tmp_path / "second"]) == tmp_path / "second" / "other"


def test_a_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    assert resolve(str(tmp_path / "link" / "my model"), [tmp_path / "link"]) == root / "my model"


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "/nowhere/at/all",
        "../outside",
        "way out",
        "way out/x",
        "my model/../../outside",
        "file:///etc/passwd",
        "file:///etc/%70asswd",
        "file://{root}/..%2foutside",
        "{root}-sibling",
        "https://huggingface.co/org/name",
        "hf://org/name",
        "s3://bucket/key",
        "data:text/plain,x",
    ],
)
def test_what_lies_outside_the_roots_is_forbidden_whether_or_not_it_exists(root: Path, uri: str) -> None:
    with pytest.raises(PolicyRefused):
        resolve(uri.format(root=root), [root])


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "nothing",
        "x" * 5000,
        "\ud800",
        "my model\0",
        "my\\model",
        "file://host/model",
        "file:model",
        "file:",
        "file:///model?x=1",
        "file:///model#x",
        "file:///%ff",
        "file:///%00",
        "file://[model",
    ],
)
def test_what_is_missing_or_malformed_is_refused(root: Path, uri: str) -> None:
    with pytest.raises(SourceRejected):
        resolve(uri, [root])


def test_nothing_may_be_read_without_roots(root: Path) -> None:
    with pytest.raises(PolicyRefused):
        resolve(str(root), [])
