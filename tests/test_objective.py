"""What a byte weighs in the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bottlenet.net.build import insert
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import BINS, Embedded, budget_factor
from bottlenet.train.runs import Position
from small import classifier


@pytest.fixture(scope="module")
def config():
    return TrainConfig("small:classifier", ("photos",), "run", "first", channels=6, codec="entropy")


@pytest.fixture
def embedded(config):
    return Embedded(insert(classifier(), **config.unit_numbers()), config, Position(lmbda=config.first_lmbda))


def test_a_byte_costs_what_it_brings(embedded):
    """On a curve 60 / bytes, e times the bytes save what is there: the slope of its logarithm is -1."""
    embedded.at.curve = [60 / math.exp(place) for place in embedded.centres]
    places = torch.tensor([math.log(100.0), math.log(600.0)])
    height, slope = embedded.height_and_slope(places)
    assert height.tolist() == pytest.approx([0.6, 0.1], rel=1e-3)
    assert slope.tolist() == pytest.approx([0.6, 0.1], rel=1e-3)


def test_until_all_budgets_were_seen_a_byte_costs_lmbda(embedded, config):
    embedded.update_curve(torch.full((4,), embedded.low), torch.ones(4))
    places = torch.tensor([math.log(100.0)])
    height, slope = embedded.height_and_slope(places)
    assert height.item() == 1
    assert slope.item() / 100 == pytest.approx(config.first_lmbda)


def test_the_curve_follows_what_is_seen(embedded):
    places = torch.from_numpy(np.repeat(embedded.centres, 4)).float()
    for _ in range(400):
        embedded.update_curve(places, 1 / places)
    assert embedded.at.curve == pytest.approx(1 / embedded.centres, rel=1e-3)
    assert len(embedded.at.curve) == BINS


def test_a_step_pays_for_bytes(embedded):
    features = torch.randn(8, 12, 16, 16)
    step = embedded.step(features, torch.randn(8, 4), [None] * 8, share=1.0)
    distilled, size = step.distillation.mean().item(), step.payload_bytes.mean().item()
    assert 0 < size <= 1200
    assert step.loss.item() == pytest.approx(distilled + 1e-4 * size, rel=0.2)
    step.loss.backward()
    assert embedded.net.reduction.linear.weight.grad.abs().sum() > 0


def test_budgets_start_plentiful():
    assert budget_factor(0) == 4
    assert budget_factor(1 / 3) == budget_factor(1) == 1


@pytest.fixture
def mixed(config):
    told = replace(config, whole_share=0.5)
    return Embedded(insert(classifier(), **told.unit_numbers()), told, Position(lmbda=told.first_lmbda))


def test_a_share_of_the_photos_keeps_all_bytes(mixed, embedded):
    whole = mixed.places(4000).isinf()
    assert whole.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not embedded.places(4000).isinf().any()


def test_whole_payloads_have_a_height_of_their_own_and_the_least_slope(mixed):
    places = torch.cat((torch.from_numpy(mixed.centres).float(), torch.tensor([math.inf])))
    for _ in range(400):
        mixed.update_curve(places, torch.cat((1 / places[:-1], torch.tensor([0.01]))))
    height, slope = mixed.height_and_slope(places)
    assert height[-1].item() == pytest.approx(0.01, rel=1e-2)
    assert slope[-1].item() == pytest.approx(0.15 * 0.01, rel=1e-2)
    assert height[:-1].tolist() == pytest.approx((1 / mixed.centres).tolist(), rel=0.1)


def test_a_step_with_whole_payloads(mixed):
    features, uncut = torch.randn(16, 12, 16, 16), torch.randn(16, 4)
    step = mixed.step(features, uncut, [None] * 16, share=1.0)
    whole = mixed.places(16).isinf()
    assert step.payload_bytes[whole].min() > 0
    step.loss.backward()
    assert torch.isfinite(mixed.net.reduction.linear.weight.grad).all()


def test_a_run_that_starts_from_weights_starts_with_its_own_budgets(config):
    features, uncut = torch.randn(8, 12, 16, 16), torch.randn(8, 4)
    sizes = []
    for begun in ("", "elsewhere"):
        torch.manual_seed(0)
        told = replace(config, start=begun, largest_bytes=60.0)
        objective = Embedded(insert(classifier(), **told.unit_numbers()), told, Position(lmbda=told.first_lmbda))
        sizes.append(objective.step(10 * features, uncut, [None] * 8, share=0.0).payload_bytes.max().item())
    assert sizes[1] <= 60 < sizes[0]
