"""Arguments of another kind than is wanted: one line that says what was given, and what to give."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from bottlenet import cli
from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge
from bottlenet.errors import BottleNetError, BundleError, InputError
from bottlenet.net.build import insert
from bottlenet.net.cut import cuts, split
from bottlenet.net.export import export
from bottlenet.photos.folders import list_photos, list_samples
from bottlenet.plan.planner import choose
from bottlenet.train.config import TrainConfig, read_config
from small import SIZE, classifier, save_photos
from test_planner import edge, of


def refused(call: Callable[[], object], kind: type[BottleNetError] = InputError) -> str:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("given", [None, nn.Sequential(nn.Conv2d(3, 4, 1)), classifier, 3])
def test_a_network_that_does_not_say_what_its_photos_are(given: Any) -> None:
    assert "; give a name that bottlenet cuts takes, or a Classifier" in refused(lambda: insert(given, cut="first"))


@pytest.mark.parametrize("given", [None, "efficientnet_lite0", classifier()])
def test_what_is_no_module(given: Any) -> None:
    for call in (lambda: cuts(given), lambda: split(given, "first")):
        assert "; give a torch.nn.Module, such as Classifier.module" in refused(call)


@pytest.mark.parametrize("given", [None, 3, {"path": "demo"}.items(), [None], object()])
def test_what_is_no_bundle(given: Any) -> None:
    assert "; give a Bundle, a Ladder, or the path of one" in refused(lambda: Edge(given, "ws://127.0.0.1:1"))


def test_a_token_that_is_no_text(bundle: Bundle) -> None:
    said = refused(lambda: Edge(bundle, "ws://127.0.0.1:1", token=b"0123456789abcdef"))  # type: ignore[arg-type]
    assert said == "the token is given as bytes; give text, or a function that returns it"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout_s": "10"}, "timeout_s is '10'; give seconds"),
        ({"timeout_s": None}, "timeout_s is None; give seconds"),
        ({"budget_bytes": "340"}, "budget_bytes is '340'; give an integer"),
        ({"budget_bytes": 340.5}, "budget_bytes is 340.5; give an integer"),
        ({"sure": "0.5"}, "sure is '0.5'; give a confidence from 0 to 1"),
    ],
)
def test_numbers_of_a_device_that_are_text(bundle: Bundle, options: dict[str, Any], says: str) -> None:
    assert says in refused(lambda: Edge(bundle, "ws://127.0.0.1:1", **options))


def test_numbers_may_be_of_numpy(bundle: Bundle) -> None:
    numbers: Any = {"timeout_s": np.float32(3), "budget_bytes": np.int64(340)}
    Edge(bundle, "ws://127.0.0.1:1", **numbers).close()


def test_a_server_takes_paths_as_a_device_does(bundle: Bundle) -> None:
    given: list[Any] = [str(bundle.path)]
    assert len(create_app(given).state.service.bundles) == 1
    given = [3]
    assert "; give a Bundle, a Ladder, or the path of one" in refused(lambda: create_app(given))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cut": 4}, "the cut is given as int; give its name, as `bottlenet cuts MODEL` lists it"),
        ({"cut": "first", "channels": "4"}, "channels is '4'; give an integer"),
        ({"cut": "first", "channels": 2.5}, "channels is 2.5; give an integer"),
        ({"cut": "first", "stride": "2"}, "stride is '2'; give an integer"),
    ],
)
def test_a_unit(arguments: dict[str, Any], says: str) -> None:
    assert says in refused(lambda: insert(classifier(), **arguments))


def test_a_seed_that_no_library_takes() -> None:
    assert f"seed is {10**22}; give 0 to" in refused(lambda: TrainConfig("m", ("d",), "o", "c", seed=10**22))


@pytest.mark.parametrize(
    ("content", "says"),
    [('{"model": "m"}', "it has no data"), ("[]", "it has no data"), ("[" * 100_000, "recursion")],
)
def test_a_run_that_is_none(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert says in refused(lambda: read_config(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"link": None}, "link is None; give a Link, or text"),
        ({"link": 3}, "link is 3; give a Link"),
        ({"max_drop": "2"}, "max_drop is '2'; give a number"),
        ({"deadline_s": "1"}, "deadline_s is '1'; give a number"),
        ({"server_load": "2"}, "server load is '2'; give the number of photos"),
        ({"budget_bytes": b"1"}, "budget_bytes is b'1'; give a number"),
    ],
)
def test_a_plan(arguments: dict[str, Any], says: str) -> None:
    profile = of(edge(0.1))
    assert says in refused(lambda: choose(profile, **{"link": "3g", **arguments}))


@pytest.mark.parametrize(
    "pixels",
    [
        None,
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((2, SIZE, SIZE, 3)),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
        np.zeros((2, SIZE // 2, SIZE // 2, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.uint8(3) * np.ones((), np.uint8),
    ],
)
def test_the_photos_of_an_export(pixels: Any, tmp_path: Path) -> None:
    net = insert(classifier(), cut="first", channels=6)
    said = refused(lambda: export(net, tmp_path / "x.bundle", pixels=pixels))
    assert said.startswith("pixels ")
    assert f"(photos, {SIZE}, {SIZE}, 3)" in said


def test_a_file_where_a_folder_is_wanted(tmp_path: Path) -> None:
    """Not "no such folder", which has people look for a wrong name."""
    (tmp_path / "file").write_text("x")
    assert "file: it is no folder; give a folder of photos" in refused(lambda: list_photos(tmp_path / "file"))
    assert "file: it is no folder; give the folder" in refused(lambda: Bundle.load(tmp_path / "file"), BundleError)
    config = TrainConfig("m", (str(tmp_path / "file"),), str(tmp_path / "run"), "c")
    assert "file: it is no folder; give a folder of photos" in refused(config.check_folders)
    assert "no such folder" in refused(lambda: list_photos(tmp_path / "gone"))


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_photos(tmp_path, 2)
    for call in (list_photos, list_samples):
        assert "the name of the folder is empty; give a folder of photos" in refused(partial(call, ""))
        assert len(call(".")) == 2
    config = TrainConfig("m", ("",), "o", "c")
    assert "the name of the folder is empty" in refused(config.check_folders)


def test_a_run_to_start_from_shows_before_torch_comes(tmp_path: Path) -> None:
    config = TrainConfig("m", (str(tmp_path),), str(tmp_path / "out"), "c", start="gone")
    assert refused(config.check_folders) == "start is gone, which is no folder; give that of a run"


def test_what_is_in_the_way_of_a_run_shows_before_torch_comes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for name in ("file", "full"):
        config = TrainConfig("m", (str(tmp_path / "photos"),), str(tmp_path / name), "c")
        assert f"{name} is there already and holds no run; give a new folder" in refused(config.check_folders)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "gone", "-o", "new.bundle"], "gone: no run.json in it"),
        (["export", "run", "-o", "file"], "file: something is there that is no bundle"),
        (
            ["train", "--model", "m", "--cut", "c", "--data", "photos", "--out", "file"],
            "file is there already and holds",
        ),
    ],
)
def test_wrong_paths_show_before_torch_comes(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"model": "m", "data": ["photos"], "out": "run", "cut": "c"}')
    monkeypatch.setitem(sys.modules, "bottlenet.train.runs", None)  # importing it would bring torch
    monkeypatch.setattr(sys, "argv", ["bottlenet", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
