"""Who may use the server: bearer tokens (RFC 6750) from a file.

    # one token a line; blank lines and these are left out
    kitchen-camera-9sK2mQ...

Each request names one in the header Authorization; a stream from a browser, which can't set it, in its subprotocols.

The file is read again when it changes, so tokens come and go without a restart. A changed file that can't be used
leaves the tokens as they were, and the log says so; an empty one lets nobody in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
from pathlib import Path
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import Scope

from bottlenet.errors import InputError
from bottlenet.files import read_at_most
from bottlenet.wire.protocol import SUBPROTOCOL, TOKEN, TOKEN_CHARACTERS, TOKEN_SUBPROTOCOL

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**20
MAX_TOKENS = 10_000
LOOK_EVERY_S = 1.0
ALLOWED = f"one a line, {TOKEN_CHARACTERS}"


class Tokens:
    """The tokens of a file. `generation` counts its changes. InputError: no such file, or not one token in it."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._generation = 0
        self._looked = monotonic()
        self._seen = self._stamp()
        self._digests = self._read()
        if not self._digests:
            raise InputError(f"{self._path} has no token in it; write {ALLOWED}")

    @property
    def generation(self) -> int:
        """Grows when other tokens are in the file; looks at the file at most once a second."""
        if monotonic() - self._looked >= LOOK_EVERY_S:
            self._look()
        return self._generation

    def allows(self, authorization: bytes) -> bool:
        """Whether this value of the header Authorization names a token of the file.

        Takes the same time whichever it is, and however much of it is right: digests are compared, all of them.
        """
        self.generation  # noqa: B018  # looks at the file
        scheme, _, token = authorization.strip().partition(b" ")
        given = digest(token.strip())
        known = False
        for one in self._digests:
            known |= hmac.compare_digest(one, given)
        return known and scheme.lower() == b"bearer"

    def _look(self) -> None:
        self._looked = monotonic()
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            digests = self._read()
        except InputError as error:
            log.error("tokens stay as they were: %s", error)
            return
        if digests != self._digests:
            self._digests = digests
            self._generation += 1
            log.info("%d tokens read", len(digests))

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise InputError(f"can't read the tokens in {self._path}: {error.strerror}; give a text file") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[bytes, ...]:
        """The digest of each token. InputError: what can't be tokens; the message never holds any of it."""
        try:
            with open(self._path, "rb") as file:
                data = read_at_most(file, MAX_FILE_BYTES + 1)
            lines = [line.strip() for line in data.decode("ascii").splitlines()]
        except OSError as error:
            raise InputError(f"can't read the tokens in {self._path}: {error.strerror}; give a text file") from error
        except UnicodeDecodeError:
            raise InputError(f"{self._path} is no list of tokens; write {ALLOWED}") from None
        tokens = {line: number for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
        for token, number in tokens.items():
            if TOKEN.fullmatch(token) is None:
                raise InputError(f"line {number} of {self._path} is no token; write {ALLOWED}")
        if len(data) > MAX_FILE_BYTES or len(tokens) > MAX_TOKENS:
            raise InputError(f"{self._path} is too large; {MAX_TOKENS} tokens and {MAX_FILE_BYTES} bytes are allowed")
        return tuple(digest(token.encode()) for token in tokens)


def digest(token: bytes) -> bytes:
    """SHA-256: of the same length whatever the token's, which comparing would tell."""
    return hashlib.sha256(token).digest()


def credentials(scope: Scope) -> bytes:
    """What the header Authorization says, or would say if a browser could set it."""
    told = Headers(scope=scope).get("authorization", "").encode("latin-1")
    if told or scope["type"] != "websocket":
        return told
    for name in scope.get("subprotocols", ()):
        if name.startswith(TOKEN_SUBPROTOCOL):
            encoded = name.removeprefix(TOKEN_SUBPROTOCOL)
            try:
                return b"Bearer " + base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            except (binascii.Error, ValueError):
                return b""
    return b""


def subprotocol_of(scope: Scope) -> str | None:
    """What to answer to a stream's list of subprotocols: ours, if it is there. Never the one with the token."""
    return SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
