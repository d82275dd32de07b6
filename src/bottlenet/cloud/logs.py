"""Log lines on standard error: text for people, or one JSON object each for machines.

Lines hold what happened to whom, never a token, a query or a payload. The libraries underneath would write those at
their most talkative, so they stay at warnings whatever level is set.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

OURS = "bottlenet"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LEVELS = ("debug", "info", "warning", "error")


class TextLines(logging.Formatter):
    """Lines for people. A name that a client or a folder brings can't break one, nor command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Escape control characters in the message."""
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Escape control characters in each line of a traceback."""
        return "\n".join(map(escaped, super().formatException(ei).split("\n")))


class JsonLines(logging.Formatter):
    """Lines of time, level, logger, message, the fields of `extra={"fields": {...}}`, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            document = {**fields, **document}
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def escaped(text: str) -> str:
    """Show what does not print, such as line breaks and ESC, as Python does."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Log to standard error: our lines from `level` on, those of all others from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines(TEXT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
