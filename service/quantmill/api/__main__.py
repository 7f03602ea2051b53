"""Prints the OpenAPI document: python -m quantmill.api > service/openapi.json"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from quantmill.api.app import create_app
from quantmill.services import Services
from quantmill.settings import Settings

with TemporaryDirectory() as folder, closing(Services.open(Settings(data_dir=Path(folder)))) as services:
    json.dump(create_app(services).openapi(), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")
