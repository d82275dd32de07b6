"""Features in any layout, to a grid of channels and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError
from bottlenet.net.build import UNITS, insert, start_from_components
from bottlenet.net.cut import Layout, cuts, layout_of, split
from bottlenet.net.export import export
from bottlenet.net.models import Classifier
from bottlenet.net.unit import GridRestoration
from small import LABELS, SIZE, pixels

EVEN = (64, 64)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((96, 14, 14), Layout("planes", (96, 14, 14))),
        ((14, 14, 96), Layout("rows", (96, 14, 14))),
        ((8, 8, 8), Layout("planes", (8, 8, 8))),  # nothing tells which: what convolutions give
        ((96, 14, 7), Layout("planes", (96, 14, 7))),
        ((197, 192), Layout("tokens", (192, 14, 14), 1)),
        ((196, 192), Layout("tokens", (192, 14, 14), 0)),
        ((198, 192), Layout("tokens", (192, 14, 14), 2)),
        ((49, 32), Layout("tokens", (32, 7, 7), 0)),
        ((9, 32), Layout("tokens", (32, 2, 2), 5)),  # registers: of the nearest grid, not 3 x 3
        ((150, 32), Layout("tokens", (32, 12, 12), 6)),
        ((192,), None),
        ((4, 2, 8, 8), None),
    ],
)
def test_layout_of_a_shape(shape: tuple[int, ...], expected: Layout | None) -> None:
    assert layout_of(shape, [(14, 14), (7, 7), (2, 2)], EVEN) == expected


def test_a_photo_that_is_no_square() -> None:
    assert layout_of((14, 28, 96), [], (64, 128)) == Layout("rows", (96, 14, 28))
    assert layout_of((96, 14, 28), [], (64, 128)) == Layout("planes", (96, 14, 28))
    assert layout_of((393, 96), [(14, 28)], (64, 128)) == Layout("tokens", (96, 14, 28), 1)
    assert layout_of((393, 96), [], (64, 128)) is None  # no square is to be found in it


def test_what_is_no_grid() -> None:
    assert layout_of((250, 8), [(14, 14)], EVEN) is None  # 15 x 15 and 25 more


GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@given(st.sampled_from(["planes", "rows", "tokens"]), GRIDS, st.integers(0, 3), st.integers(0, 2**16))
def test_grid_and_back(kind: str, grid: tuple[int, int, int], extra: int, seed: int) -> None:
    layout = Layout(kind, grid, extra if kind == "tokens" else 0)
    torch.manual_seed(seed)
    there = torch.randn(2, *grid)
    features = layout.from_grid(there)
    if layout.extra:
        features = torch.cat([torch.randn(2, extra, grid[0]), features], 1)
    assert torch.equal(layout.to_grid(features), there)


def test_tokens_go_row_by_row() -> None:
    grid = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert Layout("tokens", (1, 2, 3)).from_grid(grid).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_extra_tokens_are_a_learned_one_and_what_the_places_tell() -> None:
    restoration = GridRestoration(Layout("tokens", (4, 3, 3), 2), nn.Identity())
    batches = [torch.randn(5, 11, 4), torch.randn(3, 11, 4)]
    with torch.no_grad():
        grids = list(restoration.note_extra_tokens(batches))
    assert torch.equal(grids[1], restoration.layout.to_grid(batches[1]))
    made = restoration(torch.randn(2, 4, 3, 3))
    mean = torch.cat(batches)[:, :2].mean(0)
    torch.testing.assert_close(made[:, :2], mean.expand(2, 2, 4))  # the mean of those that were seen, at first
    grid = torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        restoration.from_places.weight.normal_()
    tokens = restoration(grid)[:, :2]
    expected = mean + (grid.mean((2, 3)) @ restoration.from_places.weight.T).view(2, 2, 4)
    torch.testing.assert_close(tokens, expected)


class Tokens(nn.Module):
    """A small vision transformer: patches, a class token, attention, the class token's scores."""

    def __init__(self, *, class_token: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12)) if class_token else None
        self.blocks = nn.ModuleList(Block(12) for _ in range(2))
        self.head = nn.Linear(12, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        photos, channels, height, width = x.shape
        assert height == width
        x = x.reshape(photos, channels, height * width).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(photos, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


class Rows(nn.Module):
    """Channels last, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))
        x = x + self.mix(x).relu()
        return self.head(x.mean((1, 2)))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        photos, count, channels = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(photos, count, 3, 2, channels // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(
            nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(photos, count, channels)
        )
        return x


def classifier(module: nn.Module) -> Classifier:
    return Classifier("tokens", module.eval(), Preprocess(SIZE, 1.0, "bicubic"), (127,) * 3, (64,) * 3, LABELS, "none")


MODELS = {
    "class token": (lambda: Tokens(class_token=True), "blocks.0", Layout("tokens", (12, 8, 8), 1)),
    "no class token": (lambda: Tokens(class_token=False), "blocks.0", Layout("tokens", (12, 8, 8), 0)),
    "rows": (Rows, "norm", Layout("rows", (12, 8, 8))),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_cut_of_a_token_network(name: str) -> None:
    torch.manual_seed(1)
    make, cut, layout = MODELS[name]
    module = make().eval()
    x = torch.randn(3, 3, SIZE, SIZE)
    found = {each.name: each for each in cuts(module, (3, SIZE, SIZE))}
    assert found[cut].layout == layout
    assert found["patches"].layout == Layout("planes", (12, 8, 8))  # the sides that are read there run past it
    for each in found:
        halves = split(module, each, (3, SIZE, SIZE))
        with torch.no_grad():
            assert torch.equal(halves.tail(halves.head(x)), module(x)), each


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_a_unit_in_a_token_network(name: str, unit: str, tmp_path: Path) -> None:
    """Learns, and both halves are the whole."""
    torch.manual_seed(1)
    make, cut, _ = MODELS[name]
    net = insert(classifier(make()), cut=cut, unit=unit, channels=6, stride=2)
    assert net.codec.mosaic.symbols_shape == (6, 4, 4)
    photos = torch.from_numpy(pixels(8))
    with torch.no_grad():
        start_from_components(net, [net.head(photos)])
    net.train()
    for _ in range(3):
        output = net(photos)
        assert output.features_hat.shape == net.head(photos).shape
        output.scores.square().mean().backward()
    assert all(each.grad is not None for each in (*net.reduction.parameters(), *net.restoration.parameters()))
    net.eval()
    with torch.no_grad():
        assert torch.equal(net.decompress(net.compress(photos)), net(photos).scores)
    if (name, unit) != ("class token", "residual"):
        return
    bundle, _ = export(net, tmp_path / "bundle", pixels=pixels(8))  # compares, and writes nothing where they differ
    assert bundle.manifest.latent == (6, 4, 4)


def test_components_of_tokens_are_those_of_their_grid() -> None:
    """With as many channels as the features have, the linear path alone gives the places back but for rounding."""
    torch.manual_seed(1)
    net = insert(classifier(Tokens(class_token=True)), cut="blocks.0", channels=12, codec="raw", quality=0)
    photos = torch.from_numpy(pixels(16))
    with torch.no_grad():
        features = net.head(photos)
        start_from_components(net, [features])
        error = (net.eval()(photos).features_hat - features)[:, 1:]
    assert error.square().mean() < 0.01 * features[:, 1:].var()


def test_a_papers_unit_of_tokens_starts_at_them_too() -> None:
    torch.manual_seed(1)
    errors = []
    for paper in (False, True):
        net = insert(classifier(Tokens(class_token=True)), cut="blocks.0", unit="paper", channels=12)
        with torch.no_grad():
            features = net.head(torch.from_numpy(pixels(16)))
            start_from_components(net, [features], paper=paper)
            output = net.train().forward_features(features, codec_in_loop=False)
        errors.append((output.features_hat - features)[:, 1:].square().mean() / features[:, 1:].var())
    assert errors[1] < 0.05 < 0.5 * errors[0]


def test_a_cut_without_a_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(12,\): a unit needs channels, height and width"):
        insert(classifier(Rows()), cut="mean")


def test_a_cut_says_its_layout_in_json() -> None:
    cut = next(each for each in cuts(Rows().eval(), (3, SIZE, SIZE)) if each.name == "norm")
    assert dataclasses.asdict(cut)["layout"] == {"kind": "rows", "grid": (12, 8, 8), "extra": 0, "parts": ()}
    assert np.prod(cut.shape) == cut.elements
