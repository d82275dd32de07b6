"""Profiles: JSON there and back, every value checked; and measuring one."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import paper
from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.lab.profile import INPUT_CODECS, profile
from bottlenet.plan.profile import MAX_PROFILE_BYTES, Candidate, Energy, Profile, parse_profile
from conftest import CLASSES

seconds = st.floats(0, 100)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@st.composite
def energies(draw: st.DrawFn) -> Energy:
    field = draw(st.sampled_from(["power_mw", "energy_mj"]))
    return Energy(
        draw(st.sampled_from(["measured", "modelled", "given"])), draw(names), **{field: draw(st.floats(0, 1e6))}
    )


@st.composite
def candidates(draw: st.DrawFn, name: str) -> Candidate:
    kind = draw(st.sampled_from(["edge-only", "cloud-only", "split"]))
    mean = 0.0 if kind == "edge-only" else draw(st.floats(0, 1e5))
    return Candidate(
        name,
        kind,
        draw(names) if kind == "split" else None,
        draw(seconds),
        0.0 if kind == "edge-only" else draw(seconds),
        mean,
        0 if kind == "edge-only" else math.ceil(mean) + draw(st.integers(0, 1000)),
        draw(st.floats(-100, 100)),
        draw(st.sampled_from(["top1", "agreement"])),
        draw(st.none() | energies()),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    made = tuple(draw(candidates(name)) for name in chosen)
    return Profile("ab" * 32, draw(names), draw(names), draw(names), draw(st.integers(0, 10**6)), 0, made)


@given(profiles())
def test_json_there_and_back(made: Profile) -> None:
    assert parse_profile(made.to_json()) == made


def test_energy_of_power_and_of_a_photo() -> None:
    assert Energy("measured", "RAPL", power_mw=5000).of(0.010) == 50
    assert Energy("measured", "RAPL", energy_mj=7).of(0.010) == 7


def changed(**values: object) -> bytes:
    document = json.loads(paper.profile().to_json())
    return json.dumps({**document, **values}).encode()


def changed_candidate(index: int = 2, **values: object) -> bytes:
    document = json.loads(paper.profile().to_json())
    document["candidates"][index].update(values)
    return json.dumps(document).encode()


def lacking(name: str) -> bytes:
    document = json.loads(paper.profile().to_json())
    del document["candidates"][0][name]
    return json.dumps(document).encode()


BAD: list[tuple[bytes, str]] = [
    (b"", "it is not JSON"),
    (b"\xff", "it is not JSON"),
    (b"[" * 100_000, "it is not JSON"),
    (b" " * (MAX_PROFILE_BYTES + 1), "larger than the 16777216 bytes"),
    (b"[]", "no profile of BottleNet"),
    (b'{"format_version": 1}', "no profile of BottleNet"),
    (changed(format_version=2), "format version 2 and this program reads version 1"),
    (changed(format_version=True), "format version True"),
    (changed(more=1), "unknown field 'more'"),
    (changed(bundle_id="x"), "bundle_id is 'x'; give 64 lower-case hex digits"),
    (changed(model=""), "model is ''"),
    (changed(device="a\nb"), "device is"),
    (changed(photos=-1), "photos is -1"),
    (changed(photos=1.5), "photos is 1.5; give a whole number"),
    (changed(candidates={}), "candidates is {}"),
    (changed(candidates=[]), "there are 0 candidates"),
    (changed(candidates=[1]), "its candidate is 1; it must be an object"),
    (lacking("device_s"), "its candidate lacks device_s"),
    (changed_candidate(extra=1), "its candidate has an unknown field 'extra'"),
    (changed_candidate(name="mobile-only"), "two candidates are named 'mobile-only'"),
    (changed_candidate(name="\ud800"), "a candidate's name is"),
    (changed_candidate(kind="cloud"), "kind is 'cloud'; choose one of edge-only, cloud-only, split"),
    (changed_candidate(kind=["split"]), "kind is ['split']"),
    (changed_candidate(cut=None), "cut is None; a split has one"),
    (changed_candidate(cut=3), "cut is 3"),
    (changed_candidate(0, cut="layer"), "cut is 'layer'"),
    (changed_candidate(device_s=-1), "device_s is -1; give a number from 0"),
    (changed_candidate(device_s=math.nan), "device_s is nan"),
    (changed_candidate(device_s=math.inf), "device_s is inf"),
    (changed_candidate(server_s="1"), "server_s is '1'"),
    (changed_candidate(payload_bytes_mean=True), "payload_bytes_mean is True"),
    (changed_candidate(payload_bytes_max=1), "payload_bytes_max is 1 with a mean of 316.0"),
    (changed_candidate(payload_bytes_max=400.5), "give a whole number"),
    (changed_candidate(top1_drop=101), "top1_drop is 101"),
    (changed_candidate(drop_of="luck"), "drop_of is 'luck'; choose one of top1, agreement"),
    (changed_candidate(0, payload_bytes_max=3), "edge-only sends nothing"),
    (changed_candidate(energy=3), "its energy is 3; it must be an object"),
    (changed_candidate(energy={}), "its energy lacks"),
    (
        changed_candidate(energy={"how": "guessed", "meter": "m", "power_mw": 1, "energy_mj": None}),
        "energy.how is 'guessed'; choose one of measured, modelled, given",
    ),
    (
        changed_candidate(energy={"how": "given", "meter": "m", "power_mw": 1, "energy_mj": 1}),
        "energy has both power_mw and energy_mj, or none",
    ),
    (
        changed_candidate(energy={"how": "given", "meter": "m", "power_mw": -1, "energy_mj": None}),
        "energy.power_mw is -1",
    ),
    (changed_candidate(energy={"how": "given", "meter": "", "power_mw": 1, "energy_mj": None}), "energy.meter is ''"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_is_no_profile(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_profile(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_python_could_give() -> None:
    with pytest.raises(InputError, match="energy is 3; give an object"):
        dataclasses.replace(paper.profile().candidates[0], energy=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a tuple of Candidate"):
        dataclasses.replace(paper.profile(), candidates=list(paper.profile().candidates))  # type: ignore[arg-type]


def test_of_another_bundle() -> None:
    made = paper.profile()
    made.check_bundle("0" * 64)
    with pytest.raises(InputError, match="the profile is of bundle 000000000000, not of 111111111111"):
        made.check_bundle("1" * 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photos, each in the folder of its class."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        (folder / str(number % CLASSES)).mkdir(exist_ok=True)
        small.resize((64, 48), Image.Resampling.BICUBIC).save(folder / str(number % CLASSES) / f"{number:02}.png")
    return folder


class TestMeasuring:
    def test_labelled(self, bundle: Bundle, photos: Path) -> None:
        steps: list[tuple[int, int]] = []
        made = profile(bundle, photos, on_progress=lambda done, total: steps.append((done, total)))
        assert steps == [(number, 12) for number in range(1, 13)]
        assert made.bundle_id == bundle.id.hex()
        assert (made.photos, made.labelled) == (12, 12)
        assert parse_profile(made.to_json()) == made
        edge, *clouds, split = made.candidates
        assert (edge.kind, edge.payload_bytes_max, edge.server_s, edge.top1_drop) == ("edge-only", 0, 0, 0)
        assert [cloud.name for cloud in clouds] == [f"cloud-only, {codec}" for codec in INPUT_CODECS]
        assert clouds[0].payload_bytes_mean < clouds[1].payload_bytes_mean  # JPEG 75, 95
        assert (split.kind, split.cut, split.name) == ("split", "patches", "split at patches")
        assert all(each.drop_of == "top1" and each.device_s > 0 and each.energy is None for each in made.candidates)
        assert all(each.server_s > 0 for each in made.candidates if each.kind != "edge-only")

    def test_bytes_are_those_that_are_sent(self, bundle: Bundle, photos: Path) -> None:
        from bottlenet.lab.evaluate import evaluate

        split = profile(bundle, photos).candidates[-1]
        evaluated = evaluate(bundle, photos)
        assert split.payload_bytes_mean == pytest.approx(evaluated.payload_bytes.mean)
        assert split.payload_bytes_max == evaluated.payload_bytes.max
        assert split.top1_drop == pytest.approx(evaluated.top1_drop)

    def test_unlabelled(self, bundle: Bundle, photos: Path) -> None:
        made = profile(bundle, photos / "0", limit=1)
        assert (made.photos, made.labelled) == (1, 0)
        assert {each.drop_of for each in made.candidates} == {"agreement"}
        assert all(0 <= each.top1_drop <= 100 for each in made.candidates)

    def test_a_given_power_is_named_so(self, bundle: Bundle, photos: Path) -> None:
        made = profile(bundle, photos, limit=2, device_power_mw=4000)
        assert {each.energy for each in made.candidates} == {Energy("given", "--device-power-mw", power_mw=4000)}

    @pytest.mark.parametrize("power", [0, -1, math.nan])
    def test_no_power(self, bundle: Bundle, photos: Path, power: float) -> None:
        with pytest.raises(InputError, match="device power is"):
            profile(bundle, photos, device_power_mw=power)

    def test_damaged_photos(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "one.jpg").write_bytes(b"nothing")
        with pytest.raises(InputError, match="damaged"):
            profile(bundle, tmp_path)

    def test_without_the_uncut_network(
        self, make_bundle: Any, files: dict[str, bytes], photos: Path, tmp_path: Path
    ) -> None:
        from bottlenet.bundle import write_bundle
        from conftest import tiny_manifest

        bare = write_bundle(tmp_path / "bare", tiny_manifest(), {k: v for k, v in files.items() if k != "uncut.onnx"})
        with pytest.raises(InputError, match=r"has no uncut\.onnx"):
            profile(bare, photos)
