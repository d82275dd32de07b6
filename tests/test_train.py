"""Training, resuming, and what a run leaves behind."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import evaluate
from bottlenet.net.models import fingerprint
from bottlenet.runtime import Head
from bottlenet.train.config import read_config
from bottlenet.train.objective import (
    cross_entropy,
    distillation,
    features_error,
    learning_rate,
    next_lmbda,
    scores_error,
)
from bottlenet.train.runs import CHECKPOINT, calibrate_exit, check_run, export_run, read_tensors
from bottlenet.train.train import AstrayError, train
from small import classifier, config_of, save_photos


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    save_photos(folder / "photos", 70)
    return config_of(folder, epochs=4)


def run(config):
    with Progress(disable=True) as progress:
        return train(config, progress)


def log_of(config):
    with open(f"{config.out}/log.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def held_out(config):
    return [record["held_out"] for record in log_of(config) if "held_out" in record]


@pytest.fixture(scope="module")
def trained(base):
    run(base)
    return base


def test_distillation_gets_nearer_and_is_reported(trained):
    reports = held_out(trained)
    assert len(reports) == trained.epochs
    assert reports[-1][0]["photos"] >= 1
    assert reports[-1][0]["payload_bytes"] > 0


def test_no_photo_is_held_out(base, tmp_path):
    """As of a handful: what was measured on none is not said to be of one."""
    config = replace(base, out=str(tmp_path / "run"), epochs=1, held_out=10**6)
    run(config)
    assert [report[-1]["photos"] for report in held_out(config)] == [0]


def test_scores_that_differ_by_a_constant_are_the_same_answer():
    uncut = torch.tensor([[4.0, 0.0, -1.0], [2.0, 9.0, 1.0]])
    assert scores_error(uncut + torch.tensor([[3.0], [-2.0]]), uncut).item() == pytest.approx(0, abs=1e-6)
    assert scores_error(torch.zeros(2, 3), uncut).item() == pytest.approx(5 / 6, rel=1e-3)


@pytest.mark.slow
def test_training_learns(base, tmp_path):
    """Without a rate to pay, a few steps bring a paper's unit of random weights nearer to the uncut network."""
    config = replace(base, out=str(tmp_path / "run"), unit="paper", target_bytes=0.0, epochs=12, lr=1e-2)
    run(config)
    losses = [record["loss"] for record in log_of(config) if "loss" in record]
    assert losses[-1] < 0.7 * losses[0]


def test_a_papers_unit_starts_nearer_at_components(base, tmp_path, monkeypatch):
    monkeypatch.setattr("bottlenet.train.train.LOG_STEPS", 1)
    first = []
    for components in (False, True):
        out = str(tmp_path / str(components))
        config = replace(base, out=out, unit="paper", target_bytes=0.0, epochs=1, components=components)
        run(config)
        first.append(log_of(config)[0]["loss"])
    assert first[1] < 0.7 * first[0]


@pytest.mark.slow
def test_steering_brings_bytes_down(base, tmp_path):
    loud = replace(base, out=str(tmp_path / "loud"), target_bytes=0.0, epochs=10, lr=1e-2)
    quiet = replace(loud, out=str(tmp_path / "quiet"), target_bytes=20.0, lmbda=0.05)
    sizes = []
    for config in (loud, quiet):
        run(config)
        sizes.append(held_out(config)[-1][0]["payload_bytes"])
    assert sizes[1] < 0.8 * sizes[0]


class Stop(Exception):
    pass


class Stopping(Progress):
    """Stops a run in mid-epoch, after its checkpoint of step 6."""

    def update(self, task_id, **values):
        super().update(task_id, **values)
        if "loss" in str(values.get("description", "")) and values["completed"] >= 6:
            raise Stop


