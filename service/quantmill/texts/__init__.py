"""Texts that models are calibrated and measured on: read with care, named by their content, compared for overlap."""

from quantmill.texts.description import Registration, TextSet, describe, registered
from quantmill.texts.fingerprint import batches_digest
from quantmill.texts.overlap import Overlap, overlap
from quantmill.texts.reading import read_documents

__all__ = [
    "Overlap",
    "Registration",
    "TextSet",
    "batches_digest",
    "describe",
    "overlap",
    "read_documents",
    "registered",
]
