"""What token batches follow from: two runs with one digest see the same tokens in the same order."""

from __future__ import annotations

import hashlib
import json


def batches_digest(
    text: str, tokenizer: str, *, sequence: int, stride: int | None = None, packing: str, seed: int, template: str = ""
) -> str:
    """sha256 over the digests of documents (in their order) and tokenizer, and over how they become batches.

    `sequence` and `stride` are tokens, `packing` how documents are joined, `template` the digest of a chat template.
    """
    whole = {
        "text": text,
        "tokenizer": tokenizer,
        "sequence": sequence,
        "stride": stride,
        "packing": packing,
        "seed": seed,
        "template": template,
    }
    return f"sha256:{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()}"
