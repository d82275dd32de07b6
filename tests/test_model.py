"""BottleNet as a whole: three verbs, one path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bottlenet
from bottlenet.errors import InputError
from bottlenet.net.build import UNITS, insert, start_from_components
from bottlenet.net.model import BottleNet
from small import classifier, pixels

CODECS = [("raw", 0), ("deflate", 9), ("jpeg", 50), ("webp", 80)]


def calibrated(**numbers: object) -> BottleNet:
    """A net whose norms and ranges have seen photos."""
    torch.manual_seed(0)
    net = insert(classifier(), cut="first", **{"channels": 6, **numbers})
    photos = torch.from_numpy(pixels(12))
    with torch.no_grad():
        start_from_components(net, [net.head(photos)])
        net.train()
        for _ in range(20):
            net(photos)
    return net.eval()


@pytest.mark.parametrize(("codec", "quality"), CODECS)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("stride", [1, 2])
def test_decompressing_what_was_compressed_is_evaluation_forward(unit, stride, codec, quality):
    net = calibrated(unit=unit, stride=stride, codec=codec, quality=quality)
    photos = torch.from_numpy(pixels(3))
    with torch.no_grad():
        payloads = net.compress(photos)
        output = net(photos)
        assert torch.equal(net.decompress(payloads), output.scores)
    assert [len(payload) for payload in payloads] == output.payload_bytes.tolist()


@pytest.mark.parametrize("unit", UNITS)
def test_gradient_takes_the_codec_for_the_identity(unit):
    """The unit learns through the real codec: the gradient at the symbols is that at the decoded symbols."""
    net = calibrated(unit=unit)
    features = net.head(torch.from_numpy(pixels(2)))
    symbols = net.quantizer.quantize(net.reduction(features)).detach().requires_grad_()
    through, _ = net._through_codec(symbols)
    weights = torch.randn_like(through)
    (through * weights).sum().backward()
    assert torch.equal(symbols.grad, weights)
    assert not torch.equal(through, symbols)  # JPEG did change them


def test_naive_training_leaves_the_codec_out():
    net = calibrated()
    features = net.head(torch.from_numpy(pixels(2)))
    naive = net.forward_features(features, codec_in_loop=False)
    assert naive.payload_bytes is None
    assert not torch.equal(naive.scores, net.forward_features(features).scores)


def test_the_classifier_stays_as_it_is():
    mine = classifier()
    before = {name: value.clone() for name, value in mine.module.state_dict().items()}
    net = insert(mine, cut="first")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], value) for name, value in mine.module.state_dict().items())


def test_public_name():
    assert bottlenet.insert is insert


def test_components_are_kept_and_restored():
    """With as many channels as the features have, the linear path alone is lossless but for rounding."""
    net = insert(classifier(), cut="first", channels=12, codec="raw", quality=0)
    features = net.head(torch.from_numpy(pixels(12)))
    start_from_components(net, [features], amplitude=4.0)
    net.eval()
    with torch.no_grad():
        latent = net.reduction(features)
        spread = latent.transpose(0, 1).flatten(1).std(1)
        output = net.forward_features(features)
    assert spread[0] == pytest.approx(4.0, rel=0.01)
    assert (spread[1:] <= spread[:-1] * 1.001).all()  # in order of importance
    error = (output.features_hat - features).pow(2).mean() / features.var()
    assert error < 0.01


def test_components_of_a_papers_unit_are_left_alone():
    net = insert(classifier(), cut="first", unit="paper", channels=6)
    before = net.reduction[0].weight.clone()
    start_from_components(net, [net.head(torch.from_numpy(pixels(4)))])
    assert torch.equal(net.reduction[0].weight, before)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"unit": "thin"}, "'thin'.*paper, residual"),
        ({"cut": "frist"}, "first"),
        ({"codec": "zip"}, "jpeg"),
        ({"quality": 0}, "quality"),
        ({"channels": -1}, "1 or more"),
        ({"channels": 13}, "13 channels at stride 1 are more than the features have, 12 x 16 x 16; give 12 or fewer"),
        ({"stride": 17}, "16 x 16"),
        ({"tail_size": 4}, "tail_size is 4; give 8 to 4096 pixels, or 0 for the head's"),
        ({"cut": "mean"}, "channels, height and width"),
    ],
)
def test_what_can_not_be_is_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        insert(classifier(), **{"cut": "first", **numbers})


def test_payloads_are_the_codecs():
    net = calibrated()
    (payload,) = net.compress(torch.from_numpy(pixels(1)))
    symbols = net.codec.decode(payload)
    assert symbols.shape == net.codec.mosaic.symbols_shape
    assert symbols.dtype == np.uint8


@pytest.mark.parametrize("codec", ["jpeg", "entropy"])
def test_channels_that_say_nothing_are_no_harm(codec: str) -> None:
    net = insert(classifier(), cut="first", channels=12, stride=1, codec=codec)
    features = net.head(torch.from_numpy(pixels(4))).detach()
    features[:, 3:] = features[:, :1] * 1e3  # nine channels of one kind: rounding makes variances below 0
    start_from_components(net, [features])
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
