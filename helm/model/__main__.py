"""Writes what follows from the model: `python -m helm.model`, or `make chart`."""

from __future__ import annotations

from helm.model.generate import generated

for path, text in generated().items():
    path.write_text(text)
