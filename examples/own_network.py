"""Cut your own classifier in two, train it through the real codec with your own loop, and export it.

The loop needs no labels: the uncut network is the teacher. `bottlenet train` does the same for folders of any size,
with what makes it fast and good; this is what is inside.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bottlenet import Classifier, Edge, Preprocess, export, insert
from bottlenet.demo.run import shipped_photos
from bottlenet.measure.bench import split_server
from bottlenet.net.build import start_from_components
from bottlenet.photo import photo_to_pixels

STEPS = 30


def classifier() -> Classifier:
    """Return your trained classifier; this one has random weights. Any that torch.fx can trace will do."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, 8, stride=8), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU6()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    nn.init.normal_(module[2][2].weight, std=20)  # else all classes are about as likely, and there is nothing to learn
    preprocess = Preprocess(size=64, crop_fraction=0.875, interpolation="bicubic")
    labels = tuple(f"class {number}" for number in range(10))
    return Classifier("mine", module.eval(), preprocess, (127.0,) * 3, (128.0,) * 3, labels, "mine")


def main(photos: list[Path], folder: Path) -> None:
    mine = classifier()
    pixels = np.stack([photo_to_pixels(photo, mine.preprocess) for photo in photos])  # (B, 64, 64, 3) uint8
    batch = torch.from_numpy(pixels)
    net = insert(mine, cut="0", channels=8, stride=1, codec="jpeg", quality=20)
    with torch.no_grad():
        features = net.head(batch)  # (B, 64, 8, 8)
        wanted = net.tail(features).softmax(1)  # what the uncut network says
    start_from_components(net, [features])
    unit = [*net.reduction.parameters(), *net.restoration.parameters()]
    optimizer = torch.optim.AdamW(unit, lr=1e-3)
    losses = []
    for _ in range(STEPS):
        output = net(batch)  # through JPEG, byte for byte as the device sends it; its gradient is the identity
        loss = nn.functional.kl_div(output.scores.log_softmax(1), wanted, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert output.payload_bytes is not None
    mean_bytes = output.payload_bytes.float().mean()
    print(f"loss {losses[0]:.4f}, after {STEPS} steps {losses[-1]:.4f}; {mean_bytes:.0f} bytes a photo")
    bundle, fidelity = export(net.eval(), folder / "mine.bundle", pixels=pixels)
    print(f"bundle {bundle.id.hex()[:12]}: {fidelity.symbols_equal:.1%} of the symbols as in torch")
    with split_server([bundle.path]) as port, Edge(bundle, f"ws://127.0.0.1:{port}") as edge:
        for photo in photos[:3]:
            print(f"{photo.name}: {edge.classify(photo).label}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(shipped_photos(), Path(temporary))
