"""`cuts`, `train` and `export`: what needs torch, on a network that learns in a second."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import bottlenet
from bottlenet import cli
from bottlenet.bundle import Bundle
from bottlenet.cli.options import Json, field_comments, parameters_of, with_configs
from bottlenet.train.config import TrainConfig

NETWORK = """
from torch import nn

from bottlenet.bundle import Preprocess


def small():
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(16, 128, 3, 1, 1), nn.ReLU(), nn.Conv2d(128, 32, 3, 1, 1), nn.ReLU()]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    return body, Preprocess(32, 0.875, "bicubic"), mean, std, ["a", "b", "c", "d"]
"""


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # folders of photos
    out: str  # where it goes
    batch: int = 32  # photos a step, [not markup]
    lr: float = 1e-3
    naive: bool = False  # without the codec
    averaged: bool = True  # weights
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Small:
    data: tuple[str, ...]  # folders of photos
    batch: int = 32  # photos a step, [not markup]
    naive: bool = False  # without the codec
    averaged: bool = True  # weights


class TestOptions:
    def test_comments_are_help(self) -> None:
        comments = field_comments(Config)
        assert comments["batch"] == "photos a step, [not markup]"
        assert "lr" not in comments

    def test_what_has_no_default_is_required(self) -> None:
        required = [each.name for each in parameters_of(Config) if each.default is each.empty]
        assert required == ["data", "out"]

    @pytest.fixture
    def run_small(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[tuple[Small, bool]]]]:
        """Runs a command `small` with these options: its exit code, and what it was called with."""
        calls: list[tuple[Small, bool]] = []

        @with_configs(config=Small)
        def small(as_json: Json = False, *, config: Small) -> None:
            """Help."""
            calls.append((config, as_json))

        app = typer.Typer(rich_markup_mode="rich")
        app.callback()(lambda: None)
        app.command()(small)
        monkeypatch.setattr(cli, "app", app)

        def run(*arguments: str) -> tuple[int, list[tuple[Small, bool]]]:
            monkeypatch.setattr(sys, "argv", ["bottlenet", "small", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            return ended.value.code, calls

        return run

    def test_options_become_a_config(self, run_small: Callable) -> None:
        assert run_small("--data", "a") == (0, [(Small(("a",)), False)])
        code, calls = run_small("--data", "a", "--data", "b", "--batch", "3", "--naive", "--no-averaged", "--json")
        assert (code, calls[1]) == (0, (Small(("a", "b"), 3, True, False), True))

    def test_help(self, run_small: Callable, capsys: pytest.CaptureFixture[str]) -> None:
        run_small("--help")
        out = capsys.readouterr().out
        assert "[not markup]" in out
        assert "bottlenet small" in out

    @pytest.mark.parametrize("arguments", [[], ["--data", "a", "--batch", "many"], ["--data", "a", "--nothing"]])
    def test_wrong_usage_is_2(
        self, arguments: list[str], run_small: Callable, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_small(*arguments) == (2, [])
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.endswith("; see bottlenet small --help\n")
        assert err.count("\n") == 1


def test_train_and_insert_have_the_same_defaults() -> None:
    """Twice in the source, as the options of `train` need no torch."""
    pytest.importorskip("torch")
    from bottlenet.net.build import insert
    from bottlenet.photos.crops import HELD_OUT

    defaults = {each.name: each.default for each in dataclasses.fields(TrainConfig)}
    numbers = inspect.signature(insert).parameters.items()
    unit = {name: each.default for name, each in numbers if name not in ("model", "cut", "quality")}
    assert unit.items() <= defaults.items()
    assert defaults["held_out"] == HELD_OUT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in a module of one's own, and 160 photos."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "small_network.py").write_text(NETWORK)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(5)
    for number in range(160):
        low = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(low).resize((50, 40), Image.Resampling.BICUBIC).save(folder / "photos" / f"{number:03}.png")
    return folder


@pytest.fixture
def fail(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that is to fail, in this process, and gives its one line on stderr."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)

    def fail(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["bottlenet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return fail


def test_cuts(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(folder)
    shown = []
    for option in (["--json"], []):
        monkeypatch.setattr(sys, "argv", ["bottlenet", "cuts", "small_network:small", *option])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    cuts = json.loads(shown[0])["cuts"]
    assert [cut["name"] for cut in cuts][:4] == ["0", "1", "2", "3"]
    assert cuts[3]["shape"] == [16, 8, 8]
    assert "16x8x8" in shown[1]


def test_no_such_network(fail: Callable[..., str]) -> None:
    assert "efficientnet_lite0" in fail("cuts", "efficientnet_lite9")


@pytest.mark.slow
def test_train_export_evaluate(folder: Path) -> None:
    pytest.importorskip("torch")
    source = Path(bottlenet.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{folder}"}

    def call(*arguments: object) -> dict:
        command = [sys.executable, "-m", "bottlenet.cli", *map(str, arguments), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    train = ["train", "--model", "small_network:small", "--cut", "3", "--data", "photos", "--out", "run"]
    small = ["--channels", 8, "--stride", 1, "--epochs", 1, "--crops", 1, "--batch", 16, "--cache", "cache"]
    trained = call(*train, *small)
    assert trained["run"] == "run"
    assert trained["last"]["steps"] > 0

    exported = call("export", "run", "-o", "my.bundle", "--weights", "int8")
    bundle = Bundle.load(folder / "my.bundle")
    assert exported["id"] == bundle.id.hex()
    assert bundle.labels == ("a", "b", "c", "d")
    assert 0 < bundle.manifest.head_flops_share <= 1
    assert bundle.manifest.cut == "3"

    assert call("evaluate", "my.bundle", "--data", "photos")["photos"] == 160


@pytest.mark.parametrize("content", [None, "{", '{"data": ["photos"], "what": 1}'])
def test_a_run_that_is_none(fail: Callable[..., str], tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert str(tmp_path) in fail("export", tmp_path, "-o", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_cut_that_is_none(fail: Callable[..., str], folder: Path) -> None:
    assert "bottlenet cuts" in fail(
        "train", "--model", "small_network:small", "--cut", "33", "--data", "photos", "--out", "none"
    )
    assert not (folder / "none").exists()
