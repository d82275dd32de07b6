"""The processes that train one network together: one alone, or one for each GPU; `accelerate` joins them.

    batch of a step    [ part | part | part | part ]      processes * accumulate parts, equally large
                         process 0     process 1

Each process adds up the gradients of its own parts, then all take the mean: one exchange a step, in one flat buffer.
What they hold is the same everywhere at all times, so that only the main process writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import ParamSpec

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env, reduce
from numpy.typing import NDArray
from torch import Tensor, nn

from bottlenet.errors import InputError
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.part import Part

P = ParamSpec("P")
PATIENCE = timedelta(hours=12)  # of processes that wait while one fills a cache


class Team:
    """This process among those that train together.

    InputError: a batch that can't be divided into equal parts.
    """

    def __init__(self, config: TrainConfig) -> None:
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        self.state = PartialState(cpu=on_cpu, timeout=PATIENCE)
        self.device: torch.device = self.state.device
        self.count: int = self.state.num_processes
        self.number: int = self.state.process_index
        self.is_main: bool = self.state.is_main_process
        self.autocast_bf16 = config.precision == "bf16"
        parts = self.count * config.accumulate
        if config.batch % parts:
            raise InputError(
                f"a batch of {config.batch} can't be divided among {self.count} processes with accumulate "
                f"{config.accumulate}; give a multiple of {parts}"
            )
        self.parts = [Part(self.number * config.accumulate + i, parts) for i in range(config.accumulate)]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """What is done once for all, such as filling a cache, and then found done by the others."""
        with self.state.main_process_first():
            yield

    def precision(self) -> AbstractContextManager[object]:
        """For what may be computed in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast_bf16)

    def agree(self, net: nn.Module) -> None:
        """All have what the main process has: weights and statistics."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.copy_(broadcast(tensor))

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The gradients of all processes become their mean."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters if p.requires_grad]
        flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
        with torch.no_grad():
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def gathered(self, parts: Sequence[Tensor]) -> Tensor:
        """Values of each photo, of this process's parts -> of the whole batch, in its order, on the CPU."""
        mine = torch.cat(list(parts)).to(self.device)
        everyone: Tensor = mine if self.count == 1 else gather(mine)
        return everyone.cpu()

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over all processes."""
        if self.count == 1:
            return values
        total: Tensor = reduce(torch.from_numpy(values).to(self.device), reduction="sum")
        return total.cpu().numpy()

    def write(self, writer: Callable[P, None], *what: P.args, **named: P.kwargs) -> None:
        """Calls `writer` in the main process alone."""
        if self.is_main:
            writer(*what, **named)

    def wait(self) -> None:
        """Until all are here."""
        self.state.wait_for_everyone()


def started_by_launcher() -> bool:
    """True in a process that `accelerate launch`, torchrun or `launch.py` started."""
    return "WORLD_SIZE" in os.environ


def this_is_main() -> bool:
    """True in the one process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"
