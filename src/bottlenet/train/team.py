"""The processes that train one network together: one alone, or one for each GPU; `accelerate` joins them.

    batch of a step    [ slice | slice | slice | slice ]      processes * accumulate slices, equally large
                         process 0       process 1

Each process adds up the gradients of its own slices, then all take the mean: one exchange a step, in one flat buffer.
They hold the same at all times, so that only the main process writes. `launch` starts them on this machine, as
`torch.distributed.run --standalone` does; `accelerate launch` does the same for several machines.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ParamSpec

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env, reduce
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from bottlenet.errors import BottleNetError, InputError
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import Slice

P = ParamSpec("P")
PATIENCE = timedelta(hours=12)  # of processes that wait while one fills a cache
GRACE_S = 5.0  # that another process leaves the main one to report an error first
LONGEST_ERROR = 64 * 2**10  # bytes shown of what a process wrote to stderr


class Team:
    """This process among those that train together. InputError: a batch that can't be divided into equal slices."""

    def __init__(self, config: TrainConfig) -> None:
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        self.state = PartialState(cpu=on_cpu, timeout=PATIENCE)
        self.device: torch.device = self.state.device
        self.count: int = self.state.num_processes
        self.number: int = self.state.process_index
        self.is_main: bool = self.state.is_main_process
        self.autocast_bf16 = config.precision == "bf16"
        count = self.count * config.accumulate
        if config.batch % count:
            among = f"{self.count} processes with accumulate {config.accumulate}"
            raise InputError(f"a batch of {config.batch} can't be divided among {among}; give a multiple of {count}")
        self.slices = [Slice(self.number * config.accumulate + i, count) for i in range(config.accumulate)]

    def precision(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 inside, where the run's precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast_bf16)

    def agree(self, net: nn.Module) -> None:
        """Copy the main process's weights and statistics to all."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.copy_(broadcast(tensor))

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set the gradients of all processes to their mean."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters if p.requires_grad]
        flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
        with torch.no_grad():
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def gathered(self, values: Sequence[Tensor]) -> Tensor:
        """Collect the values of each photo of this process's slices, for the whole batch in its order, on the CPU."""
        mine = torch.cat(list(values)).to(self.device)
        everyone: Tensor = mine if self.count == 1 else gather(mine)
        return everyone.cpu()

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up over all processes."""
        if self.count == 1:
            return values
        total: Tensor = reduce(torch.from_numpy(values).to(self.device), reduction="sum")
        return total.cpu().numpy()

    def write(self, writer: Callable[P, None], *what: P.args, **named: P.kwargs) -> None:
        """Call `writer` in the main process alone."""
        if self.is_main:
            writer(*what, **named)


def launched() -> bool:
    """Tell if `accelerate launch`, torchrun or `launch` started this process."""
    return "WORLD_SIZE" in os.environ


def is_main_process() -> bool:
    """Tell if this is the one process that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def main_reports_first() -> Iterator[None]:
    """Delay this process's error where another is the main one, which most likely fails with the same."""
    try:
        yield
    except BottleNetError:
        if not is_main_process():
            time.sleep(GRACE_S)
        raise


def launch(processes: int, command: Sequence[str]) -> int:
    """Run `command` as so many processes, and end all when one fails.

    Return the exit code of the first that failed, or 0; a death by signal counts as 128 and its number, as in a shell.
    Standard error is that of process 0; of another process that failed first it is shown at the end.
    """
    # Each using all cores would be slower than each using its share.
    os.environ.setdefault("OMP_NUM_THREADS", f"{max(1, (os.cpu_count() or 1) // processes)}")
    with tempfile.TemporaryDirectory() as logs:
        others = ",".join(f"{number}:2" for number in range(1, processes))
        redirects = [f"--redirects={others}"] if others else []
        options = ["--standalone", f"--nproc-per-node={processes}", f"--log-dir={logs}", *redirects, "--no-python"]
        logging.disable(logging.ERROR)  # torch reports each process that it ends
        try:
            run.run(run.parse_args([*options, *command]))  # type: ignore[no-untyped-call]
        except SignalException as error:
            return 128 + error.sigval
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            for log in Path(logs).rglob(f"{number}/stderr.log"):
                sys.stderr.write(log.read_bytes()[-LONGEST_ERROR:].decode(errors="replace"))
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        finally:
            logging.disable(logging.NOTSET)
    return 0
