"""Reduction, Quantizer and Restoration."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.errors import InputError
from bottlenet.net.build import components, init_paper_unit
from bottlenet.net.unit import (
    Enlarged,
    PaperReduction,
    PaperRestoration,
    Quantizer,
    ResidualReduction,
    ResidualRestoration,
    UnitSpec,
)
from bottlenet.train.objective import features_error

PAIRS = [(PaperReduction, PaperRestoration), (ResidualReduction, ResidualRestoration)]


@pytest.mark.parametrize("pair", PAIRS, ids=["paper", "residual"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(12, 12), (13, 14), (7, 9)])
def test_restoration_mirrors_reduction(pair, stride, size):
    spec = UnitSpec(in_channels=6, channels=3, stride=stride, size=size)
    reduction, restoration = pair[0](spec).eval(), pair[1](spec).eval()
    features = torch.randn(2, 6, *size)
    latent = reduction(features)
    assert tuple(latent.shape[1:]) == spec.latent_shape
    assert restoration(latent).shape == features.shape


def test_what_is_restored_is_enlarged_and_nothing_added_at_first():
    restoration = ResidualRestoration(UnitSpec(in_channels=6, channels=3, stride=2, size=(8, 8)))
    latent = torch.randn(2, 3, 4, 4)
    found = Enlarged(restoration, 6, (14, 14))(latent)
    expected = torch.nn.functional.interpolate(restoration(latent), size=(14, 14), mode="bilinear")
    assert torch.equal(found, expected)


def test_papers_latent_of_resnet50_after_the_first_block():
    assert UnitSpec(in_channels=256, channels=1, stride=2, size=(56, 56)).latent_shape == (1, 28, 28)


def test_papers_kernel_is_larger_than_the_stride():
    for stride in (1, 2, 3, 4):
        convolution = PaperReduction(UnitSpec(4, 2, stride, (16, 16)))[0]
        assert convolution.stride == (stride, stride)
        assert convolution.kernel_size[0] > stride


def test_papers_latent_is_bounded():
    latent = PaperReduction(UnitSpec(4, 2, 2, (16, 16)))(100 * torch.randn(3, 4, 16, 16))
    assert latent.min() >= 0
    assert latent.max() <= 6


@pytest.mark.parametrize(("stride", "channels"), [(1, 3), (1, 8), (2, 3), (2, 8), (3, 5)])
def test_a_papers_unit_can_start_near_principal_components(stride, channels):
    """What it gives back is nearly what the components keep, and far from what random weights do."""
    torch.manual_seed(0)
    mixing = torch.randn(8, 8) * torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1])[:, None]
    features = torch.einsum("bihw,io->bohw", torch.randn(64, 8, 12, 12), mixing) + torch.arange(8)[:, None, None]
    spec = UnitSpec(8, channels, stride, (12, 12))
    reduction, restoration = PaperReduction(spec), PaperRestoration(spec)
    before = features_error(restoration(reduction(features)), features).mean().item()
    mean, variances, directions = found = components([features], stride, channels)
    init_paper_unit(reduction, restoration, found)
    kept = directions.T.float()
    kept = kept[:7] if stride > 1 else kept
    patches = torch.nn.functional.unfold(features, stride, stride=stride).transpose(1, 2) - mean.float()
    lost = (patches - patches @ kept.T @ kept).square().mean() / features.var()
    after = features_error(restoration(reduction(features)), features).mean()
    assert after < lost + 0.03
    assert after < 0.5 * before
    assert variances[0] > 0


@pytest.mark.parametrize(("channels", "stride"), [(0, 1), (1, 0), (-3, 2)])
def test_impossible_units_are_refused(channels, stride):
    with pytest.raises(InputError, match="1 or more"):
        UnitSpec(4, channels, stride, (8, 8))


def test_stride_larger_than_the_features_is_refused():
    with pytest.raises(InputError, match="8 x 8"):
        UnitSpec(4, 1, 9, (8, 8))


@given(bits=st.integers(1, 8), low=st.floats(-100, 100), span=st.floats(0.1, 100))
def test_quantizing_is_off_by_half_a_step_at_most(bits, low, span):
    quantizer = Quantizer(bits, fixed_range=(low, low + span)).eval()
    latent = torch.linspace(low, low + span, 97)
    symbols = quantizer.quantize(latent)
    assert torch.equal(symbols, symbols.round())
    assert symbols.min() >= 0
    assert symbols.max() <= 2**bits - 1
    step = span / (2**bits - 1)
    assert (quantizer.dequantize(symbols) - latent).abs().max() <= step / 2 + 1e-4 * (abs(low) + span)


def test_values_outside_the_range_are_clipped():
    quantizer = Quantizer(8, fixed_range=(0.0, 1.0)).eval()
    assert quantizer.quantize(torch.tensor([-5.0, 5.0])).tolist() == [0, 255]


def test_range_follows_the_latent_in_training_and_is_kept_in_evaluation():
    quantizer = Quantizer(8, momentum=0.5)
    quantizer.quantize(torch.tensor([1.0, 3.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (1.0, 3.0)  # the first batch sets it
    quantizer.quantize(torch.tensor([1.0, 5.0]))
    assert float(quantizer.high) == 4.0
    quantizer.eval()
    quantizer.quantize(torch.tensor([-100.0, 100.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (1.0, 4.0)


def test_range_is_part_of_the_state():
    quantizer = Quantizer(8)
    quantizer.quantize(torch.tensor([-2.0, 7.0]))
    other = Quantizer(8)
    other.load_state_dict(quantizer.state_dict())
    assert (float(other.low), float(other.high)) == (-2.0, 7.0)


def test_gradient_passes_rounding_inside_the_range_only():
    quantizer = Quantizer(8, fixed_range=(0.0, 1.0))
    latent = torch.tensor([-0.5, 0.3, 0.7, 1.5], requires_grad=True)
    quantizer.dequantize(quantizer.quantize(latent)).sum().backward()
    assert torch.allclose(latent.grad, torch.tensor([0.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(InputError, match="1 to 8"):
        Quantizer(bits)
