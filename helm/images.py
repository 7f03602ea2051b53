"""The images that the chart can ask a node to pull.

python -m helm.images            writes helm/quantmill/images.txt and the annotation in Chart.yaml
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).parent / "quantmill"
LIST = CHART / "images.txt"
ANNOTATION = "artifacthub.io/images"
# everything that brings an image of its own
EVERYTHING: dict[str, Any] = {"postgresql": {"enabled": True}, "redis": {"enabled": True}}


def images(values: dict[str, Any], chart: Path = CHART) -> set[str]:
    """Every image that the manifests of `values` name, hooks and tests included."""
    with helm.Chart.load(chart) as loaded:
        manifests = [text for path, text in loaded.render(values).items() if not path.endswith(".txt")]
    return {image for text in manifests for item in yaml.safe_load_all(text) for image in _named(item)}


def _named(node: Any) -> Iterator[str]:
    """The image of each container, wherever in a manifest pods stand."""
    if isinstance(node, list):
        for item in node:
            yield from _named(item)
    elif isinstance(node, dict):
        for name, item in node.items():
            if name in ("containers", "initContainers"):
                yield from (container["image"] for container in item or [])
            yield from _named(item)


def generated() -> dict[Path, str]:
    """Each file as it should be, by its path."""
    listed = sorted(images(EVERYTHING))
    entries = [{"name": image.rpartition("/")[2].partition(":")[0], "image": image} for image in listed]
    annotation = "".join(f"    - {json.dumps(entry)}\n" for entry in entries)
    metadata = CHART / "Chart.yaml"
    written = re.sub(
        rf"(?m)^  {re.escape(ANNOTATION)}: \|\n(    .*\n)*", f"  {ANNOTATION}: |\n{annotation}", metadata.read_text()
    )
    return {LIST: "".join(f"{image}\n" for image in listed), metadata: written}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
