"""What a byte weighs in the loss."""

from __future__ import annotations

import math

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