def test_a_run_that_was_stopped_goes_on_exactly(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("bottlenet.train.train.LOG_STEPS", 1)
    stopped = replace(trained, out=str(tmp_path / "stopped"), checkpoint_minutes=0.0)
    with pytest.raises(Stop), Stopping(disable=True) as progress:
        train(stopped, progress)
    position = json.loads(read_tensors(tmp_path / "stopped")[1]["at"])
    assert position["step"] > 0  # in mid-epoch
    run(stopped)
    expected, found = (read_tensors(Path(config.out))[0] for config in (trained, stopped))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_head_and_the_tails_norms_do_not_learn(trained):
    tensors, _ = read_tensors(Path(trained.out))
    names = {name for name in tensors if name.startswith("average.")}
    assert any(name.startswith("average.tail.") for name in names)
    assert not any(name.startswith(("average.head.", "net.head.")) for name in tensors)


def test_a_frozen_tail_stays_the_uncut_networks(base, tmp_path):
    config = replace(base, out=str(tmp_path / "run"), tail_lr=0.0, epochs=1)
    net = run(config)
    tail = net.tail.state_dict()
    original = net.origin.classifier.module.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in tail.items())


def test_labels_are_used_where_there_are_any(base, tmp_path):
    photos = tmp_path / "photos"
    for name in ("a", "b", "c", "d"):
        save_photos(photos / name, 12)
    config = replace(base, out=str(tmp_path / "run"), data=(str(photos),), label_weight=1.0, epochs=1)
    run(config)
    save_photos(photos / "e", 1)
    with pytest.raises(InputError, match="label 4; small:classifier knows 0 to 3"):
        run(replace(config, out=str(tmp_path / "other")))


def test_naive_runs_without_the_codec_and_is_reported_with_it(base, tmp_path):
    config = replace(base, out=str(tmp_path / "run"), naive=True, target_bytes=0.0, epochs=1)
    run(config)
    assert held_out(config)[-1][0]["payload_bytes"] > 0


