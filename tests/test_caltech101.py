"""The benchmark in the paper's setting, on photos and a network that learn in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch

import small
from bottlenet.errors import InputError
from bottlenet.net.models import load_model
from bottlenet.photos.folders import list_photos

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CLASSES = ("BACKGROUND_Google", "ant", "water_lilly")
OPTIONS = (
    "--model", "small:classifier", "--finetune-from", "first", "--finetune-epochs", "2", "--finetune-crops", "1",
    "--cut", "second", "--learn-from", "stem", "--head-size", "16", "--tail-size", "32", "--channels", "6",
    "--epochs", "1", "--crops", "1",
    "--paper-channels", "4", "--paper-epochs", "1", "--batch", "8", "--budgets", "4", "20",
)  # fmt: skip


def save(folder: Path, name: str, count: int, colour: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        pixels = small.photo(number).copy()
        pixels[..., colour] = 255 - number
        Image.fromarray(pixels).save(folder / f"{name}_image_{number:04}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photos of each class, which differ by colour."""
    folder = tmp_path_factory.mktemp("caltech")
    for number, name in enumerate(CLASSES):
        save(folder, name, 20, number)
    return folder


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = __import__(name)
    monkeypatch.delitem(sys.modules, name)  # so that no other test meets it
    return module


def test_divides_each_class_and_says_the_same_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide = load("caltech101_photos", monkeypatch).divide
    for folder in ("one", "two"):
        divided = divide(photos, tmp_path / folder, test_share=0.15, seed=0)
        assert divided.classes == CLASSES
        assert (divided.train_photos, divided.test_photos) == (51, 9)
    parts = {
        (folder, part): {(p.path.name, p.label) for p in list_photos(tmp_path / folder / part)}
        for folder in ("one", "two")
        for part in ("train", "test")
    }
    assert parts["one", "train"] == parts["two", "train"]
    assert parts["one", "test"] == parts["two", "test"]
    assert not parts["one", "train"] & parts["one", "test"]
    assert len(parts["one", "train"] | parts["one", "test"]) == 60
    for name, label in parts["one", "test"]:
        assert label is not None
        assert name.startswith(CLASSES[label])
    counts = [sum(label == number for _, label in parts["one", "test"]) for number in range(3)]
    assert counts == [3, 3, 3]
    assert divide(photos, tmp_path / "one", test_share=0.15, seed=0).test_photos == 9  # is there already
    with pytest.raises(InputError, match="another division"):
        divide(photos, tmp_path / "one", test_share=0.15, seed=1)


def test_division_refuses_what_has_no_class(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    divide = load("caltech101_photos", monkeypatch).divide
    with pytest.raises(InputError, match="has 1 photo"):
        divide(photos, tmp_path / "out", test_share=0.15, seed=0, limit=1)
    Image.fromarray(small.photo(1)).save(tmp_path / "cat.png")
    with pytest.raises(InputError, match=r"cat\.png: its name says no class"):
        divide(tmp_path, tmp_path / "out", test_share=0.15, seed=0)
    assert not (tmp_path / "out").exists()


def test_a_tuned_classifier_has_its_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    finetuned = load("finetuned", monkeypatch)
    base = small.classifier()
    made = finetuned.with_classes(base, CLASSES, "Things")
    assert (made.labels, made.name) == (CLASSES, "small on Things")
    assert base.module.classifier.out_features == 4  # stays as it was
    x = torch.zeros(2, 3, 32, 32)
    assert made.module(x).shape == (2, 3)
    monkeypatch.delenv("FINETUNED", raising=False)
    with pytest.raises(InputError, match="set FINETUNED"):
        load_model("finetuned:classifier")
    monkeypatch.setenv("FINETUNED", str(tmp_path / "none.safetensors"))
    with pytest.raises(InputError, match="can't be used as weights"):
        load_model("finetuned:classifier")


def launch(photos: Path, work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "caltech101.py",
            "--data",
            photos,
            "--work",
            work,
            "--out",
            work,
            *OPTIONS,
            *more,
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        },
        timeout=300,
    )


@pytest.mark.slow
def test_the_whole_and_again(photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    done = launch(photos, work)
    assert done.returncode == 0, done.stderr
    text = (work / "caltech101.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert str(photos) not in text
    results = json.loads(text)["results"]
    assert (results["classes"], results["train_photos"], results["test_photos"]) == (3, 51, 9)
    assert results["background_kept"]
    assert [(row["unit"], row["budget"]) for row in results["rows"]] == [
        ("embedded", 4), ("embedded", 20), ("paper", None),
    ]  # fmt: skip
    for row in results["rows"]:
        assert row["photos"] == row["labelled"] == 9
        assert row["top1_uncut"] == results["top1_uncut"]
        assert row["top1_drop"] == pytest.approx(row["top1_uncut"] - row["top1"])
        assert 0 < row["payload_bytes"]["max"] <= (row["budget"] or 10**4)
        assert np.isclose(row["head_flops_share"], results["rows"][0]["head_flops_share"], rtol=0.9)
    assert not results["must_met"]  # no row of 316 bytes
    assert results["head_met"] == all(row["head_flops_share"] <= 0.15 for row in results["rows"])
    assert len(results["fine_tuning_passes"]) == 2
    assert [len(passes) for passes in results["passes"].values()] == [1, 1]
    assert set(results["minutes"]) >= {"fine-tune", "train embedded", "train paper", "evaluate paper"}

    made = {
        path: path.stat().st_mtime_ns for path in work.rglob("*") if path.suffix in (".safetensors", ".f16", ".onnx")
    }
    again = launch(photos, work)
    assert again.returncode == 0, again.stderr
    assert json.loads((work / "caltech101.json").read_text(encoding="utf-8"))["results"]["rows"] == results["rows"]
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing was made twice

    other = launch(photos, work, "--finetune-epochs", "3")
    assert other.returncode == 2
    assert "another fine-tuning" in other.stderr
    assert "Traceback" not in other.stderr
