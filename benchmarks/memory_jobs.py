"""The jobs of `memory.py`: each runs in a process of its own and prints what it took as JSON on the last line.

Nothing is imported before a job asks for it, as what is imported is part of what is measured.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any


def device(bundle: str, photo: str) -> None:
    """Do what a device does: load everything of `bottlenet.edge`, then photo to frame."""
    import bottlenet.edge
    from bottlenet.bundle import Bundle

    bottlenet.edge.Encoder(Bundle.load(bundle)).encode(photo).frame.to_bytes()
    assert "torch" not in sys.modules


def evaluate(bundle: str, data: str) -> None:
    from bottlenet.bundle import Bundle
    from bottlenet.measure.evaluate import evaluate

    evaluate(Bundle.load(bundle), data)
    assert "torch" not in sys.modules


class Enough(Exception):
    """The steps that were asked for are done."""


def train(model: str, cut: str, data: str, work: str, steps: str) -> None:
    """Run `bottlenet train`, feature cache included, until `steps` steps are reported; `work` is filled."""
    import torch
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from bottlenet.train.train import TrainConfig
    from bottlenet.train.train import train as run_training

    class Until(Progress):
        """Stops a training from its progress bar, so that the loop is the real one."""

        training: TaskID | None = None

        def add_task(self, description: str, *args: Any, **kwargs: Any) -> TaskID:
            task = super().add_task(description, *args, **kwargs)
            if description == "training":
                self.training = task
            return task

        def update(self, task_id: TaskID, *, completed: float | None = None, **kwargs: Any) -> None:
            super().update(task_id, completed=completed, **kwargs)
            if task_id == self.training and completed is not None and completed >= int(steps):
                raise Enough

    torch.set_num_threads(1)
    folder = Path(work)
    config = TrainConfig(
        model, data=(data,), out=str(folder / "run"), cut=cut, epochs=100, crops=1, cache=str(folder / "cache")
    )
    with suppress(Enough):
        run_training(config, Until(console=Console(stderr=True)))


def memory() -> dict[str, int]:
    """Return this process's bytes: resident now, and at most so far.

    Linux says it of the program alone; `getrusage` there includes what the parent had before the program was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        return {
            "resident_bytes": int(fields["VmRSS"].split()[0]) * 1024,
            "peak_bytes": int(fields["VmHWM"].split()[0]) * 1024,
        }
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"resident_bytes": peak, "peak_bytes": peak}


JOBS = {"device": device, "evaluate": evaluate, "train": train}

if __name__ == "__main__":
    started = perf_counter()
    JOBS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**memory(), "seconds": round(perf_counter() - started, 1)}))