def test_a_runs_bundle(trained, tmp_path):
    bundle, fidelity = export_run(trained.out, tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").id == bundle.id
    assert bundle.manifest.extra["steps"] == 4 * (68 // 16)
    assert fidelity.symbols_equal >= 0.999


def test_a_runs_bundle_without_padding(trained, tmp_path):
    bundle, _ = export_run(trained.out, tmp_path / "bundle", align=1)
    assert bundle.mosaic.align == bundle.manifest.align == 1
    with pytest.raises(InputError, match="align"):
        export_run(trained.out, tmp_path / "other", align=0)


@pytest.fixture(scope="module")
def embedded(base, tmp_path_factory):
    """A learned codec, a head that learns from the stem on and sees smaller photos."""
    config = replace(
        base,
        out=str(tmp_path_factory.mktemp("embedded") / "run"),
        codec="entropy",
        learn_from="stem",
        head_size=24,
        target_bytes=0.0,
        smallest_bytes=4.0,
        largest_bytes=100.0,
    )
    run(config)
    return config


def test_an_embedded_run_is_reported_at_several_budgets(embedded):
    rows = held_out(embedded)[-1]
    budgets = [row["budget"] for row in rows]
    assert budgets == sorted(budgets)
    assert budgets[-1] == 100
    assert all(row["payload_bytes"] <= row["budget"] for row in rows)


@pytest.mark.slow
def test_an_embedded_run_goes_on_exactly(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("bottlenet.train.train.LOG_STEPS", 1)
    stopped = replace(embedded, out=str(tmp_path / "stopped"), checkpoint_minutes=0.0)
    with pytest.raises(Stop), Stopping(disable=True) as progress:
        train(stopped, progress)
    run(stopped)
    expected, found = (read_tensors(Path(config.out)) for config in (embedded, stopped))
    assert expected[1]["at"] == found[1]["at"]
    assert all(torch.equal(expected[0][name], found[0][name]) for name in expected[0])


def test_an_embedded_runs_bundle_keeps_to_any_budget(embedded, base, tmp_path):
    bundle, _ = export_run(embedded.out, tmp_path / "bundle")
    manifest = bundle.manifest
    assert (manifest.codec, manifest.preprocess.size, manifest.uncut_preprocess.size) == ("entropy", 24, 32)
    assert manifest.budget_bytes == 100
    assert evaluate(bundle, base.data[0], limit=20).payload_bytes.max <= 100
    for budget in (1, 10, 50):
        result = evaluate(bundle, base.data[0], limit=20, budget=budget)
        assert result.payload_bytes.max <= budget


def test_the_end_of_the_head_learns_and_its_start_does_not(embedded):
    tensors, _ = read_tensors(Path(embedded.out))
    own = classifier().module.state_dict()
    kernel = tensors["net.reduction.learned.first.conv.weight"]
    assert not torch.equal(kernel, own["first.conv.weight"])
    assert not any(name.startswith("net.head.") for name in tensors)


@pytest.mark.slow
def test_a_tail_may_have_features_of_the_size_that_it_learned_at(embedded, base, tmp_path):
    config = replace(embedded, out=str(tmp_path / "run"), tail_size=32, kernels=True, scores_weight=1.0, epochs=1)
    run(config)
    assert held_out(config)[-1][0]["distillation"] < math.inf
    bundle, fidelity = export_run(config.out, tmp_path / "bundle")
    assert fidelity.symbols_equal >= 0.999
    assert bundle.manifest.preprocess.size == 24
    assert evaluate(bundle, base.data[0], limit=20).payload_bytes.max <= 100


@pytest.mark.slow
def test_a_run_starts_from_the_averaged_weights_of_another(embedded, tmp_path):
    there = {name: tensor for name, tensor in read_tensors(Path(embedded.out))[0].items() if "average." in name}
    start = shutil.copytree(embedded.out, tmp_path / "start")
    config = replace(embedded, out=str(tmp_path / "run"), start=str(start), lr=1e-12, tail_lr=0.0, epochs=1)
    run(config)
    shutil.rmtree(start)
    run(config)  # goes on from its own checkpoint
    tensors, _ = read_tensors(Path(config.out))
    name = "average.reduction.reduction.linear.weight"
    assert torch.allclose(tensors[name], there[name])


@pytest.fixture(scope="module")
def with_exit(embedded, tmp_path_factory):
    out = tmp_path_factory.mktemp("exit") / "run"
    config = replace(embedded, out=str(out), exit=True, learn_to="second", tail_size=32, held_out=3, epochs=2)
    run(config)
    return config


def test_the_exit_learns_up_to_its_last_layer_and_what_is_published_stays(with_exit):
    own, (tensors, _) = classifier().module.state_dict(), read_tensors(Path(with_exit.out))
    assert not torch.equal(tensors["net.exit.second.conv.weight"], own["second.conv.weight"])
    assert not torch.equal(tensors["net.tail.learned.second.conv.weight"], own["second.conv.weight"])
    for name in ("net.exit.classifier.weight", "net.tail.published.classifier.weight"):
        assert torch.equal(tensors[name], own["classifier.weight"])


def test_a_report_begins_with_the_answers_of_the_device(with_exit):
    for rows in held_out(with_exit):
        assert [row["budget"] for row in rows[:2]] == [0, 6.25]
        assert rows[0]["payload_bytes"] == 0


def test_the_exit_can_learn_alone(with_exit, tmp_path):
    config = replace(with_exit, out=str(tmp_path / "run"), only_exit=True, tail_lr=1e-2, epochs=6)
    run(config)
    losses = [rows[0]["distillation"] for rows in held_out(config)]
    assert losses[-1] < losses[0]
    after, _ = read_tensors(Path(config.out))
    with pytest.raises(InputError, match="trained only its exit, so it has nothing to send; give it as the exit of"):
        export_run(config.out, tmp_path / "bundle")
    own = classifier().module.state_dict()
    assert torch.equal(after["net.tail.learned.second.conv.weight"], own["second.conv.weight"])
    assert not torch.equal(after["net.exit.second.conv.weight"], own["second.conv.weight"])


def test_the_bundle_of_a_run_with_an_exit_has_its_bound(with_exit, base, tmp_path):
    bundle, fidelity = export_run(with_exit.out, tmp_path / "bundle", weights="int8", mean_bytes=50)
    own = Bundle.load(bundle.path).manifest
    assert own.exit.features == (12, 12, 12)
    assert (own.format_version, json.loads(own.to_json())["exit"]["sure"]) == (3, own.exit.sure)
    assert 0 < own.exit.sure < 1
    assert own.exit.flops_share < own.head_flops_share
    assert fidelity.symbols_equal >= 0.999
    assert fidelity.rounded_exit_agreement > 0.8
    head = Head(bundle)
    scores, features = head.look(np.zeros((2, 24, 24, 3), np.uint8))
    assert (scores.shape, features.shape) == ((2, 4), (2, 12, 12, 12))
    assert np.array_equal(head.symbols(features), head(np.zeros((2, 24, 24, 3), np.uint8)))
    assert evaluate(bundle, base.data[0], limit=20).payload_bytes.max <= 100


@pytest.mark.slow
@pytest.mark.parametrize("source", ["run", "small:telling:20", "small:classifier"])
def test_another_network_may_answer_on_the_device(with_exit, base, tmp_path, source):
    name = with_exit.out if source == "run" else source
    bundle, fidelity = export_run(with_exit.out, tmp_path / "bundle", weights="int8", mean_bytes=50, exit_from=name)
    own = bundle.manifest.exit
    assert own.features is None
    assert own.preprocess.size == {"run": 24, "small:telling:20": 20, "small:classifier": 32}[source]
    manifest = bundle.manifest
    assert fidelity.rounded_exit_agreement > 0.5
    got = evaluate(bundle, base.data[0], limit=20, sure=0.0)
    assert (got.sent_share, got.mean_flops_share) == (0, pytest.approx(own.flops_share))
    if source == "small:classifier":
        assert own.flops_share == pytest.approx(1, rel=0.01)
        assert got.agreement == 100
    sent = evaluate(bundle, base.data[0], limit=20, sure=1.0)
    assert (sent.sent_share, sent.head_flops_share) == (1, manifest.head_flops_share)
    asked = evaluate(bundle, base.data[0], limit=20, sure=math.nextafter(1, 0))
    assert asked.head_flops_share == pytest.approx(manifest.head_flops_share + own.flops_share)
    always, _ = export_run(with_exit.out, tmp_path / "always", exit_from="small:classifier")
    assert always.manifest.head_flops_share == manifest.head_flops_share  # whoever else answers
    assert sent.payload_bytes.max <= 100


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("small:classifier:4", "with 8 to 4096 pixels"),
        ("small:classifier:99999999999", "with 8 to 4096 pixels"),
        ("small:three", "has other classes than small; give a network with the same labels"),
        ("small:tagger", "an exit is for networks that give one label"),
        ("small:segmenter", "an exit is for networks that give one label"),
        ("small:fixed:24", "fixed does not run on photos of 24 pixels .*; give another size"),
        ("", "unknown model"),
        ("nowhere", "nowhere"),
    ],
)
def test_refused_networks_for_the_device(embedded, tmp_path, source, what):
    with pytest.raises(InputError, match=what):
        export_run(embedded.out, tmp_path / "bundle", exit_from=source)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"learn_to": "first"}, "learn_to must be a cut behind first"),
        ({"exit_without": "third"}, "exit_without names 'third', and small has no such block"),
        ({"exit_without": "stem"}, "stem, which is not behind the cut, first"),
        ({"exit_without": "first"}, "first, which is not behind the cut, first; give blocks that are"),
        ({"exit_without": "classifier"}, r"the network gives \(1, 12\), not a score for each class"),
        ({"only_exit": True, "exit_without": "second", "learn_from": ""}, "only_exit has nothing to learn"),
        ({"only_exit": True, "tail_lr": 0.0}, "tail_lr is 0, and with only_exit the exit learns at it"),
        ({"only_exit": True, "whole_share": 0.5}, "with only_exit nothing learns from whole_share"),
        ({"only_exit": True, "target_bytes": 50.0}, "with only_exit nothing learns from target_bytes"),
        ({"exit": False, "exit_without": "second"}, "exit_without is for a run with an exit: give exit, too"),
        ({"exit": False, "only_exit": True}, "only_exit is for a run with an exit: give exit, too"),
    ],
)
def test_refused_parts_of_the_network(embedded, tmp_path, changes, what):
    with pytest.raises(InputError, match=what):
        run(replace(embedded, out=str(tmp_path / "run"), **{"exit": True, **changes}))


