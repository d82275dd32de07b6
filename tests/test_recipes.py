"""Every recipe goes through on a handful of photos; miniImageNet out of ImageNet-1k."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from processes import BOTTLENET
from small import save_photos

RECIPES = Path(__file__).parent.parent / "recipes"
SCRIPTS = sorted(path for path in RECIPES.glob("*.sh") if path.name != "settings.sh")
LIMIT_S = 300


def call(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    told = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    words = [str(word) for word in command]
    return subprocess.run(words, env=told, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_smoke(script: Path) -> None:
    small = {"MODEL": "small:classifier", "CUT": "first", "PYTHONPATH": path_with(Path(__file__).parent)}
    other = {} if script.stem == "caltech101" else small  # that one fine-tunes the network it was written for
    done = call(script, "--smoke", BOTTLENET=shlex.join(BOTTLENET), PYTHON=sys.executable, **other)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout


def path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_recipe_is_named_and_says_if_it_was_run(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert f"`{script.name}`" in (RECIPES / "README.md").read_text(encoding="utf-8")
    assert "NOBODY HAS RUN IT" in text or "results/" in text
    assert call(script).returncode == 2


class TestMiniImagenet:
    @pytest.fixture
    def imagenet(self, tmp_path: Path) -> Path:
        for number in range(4):
            folder = save_photos(tmp_path / "imagenet" / "train" / f"n{number:08}", 7)
            for photo in folder.iterdir():
                photo.rename(folder / f"{folder.name}_{photo.name}")
        return tmp_path / "imagenet"

    def split(self, imagenet: Path, *options: object) -> subprocess.CompletedProcess[str]:
        script = RECIPES / "mini_imagenet.py"
        return call(sys.executable, script, imagenet, imagenet.parent / "mini", "--folders", 4, *options)

    def labels(self, imagenet: Path, part: str) -> dict[str, int]:
        with (imagenet.parent / "mini" / part / "labels.csv").open(encoding="utf-8") as file:
            return {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}

    def test_classes_keep_their_numbers(self, imagenet: Path) -> None:
        (imagenet / "classes.txt").write_text("n00000003\nn00000001\n")
        done = self.split(imagenet, "--classes", imagenet / "classes.txt", "--photos", 6, "--train-share", 0.5)
        assert done.returncode == 0, done.stderr
        train, val = self.labels(imagenet, "train"), self.labels(imagenet, "val")
        assert not train.keys() & val.keys()
        for part in (train, val):
            assert sorted(part.values()) == [1] * 3 + [3] * 3
            assert all(int(name[:9][1:]) == label for name, label in part.items())
        assert all((imagenet.parent / "mini" / "train" / name).is_file() for name in train)

    def test_the_same_seed_draws_the_same(self, imagenet: Path) -> None:
        options = ("--count", 2, "--photos", 4)
        assert self.split(imagenet, *options, "--seed", 5).returncode == 0
        assert self.split(imagenet, *options, "--seed", 5).returncode == 0
        other = self.split(imagenet, *options, "--seed", 6)
        assert other.returncode == 2
        assert "another division" in other.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--folders", 1000), "4 sub-folders, not 1000"),
            (("--count", 9), "4 classes, fewer than 9"),
            (("--count", 2, "--photos", 8), "7 photos, fewer than 8"),
        ],
    )
    def test_what_cannot_be(self, imagenet: Path, options: tuple[object, ...], message: str) -> None:
        done = self.split(imagenet, *options)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
