"""What a training run is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bottlenet.errors import InputError
from bottlenet.net.build import UnitConfig

NOT_NEGATIVE = (
    "lr",
    "tail_lr",
    "target_bytes",
    "amplitude",
    "lmbda",
    "label_weight",
    "feature_weight",
    "seed",
    "checkpoint_minutes",
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. A field's comment is the help of its option.

    InputError: numbers that can't be, or a rate asked for without the jpeg codec in the loop.
    """

    model: str  # efficientnet_lite0 | package.module:function
    data: tuple[str, ...]  # folders of photos; a folder given twice counts twice
    out: str  # folder of the run: run.json, log.jsonl, checkpoint.safetensors
    cut: str  # where the network is cut: a name from `bottlenet cuts`
    unit: str = UnitConfig.unit  # residual | paper
    channels: int = UnitConfig.channels  # c', channels of the latent
    stride: int = UnitConfig.stride  # s, spatial reduction
    codec: str = UnitConfig.codec  # jpeg | webp | deflate | raw
    quality: int = UnitConfig.quality  # of the codec
    naive: bool = False  # train without the codec in the loop
    epochs: int = 8  # passes over the photos
    crops: int = 8  # sets of random crops that the passes take in turn
    batch: int = 32  # photos a step
    lr: float = 4e-4  # peak learning rate of the unit
    tail_lr: float = 1e-4  # peak learning rate of the tail; 0 leaves it as it is
    target_bytes: float = 0.0  # mean payload to steer for (codec jpeg); 0: no rate in the loss
    amplitude: float = 4.0  # standard deviation of a residual unit's first component at the start
    lmbda: float = 1e-4  # weight of a byte in the loss, where the steering starts
    label_weight: float = 0.0  # weight of cross-entropy on labelled photos
    feature_weight: float = 0.1  # weight of the features' relative squared error
    seed: int = 0  # of crops, order and weights
    cache: str = "cache"  # folder for head features, a few GB
    checkpoint_minutes: float = 5.0  # between checkpoints

    def __post_init__(self) -> None:
        if min(self.epochs, self.crops, self.batch) < 1:
            raise InputError(f"epochs {self.epochs}, crops {self.crops}, batch {self.batch}: each must be 1 or more")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}; give a number that is not below 0")
        if min(self.lr, self.amplitude) == 0:
            raise InputError(f"lr {self.lr}, amplitude {self.amplitude}: with 0 nothing would be learned; give more")
        if self.target_bytes and (self.codec != "jpeg" or self.naive):
            raise InputError("target_bytes needs the jpeg codec in the loop: its rate is what is estimated")

    def unit_numbers(self) -> dict[str, Any]:
        """What `net.build.insert` wants to know."""
        return {name: getattr(self, name) for name in ("cut", "unit", "channels", "stride", "codec", "quality")}