@pytest.mark.parametrize(
    ("mean_bytes", "what"),
    [
        (101, "mean_bytes is 101; give 0 to 100"),
        (-1, "give 0 to 100"),
        (math.nan, "is nan; give 0"),
        ("50", "is '50'; give 0"),
    ],
)
def test_refused_mean_bytes(with_exit, tmp_path, mean_bytes, what):
    with pytest.raises(InputError, match=what):
        export_run(with_exit.out, tmp_path / "bundle", mean_bytes=mean_bytes)


@pytest.mark.slow
@pytest.mark.parametrize(("mean_bytes", "sent"), [(0, 0), (100, 1)])
def test_the_ends_of_mean_bytes(with_exit, base, tmp_path, mean_bytes, sent):
    bundle, _ = export_run(with_exit.out, tmp_path / "bundle", mean_bytes=mean_bytes)
    scored = calibrated(torch.linspace(20, 4000, 40), share=mean_bytes / 100, config=with_exit)
    assert (bundle.manifest.exit.sure == 1, scored[1] == 1) == (sent == 1, sent == 1)


def calibrated(scores, *, share, config):
    """Calibrate an exit that is as sure as `scores` say of the first class."""
    own = torch.nn.Module()
    own.forward = lambda pixels: torch.stack([scores[: len(pixels)], *[torch.zeros(len(pixels))] * 3], 1)
    return calibrate_exit(own, classifier().preprocess, config, classifier(), share)


