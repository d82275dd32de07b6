"""The device's bearer token (RFC 6750), or its password at a broker: from a file or the environment, in no message.

The file is read again for each connection, so a token can be replaced without a restart.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from bottlenet.secret import BEARER, Secret

VARIABLE = "BOTTLENET_TOKEN"


def find_token(path: str | None, kind: Secret = BEARER) -> Callable[[], str] | None:
    """What gives the token: the file `path`, else the environment variable BOTTLENET_TOKEN, else None.

    InputError: no such file, or no token in it.
    """
    if path is not None:
        kind.read(path)  # a wrong path shows now, not at the first photo
        return lambda: kind.read(path)
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    return lambda: kind.check(value, f"the environment variable {VARIABLE}")
