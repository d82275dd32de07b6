"""Tokens and passwords from files: one line, read again each time, and never in a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bottlenet.errors import InputError
from bottlenet.files import read_bounded
from bottlenet.wire.frame import TOKEN, TOKEN_CHARACTERS

MAX_FILE_BYTES = 4096


@dataclass(frozen=True)
class Secret:
    """A kind of secret. InputError, from all methods: it is none."""

    what: str
    pattern: re.Pattern[str]
    characters: str  # that it may have, for messages

    def read(self, path: str | Path) -> str:
        """Read the one secret that is alone in a file. InputError: can't be read."""
        try:
            data = read_bounded(path, MAX_FILE_BYTES)
        except (OSError, InputError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: can't read the {self.what}: {why}; give a text file") from error
        return self.check(data.decode("latin-1").strip(), str(path))

    def check(self, value: str, where: str) -> str:
        """Pass a value that may be one."""
        if self.pattern.fullmatch(value) is None:
            raise InputError(f"{where} holds no {self.what}; one line of {self.characters} is one")
        return value


BEARER = Secret("token", TOKEN, TOKEN_CHARACTERS)
# Of a user at a broker: whatever its operator chose.
PASSWORD = Secret("password", re.compile(r"[!-~]([ -~]{0,510}[!-~])?"), "1 to 512 ASCII characters")
