"""What a sweep knows of its candidates, put in the place of what a profile measured.

    candidates.json --parse_trained--> Trained -.
    profile -----------------------------------with_trained--> profile with the sweep's bytes and accuracy

A profile is measured on the device, often on few photos, which is enough for times. A sweep measures bytes and accuracy
on many. A profile of another ladder is refused: its times would be those of other graphs.

Where the time of one candidate goes, and what it takes of memory: `Detail`, every value checked.

    device   prepare -> compute, by threads -> encode          peak memory of the process
    server   decode -> tail, by batch size; and by how many photos are ahead

By a clock, in seconds; the planner's figures are medians of processor time, see `profile.Candidate`. What a kind of
candidate does not do is null, or an empty list.

What was measured, per candidate: `Profile`, read from and written to JSON, every value checked.

    Profile                 of one bundle, on one device and one server
      `-- Candidate, ...    edge-only, cloud-only with some codec of the input, or split at a cut
            |-- Energy      the device's, of one photo: measured, modelled or given, and by what
            `-- Detail      where the time goes, by threads, batch and load; memory: see detail.py

A figure that was modelled never looks like one that was measured: `Energy.how` says which, and goes along into every
table. The radio is not in a profile: it belongs to the link.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bottlenet.errors import InputError
from bottlenet.records import check_choice, check_fields, check_number, check_text, parse_versioned, shown

MEASURE_AGAIN = "measure again with bottlenet profile"
LONGEST_S = 1e6
MOST = 1e12
MAX_ROWS = 64


@dataclass(frozen=True)
class Spread:
    """One step, over photos."""

    median_s: float
    p95_s: float  # 95 of 100 photos take at most this

    def __post_init__(self) -> None:
        check_number("median_s", self.median_s, 0, LONGEST_S)
        check_number("p95_s", self.p95_s, self.median_s, LONGEST_S)


@dataclass(frozen=True)
class Row:
    """One step at one number of threads, photos in a batch, or photos ahead."""

    count: int
    median_s: float
    p95_s: float

    def __post_init__(self) -> None:
        check_whole("count", self.count)
        Spread(self.median_s, self.p95_s)


@dataclass(frozen=True)
class Detail:
    """InputError: a value of the wrong type or out of range."""

    prepare: Spread  # photo to pixels
    compute: tuple[Row, ...]  # head, or the whole network; by threads
    encode: Spread | None  # symbols to payload, or pixels to a picture file
    decode: Spread | None  # back again
    tail: tuple[Row, ...]  # the whole batch; by its size
    server: tuple[Row, ...]  # all of it, until ours is answered; by K, the photos ahead of ours
    peak_rss_bytes: int  # of a device's process that does nothing else

    def __post_init__(self) -> None:
        check_whole("peak_rss_bytes", self.peak_rss_bytes)
        for name in ("compute", "tail", "server"):
            rows: object = getattr(self, name)  # the annotations promise what JSON may not have kept
            if not isinstance(rows, tuple) or len(rows) > MAX_ROWS or not all(isinstance(each, Row) for each in rows):
                raise InputError(f"{name} is {shown(rows)}; give at most {MAX_ROWS} rows")
        for name, optional in (("prepare", False), ("encode", True), ("decode", True)):
            value: object = getattr(self, name)
            if not isinstance(value, Spread) and not (optional and value is None):
                raise InputError(f"{name} is {shown(value)}; give median_s and p95_s{', or null' if optional else ''}")


def parse_detail(values: Any) -> Detail:
    """Of JSON. InputError: a field missing, unknown, of the wrong type or out of range."""
    check_fields("detail", values, Detail, MEASURE_AGAIN)
    made: dict[str, object] = dict(values)
    for name in ("compute", "tail", "server"):
        rows = values[name]
        if not isinstance(rows, list) or len(rows) > MAX_ROWS:
            raise InputError(f"{name} is {shown(rows)}; give a list of at most {MAX_ROWS} rows")
        for row in rows:
            check_fields(f"row of {name}", row, Row, MEASURE_AGAIN)
        made[name] = tuple(Row(**row) for row in rows)
    for name in ("prepare", "encode", "decode"):
        if values[name] is not None:
            check_fields(name, values[name], Spread, MEASURE_AGAIN)
            made[name] = Spread(**values[name])
    return dataclasses.replace(EMPTY, **made)  # type: ignore[arg-type]  # which checks them


def check_whole(what: str, value: object) -> None:
    """InputError unless `value` is a whole number, 0 or more."""
    check_number(what, value, 0, MOST)
    if not isinstance(value, int):
        raise InputError(f"{what} is {shown(value)}; give a whole number")


EMPTY = Detail(Spread(0.0, 0.0), (), None, None, (), (), 0)


FORMAT_VERSION = 2
MAX_PROFILE_BYTES = 2**24
MAX_CANDIDATES = 20_000
KINDS = ("edge-only", "cloud-only", "split")
ENERGY_HOW = ("measured", "modelled", "given")
DROP_OF = ("top1", "agreement")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Energy:
    """What the device's computing takes: its power while it computes, or the energy of one photo, and who says so."""

    how: str  # "measured" with a meter, "modelled" from something else, "given" by the user
    meter: str  # what gave it: "RAPL package-0", "--device-power-mw"
    power_mw: float | None = None  # while it computes
    energy_mj: float | None = None  # of one photo

    def __post_init__(self) -> None:
        check_choice("energy.how", self.how, ENERGY_HOW)
        check_text("energy.meter", self.meter)
        if (self.power_mw is None) == (self.energy_mj is None):
            raise InputError("energy has both power_mw and energy_mj, or none; give one of them")
        name = "power_mw" if self.energy_mj is None else "energy_mj"
        check_number(f"energy.{name}", getattr(self, name), 0, MOST)

    def of(self, device_s: float) -> float:
        """mJ of a photo on which the device computes for so long."""
        if self.energy_mj is not None:
            return self.energy_mj
        assert self.power_mw is not None
        return self.power_mw * device_s


