"""Starts one command several times, as processes that train together on this machine.

`accelerate launch` does the same for several machines and has more settings; both leave the same words in the
environment: RANK, WORLD_SIZE, MASTER_ADDR.

The processes that train one network together: one alone, or one for each GPU; `accelerate` joins them.

    batch of a step    [ part | part | part | part ]      processes * accumulate parts, equally large
                         process 0     process 1

Each process adds up the gradients of its own parts, then all take the mean: one exchange a step, in one flat buffer.
What they hold is the same everywhere at all times, so that only the main process writes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import IO, ParamSpec

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env, reduce
from numpy.typing import NDArray
from torch import Tensor, nn

from bottlenet.errors import InputError
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import Part

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


POLL_S = 0.2
GRACE_S = 5.0  # for process 0 to fail as another did
STOP_S = 30.0  # for a process to end after it was asked to
LONGEST_ERROR = 64 * 2**10  # bytes shown of what a process wrote to stderr


def launch(processes: int, command: Sequence[str]) -> int:
    """Runs `command` as so many processes; the exit code of the first that failed, or 0. The others are ended then.

    Standard output and error are those of process 0. Where another failed first, what it wrote to stderr is shown, not
    if process 0 ends in the same way: then that has said the same.
    """
    port = free_port()
    team: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as files:
        files.callback(lambda: stop(team))
        errors = [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1)]
        for number in range(processes):
            quiet = number > 0
            team.append(
                subprocess.Popen(
                    command,
                    env=environment(number, processes, port),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if quiet else None,
                    stderr=errors[number - 1] if quiet else None,
                )
            )
        number, code = first_failure(team)
        if number > 0 and ended(team[0], GRACE_S) != code:
            show_end(errors[number - 1])
        return code


def environment(number: int, processes: int, port: int) -> dict[str, str]:
    """What torch.distributed and accelerate look for."""
    told = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    # Each taking all cores would be slower than each taking its share.
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": f"{threads}", **os.environ, **{name: f"{value}" for name, value in told.items()}}


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def first_failure(team: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """(number, exit code) of the first process that failed, or of process 0 when all have ended well. A death by signal
    counts as 128 and its number, as in a shell.
    """
    while True:
        codes = [process.poll() for process in team]
        for number, code in enumerate(codes):
            if code:
                return number, code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0, 0
        time.sleep(POLL_S)


def ended(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its exit code, or None where it runs on."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


def stop(team: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks those that still run to end, and kills those that don't."""
    for process in team:
        process.terminate()  # nothing, where it has ended
    until = time.monotonic() + STOP_S
    for process in team:
        if ended(process, max(0.0, until - time.monotonic())) is None:
            process.kill()
            process.wait()


def show_end(file: IO[bytes]) -> None:
    """The end of what a process wrote to stderr."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_ERROR))
    sys.stderr.write(file.read().decode(errors="replace"))
