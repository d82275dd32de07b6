"""Everything a run needs to go on exactly where it was, in one safetensors file; and the average of its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bottlenet.errors import InputError

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Position:
    """Where a run is, as its checkpoint says it."""

    epoch: int = 0
    step: int = 0  # in the epoch
    steps: int = 0  # since the start
    lmbda: float = 0.0  # weight of a byte
    mean_bytes: float = 0.0  # of the last batches
    curve: list[float] = field(default_factory=list)  # distillation by budget, see `objective.Embedded`


class Averaged:
    """Exponential moving average of the parameters that are trained: over the last `1 / (1 - decay)` steps or so, and
    over fewer at the start.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        self.live = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """One step further."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.live.values()], weight)

    @torch.no_grad()
    def copy_in(self) -> None:
        """The network's parameters become their averages."""
        for name, p in self.live.items():
            p.copy_(self.average[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The same for as long as the block runs."""
        kept = {name: p.detach().clone() for name, p in self.live.items()}
        self.copy_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.live.items():
                    p.copy_(kept[name])


def save_checkpoint(
    run: Path, net: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged, at: Position
) -> None:
    """Written beside the old one, synced, then renamed over it: a crash leaves one of the two."""
    tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in trained_state(net).items()}
    tensors |= {f"average.{k}": v for k, v in averaged.average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    progress = {"at": json.dumps(asdict(at)), "updates": str(averaged.updates)}
    part = run / (CHECKPOINT + ".part")
    save_file(tensors, part, metadata=progress)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(run / CHECKPOINT)


def load_checkpoint(
    run: Path, net: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged, at: Position
) -> None:
    """Puts everything back as it was; does nothing where the run has no checkpoint yet.

    InputError: it is damaged, or another network's.
    """
    if not (run / CHECKPOINT).exists():
        return
    tensors, metadata = read_tensors(run)
    load_state(net, below("net.", tensors))
    averaged.average = {k: tensors[f"average.{k}"].to(mine.device) for k, mine in averaged.average.items()}
    averaged.updates = int(metadata["updates"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in below("optimizer.", tensors).items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, value in json.loads(metadata["at"]).items():
        setattr(at, name, value)


def load_averaged(run: Path, net: nn.Module) -> int:
    """Puts a run's averaged weights into `net`, and says after how many steps they were.

    InputError: there is no checkpoint yet, it is damaged, or it is another network's.
    """
    if not (run / CHECKPOINT).exists():
        raise InputError(f"{run}: no {CHECKPOINT} in it yet; train until the first checkpoint")
    tensors, metadata = read_tensors(run)
    state = {**below("net.", tensors), **below("average.", tensors)}
    load_state(net, {name: value for name, value in state.items() if not name.startswith("adversary.")})
    steps: int = json.loads(metadata["at"])["steps"]
    return steps


def saved_position(run: Path) -> Position:
    """Where a run was at its last checkpoint. InputError: there is none, or it is damaged."""
    try:
        with safe_open(run / CHECKPOINT, framework="pt") as file:
            return Position(**json.loads(file.metadata()["at"]))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{run / CHECKPOINT} can't be read ({error}); remove {run}, and train again") from error


def read_tensors(run: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a checkpoint, and its metadata. InputError: it is damaged."""
    try:
        with safe_open(run / CHECKPOINT, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"{run / CHECKPOINT} is damaged ({error}); remove it, and the run starts again") from error


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_state(net: nn.Module, state: dict[str, Tensor]) -> None:
    """The trained part of a network. InputError: it is another network's."""
    mine = trained_state(net)
    wrong = mine.keys() ^ state.keys() or {name for name in mine if mine[name].shape != state[name].shape}
    if wrong:
        raise InputError(
            f"{CHECKPOINT} is of another network: {min(wrong)} differs; was the run trained with other code?"
        )
    net.load_state_dict(state, strict=False)


def trained_state(net: nn.Module) -> dict[str, Tensor]:
    """The unit and the tail; the head is the classifier's own."""
    return {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
