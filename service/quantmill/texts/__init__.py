"""Texts that models are calibrated and measured on: read with care, named by their content, compared for overlap."""

from quantmill.texts.description import Registration, TextSet, describe, describe_samples, registered
from quantmill.texts.fingerprint import batches_digest
from quantmill.texts.overlap import Overlap, overlap
from quantmill.texts.reading import Conversation, read_documents, read_samples, words_of

__all__ = [
    "Conversation",
    "Overlap",
    "Registration",
    "TextSet",
    "batches_digest",
    "describe",
    "describe_samples",
    "overlap",
    "read_documents",
    "read_samples",
    "registered",
    "words_of",
]