@dataclass(frozen=True)
class Candidate:
    """One partition. InputError: a value of the wrong type, out of range, or not of this kind."""

    name: str  # what people call it: "split at blocks.8", "cloud-only, JPEG 75"
    kind: str  # "edge-only", "cloud-only" or "split"
    cut: str | None  # where, for a split
    device_s: float  # prepare, head, encode: median
    server_s: float  # decode, tail: median, with nothing else to do; 0 for edge-only
    payload_bytes_mean: float  # 0 for edge-only
    payload_bytes_max: int
    top1_drop: float  # points below the uncut network, on the same photos
    drop_of: str  # "top1": labelled photos; "agreement": share of photos with another answer than the uncut network's
    energy: Energy | None = None  # None: nobody knows
    payload_bytes_p95: int | None = None  # 95 of 100 photos need at most this; None: not known
    detail: Detail | None = None  # None: not measured

    def __post_init__(self) -> None:
        check_text("a candidate's name", self.name)
        what = f"candidate {self.name}: "
        check_choice(f"{what}kind", self.kind, KINDS)
        check_choice(f"{what}drop_of", self.drop_of, DROP_OF)
        if (self.kind == "split") != (self.cut is not None):
            raise InputError(f"{what}cut is {shown(self.cut)}; a split has one, {KINDS[0]} and {KINDS[1]} have null")
        if self.cut is not None:
            check_text(f"{what}cut", self.cut)
        check_number(f"{what}device_s", self.device_s, 0, LONGEST_S)
        check_number(f"{what}server_s", self.server_s, 0, LONGEST_S)
        check_number(f"{what}payload_bytes_mean", self.payload_bytes_mean, 0, MOST)
        check_number(f"{what}payload_bytes_max", self.payload_bytes_max, 0, MOST)
        check_number(f"{what}top1_drop", self.top1_drop, -100, 100)
        largest: object = self.payload_bytes_max  # the annotations promise what JSON may not have kept
        if not isinstance(largest, int) or largest < self.payload_bytes_mean:
            given = f"{shown(largest)} with a mean of {shown(self.payload_bytes_mean)}"
            raise InputError(f"{what}payload_bytes_max is {given}; give a whole number not below the mean")
        if self.kind == "edge-only" and (self.payload_bytes_max or self.server_s):
            raise InputError(f"{what}edge-only sends nothing; give 0 for its bytes and its server_s")
        self.check_optional(what)

    def check_optional(self, what: str) -> None:
        """InputError: neither null nor what it should be."""
        for name, kind in (("energy", Energy), ("detail", Detail)):
            value: object = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{what}{name} is {shown(value)}; give an object, or null")
        if self.payload_bytes_p95 is not None:
            check_whole(f"{what}payload_bytes_p95", self.payload_bytes_p95)
            if self.payload_bytes_p95 > self.payload_bytes_max:
                raise InputError(f"{what}payload_bytes_p95 is above payload_bytes_max, {self.payload_bytes_max}")

    @property
    def device_mj(self) -> float | None:
        """The device's computing, without the radio; None: not known."""
        return None if self.energy is None else self.energy.of(self.device_s)


