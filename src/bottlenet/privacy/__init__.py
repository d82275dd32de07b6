"""The attacker, who rebuilds photos from what is sent; and the options of `bottlenet privacy`."""

import math
from dataclasses import dataclass

from bottlenet.errors import InputError

LIMITS = {  # name: (at least, at most)
    "side": (16, 512),
    "width": (4, 512),
    "blocks": (1, 32),
    "epochs": (1, 10**4),
    "crops": (1, 100),
    "batch": (1, 4096),
    "photos": (0, 10**7),
    "held_out": (2, 10**6),
    "limit": (2, 10_000),
    "shown": (1, 16),
    "seed": (0, 2**31),
}
MAX_BUDGETS = 12


@dataclass(frozen=True)
class PrivacyConfig:
    """One attack on one bundle. A field's comment is its option's help. InputError: numbers that can't be."""

    data: tuple[str, ...]  # folders of photos that the attacker learns from; no labels needed
    out: str  # folder for samples, attacker and pictures; what is there is not made again
    budgets: tuple[int, ...] = ()  # bytes of a payload, at most; none: the bundle's own
    test: str = ""  # folder of other photos to rebuild; empty: the photos of data that are held out
    model: str = ""  # the network of perceptual, as train names it; empty: as the bundle calls its own
    show: str = ""  # folder of photos for the pictures; empty: those that come with BottleNet
    shown: int = 4  # so many of them
    limit: int = 1000  # photos that are rebuilt and matched, at most
    photos: int = 0  # so many of the photos of data, evenly spread; 0: all
    held_out: int = 10  # without test: one photo of this many is not learned from, but rebuilt
    side: int = 112  # of a rebuilt photo, pixels, at most
    width: int = 48  # channels of the attacker at a quarter of that side; twice as many at half of it, and so on
    blocks: int = 4  # residual blocks at the smallest size; half as many at twice the size, and so on
    crops: int = 2  # of each photo: that of a device, and random ones
    epochs: int = 6  # passes over all crops
    batch: int = 32  # crops a step
    lr: float = 1e-3  # peak learning rate
    perceptual: float = 0.05  # weight of what the network itself sees, beside the pixels; 0: pixels alone
    seed: int = 0  # of crops, budgets, order and weights

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise InputError(f"{name} is {value}; give {least} to {most}")
        for name in ("lr", "perceptual"):
            if not 0 <= (weight := getattr(self, name)) < math.inf:
                raise InputError(f"{name} is {weight}; give a number that is not below 0")
        if self.lr == 0:
            raise InputError("lr is 0: with that nothing would be learned; give more")
        if not self.data:
            raise InputError("no folder of photos to learn from; give one or more by --data")
        if len(self.budgets) > MAX_BUDGETS:
            raise InputError(f"{len(self.budgets)} budgets; give up to {MAX_BUDGETS}")
        if any(budget < 1 for budget in self.budgets):
            raise InputError(f"a budget of {min(self.budgets)} bytes; give 1 or more")
