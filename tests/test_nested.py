"""Nested quantisation and the prior: what a cut payload knows, and what it is said to cost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bottlenet.net.unit import UNKNOWN, NestedQuantizer, Prior, steps_within
from bottlenet.wire.tables import STEPS


def latents(seed, scale=20.0, shape=(3, 5, 4, 4)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**16), coarse=st.integers(0, 3))
def test_a_coarser_rounding_of_what_was_rounded_is_the_coarser_rounding(seed, coarse):
    """So a payload can go on refining, and its prefix is what a coarser quantizer would have sent."""
    latent = latents(seed)
    quantizer = NestedQuantizer()
    fine, rough = (
        quantizer.quantize_to(latent, torch.full((3, 5), float(STEPS[level]))) for level in (coarse + 1, coarse)
    )
    again = quantizer.quantize_to(fine, torch.full((3, 5), float(STEPS[coarse])))
    assert torch.equal(again, rough)
    assert (fine - latent.clamp(-121, 121)).abs().max() <= STEPS[coarse + 1] / 2


def test_whole_payloads_know_the_symbols():
    latent = latents(1)
    quantizer = NestedQuantizer()
    symbols = quantizer.quantize(latent)
    assert symbols.min() >= 7
    assert symbols.max() <= 249
    assert torch.equal(quantizer.dequantize(symbols), quantizer.quantize_to(latent, torch.ones(3, 5)))


def test_the_gradient_of_rounding_is_the_identity():
    latent = latents(2, scale=5.0).requires_grad_()
    NestedQuantizer().quantize_to(latent, torch.full((3, 5), 9.0)).sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.ones_like(latent))


def test_probabilities_of_all_values_sum_to_one():
    prior = Prior(torch.tensor([3.0, 20.0]))
    for step in STEPS:
        values = torch.arange(-300, 301) * float(step)
        each = values.expand(1, 2, -1).reshape(1, 2, 1, -1)
        steps = torch.full((1, 2), float(step))
        bits = torch.stack([prior.bits(each[..., i : i + 1], steps) for i in range(len(values))])  # (n, 1, 2)
        assert (2**-bits).sum(0).detach().numpy() == pytest.approx(1, abs=0.02)


def test_a_byte_more_never_knows_less():
    latent, prior = latents(3), Prior(torch.tensor([20.0, 10.0, 5.0, 2.0, 1.0]))
    before = torch.full((3, 5), UNKNOWN)
    for budget in range(0, 200, 3):
        steps = steps_within(latent, prior, torch.full((3,), float(budget)))
        assert (steps <= before).all()
        before = steps
    assert (steps_within(latent, prior, torch.full((3,), math.inf)) == 1).all()
    assert (steps_within(latent, prior, torch.zeros(3)) == UNKNOWN).all()


def test_what_fits_a_budget_costs_no_more_than_it():
    latent, prior = latents(4), Prior(torch.full((5,), 20.0))
    for budget in (10.0, 30.0, 60.0):
        steps = steps_within(latent, prior, torch.full((3,), budget))
        known = NestedQuantizer().quantize_to(latent, steps)
        assert (prior.bits(known, steps).sum(1) / 8 <= budget + 0.1).all()


def test_passes_come_step_by_step_and_channel_by_channel():
    latent, prior = latents(5), Prior(torch.full((5,), 20.0))
    steps = steps_within(latent, prior, torch.full((3,), 40.0))
    for row in steps.tolist():
        assert row == sorted(row)  # early channels are known at least as finely
        assert len(set(row)) <= 2  # and nobody is two passes ahead
