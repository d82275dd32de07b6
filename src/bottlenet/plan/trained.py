"""What a sweep knows of its candidates, put in the place of what a profile measured.

    candidates.json --parse_trained--> Trained -.
    profile -----------------------------------with_trained--> profile with the sweep's bytes and accuracy

A profile is measured on the device, often on few photos, which is enough for times. A sweep measures bytes and accuracy
on many. A profile of another ladder is refused: its times would be those of other graphs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bottlenet.check import check_fields, parse_versioned, shown
from bottlenet.errors import InputError
from bottlenet.plan.profile import SHA256_HEX, Candidate, Profile

FORMAT_VERSION = 1
MAX_TRAINED_BYTES = 2**24
MAX_CANDIDATES = 1000
FIGURES = ("payload_bytes_mean", "payload_bytes_p95", "payload_bytes_max", "top1_drop", "drop_of")
AGAIN = "give candidates.json of a sweep"


@dataclass(frozen=True)
class Kept:
    """One candidate of a sweep, as far as it knows it; `Candidate` says what the figures are, and checks them."""

    name: str
    cut: str
    bundle_id: str  # 64 hex digits
    payload_bytes_mean: float
    payload_bytes_p95: int
    payload_bytes_max: int
    top1_drop: float
    drop_of: str

    def __post_init__(self) -> None:
        bundle_id: object = self.bundle_id
        if not isinstance(bundle_id, str) or not SHA256_HEX.fullmatch(bundle_id):
            raise InputError(f"bundle_id is {shown(bundle_id)}; give 64 lower-case hex digits")
        self.applied_to(Candidate(self.name, "split", self.cut, 0.0, 0.0, 0.0, 0, 0.0, "top1"))

    def applied_to(self, candidate: Candidate) -> Candidate:
        """That candidate with these figures. InputError: a figure out of range."""
        return dataclasses.replace(candidate, **{name: getattr(self, name) for name in FIGURES})


@dataclass(frozen=True)
class Trained:
    """A sweep's candidates."""

    ladder_id: str | None  # 64 hex digits; None: the sweep kept nothing
    kept: tuple[Kept, ...]


def parse_trained(data: bytes) -> Trained:
    """candidates.json -> Trained. InputError: too large, not JSON, of something else, or a value out of range."""
    if len(data) > MAX_TRAINED_BYTES:
        raise InputError(f"it is larger than the {MAX_TRAINED_BYTES} bytes that are allowed; {AGAIN}")
    marks = ("format_version", "ladder_id", "candidates")
    values = parse_versioned(data, "sweep", FORMAT_VERSION, "run the sweep again", marks=marks)
    rows: Any = values.get("candidates")
    if not isinstance(rows, list) or len(rows) > MAX_CANDIDATES:
        raise InputError(f"its candidates are {shown(rows)}; {AGAIN}")
    for row in rows:
        check_fields("candidate", row, Kept, AGAIN)
    ladder_id: Any = values["ladder_id"]
    return Trained(ladder_id, tuple(Kept(**row) for row in rows))


def with_trained(profile: Profile, trained: Trained) -> Profile:
    """The profile with the sweep's figures for its splits. InputError: it is not of the sweep's ladder, or a rung."""
    ids = {trained.ladder_id: trained.kept} | {each.bundle_id: (each,) for each in trained.kept}
    if profile.bundle_id not in ids:
        raise InputError(
            f"the profile is of {profile.bundle_id[:12]}, which is neither the sweep's ladder nor a rung of it; "
            "measure that ladder with bottlenet profile"
        )
    by_name = {each.name: each for each in ids[profile.bundle_id]}
    candidates = tuple(
        by_name[each.name].applied_to(each) if each.name in by_name else each for each in profile.candidates
    )
    return dataclasses.replace(profile, candidates=candidates)
