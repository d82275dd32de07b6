"""What was measured, per candidate: `Profile`, read from and written to JSON; and what a sweep knows better.

    Profile                 of one bundle, on one device and one server
      `-- Candidate, ...    edge-only, cloud-only with some codec of the input, or split at a cut
            |-- Exit        which photos the device answers by itself, and what those take
            |-- Energy      the device's, of one photo: measured, modelled or given, and by what
            `-- Detail      where the time goes, by threads, batch and load; and memory

A figure that was modelled never looks like one that was measured: `Energy.how` says which, and goes along into every
table. The radio is not in a profile: it belongs to the link.

A profile is measured on the device, often on few photos, which is enough for times. A sweep measures bytes and accuracy
on many photos: `with_trained` puts its figures in place of the profile's.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from bottlenet.errors import InputError
from bottlenet.records import Count, Number, Positive, Sha256, Share, Text, one_of, parse, record, shown

FORMAT_VERSION: Literal[2] = 2
SWEEP_VERSION = 1
DROP_OF = ("top1", "agreement")
MAX_PROFILE_BYTES = MAX_TRAINED_BYTES = 2**24
KINDS = ("edge-only", "cloud-only", "split")

Seconds = Annotated[Number, Field(ge=0, le=1e6)]
Points = Annotated[Number, Field(ge=-100, le=100)]


@record
class Spread:
    """Time of one step, over photos."""

    median_s: Seconds
    p95_s: Seconds  # 95 of 100 photos take at most this

    def __post_init__(self) -> None:
        if self.p95_s < self.median_s:
            raise InputError(f"p95_s is {self.p95_s:g}, below median_s, {self.median_s:g}; give times of one step")


@record
class Row:
    """Time of one step at one number of threads, photos in a batch, or photos ahead."""

    count: Count
    median_s: Seconds
    p95_s: Seconds

    def __post_init__(self) -> None:
        Spread(self.median_s, self.p95_s)


Rows = Annotated[tuple[Row, ...], Field(max_length=64)]


@record
class Detail:
    """Where a candidate's time goes by a clock, not processor time; what its kind does not do is None, or empty."""

    prepare: Spread  # photo to pixels
    compute: Rows  # head, or the whole network; by threads
    encode: Spread | None  # symbols to payload, or pixels to a picture file
    decode: Spread | None  # back again
    tail: Rows  # the whole batch; by its size
    server: Rows  # all of it, until ours is answered; by K, the photos ahead of ours
    peak_rss_bytes: Count  # of a device's process that does nothing else


@record
class Energy:
    """What the device's computing takes: its power while it computes, or the energy of one photo, and who says so."""

    how: Annotated[str, one_of("measured", "modelled", "given")]  # with a meter, from something else, by the user
    meter: Text  # what gave it: "RAPL package-0", "--device-power-mw"
    power_mw: Positive | None = None  # while it computes
    energy_mj: Positive | None = None  # of one photo

    def __post_init__(self) -> None:
        if (self.power_mw is None) == (self.energy_mj is None):
            raise InputError("energy has both power_mw and energy_mj, or none; give one of them")

    def of(self, device_s: float) -> float:
        if self.energy_mj is not None:
            return self.energy_mj
        assert self.power_mw is not None
        return self.power_mw * device_s


@record
class Exit:
    """Which photos a device answers by itself. Its candidate's bytes, `device_s` and `server_s` are of the others."""

    sure: Share  # the confidence from which on it does
    sent_share: Share  # of the photos: it does not
    device_s: Seconds  # of a photo that it answers: median


@record
class Candidate:
    """One partition. InputError: a value of the wrong type, out of range, or not of this kind."""

    name: Text  # what people call it: "split at blocks.8", "cloud-only, JPEG 75"
    kind: Annotated[str, one_of(*KINDS)]
    cut: Text | None  # where, for a split, or for an exit alone
    device_s: Seconds  # prepare, head, encode: median
    server_s: Seconds  # decode, tail: median, with nothing else to do; 0 for edge-only
    payload_bytes_mean: Positive  # 0 for edge-only
    payload_bytes_max: Count
    top1_drop: Points  # below the uncut network, on the same photos
    # "top1": of labelled photos; "agreement": share of photos with another answer than the uncut network's
    drop_of: Annotated[str, one_of(*DROP_OF)]
    energy: Energy | None = None  # None: not known
    payload_bytes_p95: Count | None = None  # 95 of 100 photos need at most this; None: not known
    detail: Detail | None = None  # None: not measured
    exit: Exit | None = None  # of a split, or alone; None: there is none, or nobody measured it
    # It gives up accuracy for speed, and others of its kind more of it: without a bound the worst would be chosen
    needs_bound: bool = False

    def __post_init__(self) -> None:
        candidate = f"candidate {self.name}: "
        alone = self.kind == "edge-only" and self.exit is not None
        if (self.kind == "split" or alone) != (self.cut is not None):
            raise InputError(f"{candidate}cut is {shown(self.cut)}; give a split its cut, and no other kind any")
        if self.exit is not None and (self.kind == "cloud-only" or alone > (self.exit.sent_share == 0)):
            raise InputError(
                f"{candidate}its exit is of no use; give one to splits, or alone, and then nothing is sent"
            )
        if self.payload_bytes_max < self.payload_bytes_mean:
            given = f"{self.payload_bytes_max} with a mean of {self.payload_bytes_mean}"
            raise InputError(f"{candidate}payload_bytes_max is {given}; give one that is not below the mean")
        if self.kind == "edge-only" and (self.payload_bytes_max or self.server_s):
            raise InputError(f"{candidate}edge-only sends nothing; give 0 for its bytes and its server_s")
        if self.payload_bytes_p95 is not None and self.payload_bytes_p95 > self.payload_bytes_max:
            raise InputError(f"{candidate}payload_bytes_p95 is above payload_bytes_max, {self.payload_bytes_max}")

    @property
    def sent_share(self) -> float:
        """The share of photos that are sent, 0..1."""
        if self.exit is not None:
            return self.exit.sent_share
        return 0.0 if self.kind == "edge-only" else 1.0

    @property
    def mean_device_s(self) -> float:
        """What the device takes for a photo, whether it is sent or not."""
        if self.exit is None:
            return self.device_s
        return self.exit.sent_share * self.device_s + (1 - self.exit.sent_share) * self.exit.device_s

    @property
    def device_mj(self) -> float | None:
        """Energy of the device's computing for a photo, sent or not, without the radio; None: not known."""
        return None if self.energy is None else self.energy.of(self.mean_device_s)


