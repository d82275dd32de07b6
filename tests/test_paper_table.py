"""The paper's cuts beside its bytes, on a network of ResNet-50's places and few channels; the real ones: tests_zoo."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.cli.network import paper_table
from bottlenet.errors import InputError
from bottlenet.net.build import BLOCKS, BYTES, PLACES, paper_cuts
from bottlenet.net.models import Classifier
from small import LABELS, Residual, classifier


class Places(nn.Module):
    """layer1 to layer4 with 3, 4, 6 and 3 blocks at 56, 28, 14 and 7 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        for stage, blocks in enumerate(BLOCKS, 1):
            layers = [nn.Sequential(nn.Conv2d(4, 4, 2, stride=2), nn.ReLU()), *(Residual(4) for _ in range(blocks - 1))]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.fc = nn.Linear(4, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def named(name: str, size: int = 224) -> Classifier:
    preprocess = Preprocess(size, 1.0, "bicubic")
    return Classifier(name, Places().eval(), preprocess, (0,) * 3, (1,) * 3, LABELS, "none")


@pytest.mark.parametrize("name", ["torchvision/resnet50:random", "timm/resnet50", "resnet50"])
def test_sixteen_blocks(name: str) -> None:
    found = paper_cuts(named(name))
    assert [cut.name for cut in found] == [f"RB{number}" for number in range(1, 17)]
    assert [cut.cut for cut in found][:4] == ["layer1.0", "layer1.1", "layer1", "layer2.0"]
    assert [cut.latent for cut in found] == ([(1, 28, 28)] * 3 + [(2, 14, 14)] * 4 + [(5, 7, 7)] * 6 + [(10, 4, 4)] * 3)
    assert [cut.raw_bytes for cut in found] == [784] * 3 + [392] * 4 + [245] * 6 + [160] * 3
    assert [cut.paper_bytes for cut in found] == list(BYTES)


def test_the_unit_is_counted_on_the_device() -> None:
    cut = paper_cuts(named("resnet50"))[0]
    unit = 2 * 28 * 28 * (5 * 5 * 4 * 4 + 4)  # a 5 x 5 convolution of stride 2, then 1 x 1 to one channel
    head = 2 * 4 * (112 * 112 * 3 * 4 + 56 * 56 * 4 * 4)
    assert cut.head_flops == head + unit


def test_a_table_for_people() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(paper_table(paper_cuts(named("resnet50"))))
    lines = console.file.getvalue().splitlines()
    first = next(line.split() for line in lines if "RB1 " in line)
    assert first[:3] == ["RB1", "layer1.0", "4x56x56"]
    assert first[-4:] == ["1x28x28", "784", "784", "316"]


def test_a_side_that_the_paper_does_not_have() -> None:
    assert all(cut.latent is None and cut.raw_bytes is None for cut in paper_cuts(named("resnet50", 200)))


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match="small: the paper.s table is for resnet50 and vgg19; give"):
        paper_cuts(classifier())
    with pytest.raises(InputError, match=r"torchvision/vgg19 has no cut features\.4, so it is not the paper's vgg19"):
        paper_cuts(named("torchvision/vgg19"))
    assert [len(places) for places in PLACES.values()] == [16, 5]
