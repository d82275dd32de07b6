"""What became of a photo that was to be sent: answered, or failed and why. The spool keeps both as JSON.

Photo (name and content) -> Answered | Failed <-> JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from bottlenet.edge.prediction import LOCAL, SERVER, Choice
from bottlenet.edge.seen import Object, Seen
from bottlenet.errors import InputError
from bottlenet.wire.frame import STREAM_HEADER_BYTES

MAX_NAME_BYTES = 4096
KEY_DIGITS = 32

REFUSED = "refused"  # the server can't take it; its frame is kept
DROPPED = "dropped"  # to make room for others
DAMAGED = "damaged"  # its frame was, in the spool
UNUSABLE = "unusable"  # no photo, or its frame does not fit the budget; nothing is kept
FULL = "full"  # the spool is; nothing is kept, offer it again

EDGES = {"left": float, "top": float, "right": float, "bottom": float}
OBJECT = {"label": str, "class_index": int, "score": float, **EDGES}


@dataclass(frozen=True)
class Photo:
    """A photo is its name and its content: the same file is sent once, and a new picture of the same name is another.

    InputError: a name that is empty, or too long.
    """

    name: str
    sha256: str  # of the file, 64 hex digits

    def __post_init__(self) -> None:
        if not 0 < len(os.fsencode(self.name)) <= MAX_NAME_BYTES:
            raise InputError(f"a photo's name has {len(self.name)} characters; give 1 to {MAX_NAME_BYTES} bytes")

    @cached_property
    def key(self) -> str:
        """32 hex digits that stand for both."""
        return hashlib.sha256(self.sha256.encode() + b"\0" + os.fsencode(self.name)).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True)
class Answered:
    """A photo and what it shows."""

    photo: str
    by: str  # SERVER or LOCAL
    top: tuple[Choice, ...] = field(repr=False)  # as in `Prediction`; none where nothing is there
    payload_bytes: int
    frame_bytes: int  # as one message of a stream
    tries: int  # how often this process sent it
    unix_s: float  # when it was answered, by the device's clock
    again: bool = False  # whether it had been answered before; not kept
    objects: tuple[Object, ...] = field(default=(), repr=False)  # of a detection; edges are shares of the square

    @property
    def label(self) -> str:
        """Of the best class; empty where nothing is there."""
        return self.top[0].label if self.top else ""


@dataclass(frozen=True)
class Failed:
    """A photo that gets no answer."""

    photo: str
    why: str  # one of the names above
    reason: str  # for people, one line
    again: bool = False  # whether it had failed before; not kept


Outcome: TypeAlias = Answered | Failed


def answered_now(photo: str, by: str, found: Seen, *, frame_bytes: int, tries: int) -> Answered:
    """An answer that has just come; `frame_bytes` as one message of a stream."""
    payload_bytes = frame_bytes - STREAM_HEADER_BYTES
    return Answered(photo, by, found.top, payload_bytes, frame_bytes, tries, time.time(), objects=found.objects)


def outcome_bytes(outcome: Outcome) -> bytes:
    """One line of JSON."""
    document = asdict(outcome)
    del document["again"]
    if not document.get("objects"):
        document.pop("objects", None)
    return json.dumps(document).encode() + b"\n"


def parse_outcome(data: bytes) -> Outcome:
    """What `outcome_bytes` wrote. ValueError: anything else."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    try:
        if "why" in document:
            return Failed(**fields(document, {"photo": str, "why": str, "reason": str}))
        top = tuple(
            Choice(**fields(one, {"label": str, "class_index": int, "score": float})) for one in document["top"]
        )
        objects = tuple(Object(**fields(one, OBJECT)) for one in document.get("objects", ()))
        plain = {key: value for key, value in document.items() if key not in ("top", "objects")}
        numbers = {"payload_bytes": int, "frame_bytes": int, "tries": int, "unix_s": float}
        answered = Answered(top=top, objects=objects, **fields(plain, {"photo": str, "by": str, **numbers}))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the fields of an answer: {error}") from error
    if answered.by not in (SERVER, LOCAL):
        raise ValueError("no answer in it")
    return answered


def fields(document: object, kinds: dict[str, type]) -> dict[str, Any]:
    """The document, if it has just these keys with values of these kinds. ValueError: it hasn't."""
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ValueError("other fields")
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise ValueError(f"{key} is no {kind.__name__}")
    return document