def test_an_exit_that_is_certain_answers(with_exit):
    _, sure = calibrated(torch.full((40,), 4000.0), share=0.25, config=with_exit)
    assert 0.99 < sure < 1


def test_an_exit_without_numbers_is_no_exit(with_exit):
    with pytest.raises(InputError, match="the exit gives scores that are no numbers"):
        calibrated(torch.full((40,), math.nan), share=0.25, config=with_exit)


def test_photos_to_calibrate_an_exit_on(with_exit, tmp_path):
    few = shutil.copytree(with_exit.out, tmp_path / "few")
    values = json.loads((few / "run.json").read_text())
    (few / "run.json").write_text(json.dumps({**values, "held_out": 10**6}))
    with pytest.raises(InputError, match="fewer than 2 photos that were held out, to calibrate an exit"):
        export_run(few, tmp_path / "bundle")


def test_mean_bytes_are_for_an_exit(embedded, tmp_path):
    with pytest.raises(InputError, match="train with exit"):
        export_run(embedded.out, tmp_path / "bundle", mean_bytes=50)


def test_an_anchor_keeps_layers_near_their_published_weights(embedded, tmp_path):
    own, far = classifier().module.state_dict()["first.conv.weight"], []
    for anchor in (0.0, 1e3):
        config = replace(embedded, out=str(tmp_path / f"{anchor}"), tail_lr=1e-3, anchor=anchor, epochs=1)
        run(config)
        tensors, _ = read_tensors(Path(config.out))
        far.append((tensors["net.reduction.learned.first.conv.weight"] - own).norm().item())
    assert 0 < far[1] < 0.5 * far[0]