@dataclass(frozen=True)
class Profile:
    """All candidates of one bundle. InputError: a value of the wrong type or out of range, or two of one name."""

    bundle_id: str  # SHA-256, 64 hex digits
    model: str  # the network that is cut
    device: str  # the machine that device_s is of
    server: str  # the machine that server_s is of
    photos: int  # that were measured
    labelled: int  # of them
    candidates: tuple[Candidate, ...]
    max_drop: float | None = None  # points; within it JPEG, WebP and AVIF of the input are as small as can be
    device_load: float | None = None  # K_mobile while measuring: what wants to run, for each core; None: not known
    server_load: float | None = None  # K_cloud, the same of the server
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        bundle_id: object = self.bundle_id
        if not isinstance(bundle_id, str) or not SHA256_HEX.fullmatch(bundle_id):
            raise InputError(f"bundle_id is {shown(bundle_id)}; give 64 lower-case hex digits")
        for name in ("model", "device", "server"):
            check_text(name, getattr(self, name))
        for name in ("photos", "labelled"):
            check_whole(name, getattr(self, name))
        for name, low, high in (("max_drop", -100, 100), ("device_load", 0, MOST), ("server_load", 0, MOST)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low, high)
        check_candidates(self.candidates)

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented; `parse_profile` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def check_bundle(self, bundle_id: str) -> None:
        """InputError unless this is a profile of that bundle."""
        if bundle_id != self.bundle_id:
            raise InputError(
                f"the profile is of bundle {self.bundle_id[:12]}, not of {bundle_id[:12]}; measure that bundle with "
                "bottlenet profile"
            )


def parse_profile(data: bytes) -> Profile:
    """JSON -> Profile. InputError: too large, not JSON, another version, a field missing, unknown or out of range."""
    if len(data) > MAX_PROFILE_BYTES:
        raise InputError(f"it is larger than the {MAX_PROFILE_BYTES} bytes that are allowed, so it is no profile")
    values: Any = parse_versioned(
        data, "profile", FORMAT_VERSION, MEASURE_AGAIN, marks=("format_version", "candidates")
    )
    check_fields("profile", values, Profile, MEASURE_AGAIN)
    rows = values["candidates"]
    if not isinstance(rows, list) or len(rows) > MAX_CANDIDATES:
        raise InputError(f"candidates is {shown(rows)}; give a list of at most {MAX_CANDIDATES}")
    return Profile(**{**values, "candidates": tuple(parse_candidate(row) for row in rows)})


def merged(profiles: Sequence[Profile]) -> Profile:
    """One of bundles of one network with different cuts: all of the first, and the splits of the others.

    InputError: none, or two of one cut.
    """
    if not profiles:
        raise InputError("no profile is given; measure one with bottlenet profile")
    splits = [each for other in profiles[1:] for each in other.candidates if each.kind == "split"]
    return dataclasses.replace(profiles[0], candidates=(*profiles[0].candidates, *splits))


def parse_candidate(values: Any) -> Candidate:
    """InputError: as `parse_profile`."""
    check_fields("candidate", values, Candidate, MEASURE_AGAIN)
    energy = values["energy"]
    if energy is not None:
        check_fields("energy", energy, Energy, MEASURE_AGAIN)
        energy = Energy(**energy)
    detail = None if values["detail"] is None else parse_detail(values["detail"])
    return Candidate(**{**values, "energy": energy, "detail": detail})


def check_candidates(candidates: object) -> None:
    """InputError unless these are candidates, one at least, each with a name of its own."""
    if not isinstance(candidates, tuple) or not all(isinstance(each, Candidate) for each in candidates):
        raise InputError(f"candidates is {shown(candidates)}; give a tuple of Candidate")
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise InputError(f"there are {len(candidates)} candidates; give 1 to {MAX_CANDIDATES}")
    seen: set[str] = set()
    for each in candidates:
        if each.name in seen:
            raise InputError(f"two candidates are named {shown(each.name)}; give each a name of its own")
        seen.add(each.name)


SWEEP_VERSION = 1
MAX_TRAINED_BYTES = 2**24
MAX_SWEPT = 1000
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
    values = parse_versioned(data, "sweep", SWEEP_VERSION, "run the sweep again", marks=marks)
    rows: Any = values.get("candidates")
    if not isinstance(rows, list) or len(rows) > MAX_SWEPT:
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
