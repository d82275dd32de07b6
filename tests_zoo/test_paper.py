"""The paper's networks, cut where it cuts them, with its numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from bottlenet.errors import InputError
from bottlenet.net.build import BYTES, insert, paper_cuts
from bottlenet.net.cut import split
from bottlenet.net.models import Classifier, load_model

# arXiv 1902.01000v1: c' of RB1-3, RB4-7, RB8-13, RB14-16, and s = 2; RB1 is 56x56x256 -> 28x28x1
WIDE = {**os.environ, "COLUMNS": "140"}
LATENTS = [(1, 28, 28)] * 3 + [(2, 14, 14)] * 4 + [(5, 7, 7)] * 6 + [(10, 4, 4)] * 3
FEATURES = [(256, 56, 56)] * 3 + [(512, 28, 28)] * 4 + [(1024, 14, 14)] * 6 + [(2048, 7, 7)] * 3


@pytest.fixture(scope="module")
def resnet50() -> Classifier:
    return load_model("torchvision/resnet50:random")


def test_resnet50_has_the_papers_latents(resnet50: Classifier) -> None:
    found = paper_cuts(resnet50)
    assert [cut.name for cut in found] == [f"RB{number}" for number in range(1, 17)]
    assert [cut.shape for cut in found] == FEATURES
    assert [cut.latent for cut in found] == LATENTS
    assert [cut.raw_bytes for cut in found] == [cut.latent_elements for cut in found]
    assert found[0].latent_elements == 784
    assert [cut.paper_bytes for cut in found] == list(BYTES)
    assert [cut.head_flops for cut in found] == sorted(cut.head_flops for cut in found)


def test_timms_is_the_same_network() -> None:
    timms, torchvisions = (load_model(f"{name}/resnet50:random,size=224") for name in ("timm", "torchvision"))
    assert paper_cuts(timms) == paper_cuts(torchvisions)


@pytest.mark.parametrize("number", [1, 4, 8, 14, 16])
def test_the_papers_unit_goes_there(resnet50: Classifier, number: int) -> None:
    cut = paper_cuts(resnet50)[number - 1]
    assert cut.latent is not None
    net = insert(resnet50, cut=cut.cut, unit="paper", channels=cut.latent[0], stride=2, codec="jpeg", quality=20)
    assert net.codec.mosaic.symbols_shape == LATENTS[number - 1]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    with torch.no_grad():
        net.train().forward(pixels)  # norms and the quantiser's range see something
        payloads = net.eval().compress(pixels)
        assert net.decompress(payloads).shape == (2, 1000)


def test_vgg19_after_each_pooling() -> None:
    vgg19 = load_model("torchvision/vgg19:random")
    found = paper_cuts(vgg19)
    assert [cut.shape for cut in found] == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
    assert [cut.latent for cut in found] == [None, (1, 28, 28), (2, 14, 14), (5, 7, 7), (10, 4, 4)]
    assert all(cut.paper_bytes is None for cut in found)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for cut in found:
            halves = split(vgg19.module, cut.cut, (3, 224, 224))
            features = halves.head(x)
            assert tuple(features.shape[1:]) == cut.shape
            assert torch.equal(halves.tail(features), vgg19.module(x))


def test_other_networks_have_no_such_table() -> None:
    with pytest.raises(InputError, match="resnet18:random: the paper's table is for resnet50 and vgg19; give"):
        paper_cuts(load_model("torchvision/resnet18:random"))


def test_the_command_prints_it() -> None:
    command = [sys.executable, "-m", "bottlenet.cli", "cuts", "torchvision/resnet50:random", "--paper"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, env=WIDE)
    assert (shown.returncode, shown.stderr) == (0, "")
    first = next(line.split() for line in shown.stdout.splitlines() if "RB1 " in line)
    assert first[:3] == ["RB1", "layer1.0", "256x56x56"]
    assert first[-4:] == ["1x28x28", "784", "784", "316"]
    machine = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
    assert [cut["paper_bytes"] for cut in json.loads(machine.stdout)["paper"]] == list(BYTES)
