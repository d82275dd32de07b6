"""Every network of the list: its cuts, its halves, a unit in the middle, a step of training, a bundle that runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures import EXPORTED, FAILING, SIZES, full_name
from bottlenet.bundle import Bundle
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.cut import Cut, cuts, split
from bottlenet.net.export import export
from bottlenet.net.model import BottleNet
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.runtime import open_session, run_graph
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import objective_of
from bottlenet.train.runs import Position
from bottlenet.train.train import build_optimizer, freeze, set_training_mode

PHOTOS = 4


def test_the_list_is_long_enough() -> None:
    assert len(SIZES) >= 60
    assert len(FAILING) <= 5
    assert set(EXPORTED) <= set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_architecture(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = load_model(full_name(name, SIZES[name]))
    every = cuts(classifier.module, classifier.input_size)
    found = [cut for cut in every if cut.layout is not None]
    middle = found[len(found) // 2]
    check_halves(classifier, list(dict.fromkeys([every[0], found[0], middle, found[-1], every[-1]])))
    size = SIZES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8)
    net = trained_a_step(classifier, middle, torch.from_numpy(pixels))
    if name not in exported():
        return
    bundle, _ = export(net, tmp_path / "bundle", pixels=pixels)  # compares, and writes nothing where they differ
    check_bundle(net, bundle, pixels)


def exported() -> Iterable[str]:
    """A spread of them, or with ZOO_EXPORT=all all of them."""
    return SIZES if os.environ.get("ZOO_EXPORT") == "all" else EXPORTED


def check_halves(classifier: Classifier, found: list[Cut]) -> None:
    x = torch.randn(2, *classifier.input_size)
    with torch.no_grad():
        whole = classifier.module(x)
        for cut in found:
            halves = split(classifier.module, cut.name, classifier.input_size)
            features = halves.head(x)
            assert tuple(features.shape) == (2, *cut.shape), cut
            assert torch.equal(halves.tail(features), whole), cut


def trained_a_step(classifier: Classifier, cut: Cut, pixels: Tensor) -> BottleNet:
    """The unit and the tail learn as in `bottlenet train`, the head does not."""
    config = TrainConfig(model=classifier.name, data=(), out="", cut=cut.name, channels=4)
    net = insert(classifier, **config.unit_numbers())
    with torch.no_grad():
        features = net.head(pixels)
        uncut = classifier.module(Normalize(classifier.mean, classifier.std)(pixels))
        start_from_components(net, [features])
    freeze(net, tail=True)
    optimizer = build_optimizer(net, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    before = {key: value.clone() for key, value in net.named_parameters()}
    step = objective_of(net, config, Position()).step(features, uncut, [None] * PHOTOS, 0.5)
    step.loss.backward()
    optimizer.step()
    assert torch.isfinite(step.loss)
    assert (step.payload_bytes > 0).all()
    changed = {key for key, value in net.named_parameters() if not torch.equal(value, before[key])}
    assert {key.partition(".")[0] for key in changed} == {"reduction", "restoration", "tail"}
    set_training_mode(net)
    return net.eval()


def check_bundle(net: BottleNet, bundle: Bundle, pixels: np.ndarray) -> None:
    """From pixels to scores through onnxruntime and the codec, as device and server do it."""
    symbols = run_graph(open_session(bundle.path / "head.onnx"), pixels=pixels)
    received = np.stack([net.codec.decode(net.codec.encode(one)) for one in symbols])
    scores = run_graph(open_session(bundle.path / "tail.onnx"), symbols=received)
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels)).scores.numpy()
    assert np.abs(scores - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", FAILING)
def test_those_that_fail_still_do(name: str) -> None:
    """One that no longer does belongs into the list of those that work."""
    classifier = load_model(f"{name}:random,labels=imagenet-1k")
    found = cuts(classifier.module, classifier.input_size)
    assert not [cut for cut in found if cut.layout is not None]
