"""Where a run starts: at the principal components of what it trains on, as loud as its codec wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bottlenet.lab.config import TrainConfig
from bottlenet.net.build import check_patch, start_from_components
from bottlenet.net.model import BottleNet

QUIETEST, LOUDEST, HALVINGS = 0.05, 50.0, 12  # of the search for an amplitude
MATCHED = 2  # batches whose payloads are looked at


def check_start(net: BottleNet, config: TrainConfig) -> None:
    """Before features are computed. InputError: a unit that would start at components of patches that are too large."""
    layout = None if net.origin is None else net.origin.cut.layout
    if layout is not None and (config.unit == "residual" or config.components):
        check_patch(layout.grid[0], config.stride)


def start(net: BottleNet, config: TrainConfig, batches: Sequence[Tensor]) -> None:
    """Starts a residual unit at the principal components of `batches` of features (B, c, H, W), and a paper's unit
    too, where `config.components` says so.

    Whole payloads of the entropy codec that are to have `target_bytes` start at twice as many, where their steering
    starts too. From the codec's usual start, which may be ten times as large, a short run never comes down: the weight
    of a byte rises until nothing else counts.
    """
    amplitude = config.amplitude
    if net.prior is not None and config.target_bytes and not amplitude:
        amplitude = amplitude_of(net, batches, 2 * config.target_bytes)
    start_from_components(net, batches, amplitude=amplitude, paper=config.components)


def amplitude_of(net: BottleNet, batches: Sequence[Tensor], payload_bytes: float) -> float:
    """The amplitude at which whole payloads have about so many bytes, by `net.prior`. Leaves `net` at some other."""
    low, high = QUIETEST, LOUDEST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        start_from_components(net, batches, amplitude=middle)
        low, high = (middle, high) if mean_bytes(net, batches[:MATCHED]) < payload_bytes else (low, middle)
    return math.sqrt(low * high)


@torch.no_grad()
def mean_bytes(net: BottleNet, batches: Sequence[Tensor]) -> float:
    """Of whole payloads, by `net.prior`."""
    sizes = [net.forward_within(batch, batch.new_full((len(batch),), math.inf)).payload_bytes for batch in batches]
    return torch.cat([size for size in sizes if size is not None]).mean().item()