def test_whole_payloads_are_reported_where_some_are_not_cut(embedded, tmp_path):
    config = replace(embedded, out=str(tmp_path / "run"), whole_share=0.3, epochs=1)
    run(config)
    assert ["budget" in row for row in held_out(config)[-1]][-2:] == [True, False]


def test_a_fixed_rate_comes_down_to_its_target(embedded, tmp_path):
    sizes = []
    for target in (1000.0, 5.0):
        numbers = {"target_bytes": target, "lmbda": 0.05, "amplitude": 2.0, "lr": 0.1, "epochs": 30}
        config = replace(embedded, out=str(tmp_path / str(target)), **numbers)
        run(config)
        sizes.append(held_out(config)[-1][0]["payload_bytes"])
    assert sizes[1] < 0.9 * sizes[0]


def test_a_fixed_rate_starts_at_twice_its_target(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("bottlenet.train.train.LOG_STEPS", 1)
    config = replace(embedded, out=str(tmp_path / "run"), target_bytes=40.0, epochs=1)
    run(config)
    assert log_of(config)[0]["payload_bytes"] == pytest.approx(80, rel=0.3)


@pytest.mark.parametrize("learn_from", ["first", "second", "nowhere"])
def test_a_head_learns_from_a_cut_before_the_cut(embedded, tmp_path, learn_from):
    with pytest.raises(InputError, match="learn_from"):
        run(replace(embedded, out=str(tmp_path / "run"), learn_from=learn_from))


def test_a_folder_belongs_to_one_run(trained):
    with pytest.raises(InputError, match="channels 6, not 3"):
        run(replace(trained, channels=3))


def test_a_run_from_before_an_option_has_its_default(trained, tmp_path):
    later = ("start", "anchor", "whole_share")
    values = json.loads(Path(trained.out, "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({name: values[name] for name in values if name not in later}))
    check_run(tmp_path, read_config(Path(trained.out)))
    with pytest.raises(InputError, match="anchor 0.0, not 1.0"):
        check_run(tmp_path, replace(read_config(Path(trained.out)), anchor=1.0))


def test_a_folder_with_something_else_is_left_alone(base, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no run"):
        run(replace(base, out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_export_of_what_is_no_run(tmp_path, trained):
    with pytest.raises(InputError, match="bottlenet train"):
        export_run(tmp_path, tmp_path / "bundle")
    shutil.copy(f"{trained.out}/run.json", tmp_path / "run.json")
    with pytest.raises(InputError, match="first checkpoint"):
        export_run(tmp_path, tmp_path / "bundle")
    (tmp_path / CHECKPOINT).write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="damaged"):
        export_run(tmp_path, tmp_path / "bundle")
    (tmp_path / "run.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match="can't be used"):
        read_config(tmp_path)


def test_a_checkpoint_of_another_network(trained, tmp_path):
    shutil.copytree(trained.out, tmp_path / "run")
    values = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**values, "channels": 5}))
    with pytest.raises(InputError, match="another network"):
        export_run(tmp_path / "run", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "1 or more"),
        ({"codec": "raw", "quality": 0}, "jpeg"),
        ({"naive": True}, "in the loop"),
        ({"seed": -1}, "seed is -1; .*not below 0"),
        ({"target_bytes": -5.0}, "target_bytes"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"checkpoint_minutes": float("inf")}, "checkpoint_minutes"),
        ({"lr": 0.0}, "nothing would be learned"),
        ({"codec": "entropy", "naive": True, "target_bytes": 0.0}, "leave it out"),
        ({"blend": 1.5}, "a share from 0 to 1"),
        ({"scores_weight": 1.0}, "cut at random"),
        ({"whole_share": 0.1}, "cut at random"),
        ({"whole_share": 1.5}, "a share from 0 to 1"),
        ({"anchor": -1.0}, "anchor is -1.0"),
        ({"kernels": True}, "give learn_from"),
        ({"adversarial": 1.0}, "give no_cache"),
        ({"codec": "entropy", "target_bytes": 0.0, "smallest_bytes": 2000.0}, "smallest_bytes"),
        ({"codec": "entropy", "target_bytes": 0.0, "smallest_bytes": 0.5}, "1 or more"),
    ],
)
def test_impossible_configurations(base, values, message):
    with pytest.raises(InputError, match=message):
        replace(base, **values)


