"""Units without training: fitted to photos, measured on others, for one cut and for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import small
from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Limits
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import evaluate, evaluate_budgets
from bottlenet.net.cut import Cut, Layout, cuts
from bottlenet.photos.folders import list_photos
from bottlenet.train.quick import (
    Point,
    Rated,
    answers_of,
    best,
    bytes_for,
    curve,
    divide,
    fitted,
    pixels_of,
    promising,
    rate,
    usual_unit,
)
from test_cli import Run, run

__all__ = ["run"]  # a fixture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small.save_photos(tmp_path_factory.mktemp("quick") / "photos", 60))


def test_more_bytes_keep_more_answers(photos: str) -> None:
    classifier = small.telling()
    to_fit, to_measure = (pixels_of(each, classifier.preprocess) for each in divide(photos, 60))
    cut = next(each for each in cuts(classifier.module, classifier.input_size) if each.name == "first")
    net = fitted(classifier, cut, to_fit)
    points = curve(net, to_measure, answers_of(classifier, to_measure), budgets=(4, 20000))
    assert points[0].agreement < points[-1].agreement
    assert points[-1].agreement >= 0.9
    assert points[0].payload_bytes == 4


def test_photos_to_measure_on_are_not_fitted_to(photos: str) -> None:
    to_fit, to_measure = divide(photos, 40)
    assert len(to_fit) + len(to_measure) == 40
    assert not {each.path for each in to_fit} & {each.path for each in to_measure}
    with pytest.raises(InputError, match="give 20 or more"):
        divide(photos, 7)


@pytest.mark.parametrize(
    ("grid", "unit"),
    [((32, 112, 112), (256, 4)), ((112, 14, 14), (256, 2)), ((192, 7, 7), (192, 1)), ((12, 16, 16), (48, 2))],
)
def test_a_patch_is_as_large_as_its_components_can_be_found(grid: tuple[int, int, int], unit: tuple[int, int]) -> None:
    assert usual_unit(Layout("planes", grid)) == unit


def test_bytes_between_two_budgets() -> None:
    points = [Point(100, 0.5), Point(400, 0.7), Point(800, 0.65), Point(1600, 0.9)]
    assert bytes_for(points, 0.4) == 100
    assert bytes_for(points, 0.6) == pytest.approx(200)
    assert bytes_for(points, 0.8) == pytest.approx(800)
    assert bytes_for(points, 0.95) is None


def test_the_cut_that_is_taken_has_the_fewest_bytes_of_those_allowed() -> None:
    def rated(name: str, share: float, size: float | None) -> Rated:
        return Rated(Cut(name, (8, 4, 4), 128, 1, share, Layout("planes", (8, 4, 4))), size, size, ())

    found = [rated("a", 0.1, 900), rated("b", 0.4, 500), rated("c", 0.45, None), rated("d", 0.8, 100)]
    taken = [best(found, share) for share in (0.05, 0.2, 0.5, 1)]
    assert [each and each.cut.name for each in taken] == [None, "a", "b", "d"]


def test_a_cut_that_an_earlier_one_beats_is_not_promising() -> None:
    def cut(name: str, elements: int) -> Cut:
        return Cut(name, (elements, 1, 1), elements, 1, 0.5, None)

    listed = [cut("a", 9), cut("b", 8), cut("c", 12), cut("d", 8), cut("e", 3)]
    assert [each.name for each in promising(listed)] == ["a", "b", "d", "e"]


def test_every_cut_is_rated(photos: str) -> None:
    classifier, done = small.telling(), []
    listed = [each for each in cuts(classifier.module, classifier.input_size) if each.name in ("stem", "second")]
    found = rate(classifier, listed, photos, 60, done.append)
    assert [each.cut.name for each in found] == ["stem", "second"]
    assert done == [0, 1, 2]


class TestCommands:
    @pytest.fixture
    def bundle(self, run: Run, photos: str, tmp_path: Path) -> tuple[dict[str, object], Path]:
        path = tmp_path / "quick.bundle"
        done = run(
            *("quick", "small:telling", "--cut", "first", "--data", photos, "-o", str(path)),
            *("--budgets", "8,30", "--json"),
        )
        assert done.code == 0, done.err
        return json.loads(done.out), path

    def test_quick_makes_a_bundle_as_any_other(self, bundle: tuple[dict[str, object], Path], photos: str) -> None:
        document, path = bundle
        loaded = Bundle.load(path)
        assert document["id"] == loaded.id.hex()
        assert (loaded.manifest.codec, loaded.manifest.extra["steps"]) == ("entropy", 0)
        assert loaded.manifest.budget_bytes == Limits().max_payload_bytes  # a server takes all that a device sends
        curve = document["curve"]
        assert isinstance(curve, list)
        assert [each["budget_bytes"] for each in curve] == [8, 30, None]
        assert [each["payload_bytes"]["max"] for each in curve[:2]] == [8, 30]
        own = list_photos(photos)
        for budget, found in zip((8, None), (evaluate_budgets(loaded, own, [8])), strict=True):
            assert found == evaluate(loaded, photos, budget=budget)

    def test_quick_prints_a_table(self, run: Run, photos: str, tmp_path: Path) -> None:
        done = run(
            *("quick", "small:telling", "--cut", "first", "--data", photos, "-o", str(tmp_path / "b")),
            *("--evaluate", photos, "--channels", "4", "--stride", "1", "--budgets", "30"),
        )
        assert done.code == 0, done.err
        assert "60 photos" in done.out
        assert "payloads have at most 65,536 bytes" in done.out
        assert Bundle.load(tmp_path / "b").manifest.latent == (4, 16, 16)

    def test_what_is_refused(self, run: Run, photos: str, tmp_path: Path) -> None:
        given = ("--cut", "first", "--data", photos, "-o", str(tmp_path / "b"))
        for more, words in [
            (("small:telling", *given, "--budgets", "x"), "no whole number"),
            (("small:telling", *given, "--budgets", "0"), "give bytes"),
            (("small:telling", *given, "--cut", "nowhere"), "is no cut"),
        ]:
            done = run("quick", *more)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert words in done.err

    def test_cuts_says_how_many_bytes_and_which_it_would_take(self, run: Run, photos: str) -> None:
        done = run("cuts", "small:telling", "--data", photos, "--share", "1")
        assert done.code == 0, done.err
        assert "bytes for" in done.out
        assert "take " in done.out
        document = json.loads(run("cuts", "small:telling", "--data", photos, "--json").out)
        listed = {each["name"] for each in document["cuts"]}
        assert {each["cut"]["name"] for each in document["rated"]} <= listed
        assert "mean" not in listed  # where no unit can go
        assert "leave out --data" in run("cuts", "small:telling", "--paper", "--data", photos).err