@record
class Profile:
    """All candidates of one bundle. InputError: a value of the wrong type or out of range, or two of one name."""

    bundle_id: Sha256
    model: Text  # the network that is cut
    device: Text  # the machine that device_s is of
    server: Text  # the machine that server_s is of
    photos: Count  # that were measured
    labelled: Count  # of them
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1, max_length=20_000)]
    max_drop: Points | None = None  # within it JPEG, WebP and AVIF of the input are as small as can be
    device_load: Positive | None = None  # K_mobile while measuring: what wants to run, for each core; None: not known
    server_load: Positive | None = None  # K_cloud, the same of the server
    format_version: Literal[2] = FORMAT_VERSION
    budget_bytes: Count | None = None  # of a split's frames, if one was given: none is larger

    def __post_init__(self) -> None:
        (name, count), *_ = Counter(each.name for each in self.candidates).most_common(1)
        if count > 1:
            raise InputError(f"two candidates are named {shown(name)}; give each a name of its own")

    def to_json(self) -> bytes:
        """Write UTF-8 JSON, indented; `parse_profile` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def check_bundle(self, bundle_id: str) -> None:
        """Raise InputError unless this is a profile of that bundle."""
        if bundle_id != self.bundle_id:
            what = f"the profile is of bundle {self.bundle_id[:12]}, not of {bundle_id[:12]}"
            raise InputError(f"{what}; measure that bundle with bottlenet profile")


def parse_profile(data: bytes) -> Profile:
    """Read a profile. InputError: too large, not JSON, another version, a field missing, unknown or out of range."""
    marks, advice = ("format_version", "candidates"), "measure again with bottlenet profile"
    return parse(Profile, data, "profile", version=FORMAT_VERSION, advice=advice, marks=marks)


def merged(profiles: Sequence[Profile]) -> Profile:
    """Join profiles of one network: the first, and the splits and exits of the others.

    InputError: none, two of one cut, or with different budgets.
    """
    if not profiles:
        raise InputError("no profile is given; measure one with bottlenet profile")
    if len({each.budget_bytes for each in profiles}) > 1:
        raise InputError("the profiles were measured with different budgets; measure all of them with one")
    others = [each for other in profiles[1:] for each in other.candidates if each.cut is not None]
    return dataclasses.replace(profiles[0], candidates=(*profiles[0].candidates, *others))


@record
class Kept:
    """One candidate of a sweep, as far as the sweep knows it; the figures are those of `Candidate`."""

    name: Text
    cut: Text
    bundle_id: Sha256
    payload_bytes_mean: Positive
    payload_bytes_p95: Count
    payload_bytes_max: Count
    top1_drop: Points
    drop_of: Annotated[str, one_of(*DROP_OF)]

    def __post_init__(self) -> None:
        self.applied_to(Candidate(self.name, "split", self.cut, 0.0, 0.0, 0.0, 0, 0.0, "top1"))

    def applied_to(self, candidate: Candidate) -> Candidate:
        """Put these figures in place of a candidate's. InputError: they don't go together."""
        figures = dataclasses.asdict(self)
        for name in ("name", "cut", "bundle_id"):
            del figures[name]
        return dataclasses.replace(candidate, **figures)


@record
class Trained:
    """A sweep's candidates.json, as far as a profile needs it."""

    ladder_id: Sha256 | None  # None: the sweep kept nothing
    candidates: Annotated[tuple[Kept, ...], Field(max_length=1000)]


def parse_trained(data: bytes) -> Trained:
    """Read candidates.json. InputError: too large, not JSON, of something else, or a value out of range."""
    marks = ("format_version", "ladder_id", "candidates")
    return parse(Trained, data, "sweep", version=SWEEP_VERSION, advice="run the sweep again", marks=marks, only=True)


def with_trained(profile: Profile, trained: Trained) -> Profile:
    """Put the sweep's figures in place of the profile's. InputError: the profile is of no bundle of the sweep."""
    ids = {trained.ladder_id: trained.candidates} | {each.bundle_id: (each,) for each in trained.candidates}
    if profile.bundle_id not in ids:
        what = f"the profile is of {profile.bundle_id[:12]}, which is neither the sweep's ladder nor a rung of it"
        raise InputError(f"{what}; measure that ladder with bottlenet profile")
    kept = {each.name: each for each in ids[profile.bundle_id]}
    new = (kept[each.name].applied_to(each) if each.name in kept else each for each in profile.candidates)
    return dataclasses.replace(profile, candidates=tuple(new))
