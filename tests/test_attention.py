"""Attention as it is exported is attention as torch has it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bottlenet.net.export import AttentionSpelledOut, attention

SHAPES = [(2, 3, 5, 4), (3, 5, 4), (2, 2, 3, 5, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "added", "true or false"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_torchs(shape: tuple[int, ...], mask: str, scale: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(shape), torch.randn(*shape[:-2], 7, 4), torch.randn(*shape[:-2], 7, 6)
    given = {"none": None, "added": torch.randn(5, 7), "true or false": torch.rand(5, 7) > 0.3}[mask]
    expected = F.scaled_dot_product_attention(query, key, value, given, scale=scale)
    torch.testing.assert_close(attention(query, key, value, given, scale=scale), expected)
    with AttentionSpelledOut():
        torch.testing.assert_close(F.scaled_dot_product_attention(query, key, value, given, scale=scale), expected)


def test_what_it_can_not_say_stays_torchs() -> None:
    query = torch.randn(1, 2, 5, 4)
    expected = F.scaled_dot_product_attention(query, query, query, is_causal=True)
    with AttentionSpelledOut():
        assert torch.equal(F.scaled_dot_product_attention(query, query, query, is_causal=True), expected)
        assert torch.equal(query.sum(), query.sum())


def test_outside_nothing_is_changed() -> None:
    query = torch.randn(1, 2, 5, 4)
    with AttentionSpelledOut():
        pass
    assert F.scaled_dot_product_attention(query, query, query).shape == query.shape
