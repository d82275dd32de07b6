"""Training end to end: head, unit and tail learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.progress import Progress

import small
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import evaluate
from bottlenet.train import features
from bottlenet.train.runs import export_run, read_tensors
from bottlenet.train.train import train
from small import classifier, config_of, save_photos


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Photos of four classes, a fifth of them held out, and a run end to end on them."""
    folder = tmp_path_factory.mktemp("end_to_end")
    for label in range(4):
        (folder / "photos" / str(label)).mkdir(parents=True)
        for number in range(16):
            pixels = small.photo(16 * label + number).copy()
            pixels[..., :label] //= 8  # so that classes differ
            Image.fromarray(pixels).save(folder / "photos" / str(label) / f"{label}{number:03}.png")
    base = config_of(folder, epochs=2)
    return replace(base, end_to_end=True, no_cache=True, workers=0, held_out=5, target_bytes=0.0, label_weight=0.5)


def run(config):
    with Progress(disable=True) as progress:
        return train(config, progress)


def log_of(config):
    return [json.loads(line) for line in Path(config.out, "log.jsonl").read_text(encoding="utf-8").splitlines()]


def held_out(config):
    return [record["held_out"][0] for record in log_of(config) if "held_out" in record]


@pytest.fixture(scope="module")
def trained(labelled):
    run(labelled)
    return labelled


def learned(config, name):
    """A weight of the run's network, and what it was at first."""
    part, _, own = name.partition("/")
    return read_tensors(Path(config.out))[0][f"net.{part}.{own}"], classifier().module.state_dict()[own]


@pytest.mark.parametrize(
    "name",
    ["reduction.learned/stem.0.weight", "reduction.learned/first.norm.weight", "tail/second.conv.weight"],
)
def test_head_and_tail_learn(trained, name):
    after, before = learned(trained, name)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("name", ["reduction.learned/stem.1.running_mean", "tail/second.norm.running_var"])
def test_norms_stay_or_follow(trained, tmp_path, name):
    after, before = learned(trained, name)
    assert torch.equal(after, before)
    follows = replace(trained, out=str(tmp_path / "run"), norms=True, epochs=1)
    run(follows)
    after, before = learned(follows, name)
    assert not torch.equal(after, before)


def test_the_bundle_has_the_head_that_learned(trained, tmp_path):
    bundle, fidelity = export_run(trained.out, tmp_path / "bundle")
    assert fidelity.symbols_equal >= 0.999
    result = evaluate(bundle, trained.data[0], limit=10)
    assert result.payload_bytes.mean > 0
    assert 0 < bundle.manifest.head_flops_share < 1.5


def test_reports_have_top1_where_labels_count(trained, tmp_path):
    assert all(0 <= row["top1"] <= 100 for row in held_out(trained))
    without = replace(trained, out=str(tmp_path / "run"), label_weight=0.0, epochs=1)
    run(without)
    assert "top1" not in held_out(without)[0]


def test_without_distillation_the_uncut_network_runs_for_reports_alone(labelled, tmp_path, monkeypatch):
    asked = []
    network = features.frozen_network
    monkeypatch.setattr(
        features,
        "frozen_network",
        lambda *where, scores=True: counting(network(*where, scores=scores), asked, scores),
    )
    config = replace(labelled, out=str(tmp_path / "run"), distillation_weight=0.0, optimizer="sgd", epochs=1)
    run(config)
    assert asked.count(False) == 51 // config.batch
    assert asked.count(True) >= 1
    assert log_of(config)[-1]["held_out"][0]["distillation"] > 0


def counting(network, asked, scores):
    def counted(*pixels):
        asked.append(scores)
        return network(*pixels)

    return counted