def test_a_loss_that_is_no_number_ends_the_run(base, tmp_path):
    config = replace(base, out=str(tmp_path / "run"), lr=1e30, tail_lr=0.0)
    with pytest.raises(AstrayError, match=r"no number any more at step \d+: give a lower lr than 1e\+30"):
        run(config)
    log = tmp_path / "run" / "log.jsonl"
    assert not log.exists() or "NaN" not in log.read_text()


def test_the_usual_channels_are_no_more_than_there_are(base, tmp_path):
    config = replace(base, out=str(tmp_path / "run"), channels=0, epochs=1)
    run(config)
    assert read_config(tmp_path / "run").channels == 12
    run(replace(config, channels=12))  # the same run


@pytest.mark.parametrize(
    ("values", "message"), [({"channels": 13}, "give 12 or fewer"), ({"stride": 9, "channels": 4}, "a smaller stride")]
)
def test_impossible_units_cost_no_features(base, tmp_path, monkeypatch, values, message):
    monkeypatch.setattr("bottlenet.net.build.MAX_PATCH", 12 * 64)
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match=message):
        run(replace(base, out=str(tmp_path / "run"), cache=str(cache), **values))
    assert not cache.exists()


def test_too_few_photos_leave_no_run(base, tmp_path):
    photos = save_photos(tmp_path / "photos", 5)
    with pytest.raises(InputError, match="fewer than one batch"):
        run(replace(base, data=(str(photos),), out=str(tmp_path / "run"), cache=str(tmp_path / "cache")))
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_folder(base, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="holds no run"):
        run(replace(base, out=str(tmp_path / "file")))
    with pytest.raises(InputError, match="another folder"):
        run(replace(base, out=str(tmp_path / "file" / "run")))


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', "\x00"])
def test_a_damaged_run_is_named(base, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json can't be used"):
        run(replace(base, out=str(tmp_path)))


def test_other_weights_have_other_features(base):
    mine, other = classifier(), classifier()
    with torch.no_grad():
        other.module.classifier.bias.add_(1)
    assert fingerprint(mine) == fingerprint(classifier())
    assert fingerprint(mine) != fingerprint(other)


class TestLosses:
    def test_distillation_of_equals_is_zero(self):
        scores = torch.randn(4, 9)
        assert distillation(scores, scores).tolist() == pytest.approx([0] * 4, abs=1e-6)
        assert distillation(scores, scores.flip(1)).mean() > 0.1

    def test_features_error(self):
        features = torch.randn(2, 3, 4, 4)
        assert features_error(features, features).mean().item() == 0
        mean = torch.full_like(features, features.mean().item())
        assert features_error(mean, features).mean().item() == pytest.approx(1, rel=0.05)

    def test_unlabelled_photos_do_not_count(self):
        scores = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
        assert cross_entropy(scores, [0, None]).item() < 0.01
        assert cross_entropy(scores, [None, 0]).item() > 8
        assert cross_entropy(scores, [None, None]).item() == 0

    def test_learning_rate_warms_up_and_falls(self):
        assert learning_rate(0) == 0
        assert learning_rate(0.02) == pytest.approx(1)
        assert learning_rate(1) == pytest.approx(0.01)

    def test_bytes_get_dearer_where_there_are_too_many(self):
        assert next_lmbda(1e-3, 1200, 1000, 1.0) > 1e-3
        assert next_lmbda(1e-3, 900, 1000, 1.0) < 1e-3
        assert next_lmbda(1e-3, 1900, 1000, 0.0) < 1e-3  # the aim starts at twice the target
