"""A ladder where a bundle goes: `ladder`, `show`, `serve`, `evaluate`, `profile`, `plan`, `bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottlenet import Edge
from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.errors import FrameError
from bottlenet.measure.profile import profile
from bottlenet.plan.profile import parse_profile
from conftest import until
from processes import serving
from test_cli import Run, run
from test_ladder import bundles, written
from test_plan_command import photos
from test_profile import no_footprint

__all__ = ["bundles", "no_footprint", "photos", "run", "written"]  # fixtures


class TestLadder:
    def test_bundles_go_into_one_folder(self, run: Run, bundles: list[Bundle], tmp_path: Path) -> None:
        done = run("ladder", *(one.path for one in bundles), "-o", tmp_path / "new", "--name", "three", "--json")
        assert done.code == 0
        loaded = Ladder.load(tmp_path / "new")
        assert (done.json["id"], done.json["name"]) == (loaded.id.hex(), "three")
        assert [rung["id"] for rung in done.json["rungs"]] == [one.id.hex() for one in bundles]
        assert done.json["bytes"] < sum(rung["bytes"] for rung in done.json["rungs"]) / 5

    def test_a_ladder_may_be_one_of_them(
        self, run: Run, written: Ladder, bundles: list[Bundle], tmp_path: Path
    ) -> None:
        done = run("ladder", written.path, bundles[0].path, "-o", tmp_path / "new")
        assert "both cut at layer.1" in done.error
        assert run("ladder", written.path, "-o", tmp_path / "new").code == 0
        assert Ladder.load(tmp_path / "new").id == written.id

    def test_what_can_not_be_one(self, run: Run, bundles: list[Bundle], bundle: Bundle, tmp_path: Path) -> None:
        assert "of one network" in run("ladder", bundles[0].path, bundle.path, "-o", tmp_path / "new").error
        assert "no such folder" in run("ladder", tmp_path / "gone", "-o", tmp_path / "new").error
        (tmp_path / "file").write_text("mine")
        assert "that is no ladder" in run("ladder", bundles[0].path, "-o", tmp_path / "file").error


class TestShow:
    def test_a_bundle(self, run: Run, bundle: Bundle) -> None:
        done = run("show", bundle.path)
        assert done.code == 0
        for word in (bundle.id.hex(), "patches", "4x8x8", "jpeg, setting 90", "50%", f"{bundle.size:,}", "command"):
            assert word in done.out
        assert run("show", bundle.path, "--json").json["id"] == bundle.id.hex()

    def test_a_bundle_with_an_exit(self, run: Run, exit_bundle: Bundle) -> None:
        assert "answers from a confidence of 0.50 on; 40% of the FLOPs" in run("show", exit_bundle.path).out

    def test_a_ladder(self, run: Run, written: Ladder) -> None:
        done = run("show", written.path)
        assert done.code == 0
        for word in ("layer.1", "layer.3", "entropy", "25.0%", written.rungs[0].id.hex()[:12], f"{written.size:,}"):
            assert word in done.out
        assert run("show", written.path, "--json").json["model"] == "deep"

    def test_neither(self, run: Run, tmp_path: Path) -> None:
        assert "no manifest.json" in run("show", tmp_path).error


def test_a_ladder_is_served(written: Ladder, bundles: list[Bundle], photo_path: Path) -> None:
    with serving(written.path) as server:
        for bundle in bundles:
            with Edge(bundle, server.url) as edge:
                assert edge.classify(photo_path).label in bundle.labels


def test_a_ladder_is_a_folder_to_watch(written: Ladder, bundles: list[Bundle], photo_path: Path) -> None:
    with serving("--watch", written.path) as server:

        def answered() -> bool:
            try:
                with Edge(bundles[1], server.url) as edge:
                    return edge.classify(photo_path).label in bundles[1].labels
            except FrameError:
                return False  # not served yet

        until(answered, "no rung is served")


def test_a_rung_is_evaluated_and_a_ladder_says_what_to_give(run: Run, written: Ladder, photos: Path) -> None:
    done = run("evaluate", written.path / "layer.2", "--data", photos, "--json")
    assert done.json["agreement"] is not None
    error = run("evaluate", written.path, "--data", photos).error
    assert "it is a ladder" in error
    assert "layer.1, layer.2, layer.3" in error


def test_a_ladder_has_one_profile(
    run: Run, written: Ladder, bundle: Bundle, photos: Path, tmp_path: Path, no_footprint: None
) -> None:
    file = tmp_path / "profile.json"
    done = run("profile", written.path, "--data", photos, "-o", file)
    assert done.code == 0
    made = parse_profile(file.read_bytes())
    assert made.bundle_id == written.id.hex()
    names = [each.name for each in made.candidates]
    assert names[0] == "edge-only"
    assert [name for name in names if name.startswith("split")] == [f"split at layer.{cut}" for cut in (1, 2, 3)]
    splits = {each.cut: each for each in made.candidates if each.kind == "split"}
    assert splits["layer.1"].payload_bytes_mean != splits["layer.3"].payload_bytes_mean
    assert run("plan", file, "--link", "3g", "--bundle", written.path).code == 0
    assert "the profile is of bundle" in run("plan", file, "--link", "3g", "--bundle", bundle.path).error


def test_a_rungs_figures_in_the_profile_are_the_bundles(
    written: Ladder, bundles: list[Bundle], photos: Path, no_footprint: None
) -> None:
    together, alone = profile(written, photos), profile(bundles[2], photos)
    mine, its = together.candidates[-1], alone.candidates[-1]
    assert (mine.name, mine.payload_bytes_mean, mine.top1_drop) == (its.name, its.payload_bytes_mean, its.top1_drop)


def test_a_ladder_is_measured_end_to_end(run: Run, written: Ladder, photos: Path) -> None:
    done = run("bench", written.path, "--data", photos, "--link", "wifi", "--limit", "2", "--seconds", "1", "--json")
    partitions = {row["partition"] for row in done.json["rows"]}
    assert {"edge-only", "split at layer.1", "split at layer.2", "split at layer.3"} <= partitions


@pytest.mark.parametrize("command", ["ladder", "show"])
def test_each_has_an_example_and_json(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert f"bottlenet {command} " in done.out
    assert "--json" in done.out
