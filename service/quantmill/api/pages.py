"""Keyset pages: opaque, signed tokens that remember the last row and the filter of the listing they belong to."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantmill.api.problems import PageTokenRejected

VERSION = 1
DEFAULT_SIZE = 50
LARGEST_SIZE = 200
_MAC_BYTES = 16


@dataclass(frozen=True)
class Cursors:
    """Makes and reads page tokens: base64url of a MAC and {v, after, filter}."""

    secret: bytes

    def encode(self, after: str, filters: Mapping[str, str | None]) -> str:
        body = json.dumps({"v": VERSION, "after": after, "filter": _digest(filters)}).encode()
        return urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def decode(self, token: str, filters: Mapping[str, str | None]) -> str:
        """The key of the last row that was shown. Raises PageTokenRejected."""
        try:
            raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except ValueError:
            raise PageTokenRejected("page_token is not one this service gave out; start without it") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise PageTokenRejected("page_token is not one this service gave out; start without it")
        content = json.loads(body)
        if content["v"] != VERSION or content["filter"] != _digest(filters):
            raise PageTokenRejected("page_token belongs to a listing with other filters; repeat those or start anew")
        return str(content["after"])

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self.secret, body, "sha256")[:_MAC_BYTES]


def _digest(filters: Mapping[str, str | None]) -> str:
    return hashlib.sha256(json.dumps(dict(filters), sort_keys=True).encode()).hexdigest()[:16]


def installation_secret(path: Path) -> bytes:
    """The secret in the file `path`, made on first use and readable by its owner only."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secrets.token_bytes(32))
        try:
            os.link(fresh, path)  # fails where another process was faster: then its secret counts
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()
