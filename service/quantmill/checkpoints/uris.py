"""Where a source or a text may be read from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from quantmill.contract.errors import PolicyRefused, SourceRejected
from quantmill.contract.strictjson import shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def resolve(uri: str, roots: Sequence[Path]) -> Path:
    """The real path that `uri` names: a path or a file: URI, below one of `roots` after following links.

    A relative path is looked up in each root in turn. Raises PolicyRefused for another scheme and for a path
    outside all roots, whether or not something exists there; SourceRejected for one that is malformed or missing.
    """
    path = _path(uri)
    real_roots = [Path(os.path.realpath(root)) for root in roots]
    candidates = [Path(os.path.realpath(root / path)) for root in real_roots]  # root / absolute path is that path
    allowed = [found for found in candidates if any(found.is_relative_to(root) for root in real_roots)]
    if not allowed:
        raise PolicyRefused(
            f"{shown(uri)} is not below a folder that sources may be read from (QUANTMILL_SOURCE_ROOTS).", uri=uri
        )
    for found in allowed:
        if os.path.exists(found):  # noqa: PTH110  Path.exists raises for a name that is too long
            return found
    raise SourceRejected(f"There is nothing at {shown(uri)}.", uri=uri)


def _path(uri: str) -> Path:
    text = _file_uri(uri) if _SCHEME.match(uri) else uri
    if not text or "\0" in text or "\\" in text or any("\ud800" <= mark <= "\udfff" for mark in text):
        raise SourceRejected(f"{shown(uri)} is not the path of a file or folder.", uri=uri)
    return Path(text)


def _file_uri(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SourceRejected(f"{shown(uri)} is not a URI.", uri=uri) from error
    if parts.scheme != "file":
        raise PolicyRefused(f"{shown(uri)}: only paths and file: URIs can be read, not {parts.scheme}:.", uri=uri)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise SourceRejected(f"{shown(uri)} does not name a file of this machine (file:///path).", uri=uri)
    try:
        return unquote_to_bytes(parts.path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceRejected(f"{shown(uri)} is not a URI.", uri=uri) from error
