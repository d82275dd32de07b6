"""Everything a run needs to go on exactly where it was, in one safetensors file; and the average of its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from bottlenet.lab.train import Progressed

FILE = "checkpoint.safetensors"


class Averaged:
    """Exponential moving average of the trained parameters, slow at the end and quick at the start."""

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        self.live = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.live.values()], weight)

    @torch.no_grad()
    def copy_in(self) -> None:
        for name, p in self.live.items():
            p.copy_(self.average[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        kept = {name: p.detach().clone() for name, p in self.live.items()}
        self.copy_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.live.items():
                    p.copy_(kept[name])


def save_checkpoint(
    run: Path, net: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged, at: Progressed
) -> None:
    """Written beside the old one, synced, then renamed over it: a crash leaves one of the two."""
    tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in trained_state(net).items()}
    tensors |= {f"average.{k}": v for k, v in averaged.average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    progress = {"at": json.dumps(asdict(at)), "updates": str(averaged.updates)}
    part = run / (FILE + ".part")
    save_file(tensors, part, metadata=progress)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(run / FILE)


def load_checkpoint(
    run: Path, net: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged, at: Progressed
) -> None:
    """Puts everything back as it was; does nothing where the run has no checkpoint yet."""
    if not (run / FILE).exists():
        return
    with safe_open(run / FILE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        progress = file.metadata()
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}, strict=False)
    averaged.average = {k: tensors[f"average.{k}"] for k in averaged.average}
    averaged.updates = int(progress["updates"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, value in json.loads(progress["at"]).items():
        setattr(at, name, value)


def trained_state(net: nn.Module) -> dict[str, Tensor]:
    """The unit and the tail; the head is the classifier's own."""
    return {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
