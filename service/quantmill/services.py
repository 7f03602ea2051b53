"""What every process of an installation holds: settings, database, blobs and plugins, opened once and passed in."""

from __future__ import annotations

from dataclasses import dataclass

from quantmill.files.blobs import BlobStore
from quantmill.plugins import Plugins, load_plugins
from quantmill.settings import Settings
from quantmill.store.database import Database


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    blobs: BlobStore
    plugins: Plugins

    @classmethod
    def open(cls, settings: Settings) -> Services:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return cls(settings, Database.open(settings.database), BlobStore(settings.blobs_dir), load_plugins())

    def close(self) -> None:
        self.database.dispose()
