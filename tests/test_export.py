"""From a network to a bundle that needs no torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import BundleError, InputError
from bottlenet.net.export import Fidelity, check_fidelity, export
from bottlenet.photo import prepare
from bottlenet.runtime import open_session
from small import LABELS, classifier, photo, pixels
from test_model import calibrated


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net = calibrated(unit="paper", stride=2)
    bundle, fidelity = export(net, tmp_path_factory.mktemp("export") / "small", pixels=pixels(12), extra={"steps": 20})
    return net, bundle, fidelity


def test_bundle_says_what_it_is(exported):
    net, bundle, _ = exported
    manifest = Bundle.load(bundle.path).manifest
    assert (manifest.model, manifest.cut, manifest.unit, manifest.codec) == ("small", "first", "paper", "jpeg")
    assert manifest.latent == net.codec.mosaic.symbols_shape == (6, 8, 8)
    assert manifest.extra["steps"] == 20
    assert bundle.labels == LABELS
    assert 0 < manifest.head_flops_share < 1


def test_onnxruntime_is_torch(exported):
    net, bundle, fidelity = exported
    assert fidelity.symbols_equal >= 0.999
    assert fidelity.scores_difference <= 1e-3
    photos = [photo(seed) for seed in range(12)]
    prepared = np.stack([prepare(each, bundle.manifest.preprocess) for each in photos])
    with torch.no_grad():
        payloads = net.compress(torch.from_numpy(prepared))
        scores = net.decompress(payloads).numpy()
    encoder, decoder = Encoder(bundle), Decoder(bundle)
    frames = [encoder.encode(each).frame for each in photos]
    same = [frame.payload == payload for frame, payload in zip(frames, payloads, strict=True)]
    assert np.mean(same) > 0.5  # one symbol in a thousand may differ
    scored = decoder.scores([dataclasses.replace(f, payload=p) for f, p in zip(frames, payloads, strict=True)])
    np.testing.assert_allclose(scored.scores, scores, atol=1e-3)


def test_uncut_network_is_the_one_before_training(exported):
    _, bundle, _ = exported
    mine = classifier()
    photos = pixels(3)
    with torch.no_grad():
        normalised = (torch.from_numpy(photos).permute(0, 3, 1, 2).float() - 127) / 64
        expected = mine.module(normalised).numpy()
    scores = open_session(bundle.uncut_path).run(None, {"pixels": photos})[0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_int8_weights_are_said_to_agree(tmp_path):
    _, fidelity = export(calibrated(), tmp_path / "small", pixels=pixels(8), weights="int8")
    assert fidelity.rounded_agreement > 0.8
    assert fidelity.rounded_uncut_agreement > 0.8


def test_a_bundle_that_differs_is_refused():
    with pytest.raises(BundleError, match=r"1\.00%.*no bundle was written"):
        check_fidelity(Fidelity(10, 0.99, 0.0, 1.0, 1.0))
    with pytest.raises(BundleError, match=r"0\.01.*no bundle was written"):
        check_fidelity(Fidelity(10, 1.0, 0.01, 1.0, 1.0))
    with pytest.raises(BundleError):
        check_fidelity(Fidelity(10, float("nan"), 0.0, 1.0, 1.0))


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    net = calibrated()
    with torch.no_grad():
        net.tail.classifier.bias.fill_(float("nan"))
    with pytest.raises(BundleError, match="no numbers, so no bundle was written"):
        export(net, tmp_path / "small", pixels=pixels(4))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_writes_nothing(tmp_path, monkeypatch):
    net = calibrated()
    monkeypatch.setattr("bottlenet.net.export.run_graph", lambda session, **inputs: np.zeros((4, 4), np.float32))
    with pytest.raises((BundleError, ValueError)):
        export(net, tmp_path / "small", pixels=pixels(4))
    assert list(tmp_path.iterdir()) == []


def test_unknown_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="float32, int8"):
        export(calibrated(), tmp_path / "small", pixels=pixels(2), weights="int4")
