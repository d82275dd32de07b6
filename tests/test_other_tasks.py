"""Networks of other tasks than one label: cut, trained, exported and served, beside the uncut network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor, nn

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge, Prediction, photo_to_pixels
from bottlenet.errors import InputError
from bottlenet.net.build import insert
from bottlenet.net.export import difference
from bottlenet.net.models import Classifier, Normalize, check_classifier
from bottlenet.task import Classification, Detection, Multilabel, Segmentation, same_answers, share_found
from bottlenet.train.objective import binary_distillation, features_error
from bottlenet.train.runs import export_run
from bottlenet.train.sweep import Search, SweepConfig
from bottlenet.train.sweep.sweep import find_trials
from bottlenet.train.train import train
from conftest import Server
from small import LABELS, config_of, detector, photo, save_photos, segmenter, tagger

MODELS = {
    "segmentation": ("small:segmenter", segmenter),
    "detection": ("small:detector", detector),
    "multilabel": ("small:tagger", tagger),
}


def trained(folder: Path, name: str, **changes: object) -> tuple[Bundle, list[dict]]:
    """A short run on a few photos, exported; and the reports of its log."""
    save_photos(folder / "photos", 40)
    config = replace(config_of(folder, epochs=3, model=MODELS[name][0]), held_out=4, blend=0.0, **changes)
    with Progress(disable=True) as bar:
        train(config, bar)
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    bundle, _ = export_run(folder / "run", folder / "bundle")
    return bundle, [record["held_out"][-1] for record in records if "held_out" in record]


def uncut(classifier: Classifier, source: np.ndarray) -> Tensor:
    """What the network gives in torch, as it was before anyone cut it."""
    pixels = torch.from_numpy(photo_to_pixels(source, classifier.preprocess)[None])
    with torch.no_grad():
        return classifier.module(Normalize(classifier.mean, classifier.std)(pixels))[0]


def agreement(classifier: Classifier, answers: list[Prediction], sources: list[np.ndarray]) -> float:
    """With torch: the share of the places, or of the photos with the same labels."""
    shares = []
    for answer, source in zip(answers, sources, strict=True):
        expected = uncut(classifier, source)
        if answer.segments is not None:
            shares.append(np.mean(answer.segments.classes == expected.argmax(0).numpy()))
        elif isinstance(classifier.task, Detection):
            rows = expected.numpy()[expected[:, 4].numpy() >= classifier.task.threshold]
            edges = [
                [(one.left - 4) / 40, one.top / 40, (one.right - 4) / 40, one.bottom / 40] for one in answer.objects
            ]
            mine = [[*edge, one.score, one.class_index] for edge, one in zip(edges, answer.objects, strict=True)]
            shares.append(share_found(rows, np.array(mine, np.float32).reshape(-1, 6)))
        else:
            assert isinstance(classifier.task, Multilabel)
            there = {i for i in range(len(LABELS)) if expected[i].sigmoid() >= classifier.task.thresholds[i]}
            shares.append({choice.class_index for choice in answer.top} == there)
    return float(np.mean(shares))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_the_whole_path_at_the_finest_setting(name: str, tmp_path: Path, serve: Callable[..., Server]) -> None:
    """All channels, and every symbol as it is."""
    bundle, reports = trained(tmp_path, name, codec="raw", quality=0, target_bytes=0.0, channels=12)
    sources = [photo(seed) for seed in range(100, 116)]
    with Edge(bundle, serve(create_app([bundle])).url) as edge:
        answers = list(edge.classify_many(sources))
    assert bundle.manifest.task == MODELS[name][1]().task
    assert agreement(MODELS[name][1](), answers, sources) >= (0.9 if name == "detection" else 0.97)
    assert reports[-1]["agreement"] >= (0.85 if name == "detection" else 0.95)
    if name == "detection":
        assert np.mean([len(answer.objects) for answer in answers]) > 2
    assert all(answer.payload_bytes == 12 * 16 * 16 for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("codec", ["jpeg", "entropy"])
def test_it_learns_at_a_rate(name: str, codec: str, tmp_path: Path) -> None:
    bundle, reports = trained(tmp_path, name, codec=codec, target_bytes=200.0)
    assert reports[-1]["agreement"] > 0.6
    assert reports[-1]["distillation"] < reports[0]["distillation"] + 0.02
    assert bundle.manifest.task.name == name


@pytest.mark.slow
def test_without_a_cache_it_is_the_same_kind_of_run(tmp_path: Path) -> None:
    _, reports = trained(tmp_path, "segmentation", codec="raw", quality=0, target_bytes=0.0, no_cache=True, workers=0)
    assert reports[-1]["agreement"] > 0.8


def test_the_tail_of_a_segmentation_stays_as_it_is(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", 40)
    config = replace(config_of(tmp_path, epochs=1, model="small:segmenter"), tail_lr=0.1)
    with Progress(disable=True) as bar:
        net = train(config, bar)
    whole = segmenter().module.state_dict()
    for key, value in net.tail.state_dict().items():
        assert torch.equal(value, whole[key]), key


SCORES = {"scores_weight": 0.5, "codec": "entropy", "target_bytes": 0.0}


@pytest.mark.parametrize(
    ("model", "changes", "says"),
    [
        ("small:segmenter", {"label_weight": 0.5}, "label_weight is for networks that give one label"),
        ("small:tagger", {"label_weight": 0.5}, "this one's task is multilabel; give 0"),
        ("small:segmenter", {"learn_from": "stem"}, "a segmentation learns from the features at the cut"),
        ("small:detector", {"learn_from": "stem"}, "a detection learns from the features at the cut"),
        ("small:detector", SCORES, "scores_weight is for networks that give a score a class"),
        ("small:segmenter", {"tail_size": 16}, "tail_size is 16; a segmentation is about places in one size: give 0"),
        ("small:segmenter", {"head_size": 16}, "head_size is 16; a segmentation is about places in one size: give 0"),
    ],
)
def test_what_a_run_of_another_task_can_not_do(model: str, changes: dict, says: str, tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", 2)
    with pytest.raises(InputError, match=says), Progress(disable=True) as bar:
        train(replace(config_of(tmp_path, epochs=1, model=model), **changes), bar)


def test_a_sweep_refuses(tmp_path: Path) -> None:
    config = SweepConfig(model="small:segmenter", data=(str(tmp_path),))
    with pytest.raises(InputError, match="`bottlenet sweep` is for networks that give one label"):
        find_trials(config, Search(cuts=("first",)))


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    """`cuts`, `train` and `export` need no more than the network's name."""
    save_photos(tmp_path / "photos", 40)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "bottlenet.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "second" in run("cuts", "small:segmenter")
    common = ["--model", "small:segmenter", "--cut", "first", "--data", "photos", "--out", "run"]
    run("train", *common, "--epochs", 1, "--crops", 1, "--channels", 6)
    run("export", "run", "-o", "bundle")
    assert Bundle.load(tmp_path / "bundle").manifest.task == Segmentation(32, 32)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Segmentation(32, 32), r"it gives \(2, 4\) for 2 photos; a segmentation has \(2, 4, 32, 32\)"),
        (Detection(5, 0.5), r"it gives \(2, 4\) for 2 photos; a detection has \(2, 5, 6\)"),
    ],
)
def test_a_network_of_another_task(task: Segmentation | Detection, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_classifier(replace(segmenter(), module=Flat(), task=task))


def test_thresholds_that_are_not_those_of_the_labels() -> None:
    with pytest.raises(InputError, match="tagger: 2 thresholds for 4 classes"):
        replace(tagger(), task=Multilabel((0.5, 0.5)))


def test_forward_without_a_tail() -> None:
    net = insert(segmenter(), cut="first", channels=6, codec="raw", quality=0).eval()
    features = torch.randn(2, 12, 16, 16)
    whole, part = net.forward_features(features), net.forward_features(features, with_tail=False)
    assert part.scores.shape == (2, 0)
    assert torch.equal(whole.features_hat, part.features_hat)
    assert whole.scores.shape == (2, 4, 32, 32)


class TestLosses:
    def test_of_several_labels(self) -> None:
        uncut_scores = torch.randn(5, 7) * 4
        assert binary_distillation(uncut_scores, uncut_scores).abs().max() < 1e-6
        mine = torch.randn(5, 7)
        p, q = uncut_scores.sigmoid(), mine.sigmoid()
        expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
        torch.testing.assert_close(binary_distillation(mine, uncut_scores), expected, rtol=1e-3, atol=1e-4)

    def test_of_features(self) -> None:
        features = torch.randn(3, 4, 5, 5)
        assert features_error(features, features).tolist() == [0, 0, 0]
        mean = features.mean().expand_as(features)
        assert features_error(mean, features).mean().item() == pytest.approx(1, rel=0.02)


class TestAlike:
    ROWS = np.array([[0, 0, 0.5, 0.5, 0.9, 1], [0.5, 0.5, 1, 1, 0.4, 2], [0, 0, 0, 0, 0, 0]], np.float32)

    def test_boxes(self) -> None:
        moved = self.ROWS + np.array([0.05, 0, 0.05, 0, 0, 0], np.float32) * (self.ROWS[:, 4:5] > 0)
        other = self.ROWS * np.array([1, 1, 1, 1, 1, 2], np.float32)
        assert share_found(self.ROWS, self.ROWS[::-1], exact=True) == 1
        assert (share_found(self.ROWS, moved), share_found(self.ROWS, moved, exact=True)) == (1, 0)
        assert share_found(self.ROWS, other) == 0
        assert share_found(self.ROWS[2:], self.ROWS) == 1
        assert share_found(self.ROWS, self.ROWS[2:]) == 0
        task = Detection(3, 0.5)
        assert difference(task, self.ROWS[None], self.ROWS[None]) == 0
        assert difference(task, self.ROWS[None], self.ROWS[None, :1]) == 0.5
        assert same_answers(task, self.ROWS[None], self.ROWS[None, :1]) == 1  # the other is not told

    def test_maps(self) -> None:
        a, b = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
        b[1, 0] = 3
        task = Segmentation(4, 4)
        assert (difference(task, a, b), same_answers(task, a, b)) == (0.25, 1.75)

    def test_labels(self) -> None:
        task = Multilabel((0.5, 0.0, 1.0))
        a, b = np.array([[1, -9, 9], [1, 0, 0]]), np.array([[2, 9, -9], [-1, 0, 0]])
        assert same_answers(task, a.astype(np.float32), b.astype(np.float32)) == 1

    @pytest.mark.parametrize("largest", [1e-20, 1.0, 1e20])
    def test_scores_however_small(self, largest: float) -> None:
        a = np.array([[largest, 0, -largest]], np.float32)
        assert difference(Classification(), a, a) == 0
        assert difference(Classification(), a, a / 2) == 0.5
        assert difference(Classification(), 0 * a, 0 * a) == 0
