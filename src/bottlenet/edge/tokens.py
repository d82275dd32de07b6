"""The device's bearer token (RFC 6750): from a file or the environment, and never in a message.

The file is read again for each connection, so a token can be replaced without a restart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bottlenet.errors import InputError
from bottlenet.wire.protocol import TOKEN, TOKEN_CHARACTERS

VARIABLE = "BOTTLENET_TOKEN"
MAX_FILE_BYTES = 4096


def find_token(path: str | None) -> Callable[[], str] | None:
    """What gives the token: the file `path`, else the environment variable BOTTLENET_TOKEN, else None.

    InputError: no such file, or no token in it.
    """
    if path is not None:
        file = Path(path)
        read_token(file)  # a wrong path shows now, not at the first photo
        return lambda: read_token(file)
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    return lambda: check_token(value, f"the environment variable {VARIABLE}")


def read_token(path: Path) -> str:
    """The token that is alone in a file. InputError: can't be read, or is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: can't read the token: {error.strerror}; give a text file") from error
    return check_token(data.decode("latin-1").strip(), str(path))


def check_token(token: str, where: str) -> str:
    """InputError: not what a header may hold; the message doesn't hold it either."""
    if TOKEN.fullmatch(token) is None:
        raise InputError(f"{where} holds no token; one line of {TOKEN_CHARACTERS} is one")
    return token