def test_labels_alone_are_learned(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr("bottlenet.train.train.LOG_STEPS", 1)
    numbers = {"distillation_weight": 0.0, "label_weight": 1.0, "norms": True, "blend": 0.0}
    config = replace(labelled, out=str(tmp_path / "run"), epochs=8, lr=1e-2, tail_lr=1e-2, **numbers)
    run(config)
    losses = [record["loss"] for record in log_of(config) if "loss" in record]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.slow
@pytest.mark.parametrize("learn_from", ["", "stem"])
def test_a_run_end_to_end_starts_from_one_with_a_frozen_head(labelled, tmp_path, learn_from):
    unit = {"unit": "paper", "channels": 3, "stride": 2}
    frozen = replace(labelled, out=str(tmp_path / "frozen"), end_to_end=False, learn_from=learn_from, **unit)
    run(frozen)
    config = replace(labelled, out=str(tmp_path / "run"), start=frozen.out, lr=1e-12, tail_lr=1e-12, epochs=1, **unit)
    run(config)
    there, here = (read_tensors(Path(each.out))[0] for each in (frozen, config))
    inside = "reduction." if learn_from else ""
    assert torch.allclose(here["average.reduction.reduction.0.weight"], there[f"average.reduction.{inside}0.weight"])
    assert torch.allclose(here["average.tail.second.conv.weight"], there["average.tail.second.conv.weight"])


@pytest.mark.slow
def test_other_codecs_a_smaller_photo_and_bf16(labelled, tmp_path):
    cut = {"codec": "entropy", "smallest_bytes": 4.0, "largest_bytes": 100.0}
    for number, more in enumerate((cut, {"codec": "entropy", "target_bytes": 40.0}, {"precision": "bf16"})):
        config = replace(labelled, out=str(tmp_path / str(number)), head_size=24, tail_size=32, epochs=1, **more)
        weights = run(config).state_dict()
        assert all(tensor.isfinite().all() for tensor in weights.values())
        assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_weight": 0.0, "distillation_weight": 0.0}, "nothing says what is right"),
        ({"no_cache": False}, "no features to keep.*give no_cache"),
        ({"learn_from": "stem"}, "learn_from is stem, and with end_to_end all layers learn"),
        ({"learn_to": "second"}, "learn_to is second, and with end_to_end all layers learn"),
        ({"tail_lr": 0.0}, "tail_lr is 0"),
        ({"kernels": True}, "leave them out"),
        ({"optimizer": "lion"}, "adamw, sgd"),
        ({"distillation_weight": -1.0}, "not below 0"),
        ({"distillation_weight": 0.0, "exit": True}, "an exit learns from the uncut network"),
        ({"distillation_weight": 0.0, "codec": "entropy"}, "give distillation_weight, or target_bytes"),
    ],
)
def test_impossible_configurations(labelled, values, message):
    with pytest.raises(InputError, match=message):
        replace(labelled, **values)


def test_labels_that_no_photo_has(labelled, tmp_path):
    photos = save_photos(tmp_path / "photos", 20)
    with pytest.raises(InputError, match="no photo has a label; give one sub-folder for each class"):
        run(replace(labelled, data=(str(photos),), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_network_of_places_keeps_its_head(labelled, tmp_path):
    config = replace(labelled, out=str(tmp_path / "run"), model="small:segmenter", label_weight=0.0)
    with pytest.raises(InputError, match="its head stays: leave out end_to_end"):
        run(config)


class Twice(small.Small):
    """Runs the same layer before the cut and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.second.conv = self.first.conv


@pytest.mark.parametrize("values", [{}, {"end_to_end": False}, {"end_to_end": False, "learn_from": "stem"}])
def test_a_layer_on_both_sides_cannot_learn_for_one(labelled, tmp_path, monkeypatch, values):
    monkeypatch.setattr(small, "Small", Twice)
    config = replace(labelled, out=str(tmp_path / "run"), **values)
    with pytest.raises(InputError, match=r"runs before the cut and behind it.*give another cut, or tail_lr 0"):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_layer_on_both_sides_may_stay_as_it_is(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "Small", Twice)
    run(replace(labelled, out=str(tmp_path / "run"), end_to_end=False, tail_lr=0.0, epochs=1))


def test_features_of_another_place_are_no_target(labelled, tmp_path):
    """Those of the stem have the shape of those at the cut."""
    weights = []
    for feature_weight in (0.0, 10.0):
        out = str(tmp_path / f"{feature_weight}")
        numbers = {"end_to_end": False, "learn_from": "stem", "feature_weight": feature_weight, "epochs": 1}
        weights.append(run(replace(labelled, out=out, **numbers)).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
